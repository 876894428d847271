"""A map in several jobs, which are executed at the same time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from itertools import count
from math import ceil
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from hypernodes.engine.cancellation import RunRegistry, current_registry
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.storing import StoringFrame
from hypernodes.engine.workers.threads import DaemonThreads, run_in_copied_context
from hypernodes.errors import ExecutionError, NodeTimeoutError, WorkerDiedError, WorkerLostError, add_note
from hypernodes.failure import Failure
from hypernodes.plan import CallStep, OnError
from hypernodes.remote.chunks import ItemChunks
from hypernodes.remote.job import ContextPath, MapResult
from hypernodes.remote.job_sizes import JobSizes
from hypernodes.remote.pruning import OpenItems
from hypernodes.remote.remote_call import RemoteCall
from hypernodes.remote.sent_job import SentJob
from hypernodes.remote.stragglers import Doubled, is_late, may_be_repeated

Row: TypeAlias = tuple[int, tuple[Any, ...]]  # index and outputs of an item

_ASK_S = 0.5  # after which a backend is asked again how many jobs it takes
_LOST = (WorkerLostError, NodeTimeoutError)  # a worker was lost, or had to be ended because a call took too long
_MAX_DEATHS = 2  # of workers that had only one item
_FORKED = (
    "this process was forked while an iterator of `map_iter` was open, whose jobs are those of its parent; read it "
    "there, and call `map_iter` again here"
)
_PIECES = 16  # into which a job is divided whose worker was lost twice
_READ_FOR = 2  # jobs for each that is under way, when items are read
_READ_AT_LEAST, _READ_AT_MOST = 256, 65536


class _Stretch(NamedTuple):
    """Items that wait to be sent.

    Attributes:
        items: The items that were read together.
        positions: Which of them, in increasing order.
        losses: How many workers were lost that had them.
        is_job: Whether they are one job, so that the item that ends its workers is found.
        deaths: How many workers were lost that had nothing else; for one item.
        is_second: Whether another job has the same items, and takes long.
    """

    items: OpenItems
    positions: Sequence[int]
    losses: int = 0
    is_job: bool = False
    deaths: int = 0
    is_second: bool = False


class _Job(NamedTuple):
    """A job that is under way."""

    sent: SentJob
    stretch: _Stretch
    sent_at: float
    is_doubled: bool

    @property
    def rest(self) -> list[int]:
        """The positions of the items of which it has brought no results."""
        indexes, arrived = self.stretch.items.part.indexes, self.sent.arrived
        return [position for position in self.stretch.positions if indexes[position] not in arrived]


class DistributedMap:
    """Divides the items of a map among jobs, gives out again what a lost worker has not done, and gathers results.

    Args:
        call: The map.
        jobs_at_once: Returns how many jobs the backend takes at a time, now.
        sizes: Chooses how many items a job gets.
        items: The items.
        on_error: "raise" or "collect".
        total: How many items there are; None when that is not known.
    """

    def __init__(
        self,
        call: RemoteCall,
        jobs_at_once: Callable[[], int],
        sizes: JobSizes,
        items: ItemChunks,
        on_error: OnError,
        total: int | None,
    ) -> None:
        self._call = call
        self._jobs_at_once = jobs_at_once
        self._sizes = sizes
        self._items = items
        self._on_error: OnError = on_error
        self._total = total
        self._waiting: deque[_Stretch] = deque()
        # Where items are cached: by what varies of one that is under way, those that equal it and wait; the reverse.
        self._may_repeat = may_be_repeated(call.plan)
        self._doubled = Doubled()
        self._equals: dict[tuple[bytes, ...], list[tuple[OpenItems, int]]] = {}
        self._begun: dict[int, tuple[bytes, ...]] = {}
        self._released: list[tuple[OpenItems, int]] = []  # of these, those that equal one that is done now
        self._is_read = False
        self._reading_problem: Exception | None = None
        self._under_way: dict[int, _Job] = {}
        self._numbers = count()
        self._rows: list[Row] = []  # to be yielded next
        self._news: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # from the threads of jobs
        self._threads = DaemonThreads("hypernodes-job")
        self._runs = RunRegistry()
        self._problem: BaseException | None = None  # that ends the map, once the results before it are yielded
        self._is_cancelled = False
        self._pid = os.getpid()

    def results(self, allowance: Callable[[int], int] | None = None) -> Generator[list[Row]]:
        """Execute the map; yield results as they come.

        Args:
            allowance: Returns how many items may be read further, given how many the jobs under way would like to have;
                None for all that help.

        Raises:
            SerializationError: Something cannot be sent.
            RemoteError: The remote side failed.
            CancelledError: The map was cancelled.
            Exception: What a node raised, or what reading the items raised when all before are done.
        """
        self._call.check_python()
        outer = current_registry.get()
        if outer is not None:
            outer.add(self)
        try:
            while True:
                if self._problem is None:
                    self._start_jobs(allowance)
                if self._rows:
                    rows, self._rows = self._rows, []
                    yield rows
                    continue  # others may be sent now
                if self._problem is not None:
                    raise self._problem
                if not self._under_way:
                    break
                self._wait()
            if self._reading_problem is not None:
                raise self._reading_problem
            self._call.receiver.close_open()
        except BaseException as error:
            self._end(error)
            raise
        finally:
            if outer is not None:
                outer.remove(self)
            self._threads.shutdown(wait=False)

    @property
    def read_items(self) -> int:
        """How many items have been read."""
        return self._items.count

    def cancel(self) -> None:
        """Cancel it from another thread."""
        self._is_cancelled = True
        self._runs.cancel()
        self._news.put(None)

    def _end(self, error: BaseException) -> None:
        """End all jobs, because the map ends early; nobody waits for them any more."""
        if os.getpid() != self._pid:
            return
        self._is_cancelled = True
        self._runs.cancel()
        while self._under_way:
            news = self._news.get()
            if news is not None:
                news()
        reason = error if isinstance(error, Exception) else CancelledError("the run was cancelled")
        self._call.receiver.close_open(reason)

    # --- items ----------------------------------------------------------------------------------------------------

    def _start_jobs(self, allowance: Callable[[int], int] | None) -> None:
        room = max(self._jobs_at_once(), 1)
        while not self._is_cancelled and len(self._under_way) < room:
            stretch = self._next_stretch(room, allowance)
            if stretch is None:
                break
            self._start(stretch)
        if self._may_repeat and 0 < len(self._under_way) < room:
            self._double_late_jobs(room)
        if self._is_cancelled:
            raise CancelledError("the run was cancelled")

    def _next_stretch(self, room: int, allowance: Callable[[int], int] | None) -> _Stretch | None:
        """Return what the next job gets; None when there is nothing to do now."""
        while not self._waiting:
            if self._released:
                self._look_up_released()
                continue
            wanted = _READ_FOR * room * self._sizes.choose(self._unread, room)
            size = max(wanted, _READ_AT_LEAST) if allowance is None else min(allowance(wanted), wanted)
            if self._is_read or self._reading_problem is not None or size < 1:
                return None
            self._read(min(size, _READ_AT_MOST))
        first = self._waiting.popleft()
        if first.is_job:
            return first
        unread, waiting = self._unread, sum(len(stretch.positions) for stretch in (first, *self._waiting))
        size = self._sizes.choose(None if unread is None else waiting + unread, room)
        if size < len(first.positions):
            self._waiting.appendleft(first._replace(positions=first.positions[size:]))
            first = first._replace(positions=first.positions[:size])
        return first

    @property
    def _unread(self) -> int | None:
        """How many items have not been read; None when that is not known."""
        if self._is_read:
            return 0
        return None if self._total is None else self._total - self._items.count

    def _read(self, size: int) -> None:
        """Read more items, and look them up."""
        try:
            chunk = self._items.read(size)
        except Exception as error:
            self._reading_problem = error
            return
        if chunk is None:
            self._is_read = True
            return
        self._send(self._call.pruning.map(chunk, self._on_error, self._take_found))

    def _send(self, items: OpenItems) -> None:
        """Let items be sent, but for those that equal others."""
        positions = self._first_of_equals(items)
        if positions:
            self._waiting.append(_Stretch(items, positions))

    def _take_found(self, frame: StoringFrame) -> None:
        self._rows.append(self._call.found_item(frame))

    def _first_of_equals(self, items: OpenItems) -> Sequence[int]:
        """Return the positions of items unlike those under way; the others wait until these are done."""
        part = items.part
        if not part.elements:
            return range(len(items))
        firsts: list[int] = []
        for position, own in enumerate(zip(*part.elements.values(), strict=True)):
            if not all(own):
                firsts.append(position)
            elif own in self._equals:
                self._equals[own].append((items, position))
            else:
                self._equals[own] = []
                self._begun[part.indexes[position]] = own
                firsts.append(position)
        return firsts if len(firsts) < len(items) else range(len(items))

    def _release_equals(self, indexes: Iterable[int]) -> None:
        """Let the items that equal some that are done be looked up again."""
        for index in indexes:
            own = self._begun.pop(index, None)
            if own is not None:
                self._released += self._equals.pop(own)

    def _look_up_released(self) -> None:
        released, self._released = self._released, []
        for items in {id(items): items for items, _ in released}.values():
            part = items.some(sorted(position for of, position in released if of is items))[0]
            columns = dict(zip(part.names, part.columns, strict=True))
            again = MapInputs(columns, "zip", part.shared, part.signatures, part.elements, part.indexes)
            self._send(self._call.pruning.map(again, self._on_error, self._take_found))

    # --- jobs -----------------------------------------------------------------------------------------------------

    def _double_late_jobs(self, room: int) -> None:
        """Give the items of jobs that take long to idle workers as well."""
        now = perf_counter()
        for number, job in list(self._under_way.items()):
            if len(self._under_way) >= room:
                return
            items, count = job.stretch.items, len(job.stretch.positions)
            if job.is_doubled or not is_late(now - job.sent_at, count, self._sizes.seconds_per_item):
                continue
            rest = job.rest
            if rest:
                indexes = items.part.indexes
                self._under_way[number] = job._replace(is_doubled=True)
                second = self._start(_Stretch(items, rest, losses=1, is_job=True, is_second=True))
                self._doubled.add([indexes[position] for position in rest], number, second)

    def _start(self, stretch: _Stretch) -> int:
        """Send a job; return its number."""
        number = next(self._numbers)

        def deliver(result: MapResult) -> None:  # in another thread
            self._news.put(lambda: self._take(result))

        began_at = perf_counter()
        part, known = stretch.items.some(stretch.positions)
        sent = self._call.job_of_many(part, known, deliver, is_repeated=stretch.losses > 0)
        job = _Job(sent, stretch, perf_counter(), stretch.is_second)
        future = run_in_copied_context(self._threads, self._runs, sent.submit)
        self._under_way[number] = job
        future.add_done_callback(lambda done: self._news.put(lambda: self._settle(number, done)))
        self._sizes.learn_sending(len(stretch.positions), sent.own_bytes, perf_counter() - began_at)
        return number

    def _wait(self) -> None:
        """Wait for news, and take all there are."""
        if os.getpid() != self._pid:
            raise ExecutionError(_FORKED)
        try:
            news = self._news.get(timeout=_ASK_S)
        except Empty:
            return
        while True:
            if news is not None:
                news()
            try:
                news = self._news.get_nowait()
            except Empty:
                return

    def _take(self, result: MapResult) -> None:
        """Take results of a job."""
        if not self._is_cancelled:
            rows = list(result.by_index().items())
            self._rows.extend([rows[position] for position in self._doubled.new([index for index, _ in rows])])

    def _settle(self, number: int, done: Future[MapResult]) -> None:
        """Handle the end of a job."""
        job = self._under_way.pop(number, None)
        error = done.exception()
        if self._is_cancelled or job is None:
            return
        self._release_equals(job.sent.arrived)  # whose results are in the cache now
        if error is None:
            result = done.result()
            self._take(result)
            self._release_equals(result.indexes)
            work_s, total_s = job.sent.work_s, perf_counter() - job.sent_at
            self._sizes.learn(len(job.stretch.positions), total_s if work_s is None else work_s, total_s)
            self._end_overtaken_jobs()
            return
        rest = self._unheld(number, job)
        if job.is_doubled and not rest:
            return  # it was ended, or lost, and another one has what it had not done
        if isinstance(error, _LOST):
            self._give_out_again(job, error, rest)
        else:
            self._end_with(error)

    def _unheld(self, number: int, job: _Job) -> list[int]:
        """Return the positions of the items that a job has not done, and that no other one has."""
        indexes, rest = job.stretch.items.part.indexes, job.rest
        unheld = set(self._doubled.unheld(number, [indexes[position] for position in rest]))
        return [position for position in rest if indexes[position] in unheld]

    def _end_overtaken_jobs(self) -> None:
        """End the jobs of whose items others have brought all results, without waiting for them."""
        for number, job in list(self._under_way.items()):
            indexes = job.stretch.items.part.indexes
            if job.is_doubled and all(self._doubled.is_done(indexes[position]) for position in job.rest):
                del self._under_way[number]
                job.sent.channel.abandon()

    def _end_with(self, error: BaseException) -> None:
        self._problem = self._problem or error

    def _give_out_again(self, job: _Job, error: WorkerLostError | NodeTimeoutError, rest: list[int]) -> None:
        """Let other workers compute what a lost one has not; find the item that ends all its workers.

        Args:
            job: The job that was lost.
            error: Why.
            rest: The positions of the items that it had not done.
        """
        items, positions, losses, _, deaths, _ = job.stretch
        indexes = items.part.indexes
        if not rest:
            return
        losses += 1
        if len(positions) == 1:
            deaths += 1
            if deaths >= _MAX_DEATHS or isinstance(error, NodeTimeoutError):
                self._fail(indexes[rest[0]], error)
                return
        if losses == 1 and not isinstance(error, NodeTimeoutError):  # by chance, perhaps
            self._waiting.appendleft(_Stretch(items, rest, losses))
            return
        size = ceil(len(rest) / _PIECES)
        pieces = [rest[start : start + size] for start in range(0, len(rest), size)]
        self._waiting.extendleft(_Stretch(items, piece, losses, True, deaths) for piece in reversed(pieces))

    def _fail(self, index: int, error: WorkerLostError | NodeTimeoutError) -> None:
        """Let an item fail whose workers were lost."""
        call = self._call
        names = tuple(step.node.name for step in call.plan.steps if isinstance(step, CallStep))
        own: Exception = error
        if isinstance(error, WorkerLostError):
            nodes = f"node{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
            own = WorkerDiedError(
                f"workers of backend {error.backend_name!r} were lost {_MAX_DEATHS} times while they computed {nodes} "
                f"for map item {index} alone; the last time: {error}",
                node_names=names,
                item_index=index,
            )
            own.__cause__ = error
        else:
            add_note(own, f"in map item {index} of pipeline {' → '.join(call.state.root.node_path)}")
        if self._on_error == "raise":
            self._end_with(own)
            return
        items = (*call.state.root.item_path, index)

        def is_of_item(position: ContextPath) -> bool:
            return position.item_path[: len(items)] == items

        call.receiver.close_open(own, is_of_item)
        self._release_equals([index])
        failure = Failure.of(own, index, call.state.root.node_path)
        self._rows.append((index, (failure,) * len(call.plan.outputs)))
