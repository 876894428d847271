"""The scheduler by itself, with containers that exist on paper only: whatever happens, no input is lost."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modal_proto import api_pb2

from hypernodes_modal.loopback.calls import FunctionCall
from hypernodes_modal.loopback.containers import Container, ContainerState, EndReason
from hypernodes_modal.loopback.functions import Function
from hypernodes_modal.loopback.inputs import Input, InputState, Result
from hypernodes_modal.loopback.pools import Pool

SUCCESS = Result(status=Result.GENERIC_STATUS_SUCCESS)
FAILURE = Result(status=Result.GENERIC_STATUS_FAILURE)


class Model:
    """A pool, with the control over its containers in the hands of the test."""

    def __init__(self, *, retries=0, at_once=1, max_containers=3, spawned=True):
        definition = api_pb2.Function(function_name="f", max_concurrent_inputs=at_once)
        definition.autoscaler_settings.max_containers = max_containers
        definition.retry_policy.retries = retries
        self.function = Function("fu-1", "ap-1", definition, api_pb2.FunctionHandleMetadata(), "fu-1")
        kind = api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC if spawned else api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC
        self.call = FunctionCall("fc-1", self.function, kind, is_map=True)
        self.pool = Pool(self.function, self._start, default_max_containers=max_containers)
        self.started = 0

    def _start(self, function):
        self.started += 1
        return Container(f"ta-{self.started}", function, Path("/nowhere"))

    def put(self):
        idx = len(self.call.inputs)
        made = Input(f"in-{idx}", self.call, idx, api_pb2.FunctionInput())
        self.call.add_input(made)
        self.pool.put(made)

    async def take(self, container):
        """What the container gets if it asks now; nothing if it would have to wait."""
        try:
            return await asyncio.wait_for(self.pool.take(container, 1, 0), 0.001)
        except TimeoutError:
            return []

    def end(self, container, reason=EndReason.CRASHED):
        container.state, container.end_reason, container.exit_code = ContainerState.ENDED, reason, 1
        self.pool.container_ended(container)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    retries=st.integers(0, 2),
    at_once=st.integers(1, 3),
    max_containers=st.integers(1, 4),
    spawned=st.booleans(),
)
def test_every_input_gets_one_output_whatever_happens(seed, retries, at_once, max_containers, spawned):
    async def go():
        chance = random.Random(seed)
        model = Model(retries=retries, at_once=at_once, max_containers=max_containers, spawned=spawned)
        for _ in range(60):
            containers = model.pool.containers
            event = chance.choice(["put", "take", "take", "succeed", "fail", "crash", "preempt", "cancel", "idle"])
            container = chance.choice(containers) if containers else None
            if event == "put":
                model.put()
            elif event == "take" and container and container.free_slots > 0:
                await model.take(container)
            elif event in ("succeed", "fail") and container and container.inputs:
                finished = chance.choice(list(container.inputs.values()))
                model.pool.settle(finished, SUCCESS if event == "succeed" else FAILURE)
            elif event == "crash" and container:
                model.end(container)
            elif event == "preempt" and container:
                model.end(container, EndReason.PREEMPTED)
            elif event == "cancel" and model.call.inputs:
                model.pool.cancel([chance.choice(list(model.call.inputs.values()))], terminate_containers=False)
            elif event == "idle":
                await asyncio.sleep(0)
            assert len(containers) <= max_containers
            held = [each for container in containers for each in container.inputs.values()]
            assert len(set(held)) == len(held)
            for each in model.call.inputs.values():
                waits, runs = each in model.pool.pending, each in held
                assert (waits, runs) == (each.state is InputState.PENDING, each.state is InputState.RUNNING)
        while model.call.unfinished:  # from here on all goes well
            await asyncio.sleep(0)
            for container in list(model.pool.containers):
                if container.free_slots > 0:
                    await model.take(container)
                for each in list(container.inputs.values()):
                    model.pool.settle(each, SUCCESS)
        outputs = [each for _, each in model.call.outputs_after(0, None, None, 10_000)]
        assert len(outputs) == len(set(outputs)) == len(model.call.inputs)
        model.pool.close(EndReason.APP_STOPPED)

    asyncio.run(go())


def test_inputs_that_share_a_container_with_one_that_timed_out_are_not_blamed():
    async def go():
        model = Model(at_once=2, max_containers=1)
        model.put()
        model.put()
        (container,) = model.pool.containers
        slow, innocent = [(await model.take(container))[0] for _ in range(2)]
        model.pool.settle(slow, Result(status=Result.GENERIC_STATUS_TIMEOUT))
        model.end(container, EndReason.TIMEOUT)
        assert (slow.state, innocent.state, innocent.losses) == (InputState.FINISHED, InputState.PENDING, 0)
        model.pool.close(EndReason.APP_STOPPED)

    asyncio.run(go())


def test_warm_containers_that_cannot_start_are_given_up():
    async def go():
        model = Model()
        model.function.definition.autoscaler_settings.min_containers = 1
        model.pool.scale()
        for _ in range(2):
            (container,) = model.pool.containers
            model.end(container)
        assert model.pool.containers == []
        model.put()  # whoever calls it again has it tried again
        assert len(model.pool.containers) == 1
        model.pool.close(EndReason.APP_STOPPED)

    asyncio.run(go())


def test_an_input_cannot_do_what_makes_no_sense():
    model = Model()
    lost = Input("in-1", model.call, 0, api_pb2.FunctionInput())
    with pytest.raises(ValueError, match="pending and cannot become pending"):
        lost.put_back()
    lost.finish(Result(status=Result.GENERIC_STATUS_TERMINATED))
    with pytest.raises(ValueError, match="cancelled and cannot become finished"):
        lost.finish(SUCCESS)
