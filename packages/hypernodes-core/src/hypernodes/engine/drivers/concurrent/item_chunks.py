"""Sends work to worker processes: single calls, and chunks of items that one process computes on its own."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from hypernodes.engine.drivers.concurrent.activity import CallTask, Host, PlanActivity, Task
from hypernodes.engine.drivers.concurrent.batched_calls import BatchedCall
from hypernodes.engine.drivers.concurrent.maps import FrameReader, ItemStarter, MapActivity
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.step import NotTransferred, Returned, timeout_error
from hypernodes.engine.workers.payloads import Payload, unpack
from hypernodes.engine.workers.process_main import Done, ItemKind, ItemOutcome, WorkItem
from hypernodes.engine.workers.serialized_errors import restore
from hypernodes.engine.workers.worker_processes import WorkerProcesses
from hypernodes.engine.workers.workers import Outcome, Workers
from hypernodes.errors import SerializationError
from hypernodes.plan import CallStep, Plan


class _Usage(NamedTuple):
    """Which slots of a plan are read, and how often.

    Attributes:
        needed: Slots that are requested outputs or arguments of a step.
        used_repeatedly: Slots that are arguments of several steps.
    """

    needed: frozenset[int]
    used_repeatedly: frozenset[int]


class ProcessCalls:
    """Sends single calls to worker processes.

    Args:
        processes: The worker processes.
    """

    def __init__(self, processes: WorkerProcesses) -> None:
        self._processes = processes
        self._usages: dict[Plan, _Usage] = {}

    def submit(self, host: Host, task: CallTask) -> None:
        """Send one call.

        Raises:
            SerializationError: An input cannot be sent; names it and the node.
        """
        activity, step = task.activity, task.step
        items, shared = [task], dict[int, Any]()
        positions = [position for position, slot in enumerate(step.arguments) if step.arguments.index(slot) == position]
        if isinstance(task, BatchedCall):
            items = task.members
            shared = {slot: self._pack_input(activity, step, slot) for slot in step.shared_by_batch}
            positions = [position for position in positions if step.arguments[position] not in shared]
        packed = [
            (0, *[self._pack_input(item.activity, item.step, item.step.arguments[position]) for position in positions])
            for item in items
        ]
        kind = ((0,), tuple([step.arguments[position] for position in positions]))
        needed = self._usage(activity.frame.plan).needed
        task.order, future = self._processes.submit([step], shared, needed, True, [kind], packed)
        permit = task.permit
        if permit is not None:  # when the call begins is not known here, so it counts from its end
            future.add_done_callback(lambda future: permit.release(has_begun=True))
        host.wait_for(task, future)

    def returned(self, task: CallTask, packed: bytes) -> Returned:
        """Return the results of a call.

        Raises:
            BaseException: The error that it raised.
        """
        outcomes: list[ItemOutcome] = pickle.loads(packed)
        needed = self._usage(task.activity.frame.plan).needed
        results: list[Returned] = []
        for done, raised in outcomes:
            if raised is not None:
                raise restore(raised)
            ((packed_outputs, duration_s),) = done
            outputs = unpack_results(self._processes, packed_outputs, task.step, needed)
            results.append(Returned(outputs, duration_s))
        if not isinstance(task, BatchedCall):
            return results[0]
        return Returned(tuple([result.outputs for result in results]), sum(result.duration_s for result in results))

    def _pack_input(self, activity: PlanActivity, step: CallStep, slot: int) -> Any:
        plan, value = activity.frame.plan, activity.frame.values[slot]
        payloads = self._processes.payloads
        if activity.owner is None and plan.producers[slot] < 0:
            activity.share(payloads, value)  # an input of the run
        elif slot in self._usage(plan).used_repeatedly:
            activity.share(payloads, value)
        payload = payloads.pack_input(value, step, slot, [step])
        if type(payload) is Payload and payload.is_shared:
            activity.share(payloads, value)  # also if another item shares it, which may be done before this call
        elif type(payload) is Payload and payload.path:
            activity.files.append(payload.path)
        return payload

    def _usage(self, plan: Plan) -> _Usage:
        usage = self._usages.get(plan)
        if usage is None:
            usage = self._usages[plan] = _usage_of(plan)
        return usage


class _Part(NamedTuple):
    """A part of a plan that items of a map execute.

    Attributes:
        kind: What is sent of it.
        own: The slots of the values that each item has of its own, each with a call that takes it.
        shared: The slots of values that all items share, likewise.
    """

    kind: ItemKind
    own: list[tuple[int, CallStep]]
    shared: list[tuple[int, CallStep]]


class ChunkItem:
    """One item of a chunk. Only if its calls have to be made singly, it becomes an activity.

    Attributes:
        frame: Accounts for it; started.
        steps: The calls to make.
        keys: The signatures of their results, where they have some.
        files: Files that hold its values for worker processes; they are removed when it is done.
        held: Values in files that other items use as well; each is held until this one is done.
    """

    __slots__ = ("files", "frame", "held", "keys", "steps")

    def __init__(self, frame: Frame, steps: Sequence[CallStep], keys: Sequence[bytes | None]) -> None:
        self.frame = frame
        self.steps = steps
        self.keys = keys
        self.files: Sequence[str] = ()
        self.held: Sequence[Any] = ()


class ChunkTask(Task):
    """Items of a map that one worker process computes.

    Attributes:
        chunks: The `ItemChunks` that sent it.
        items: The items.
    """

    __slots__ = ("chunks", "items")

    activity: MapActivity

    def __init__(self, chunks: ItemChunks, items: list[ChunkItem]) -> None:
        super().__init__(chunks.owner)
        self.chunks = chunks
        self.items = items

    def settle(self, host: Host, outcome: Outcome) -> None:
        self.chunks.settle(host, self, pickle.loads(outcome.result()))

    def fail(self, host: Host, error: BaseException) -> None:
        for item in self.items:
            self.chunks.fail_item(host, item, error)

    def parts(self) -> list[Task]:
        return [ChunkTask(self.chunks, [item]) for item in self.items] if len(self.items) > 1 else [self]

    def submit_again(self, host: Host) -> None:
        self.chunks.submit(host, self)

    def described(self) -> tuple[Sequence[CallStep], int | None]:
        return self.items[0].steps, self.items[0].frame.item_index

    def settle_time_limit(self, host: Host, position: int, step: int) -> list[Task]:
        remaining: list[Task] = []
        for index, item in enumerate(self.items):
            if index != position:
                remaining.append(ChunkTask(self.chunks, [item]))
            elif item.steps[0].index == step:
                self.chunks.fail_item(host, item, timeout_error(item.steps[0].node))
            else:  # the results of the calls before it died with the worker
                self.chunks.make_calls_singly(host, item)
        return remaining


class ChunkSize:
    """Number of items to send to a worker process at a time, estimated from the cost of earlier ones.

    Args:
        workers: The workers that make calls.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._seconds_per_item: float | None = None
        self._bytes_per_item = 0.0

    def next(self, remaining: int | None) -> int:
        """Return the number for the next chunk, given the number of items that have not been begun."""
        return self._workers.chunk_size(self._seconds_per_item, self._bytes_per_item, remaining)

    def learn_cost(self, seconds: float) -> None:
        """Record how long an item took, in seconds."""
        known = self._seconds_per_item
        self._seconds_per_item = seconds if known is None else 0.7 * known + 0.3 * seconds

    def learn_bytes(self, size_bytes: float) -> None:
        """Record how many bytes were sent or received for an item."""
        self._bytes_per_item = max(0.7 * self._bytes_per_item, size_bytes)


class ItemChunks(ItemStarter):
    """Starts the items of a map in chunks that worker processes compute; each item is accounted for by its frame.

    An item whose calls are not all known beforehand, or one of whose results is already being computed, is started
    as an activity of its own.

    Args:
        owner: The map.
        processes: The worker processes.
        workers: The workers that make calls.

    Attributes:
        owner: The map.
    """

    def __init__(self, owner: MapActivity, processes: WorkerProcesses, workers: Workers) -> None:
        self.owner = owner
        self._processes = processes
        self._limit = workers.open_items_of(owner.plan)
        self._size = ChunkSize(workers)
        self._reader = FrameReader(owner)
        self._parts: dict[tuple[int, ...], _Part] = {}  # by the positions of their calls
        self._needed = frozenset(owner.plan.outputs.values())
        if owner.plan.batched_calls:  # what a chunk makes is read by calls that are not in it
            self._needed = self._needed.union(*(step.arguments for step in owner.plan.steps))
        self._continued: list[PlanActivity] = []  # items of the chunk that is being settled
        self._open: dict[ChunkItem, None] = {}  # those in chunks; the other items are activities

    def start_next(self, host: Host) -> bool:
        """Send the next items of a map; return False when there are none."""
        owner = self.owner
        if owner.is_exhausted or not owner.has_room or owner.pending - len(self._open) >= self._limit:
            return False
        if owner.is_starved:
            return False
        items: list[ChunkItem] = []
        size = self._size.next(self._reader.remaining)
        while len(items) < size and owner.can_begin:
            frame = self._reader.begin_item(host)
            if frame is None:
                continue
            owner.pending += 1
            item = self._plan(host, frame)
            if item is None:
                host.open(PlanActivity(frame, owner))
                if owner.plan.batched_calls:
                    break  # it waits for a batch, in which items are in their order
                if owner.pending - len(self._open) >= self._limit:
                    break
            else:
                items.append(item)
                self._open[item] = None
        if items:
            for item in items:
                item.frame.begin_item()
            self.submit(host, ChunkTask(self, items))
        return bool(items) or not (owner.is_exhausted or owner.is_starved)  # type: ignore[redundant-expr]

    def close(self) -> None:
        for item in reversed([*self._open]):
            self._close(item)

    def submit(self, host: Host, task: ChunkTask) -> None:
        """Send a chunk; an item with a value that cannot be sent makes its calls singly instead, and fails there."""
        owner, payloads = self.owner, self._processes.payloads
        sent: list[ChunkItem] = []
        work: list[WorkItem] = []
        kinds: dict[ItemKind, int] = {}
        shared: dict[int, Any] = {}
        size = 0
        for item in task.items:
            part, values = self._part(item.steps), item.frame.values
            packed: list[Any] = [kinds.setdefault(part.kind, len(kinds))]
            try:
                for slot, step in part.shared:
                    if slot not in shared:
                        shared[slot] = payloads.pack_input(values[slot], step, slot, owner.plan.steps)
                for slot, step in part.own:
                    payload = payloads.pack_input(values[slot], step, slot, owner.plan.steps)
                    packed.append(payload)
                    if type(payload) is Payload:
                        size += payload.size_bytes
                        self._keep_file(item, payload, values[slot])
            except SerializationError:
                self.make_calls_singly(host, item)
                continue
            sent.append(item)
            work.append(tuple(packed))
        if not sent:
            return
        task.items = sent
        plan, run = owner.plan, owner.request.run
        has_retries = any(step.node.retries for step in plan.calls)
        returns_everything = plan.is_cached or has_retries or run.observes(plan)
        self._size.learn_bytes(size / len(work))
        task.order, future = self._processes.submit(
            plan.steps, shared, self._needed, returns_everything, [*kinds], work
        )
        host.wait_for(task, future)

    def settle(self, host: Host, task: ChunkTask, outcomes: list[ItemOutcome]) -> None:
        """Record the outcomes of the items of a chunk."""
        spent, size = 0.0, 0
        for done, _ in outcomes:
            for outputs, duration_s in done:
                spent += duration_s
                for output in outputs:
                    if type(output) is Payload:
                        size += output.size_bytes
        self._size.learn_cost(spent / len(outcomes))
        self._size.learn_bytes(size / len(outcomes))
        rest = zip(task.items, outcomes, strict=True)
        with self.owner.request.run.store.gathering():
            try:
                self._settle_items(host, rest)
            except KeyboardInterrupt:  # the others have been computed, too
                self._settle_items(host, rest)
                raise
        while self._continued:
            host.open(self._continued.pop())  # the first item last, so that it goes on first
        host.wake(self.owner)

    def fail_item(self, host: Host, item: ChunkItem, error: BaseException) -> None:
        """Record that the first call of an item failed."""
        self._settle_item(host, item, [], error)
        host.wake(self.owner)

    def make_calls_singly(self, host: Host, item: ChunkItem) -> None:
        """Let the calls of an item be made one by one."""
        _release(host, item.keys)
        host.open(self._activity(item))

    def _plan(self, host: Host, frame: Frame) -> ChunkItem | None:
        """Return the calls that an item needs, if all are known and none is already being made."""
        steps = frame.remaining_calls()
        if steps is None:
            return None
        if self.owner.plan.batched_calls:  # what comes before the first of them; items gather there
            steps = list(takewhile(lambda step: step.node.batching is None, steps))
            if not steps:
                return None
        if not self.owner.plan.is_cached:
            return ChunkItem(frame, steps, (None,) * len(steps))
        keys = [frame.key_of(step) for step in steps]
        known = [key for key in keys if key is not None]
        if known and not host.reserve(known, frame):
            return None
        return ChunkItem(frame, steps, keys)

    def _keep_file(self, item: ChunkItem, payload: Payload, value: Any) -> None:
        """Take note of a file that an item needs until it is done."""
        if payload.is_shared:
            if self._processes.payloads.hold(value):
                item.held = [*item.held, value]
        elif payload.path:
            item.files = [*item.files, payload.path]

    def _activity(self, item: ChunkItem) -> PlanActivity:
        """Return an activity for an item, which is then no more one of a chunk."""
        del self._open[item]
        activity = PlanActivity(item.frame, self.owner)
        activity.files += item.files
        for value in item.held:
            activity.share(self._processes.payloads, value)
            self._processes.payloads.drop(value)
        return activity

    def _close(self, item: ChunkItem) -> None:
        """Record that an item is done."""
        del self._open[item]
        if item.files:
            self._processes.payloads.remove(item.files)
        for value in item.held:
            self._processes.payloads.drop(value)
        item.frame.close()
        self.owner.pending -= 1

    def _part(self, steps: Sequence[CallStep]) -> _Part:
        """Return what some calls of an item are sent as."""
        positions = tuple([step.index for step in steps])
        part = self._parts.get(positions)
        if part is None:
            made = {slot for step in steps for slot in step.outputs}
            takers = {slot: step for step in reversed(steps) for slot in step.arguments if slot not in made}
            of_all = self.owner.shared_values()
            shared = [(slot, step) for slot, step in takers.items() if slot in of_all]
            own = [(slot, step) for slot, step in takers.items() if slot not in of_all]
            kind = (positions, tuple([slot for slot, _ in own]))
            part = self._parts[positions] = _Part(kind, own, shared)
        return part

    def _settle_items(self, host: Host, outcomes: Iterable[tuple[ChunkItem, ItemOutcome]]) -> None:
        for item, (done, raised) in outcomes:
            self._settle_item(host, item, done, None if raised is None else restore(raised))

    def _settle_item(self, host: Host, item: ChunkItem, done: Sequence[Done], error: BaseException | None) -> None:
        """Record the outcome of an item.

        Args:
            host: The loop.
            item: The item.
            done: The calls that returned.
            error: The error of the next one; None if there is none.
        """
        frame, steps, keys = item.frame, item.steps, item.keys
        made = 0
        for outputs, duration_s in done:
            step, key = steps[made], keys[made]
            frame.take(step)
            frame.begin(step)
            try:
                values = unpack_results(self._processes, outputs, step, self._needed)
            except SerializationError as unreadable:
                error = unreadable
                break
            frame.complete(step, values, duration_s)
            made += 1
            if key is not None:
                host.release(key)
        else:
            if error is not None:
                step = steps[made]
                frame.take(step)
                frame.begin(step)
        if error is not None:
            for outputs, _ in done[made:]:  # which nobody will read
                remove_files(self._processes, outputs)
            self._fail_call(host, item, made, error)
        elif frame.is_done:
            self._close(item)
            if not self.owner.is_stopped:
                self.owner.take_frame(frame)
        else:  # what else it needs is known only now, or comes in a batch
            self._continued.append(self._activity(item))

    def _fail_call(self, host: Host, item: ChunkItem, position: int, error: BaseException) -> None:
        """Record that a call of an item failed; if it can be made again, that call and the rest are made singly."""
        activity = self._activity(item)
        activity.pending = 2  # the call, and this function
        step, key = item.steps[position], item.keys[position]
        values = activity.frame.values
        can_try_again = not any(isinstance(values[slot], NotTransferred) for slot in step.arguments)
        host.fail_call(CallTask(activity, step, key), error, can_try_again)
        _release(host, item.keys[position + 1 :])
        activity.pending -= 1
        host.wake(activity)


def _release(host: Host, keys: Iterable[bytes | None]) -> None:
    """Resume what waits for results that were to be computed in a chunk, and are not."""
    for key in keys:
        if key is not None:
            host.release(key)


def unpack_results(
    processes: WorkerProcesses, packed: tuple[Any, ...], step: CallStep, needed: frozenset[int]
) -> tuple[Any, ...]:
    """Return the results of a call that a worker process made.

    Args:
        processes: The worker processes.
        packed: A payload for each output.
        step: The step of the call.
        needed: Slots whose values must be readable.

    Raises:
        SerializationError: A needed value cannot be read.
    """
    if Payload not in map(type, packed):
        return packed
    outputs: list[Any] = []
    try:
        for name, slot, payload in zip(step.node.outputs, step.outputs, packed, strict=True):
            try:
                outputs.append(unpack(payload))
            except Exception as error:
                problem = f"cannot be received from the worker process ({type(error).__name__}: {error})"
                if slot in needed:
                    raise SerializationError(
                        f"the result of node {step.node.name!r} {problem}", path=f"result of {step.node.name}"
                    ) from error
                outputs.append(NotTransferred("result", f"{name!r} {problem}"))
    finally:
        remove_files(processes, packed)
    return tuple(outputs)


def remove_files(processes: WorkerProcesses, packed: Iterable[Any]) -> None:
    """Remove the files of results that a worker process sent."""
    processes.payloads.remove([payload.path for payload in packed if type(payload) is Payload and payload.path])


def _usage_of(plan: Plan) -> _Usage:
    takers = Counter(slot for step in plan.steps for slot in set(step.arguments))
    return _Usage(
        needed=frozenset(plan.outputs.values()).union(takers),
        used_repeatedly=frozenset(slot for slot, count in takers.items() if count > 1),
    )
