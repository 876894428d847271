"""What has been started and is waited for."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

from hypernodes.engine.cancellation import RunRegistry
from hypernodes.engine.drivers.concurrent.activity import PlanActivity
from hypernodes.engine.drivers.concurrent.maps import MapActivity
from hypernodes.engine.workers.workers import Outcome
from hypernodes.plan import CallStep, NestedStep


class Task:
    """Work that has been started and is waited for.

    Attributes:
        future: Its result to be; None before it has been handed over, and when nobody waits for it any more.
        order: Number of the order to a worker process; -1 when there is none.
        generation: Number of the process pool that it was given to.
        deaths: How many workers died with it.
    """

    __slots__ = ("deaths", "future", "generation", "order")

    def __init__(self) -> None:
        self.future: Outcome | None = None
        self.order = -1
        self.generation = 0
        self.deaths = 0


class CallTask(Task):
    """One call.

    Attributes:
        activity: The plan it belongs to.
        step: The step.
        key: Signature of the result, when there is one.
        attempt: Number of the attempt, from 1.
    """

    __slots__ = ("activity", "attempt", "key", "step")

    def __init__(self, activity: PlanActivity, step: CallStep, key: bytes | None) -> None:
        super().__init__()
        self.activity = activity
        self.step = step
        self.key = key
        self.attempt = 1


class BatchItem(NamedTuple):
    """One item of a unit."""

    activity: PlanActivity
    steps: list[CallStep]
    keys: list[bytes | None]


class BatchTask(Task):
    """Items of a map that one worker process computes on its own.

    Attributes:
        owner: The map.
        items: The items, each with the calls to make.
    """

    __slots__ = ("items", "owner")

    def __init__(self, owner: MapActivity, items: list[BatchItem]) -> None:
        super().__init__()
        self.owner = owner
        self.items = items


class DelegatedTask(Task):
    """A nested pipeline that its own backend runs.

    Attributes:
        activity: The plan in which it is a step.
        step: The step.
        started_at: When it was started, on the performance counter.
        runs: What it runs, so that it can be ended.
        elements: For each output of a mapped one, the signature of each result, as far as they are known beforehand.
    """

    __slots__ = ("activity", "elements", "runs", "started_at", "step")

    def __init__(self, activity: PlanActivity, step: NestedStep) -> None:
        super().__init__()
        self.activity = activity
        self.step = step
        self.started_at = perf_counter()
        self.runs = RunRegistry()
        self.elements: list[list[bytes]] = []
