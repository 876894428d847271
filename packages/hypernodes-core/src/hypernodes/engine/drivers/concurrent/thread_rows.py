"""Item starter for rows that threads execute: each thread takes row after row from a queue that the loop fills."""

from __future__ import annotations

import contextvars
from collections import deque
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.drivers.concurrent.activity import Host, Task, cancelled
from hypernodes.engine.drivers.concurrent.maps import ItemStarter, MapActivity
from hypernodes.engine.drivers.concurrent.rows import ItemRow, RowReader
from hypernodes.engine.drivers.straight import Trace, run_silent
from hypernodes.engine.workers.coroutines import CHECK_INTERVAL_S
from hypernodes.engine.workers.workers import Outcome, Workers

_REPORT_S = 0.001  # results of quick rows are reported together, at the latest after this time
_REPORT_ROWS = 128
_AHEAD_S = 0.01  # duration of the work that waits in the queue
_MOST_AHEAD = 1024


class _Awaited(NamedTuple):
    """A coroutine that a function returned, to be awaited in the event loop of the run.

    Attributes:
        coroutine: The coroutine.
        context: The context variables of the call.
        future: Its outcome.
    """

    coroutine: Any
    context: contextvars.Context
    future: Future[Any]


class _RunnerTask(Task):
    """A thread that takes rows from a queue."""

    __slots__ = ("rows",)

    activity: MapActivity

    def __init__(self, rows: ThreadRows, owner: MapActivity) -> None:
        super().__init__(owner)
        self.rows = rows

    def settle(self, host: Host, outcome: Outcome) -> None:
        self.rows.end(host)

    def fail(self, host: Host, error: BaseException) -> None:
        self.rows.end(host)

    def on_progress(self, host: Host) -> None:
        self.rows.start_awaiting()
        self.rows.take_results(host)


class ThreadRows(ItemStarter):
    """Executes rows in threads.

    Args:
        owner: The map.
        workers: Provides the threads.
    """

    def __init__(self, owner: MapActivity, workers: Workers) -> None:
        self._owner = owner
        self._workers = workers
        self._limit = workers.open_items
        self._is_streamed = owner.request.deliver is not None
        self._reader = RowReader(owner)
        self._queue: deque[ItemRow] = deque()
        self._results: deque[tuple[int, list[Any], BaseException | None, tuple[str, ...]]] = deque()
        self._rest = owner.request.inputs.rest(owner.plan)
        self._context = contextvars.copy_context()
        self._context.run(current_registry.set, workers.registry)
        self._seconds_per_row: float | None = None
        self._executing = 0  # rows that have been read and whose results have not been recorded
        self._is_reported = False  # whether the loop has been sent a message that there are results
        self._to_await: deque[_Awaited] = deque()

    @property
    def has_begun_items(self) -> bool:
        return self._executing > 0

    def start_next(self, host: Host) -> bool:
        owner = self._owner
        if self._reader.is_lazy:
            self._read(host)  # no more than the thread that is about to be started can take
        else:
            self._fill(host)
        if not self._queue or owner.is_stopped:
            return False
        owner.pending += 1
        task = _RunnerTask(self, owner)
        future = self._workers.submit_to_thread(self._serve, host, task)
        host.wait_for(task, future)
        return True

    def _fill(self, host: Host) -> None:
        """Read rows into the queue: as many as keep all threads busy until the loop fills it again."""
        owner, queue = self._owner, self._queue
        target = self._limit
        if self._seconds_per_row is not None and not self._is_streamed:
            target = max(target, min(int(_AHEAD_S / (self._seconds_per_row + 1e-9)), _MOST_AHEAD))
        if len(queue) > target // 2:
            return
        while len(queue) < target and owner.can_begin and owner.has_room:
            if self._is_streamed and self._executing >= self._limit:
                return
            self._read(host)

    def _read(self, host: Host) -> None:
        owner = self._owner
        while owner.can_begin and owner.has_room:
            row = self._reader.read(host)
            if row is not None:
                self._executing += 1
                self._queue.append(row)
                return

    def _serve(self, host: Host, task: _RunnerTask) -> None:
        """Execute rows until there are none; in a thread."""
        owner, queue, results = self._owner, self._queue, self._results
        plan, rest, request = owner.plan, self._rest, owner.request
        base, backend_name = request.base, request.run.backend_name
        trace = Trace()
        wait_for = partial(self._wait_for, host, task)
        low = self._limit // 2
        rows, reported_at = 0, perf_counter()
        since = reported_at
        while not (owner.is_stopped or self._workers.is_cancelled):
            try:
                index, values = queue.popleft()
            except IndexError:
                break
            outputs: list[Any] = []
            error: BaseException | None = None
            try:
                self._context.copy().run(
                    run_silent,
                    plan,
                    (values,),
                    rest,
                    outputs,
                    base,
                    backend_name,
                    "raise",
                    None,
                    (index,),
                    trace,
                    None,
                    wait_for,
                )
            except BaseException as raised:
                error = raised
            results.append((index, outputs, error, trace.failed_at))
            if error is not None and not owner.collects:
                queue.clear()  # the map is over
                break
            del values, outputs, error
            rows += 1
            now = perf_counter()
            # Somebody waits for the results of a stream one by one, and the next row may take long.
            is_due = self._is_streamed or now - reported_at > _REPORT_S or rows >= _REPORT_ROWS or len(queue) < low
            if is_due and not self._is_reported:
                self._seconds_per_row = (now - since) / rows
                rows, since, reported_at = 0, now, now
                self._is_reported = True
                host.post(task, None)

    def _wait_for(self, host: Host, task: _RunnerTask, coroutine: Any) -> Any:
        """Let the event loop of the run await a coroutine; return its value. In a thread."""
        awaited = _Awaited(coroutine, contextvars.copy_context(), Future())
        self._to_await.append(awaited)
        host.post(task, None)
        while not wait([awaited.future], CHECK_INTERVAL_S).done:
            if self._owner.is_stopped or self._workers.is_cancelled:
                if awaited.future.cancel():
                    coroutine.close()  # it has not been started
                raise CancelledError("the run ended before the call did")
        return awaited.future.result()

    def start_awaiting(self) -> None:
        """Start awaiting what threads wait for."""
        while self._to_await:
            coroutine, context, future = self._to_await.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            context.run(self._workers.coroutines.submit, coroutine, partial(_settle, future))

    def take_results(self, host: Host) -> None:
        """Record the results that threads have appended."""
        self._is_reported = False
        owner, results = self._owner, self._results
        while results:
            index, outputs, error, path = results.popleft()
            self._executing -= 1
            if error is None:
                owner.take_outputs(index, outputs)
            else:
                owner.fail_item(host, index, error, path)
        host.wake(owner)

    def end(self, host: Host) -> None:
        """Record that a thread has no more rows to execute."""
        self._owner.pending -= 1
        self.take_results(host)


def _settle(future: Future[Any], outcome: Outcome) -> None:
    error = CancelledError("the call was cancelled") if cancelled(outcome) else outcome.exception()
    if error is None:
        future.set_result(outcome.result())
    else:
        future.set_exception(error)
