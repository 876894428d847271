"""Item starters for maps that need only calls and that no callback observes: workers execute rows of values.

Items have no frame and no activity; the information that an error needs is computed only when there is one. A thread
takes row after row from a queue that the loop fills; a coroutine executes one row; a worker process receives a batch of
rows, whose size is estimated from earlier batches.
"""

from __future__ import annotations

import contextvars
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from hypernodes.engine.awaitables import awaited, needs_await
from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.drivers.concurrent.activity import Host, PlanActivity, Task
from hypernodes.engine.drivers.concurrent.batches import BatchSize, input_name
from hypernodes.engine.drivers.concurrent.maps import ItemStarter, MapActivity
from hypernodes.engine.drivers.straight import Trace, run_silent
from hypernodes.engine.frames.columns import has_failure
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.items import checked_rows
from hypernodes.engine.step import add_note, path_of, split
from hypernodes.engine.workers.payloads import Payload, unpack
from hypernodes.engine.workers.process_main import RowOutcome
from hypernodes.engine.workers.process_pool import WorkerProcesses
from hypernodes.engine.workers.serialized_errors import restore
from hypernodes.engine.workers.workers import Outcome, Workers
from hypernodes.errors import SerializationError
from hypernodes.failure import Failure
from hypernodes.plan import CallStep, Plan

_REPORT_S = 0.001  # results of quick rows are reported together, at the latest after this time
_REPORT_ROWS = 128
_AHEAD_S = 0.01  # duration of the work that waits in the queue
_MOST_AHEAD = 1024


class ItemRow(NamedTuple):
    """One item: the values of the inputs that vary.

    Attributes:
        item_index: Index of the item.
        values: The values.
    """

    item_index: int
    values: tuple[Any, ...]


class RowReader:
    """Reads the items of a map as rows.

    Args:
        owner: The map.

    Attributes:
        count: Number of rows read so far.
    """

    def __init__(self, owner: MapActivity) -> None:
        inputs = owner.request.inputs
        self._owner = owner
        self._rows: Iterator[tuple[Any, ...]] = checked_rows(owner.plan, inputs)
        self._indexes = inputs.indexes
        self.count = 0

    @property
    def remaining(self) -> int | None:
        """Number of rows that have not been read; None when unknown."""
        total = self._owner.total
        return None if total is None else total - self.count

    def read(self, host: Host) -> ItemRow | None:
        """Return the next row that has to be executed; None when there is none at present."""
        owner = self._owner
        try:
            values = next(self._rows, None)
        except Exception as error:
            owner.exhaust(host, error)
            return None
        if values is None:
            owner.exhaust(host)
            return None
        index = self.count if self._indexes is None else self._indexes[self.count]
        self.count += 1
        owner.make_room()
        for value in values:
            if type(value) is Failure:
                owner.take_failed_input(host, index, value)
                return None
        return ItemRow(index, values)


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
        self.rows.take_results(host)


class ThreadRows:
    """Executes rows in threads.

    Args:
        owner: The map.
        workers: Provides the threads.
    """

    def __init__(self, owner: MapActivity, workers: Workers) -> None:
        self._owner = owner
        self._workers = workers
        self._limit = workers.open_items
        self._reader = RowReader(owner)
        self._queue: deque[ItemRow] = deque()
        self._results: deque[tuple[int, list[Any], BaseException | None, tuple[str, ...]]] = deque()
        self._rest = owner.request.inputs.rest(owner.plan)
        self._context = contextvars.copy_context()
        self._context.run(current_registry.set, workers.registry)
        self._seconds_per_row: float | None = None
        self._executing = 0  # rows that have been read and whose results have not been recorded
        self._is_reported = False  # whether the loop has been sent a message that there are results

    @property
    def has_begun_items(self) -> bool:
        return self._executing > 0

    def start_next(self, host: Host) -> bool:
        owner = self._owner
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
        if self._seconds_per_row is not None and owner.request.deliver is None:
            target = max(target, min(int(_AHEAD_S / (self._seconds_per_row + 1e-9)), _MOST_AHEAD))
        if len(queue) > target // 2:
            return
        while len(queue) < target and owner.can_begin and owner.has_room:
            if owner.request.deliver is not None and self._executing >= self._limit:
                return
            row = self._reader.read(host)
            if row is not None:
                self._executing += 1
                queue.append(row)

    def _serve(self, host: Host, task: _RunnerTask) -> None:
        """Execute rows until there are none; in a thread."""
        owner, queue, results = self._owner, self._queue, self._results
        plan, rest, request = owner.plan, self._rest, owner.request
        base, backend_name = request.base, request.run.backend_name
        trace = Trace()
        low = self._limit // 2
        is_stream = request.deliver is not None  # then each result is reported at once: the next row may take long
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
                    run_silent, plan, (values,), rest, outputs, base, backend_name, "raise", None, (index,), trace
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
            if is_stream or now - reported_at > _REPORT_S or rows >= _REPORT_ROWS or len(queue) < low:
                self._seconds_per_row = (now - since) / rows
                rows, since = 0, now
                reported_at = now
                if not self._is_reported:
                    self._is_reported = True
                    host.post(task, None)

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
            self.explain(error)
            path = (*path_of(owner.plan, self.step, owner.request.base), self.step.node.name)
            owner.fail_item(host, self.index, error, path)
        host.wake(owner)

    def explain(self, error: BaseException) -> None:
        owner, request = self.activity, self.activity.request
        add_note(error, owner.plan, self.step, request.base, request.run.backend_name, self.index)

    async def execute(self, values: list[Any]) -> list[Any]:
        """Await the calls of the row, one after the other; return the outputs."""
        plan = self.activity.plan
        for step in plan.steps:
            self.step = step
            assert isinstance(step, CallStep)
            arguments = [values[slot] for slot in step.positional]
            if step.by_keyword:
                result = await step.node.func(*arguments, **{name: values[slot] for name, slot in step.by_keyword})
            else:
                result = await step.node.func(*arguments)
            if needs_await(step.node, result):
                result = await awaited(step.node, result)
            outputs = (result,) if len(step.outputs) == 1 else split(step, result)
            for slot, value in zip(step.outputs, outputs, strict=True):
                if slot is not None:
                    values[slot] = value
        return [values[slot] for slot in plan.outputs.values()]


class CoroutineRows:
    """Executes each row in a coroutine of its own, all in the event loop of the run.

    Args:
        owner: The map.
        workers: Provides the event loop.
    """

    has_begun_items = False

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


class _RowBatchTask(Task):
    """Rows executed by a worker process.

    Attributes:
        sender: The `ProcessRows` that sends them.
        rows: The rows.
        files: Files that hold their values; they are removed when there is an outcome.
    """

    __slots__ = ("files", "rows", "sender")

    activity: MapActivity

    def __init__(self, sender: ProcessRows, rows: list[ItemRow]) -> None:
        super().__init__(sender.owner)
        self.sender = sender
        self.rows = rows
        self.files: list[str] = []

    def settle(self, host: Host, outcome: Outcome) -> None:
        self.sender.settle(host, self, pickle.loads(outcome.result()))

    def fail(self, host: Host, error: BaseException) -> None:
        outcomes = [RowOutcome((), 0, error=error) for _ in self.rows]
        self.sender.settle(host, self, outcomes)

    def parts(self) -> list[Task]:
        self.sender.remove_files(self)
        return [_RowBatchTask(self.sender, [row]) for row in self.rows] if len(self.rows) > 1 else [self]

    def submit_again(self, host: Host) -> None:
        self.sender.submit(host, self)

    def described(self) -> tuple[list[CallStep], int | None]:
        return self.sender.steps, self.rows[0].item_index


class ProcessRows:
    """Executes rows in batches in worker processes.

    Args:
        owner: The map.
        processes: The worker processes.
        workers: Determines how many rows to send at a time.

    Attributes:
        owner: The map.
        steps: The calls of a row.
    """

    has_begun_items = False

    def __init__(self, owner: MapActivity, processes: WorkerProcesses, workers: Workers) -> None:
        self.owner = owner
        self.steps = [step for step in owner.plan.steps if isinstance(step, CallStep)]
        self._processes = processes
        self._size = BatchSize(workers)
        self._reader = RowReader(owner)
        self._limit = workers.open_items
        self._rest = owner.request.inputs.rest(owner.plan)
        self._used = {slot for step in owner.plan.steps for slot in step.arguments}.union(owner.plan.outputs.values())

    def start_next(self, host: Host) -> bool:
        owner = self.owner
        if owner.is_exhausted or not owner.has_room:
            return False
        size = self._size.next(self._reader.remaining)
        if owner.request.deliver is not None:
            size = min(size, self._limit - owner.pending)
            if size <= 0:
                return False
        rows: list[ItemRow] = []
        while len(rows) < size and owner.can_begin:
            row = self._reader.read(host)
            if row is not None:
                rows.append(row)
        if rows:
            owner.pending += len(rows)
            self.submit(host, _RowBatchTask(self, rows))
        return bool(rows) or not owner.is_exhausted

    def submit(self, host: Host, task: _RowBatchTask) -> None:
        """Send rows; a row with a value that cannot be sent is executed as an activity, and fails there."""
        sent: list[ItemRow] = []
        packed: list[tuple[Any, ...]] = []
        for row in task.rows:
            try:
                packed.append(tuple([self._pack(slot, value) for slot, value in enumerate(row.values)]))
            except SerializationError:
                self._open_singly(host, row)
            else:
                sent.append(row)
        if not sent:
            return
        try:
            width = len(sent[0].values)
            rest = tuple([self._pack(width + position, value) for position, value in enumerate(self._rest)])
        except SerializationError:
            for row in sent:
                self._open_singly(host, row)
            return
        task.rows = sent
        size = sum(value.size_bytes for row in packed for value in row if type(value) is Payload)
        self._size.learn_bytes(size / len(sent))
        own = [value for row in packed for value in row if isinstance(value, Payload) and not value.is_shared]
        task.files = [payload.path for payload in own if payload.path]
        task.order, future = self._processes.submit_rows(self.owner.plan, rest, packed)
        host.wait_for(task, future)

    def remove_files(self, task: _RowBatchTask) -> None:
        """Remove the files of rows that have to be sent again."""
        self._processes.payloads.remove(task.files)

    def _pack(self, slot: int, value: Any) -> Any:
        return None if slot not in self._used else self._processes.payloads.pack(value, self._name(slot))

    def _name(self, slot: int) -> str:
        step = next((step for step in self.steps if slot in step.arguments), None)
        return "an input" if step is None else input_name(step, slot)

    def _open_singly(self, host: Host, row: ItemRow) -> None:
        """Execute a row as an activity of its own."""
        request = self.owner.request
        frame = Frame(request.plan, request.run, [*row.values, *self._rest], request.base, row.item_index)
        frame.start()
        host.open(PlanActivity(frame, self.owner))

    def settle(self, host: Host, task: _RowBatchTask, outcomes: list[RowOutcome]) -> None:
        """Record the outcomes of rows."""
        self._processes.payloads.remove(task.files)
        owner, request = self.owner, self.owner.request
        self._size.learn_cost(sum(outcome.duration_s for outcome in outcomes) / len(outcomes))
        payloads = [value for outcome in outcomes for value in outcome.outputs if type(value) is Payload]
        self._size.learn_bytes(sum(payload.size_bytes for payload in payloads) / len(outcomes))
        for row, outcome in zip(task.rows, outcomes, strict=True):
            owner.pending -= 1
            error = outcome.error
            step = self.steps[outcome.failed_step]
            outputs: list[Any] = []
            if error is None and outcome.raised is not None:
                error = restore(outcome.raised)
            if error is None:
                try:
                    outputs = self._unpack(outcome.outputs)
                except SerializationError as unreadable:
                    error = unreadable
            if error is None:
                owner.take_outputs(row.item_index, outputs)
                continue
            if owner.is_stopped:
                continue
            add_note(error, owner.plan, step, request.base, request.run.backend_name, row.item_index)
            path = (*path_of(owner.plan, step, request.base), step.node.name)
            owner.fail_item(host, row.item_index, error, path)
        host.wake(owner)

    def _unpack(self, packed: tuple[Any, ...]) -> list[Any]:
        plan = self.owner.plan
        outputs: list[Any] = []
        for slot, payload in zip(plan.outputs.values(), packed, strict=True):
            try:
                outputs.append(unpack(payload))
            except Exception as error:
                name = plan.steps[plan.producers[slot]].node.name
                raise SerializationError(
                    f"the result of node {name!r} cannot be received from the worker process "
                    f"({type(error).__name__}: {error})",
                    path=f"result of {name}",
                ) from error
            finally:
                if type(payload) is Payload and payload.path:
                    self._processes.payloads.remove([payload.path])
        return outputs


def row_starter(owner: MapActivity, workers: Workers) -> ItemStarter | None:
    """Return an item starter that executes items as rows; None when they need more than that."""
    plan, run = owner.plan, owner.request.run
    if workers.map_execution == "sequential" or plan.is_cached or run.observes(plan) or not plan.steps:
        return None
    if not all(isinstance(step, CallStep) for step in plan.steps):
        return None
    columns = owner.request.inputs.columns.values()
    if any(isinstance(column, Sequence) and has_failure(column) for column in columns):
        return None
    has_plenty = owner.total is not None and owner.total >= 2 * workers.max_workers
    is_in_process = workers.is_in_process(is_item=True)
    if not (workers.runs_nodes_in_order or plan.is_chain or (is_in_process and has_plenty)):
        return None
    if is_in_process:
        if workers.map_execution != "parallel" or not plan.needs_only_calls or workers.processes is None:
            return None
        return ProcessRows(owner, workers.processes, workers)
    if workers.has_executor:
        return None
    if plan.needs_only_calls:
        return ThreadRows(owner, workers)
    return CoroutineRows(owner, workers) if _is_awaited_throughout(plan) else None


def _is_awaited_throughout(plan: Plan) -> bool:
    nodes = [step.node for step in plan.steps if isinstance(step, CallStep)]
    return all(node.is_async and not node.retries and node.timeout is None for node in nodes)
