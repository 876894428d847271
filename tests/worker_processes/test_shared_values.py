"""Values in files that several calls in worker processes take: each is there until the last of them is done."""

from __future__ import annotations

import os

from hypernodes import CallbackContext, Node, Pipeline
from hypernodes.engine.drivers.concurrent.activity import Activity, ItemOwner, PlanActivity
from hypernodes.engine.drivers.concurrent.item_chunks import ProcessCalls
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.state import RunState
from hypernodes.engine.workers.payloads import Payload, Payloads
from hypernodes.plan import CallStep


class Model:
    """Something that is not of a type of Python's own, and so is sent in a file when it is shared."""


class Processes:
    def __init__(self, payloads: Payloads) -> None:
        self.payloads = payloads


class Host:
    """As much of the loop as an activity needs when it is closed."""

    class workers:  # noqa: N801
        processes = None


def test_a_value_that_another_item_shares_stays_until_the_call_of_this_one_is_done() -> None:
    value, payloads = Model(), Payloads(is_by_value=False)
    plan = Pipeline([Node(lambda v: v, "y")]).plan_for(("v",))
    context = CallbackContext(("p",))
    frame = Frame(plan, RunState(context, "local", is_nested=False), [value, None], context, 1)
    step = plan.steps[0]
    assert isinstance(step, CallStep)
    other, owner = Activity(None), ItemOwner(None)
    item = PlanActivity(frame, owner)
    try:
        other.share(payloads, value)  # for several calls
        calls = ProcessCalls(Processes(payloads))  # type: ignore[arg-type]
        payload = calls._pack_input(item, step, step.arguments[0])
        assert isinstance(payload, Payload)
        other.close(Host())  # type: ignore[arg-type]
        assert os.path.exists(payload.path)
        Activity.close(item, Host())  # type: ignore[arg-type]
        assert not os.path.exists(payload.path)
    finally:
        payloads.close()
