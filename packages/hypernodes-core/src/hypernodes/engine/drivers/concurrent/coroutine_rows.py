"""Item starter for rows that coroutines execute, all in the event loop of the run."""

from __future__ import annotations

from typing import Any

from hypernodes.engine.drivers.concurrent.activity import Host, Task
from hypernodes.engine.drivers.concurrent.maps import ItemStarter, MapActivity
from hypernodes.engine.drivers.concurrent.rows import RowReader, fail_row
from hypernodes.engine.step import call_async, locate
from hypernodes.engine.workers.workers import Outcome, Workers
from hypernodes.plan import CallStep


class _CoroutineTask(Task):
    """A row executed by a coroutine."""

    __slots__ = ("index", "step")

    activity: MapActivity

    def __init__(self, owner: MapActivity, index: int) -> None:
        super().__init__(owner)
        self.index = index
        self.step: Any = owner.plan.steps[0]

    def settle(self, host: Host, outcome: Outcome) -> None:
        owner = self.activity
        owner.pending -= 1
        owner.take_outputs(self.index, outcome.result())
        host.wake(owner)

    def fail(self, host: Host, error: BaseException) -> None:
        owner = self.activity
        owner.pending -= 1
        if not owner.is_stopped:
            fail_row(owner, host, self.index, self.step, error)
        host.wake(owner)

    def explain(self, error: BaseException) -> None:
        request = self.activity.request
        locate(error, self.activity.plan, self.step, request.base, request.run.backend_name, self.index)

    async def execute(self, values: list[Any]) -> list[Any]:
        """Await the calls of the row, one after the other; return the outputs."""
        plan = self.activity.plan
        for step in plan.steps:
            self.step = step
            assert isinstance(step, CallStep)
            outputs = await call_async(step, values)
            for slot, value in zip(step.outputs, outputs, strict=True):
                if slot is not None:
                    values[slot] = value
        return [values[slot] for slot in plan.outputs.values()]


class CoroutineRows(ItemStarter):
    """Executes each row in a coroutine of its own.

    Args:
        owner: The map.
        workers: Provides the event loop.
    """

    def __init__(self, owner: MapActivity, workers: Workers) -> None:
        self._owner = owner
        self._workers = workers
        self._limit = workers.open_items
        self._reader = RowReader(owner)
        self._rest = owner.request.inputs.rest(owner.plan)

    def start_next(self, host: Host) -> bool:
        owner = self._owner
        if owner.is_exhausted or owner.pending >= self._limit or not owner.has_room:
            return False
        row = self._reader.read(host)
        if row is None:
            return not owner.is_exhausted
        owner.pending += 1
        task = _CoroutineTask(owner, row.item_index)
        coroutine = task.execute([*row.values, *self._rest])
        host.wait_for(task, self._workers.coroutines.submit(coroutine, lambda outcome: host.post(task, outcome)))
        return True
