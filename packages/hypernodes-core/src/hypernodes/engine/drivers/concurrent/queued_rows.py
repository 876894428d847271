"""Item starter for rows in a queue that the loop fills: each runner, a thread or a coroutine, takes row after row."""

from __future__ import annotations

import contextvars
from collections import deque
from time import perf_counter
from typing import Any

from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.drivers.concurrent.activity import Host, Task
from hypernodes.engine.drivers.concurrent.maps import ItemStarter, MapActivity
from hypernodes.engine.drivers.concurrent.rows import ItemRow, RowReader
from hypernodes.engine.workers.workers import Outcome, Workers

REPORT_S = 0.001
"""Results of quick rows are reported together, at the latest after this time, in seconds."""

_REPORT_ROWS = 128
_AHEAD_S = 0.01  # duration of the work that waits in the queue
_MOST_AHEAD = 1024


class RunnerTask(Task):
    """A runner.

    Attributes:
        rows: The rows that it executes.
        count: Number of rows that it has executed since it told the loop of results; 0 if it just has.
        reported_at: When it did that.
    """

    __slots__ = ("count", "reported_at", "rows")

    activity: MapActivity

    def __init__(self, rows: QueuedRows, owner: MapActivity) -> None:
        super().__init__(owner)
        self.rows = rows
        self.count = 0
        self.reported_at = perf_counter()

    def settle(self, host: Host, outcome: Outcome) -> None:
        self.rows.end(host)  # what it made of rows is among the results

    def fail(self, host: Host, error: BaseException) -> None:
        self.rows.end(host)  # it was cancelled: errors of rows are among the results

    def on_progress(self, host: Host) -> None:
        self.rows.take_results(host)


class QueuedRows(ItemStarter):
    """Executes rows in runners.

    Args:
        owner: The map.
        workers: Provides the runners.

    Attributes:
        owner: The same.
        workers: The same.
        rest: The values after those of a row, which all rows share.
        queue: The rows that no runner has taken yet.
        results: What runners made of rows: index, outputs, error, and the path of the node that raised it.
        context: The context variables of the caller; each row has a copy.
    """

    def __init__(self, owner: MapActivity, workers: Workers) -> None:
        self.owner = owner
        self.workers = workers
        self.rest = owner.request.inputs.rest(owner.plan)
        self.queue: deque[ItemRow] = deque()
        self.results: deque[tuple[int, list[Any], BaseException | None, tuple[str, ...]]] = deque()
        self.context = contextvars.copy_context()
        self.context.run(current_registry.set, workers.registry)
        self._limit = workers.open_items
        self._is_streamed = owner.request.deliver is not None
        self._reader = RowReader(owner)
        self._seconds_per_row: float | None = None
        self._executing = 0  # rows that have been read and whose results have not been recorded
        self._is_reported = False  # whether the loop has been sent a message that there are results

    @property
    def has_begun_items(self) -> bool:
        return self._executing > 0

    @property
    def is_over(self) -> bool:
        """Whether runners have to take no more rows."""
        return self.owner.is_stopped or self.workers.is_cancelled

    def start_next(self, host: Host) -> bool:
        owner = self.owner
        if self._reader.is_lazy:
            self._read(host)  # no more than the runner that is about to be started can take
        else:
            self._fill(host)
        if not self.queue or owner.is_stopped:
            return False
        owner.pending += 1
        task = RunnerTask(self, owner)
        host.wait_for(task, self.start_runner(host, task))
        return True

    def start_runner(self, host: Host, task: RunnerTask) -> Outcome:
        """Start a runner."""
        raise NotImplementedError

    def _fill(self, host: Host) -> None:
        """Read rows into the queue: as many as keep all runners busy until the loop fills it again."""
        owner, queue = self.owner, self.queue
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
        owner = self.owner
        while owner.can_begin and owner.has_room:
            row = self._reader.read(host)
            if row is not None:
                self._executing += 1
                self.queue.append(row)
                return

    def report(self, task: RunnerTask, host: Host) -> None:
        """Tell the loop of results, but seldom enough to keep all runners busy; called after each row of a runner."""
        task.count += 1
        if self._is_reported:
            return
        since_s = perf_counter() - task.reported_at
        # Somebody waits for the results of a stream one by one, and the next row may take long.
        is_due = since_s > REPORT_S or task.count >= _REPORT_ROWS or len(self.queue) < self._limit // 2
        if not is_due and not self._is_streamed:
            return
        self._seconds_per_row = since_s / task.count
        task.count = 0
        task.reported_at += since_s
        self._is_reported = True
        host.post(task, None)

    def take_results(self, host: Host) -> None:
        """Record the results that runners have appended."""
        self._is_reported = False
        owner, results = self.owner, self.results
        while results:
            index, outputs, error, path = results.popleft()
            self._executing -= 1
            if error is None:
                owner.take_outputs(index, outputs)
            else:
                owner.fail_item(host, index, error, path)
        host.wake(owner)

    def end(self, host: Host) -> None:
        """Record that a runner has no more rows to execute."""
        self.owner.pending -= 1
        self.take_results(host)
