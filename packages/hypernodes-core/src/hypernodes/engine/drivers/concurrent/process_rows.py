"""Item starter for rows that worker processes execute, in chunks whose size is estimated from earlier ones."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import chain
from time import perf_counter
from typing import Any

from hypernodes.engine.drivers.concurrent.activity import Host, PlanActivity, Task
from hypernodes.engine.drivers.concurrent.item_chunks import ChunkSize, remove_files
from hypernodes.engine.drivers.concurrent.maps import ItemStarter, MapActivity
from hypernodes.engine.drivers.concurrent.rows import ItemRow, RowReader, fail_row
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.workers.payloads import Payload, are_scalars, is_sent_as_is, unpack
from hypernodes.engine.workers.row_orders import RowOutcomes
from hypernodes.engine.workers.serialized_errors import restore
from hypernodes.engine.workers.worker_processes import WorkerProcesses
from hypernodes.engine.workers.workers import Outcome, Workers
from hypernodes.errors import SerializationError
from hypernodes.plan import CallStep

_READ_S = 0.01  # a chunk is sent without being full when reading its rows takes longer


class _RowsTask(Task):
    """Rows executed by a worker process.

    Attributes:
        sender: The `ProcessRows` that sends them.
        rows: The rows.
        files: Files that hold their values; they are removed when there is an outcome.
        held: Values in files that others use as well; they are held until then.
    """

    __slots__ = ("files", "held", "rows", "sender")

    activity: MapActivity

    def __init__(self, sender: ProcessRows, rows: list[ItemRow]) -> None:
        super().__init__(sender.owner)
        self.sender = sender
        self.rows = rows
        self.files: list[str] = []
        self.held: list[Any] = []

    def settle(self, host: Host, outcome: Outcome) -> None:
        self.sender.settle(host, self, pickle.loads(outcome.result()))

    def fail(self, host: Host, error: BaseException) -> None:
        self.sender.fail(host, self, error)

    def parts(self) -> list[Task]:
        self.sender.remove_files(self)
        return [_RowsTask(self.sender, [row]) for row in self.rows] if len(self.rows) > 1 else [self]

    def submit_again(self, host: Host) -> None:
        self.sender.submit(host, self)

    def described(self) -> tuple[Sequence[CallStep], int | None]:
        return self.sender.steps, self.rows[0].item_index


class ProcessRows(ItemStarter):
    """Executes rows in chunks in worker processes.

    Args:
        owner: The map.
        processes: The worker processes.
        workers: Determines how many rows to send at a time.

    Attributes:
        owner: The map.
        steps: The calls of a row.
    """

    def __init__(self, owner: MapActivity, processes: WorkerProcesses, workers: Workers) -> None:
        plan = owner.plan
        self.owner = owner
        self.steps = plan.calls
        self._processes = processes
        self._size = ChunkSize(workers)
        self._reader = RowReader(owner)
        self._rest = owner.request.inputs.rest(plan)
        slots = plan.outputs.values()
        self._made = tuple([slot for slot in slots if plan.producers[slot] >= 0])  # the other outputs are given
        self._takers = {slot: step for step in reversed(self.steps) for slot in step.arguments}

    def start_next(self, host: Host) -> bool:
        owner, reader = self.owner, self._reader
        if owner.is_exhausted or not owner.has_room:
            return False
        size = self._size.next(reader.remaining)
        rows = self._read_lazily(host, size) if reader.is_lazy else reader.read_many(host, size)
        if rows:
            owner.pending += len(rows)
            self.submit(host, _RowsTask(self, rows))
        return bool(rows) or not owner.is_exhausted

    def _read_lazily(self, host: Host, size: int) -> list[ItemRow]:
        owner, reader = self.owner, self._reader
        rows: list[ItemRow] = []
        deadline = perf_counter() + _READ_S
        while len(rows) < size and owner.can_begin:
            row = reader.read(host)
            if row is not None:
                rows.append(row)
                if perf_counter() > deadline:
                    break
        return rows

    def submit(self, host: Host, task: _RowsTask) -> None:
        """Send rows; a row with a value that cannot be sent is executed as an activity, and fails there."""
        sent: list[ItemRow] = task.rows
        packed: list[tuple[Any, ...]] = [row.values for row in task.rows]
        if not are_scalars(chain.from_iterable(packed)):
            sent, packed = [], []
            for row in task.rows:
                try:
                    packed.append(self._pack_row(row.values))
                except SerializationError:
                    self._open_singly(host, row)
                else:
                    sent.append(row)
        if not sent:
            return
        try:
            rest = self._pack_rest(len(sent[0].values))
        except SerializationError:
            for row in sent:
                self._open_singly(host, row)
            return
        task.rows = sent
        size = 0
        for row, values in zip(sent, packed, strict=True):
            for value, payload in zip(row.values, values, strict=True):
                if type(payload) is Payload:
                    size += payload.size_bytes
                    if payload.is_shared and self._processes.payloads.hold(value):
                        task.held.append(value)
                    elif payload.path and not payload.is_shared:
                        task.files.append(payload.path)
        self._size.learn_bytes(size / len(sent))
        task.order, future = self._processes.submit_rows(self.owner.plan.steps, self._made, rest, packed)
        host.wait_for(task, future)

    def remove_files(self, task: _RowsTask) -> None:
        """Remove the files of rows that are done, or have to be sent again."""
        payloads = self._processes.payloads
        payloads.remove(task.files)
        for value in task.held:
            payloads.drop(value)
        task.files, task.held = [], []

    def _pack_row(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the values of a row as payloads; None for those that no call takes."""
        if all(map(is_sent_as_is, values)):
            return values
        takers, payloads = self._takers, self._processes.payloads
        packed: list[Any] = []
        try:
            for slot, value in enumerate(values):
                packed.append(payloads.pack(value, "a value") if slot in takers else None)
        except SerializationError:
            written = [payload for payload in packed if type(payload) is Payload and not payload.is_shared]
            payloads.remove([payload.path for payload in written if payload.path])
            raise
        return tuple(packed)

    def _pack_rest(self, first: int) -> tuple[Any, ...]:
        """Return the values of the slots from `first` on, which all rows share, likewise."""
        takers, payloads, steps = self._takers, self._processes.payloads, self.steps
        return tuple(
            [
                payloads.pack_input(value, takers[slot], slot, steps) if slot in takers else None
                for slot, value in enumerate(self._rest, start=first)
            ]
        )

    def _open_singly(self, host: Host, row: ItemRow) -> None:
        """Execute a row as an activity of its own."""
        request = self.owner.request
        frame = Frame(request.plan, request.run, [*row.values, *self._rest], request.base, row.item_index)
        frame.start()
        host.open(PlanActivity(frame, self.owner))

    def settle(self, host: Host, task: _RowsTask, outcomes: RowOutcomes) -> None:
        """Record the outcomes of rows."""
        self.remove_files(task)
        owner, packed = self.owner, outcomes.outputs
        self._size.learn_cost(outcomes.duration_s / len(task.rows))
        sizes = [value.size_bytes for value in packed if type(value) is Payload]
        self._size.learn_bytes(sum(sizes) / len(task.rows))
        failures = {failure.row: failure for failure in outcomes.failures}
        width = len(self._made)
        if not failures and not sizes and width == len(owner.plan.outputs):
            owner.take_rows([row.item_index for row in task.rows], packed)
        else:
            for position, row in enumerate(task.rows):
                failure = failures.get(position)
                if failure is not None:
                    self._fail_row(host, row, self.steps[failure.step], restore(failure.raised))
                    continue
                outputs = packed[position * width : (position + 1) * width]
                if not sizes or self._unpack(host, row, outputs):
                    owner.take_outputs(row.item_index, self._with_given(row, outputs))
        owner.pending -= len(task.rows)
        host.wake(owner)

    def fail(self, host: Host, task: _RowsTask, error: BaseException) -> None:
        """Record that a chunk has no outcomes; its rows are sent one by one to find those that are to blame."""
        if len(task.rows) > 1 and isinstance(error, Exception) and not self.owner.is_stopped:
            for part in task.parts():
                part.submit_again(host)
            return
        self.remove_files(task)
        for row in task.rows:
            self._fail_row(host, row, self.steps[0], error)
        self.owner.pending -= len(task.rows)
        host.wake(self.owner)

    def _fail_row(self, host: Host, row: ItemRow, step: CallStep, error: BaseException) -> None:
        if not self.owner.is_stopped:
            fail_row(self.owner, host, row.item_index, step, error, [*row.values, *self._rest])

    def _with_given(self, row: ItemRow, outputs: list[Any]) -> list[Any]:
        """Return all outputs of a row, those given as inputs among them."""
        plan = self.owner.plan
        if len(outputs) == len(plan.outputs):
            return outputs
        made, given = dict(zip(self._made, outputs, strict=True)), (*row.values, *self._rest)
        return [made[slot] if slot in made else given[slot] for slot in plan.outputs.values()]

    def _unpack(self, host: Host, row: ItemRow, outputs: list[Any]) -> bool:
        """Replace payloads by their values; return False if one cannot be received, which fails the row."""
        plan = self.owner.plan
        packed = outputs.copy()
        for position, (slot, payload) in enumerate(zip(self._made, packed, strict=True)):
            if type(payload) is not Payload:
                continue
            try:
                outputs[position] = unpack(payload)
            except Exception as error:
                step = self.steps[plan.producers[slot]]
                unreadable = SerializationError(
                    f"the result of node {step.node.name!r} cannot be received from the worker process "
                    f"({type(error).__name__}: {error})",
                    path=f"result of {step.node.name}",
                )
                unreadable.__cause__ = error
                self._fail_row(host, row, step, unreadable)
                remove_files(self._processes, packed)
                return False
        remove_files(self._processes, packed)
        return True
