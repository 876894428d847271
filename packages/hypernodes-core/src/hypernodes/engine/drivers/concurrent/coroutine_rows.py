"""Item starter for rows that coroutines execute, all in the event loop of the run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from hypernodes.engine.drivers.concurrent.activity import Host
from hypernodes.engine.drivers.concurrent.maps import MapActivity
from hypernodes.engine.drivers.concurrent.queued_rows import REPORT_S, QueuedRows, RunnerTask
from hypernodes.engine.step import call_async, locate
from hypernodes.engine.workers.workers import Outcome, Workers


class CoroutineRows(QueuedRows):
    """Executes rows in coroutines: each runner is a task that awaits row after row.

    Each row is a task of its own as well, with context variables of its own. Where Python starts tasks eagerly (3.12),
    one that waits for nothing never gets into the queue of the event loop.
    """

    def __init__(self, owner: MapActivity, workers: Workers) -> None:
        super().__init__(owner, workers)
        self._interrupt: BaseException | None = None

    def start_runner(self, host: Host, task: RunnerTask) -> Outcome:
        runner = self._serve(host, task)
        return self.workers.coroutines.submit(runner, lambda outcome: host.post(task, outcome))

    async def _serve(self, host: Host, task: RunnerTask) -> None:
        """Execute rows until there are none."""
        queue, loop = self.queue, asyncio.get_running_loop()
        is_eager = sys.version_info >= (3, 12) and loop.get_task_factory() is None
        runner = asyncio.current_task()
        assert runner is not None
        yielded_at = perf_counter()
        while queue and not self.is_over:
            index, values = queue.popleft()
            row, context = self._execute(host, task, index, [*values, *self.rest], runner), self.context.copy()
            del values
            if is_eager:
                executing = asyncio.Task(row, loop=loop, context=context, eager_start=True)  # type: ignore[call-arg, unused-ignore]
            else:
                executing = loop.create_task(row, context=context)
            if not executing.done():
                try:
                    await executing
                except asyncio.CancelledError as error:
                    if runner.cancelling():
                        raise
                    self._fail(index, self.owner.plan.calls[0], error)  # somebody cancelled the row before it began
                    self.report(task, host)
                yielded_at = perf_counter()
            if self._interrupt is not None:
                raise self._interrupt
            if not task.count or perf_counter() - yielded_at > REPORT_S:
                await asyncio.sleep(0)  # others have their turn
                yielded_at = perf_counter()

    async def _execute(
        self, host: Host, task: RunnerTask, index: int, values: list[Any], runner: asyncio.Task[Any]
    ) -> None:
        """Execute a row, append what comes of it to the results, and report them: the next row may block the loop."""
        plan = self.owner.plan
        step: Any = None
        try:
            for step in plan.calls:
                outputs: Sequence[Any] = await call_async(step, values)
                for slot, value in zip(step.outputs, outputs, strict=True):
                    if slot is not None:
                        values[slot] = value
        except BaseException as error:
            is_ended = isinstance(error, asyncio.CancelledError) and runner.cancelling() > 0
            if is_ended or (isinstance(error, GeneratorExit) and _is_closed()):
                raise
            if isinstance(error, KeyboardInterrupt) and self.workers.coroutines.is_interrupted_here:
                self._interrupt = error  # for the runner: it ends the loop in this thread like any other wait
            self._fail(index, step, error, values)
        else:
            self.results.append((index, [values[slot] for slot in plan.outputs.values()], None, ()))
        self.report(task, host)

    def _fail(self, index: int, step: Any, error: BaseException, values: Sequence[Any] = ()) -> None:
        """Append the failure of a row to the results."""
        owner, request = self.owner, self.owner.request
        path = locate(error, owner.plan, step, request.base, request.run.backend_name, index, values)
        if not owner.collects:
            self.queue.clear()  # the map is over
        self.results.append((index, [], error, path))


def _is_closed() -> bool:
    """Whether a coroutine is closed because nobody will resume it, rather than its code raising what that raises."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:  # no loop is running
        return True
