"""Executes items of a map in the calling thread, several at a time, so that batched nodes get their items together.

An item is executed until it needs a result of a batched node. It then waits until there are enough others, or until no
more can be begun; meanwhile the next item is executed. The call is accounted for by the frame of each item.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from hypernodes.conditions import Skipped
from hypernodes.engine.batches import Group, Groups, note_batch, outcomes_of_batch
from hypernodes.engine.cancellation import unfinished_call
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.items import ItemFrames
from hypernodes.engine.step import Returned
from hypernodes.engine.workers.calling_thread import CallingThread
from hypernodes.failure import Failure
from hypernodes.plan import CallStep, OnError, Step

_MOST_DONE = 1024  # items that are done and follow one that is not


class _OpenItem:
    """An item that has been read.

    Attributes:
        frame: Accounts for it.
        stand_in: What stands for its outputs if it failed or was skipped.
        waiting: Number of its calls that wait for a batch.
        is_done: Whether nothing is left to do for it.
    """

    __slots__ = ("frame", "is_done", "stand_in", "waiting")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.stand_in: Failure | Skipped | None = frame.stand_in
        self.waiting = 0
        self.is_done = False


_Member = tuple[_OpenItem, CallStep, bytes | None]


class BatchedItems:
    """Executes the items of a map.

    Args:
        items: The items.
        on_error: "raise" or "collect".
        thread: Makes calls, and knows whether the run was cancelled.
        run_step: Executes a step that is not batched.
    """

    def __init__(
        self,
        items: ItemFrames,
        on_error: OnError,
        thread: CallingThread,
        run_step: Callable[[Frame, Step, CallingThread], None],
    ) -> None:
        self._items = items
        self._plan = items.plan
        self._collects = on_error == "collect"
        self._thread = thread
        self._run_step = run_step
        self._sizes = items.run.batch_sizes
        self._groups: Groups[_Member] = Groups(self._sizes)
        self._open: deque[_OpenItem] = deque()  # in the order in which they were read
        suitable = sum(batching.most_items for batching in self._plan.batchings)
        self._most_waiting = self._sizes.open_items(suitable)
        self._grouped = 0  # calls that wait for others
        self._computing: dict[bytes, list[_Member]] = {}
        self._is_exhausted = False

    def executed(self) -> Iterator[tuple[Frame, Failure | Skipped | None]]:
        """Yield the frame of each item, in order, and what stands for its outputs if it failed or was skipped."""
        groups, open_items = self._groups, self._open
        try:
            while True:
                if groups.full:
                    self._call(groups.full.popleft())
                elif self._can_begin:
                    self._begin_next()
                elif groups:
                    first = min(group.step.index for group in groups.open_groups)
                    groups.close(lambda group: group.step.index == first)  # noqa: B023
                while open_items and open_items[0].is_done:
                    item = open_items.popleft()
                    yield item.frame, item.stand_in
                if self._is_exhausted and not open_items:
                    return
        finally:
            for item in open_items:
                if not item.is_done:
                    item.frame.close()

    @property
    def _can_begin(self) -> bool:
        has_room = self._grouped < self._most_waiting and len(self._open) < self._most_waiting + _MOST_DONE
        return has_room and not self._is_exhausted

    def _begin_next(self) -> None:
        frame = self._items.next_item()
        if frame is None:
            self._is_exhausted = True
            return
        item = _OpenItem(frame)
        self._open.append(item)
        if item.stand_in is not None:
            frame.skip()
            item.is_done = True
            if isinstance(item.stand_in, Failure) and not self._collects:
                self._thread.failed_at = item.stand_in.node_path
                raise item.stand_in.error
            return
        self._thread.check()
        frame.start()
        self._run(item)

    def _run(self, item: _OpenItem) -> None:
        """Execute an item as far as possible; ends it if that is all."""
        frame, thread = item.frame, self._thread
        try:
            while (step := frame.next_step()) is not None:
                if thread.is_cancelled:
                    thread.check()
                if isinstance(step, CallStep) and step.node.batching is not None:
                    self._put_off((item, step, frame.key_of(step)))
                    if item.waiting and self._plan.is_chain:
                        return
                else:
                    self._run_step(frame, step, thread)
            if item.waiting:
                return
            if frame.refusal is not None:
                thread.failed_at = frame.refuse(frame.refusal)
                raise frame.refusal.error
        except Exception as error:
            self._fail(item, error)
            return
        frame.close()
        item.is_done = True

    def _put_off(self, member: _Member) -> None:
        """Let a call wait for a batch, unless its result is there already, or about to be."""
        item, step, key = member
        if key is not None and key in self._computing:
            self._computing[key].append(member)
        elif item.frame.recall(step):
            return
        else:
            if key is not None:
                self._computing[key] = []
            try:
                known = item.frame.signatures_of(step.shared_by_batch)
                self._groups.add(step, item.frame.values, member, known)
            except Exception as error:  # of the function that weighs items
                item.frame.begin(step)
                self._thread.failed_at = item.frame.fail(step, error)
                self._release(key)
                raise
            self._grouped += 1
        item.waiting += 1

    def _call(self, group: Group[_Member]) -> None:
        """Make the call that a group waits for, or several if that fails."""
        step = group.step
        members: list[_Member] = []
        self._grouped -= len(group.members)
        for member in group.members:
            if member[0].is_done:  # another step of it failed
                self._release(member[2])
            else:
                members.append(member)
        if not members:
            return
        for item, own_step, _ in members:
            item.frame.begin(own_step)
        done: list[_OpenItem] = []
        failed: dict[_OpenItem, tuple[Exception, tuple[str, ...]]] = {}
        recorded = 0
        outcomes = outcomes_of_batch(
            step.node,
            len(members),
            self._sizes,
            lambda positions: self._attempt(members[positions.start : positions.stop]),
            lambda: self._thread.is_cancelled,
        )
        try:
            for positions, results, error, duration_s in outcomes:
                made = members[positions.start : positions.stop]
                recorded = positions.stop
                if error is None:
                    self._record(iter(zip(made, results, strict=True)), duration_s)
                    done += [item for item, _, _ in made]
                    continue
                ((item, own_step, _),) = made
                item.waiting -= 1
                self._thread.failed_at = path = item.frame.fail(own_step, error)
                failed.setdefault(item, (error, path))
                if not self._collects:
                    raise error
        except BaseException as error:
            self._report_unmade(members[recorded:], error)
            raise
        for item, (raised, path) in failed.items():
            self._thread.failed_at = path
            self._fail(item, raised)
        for _, _, key in members:
            self._release(key)
        for item in done:
            if not item.is_done:
                self._run(item)

    def _record(self, made: Iterator[tuple[_Member, tuple[object, ...]]], duration_s: float) -> None:
        """Record the results of calls that were made together."""
        try:
            for (item, step, _), outputs in made:
                item.waiting -= 1
                item.frame.complete(step, outputs, duration_s)
        except BaseException:  # an interrupt, while a callback observes one of them: the others have been computed, too
            self._record(made, duration_s)
            raise

    def _attempt(self, members: Sequence[_Member]) -> Returned:
        def retry(attempt: int, error: BaseException, delay_s: float) -> None:
            for item, step, _ in members:
                item.frame.retry(step, attempt, error, delay_s)
            self._items.run.flush_store()  # the next attempt may be a long time away

        def limited(names: tuple[str, ...]) -> None:
            for item, step, _ in members:
                item.frame.report_limited(step, names)
            self._items.run.flush_store()

        steps = [step for _, step, _ in members]
        return self._thread.call_batch(steps, [item.frame.values for item, _, _ in members], retry, limited)

    def _report_unmade(self, members: Sequence[_Member], error: BaseException) -> None:
        """Report the end of calls that were begun together with one that ended the run."""
        for number, (item, step, _) in enumerate(members):
            if number == 0 and not isinstance(error, Exception):
                note_batch(error, len(members))
                self._thread.failed_at = item.frame.fail(step, error)  # raised by the function itself, in this thread
            else:
                item.frame.report_error(step, unfinished_call())

    def _release(self, key: bytes | None) -> None:
        """Resume the calls that waited for the result with this signature."""
        followers = self._computing.pop(key, ()) if key is not None else ()
        for number, member in enumerate(followers, start=1):
            item = member[0]
            if item.is_done:
                continue
            item.waiting -= 1
            try:
                self._put_off(member)
            except Exception as error:
                self._fail(item, error)
            else:
                if not item.waiting:
                    self._run(item)
            if key in self._computing:  # there is no result: the others wait for that of this one
                self._computing[key] += followers[number:]
                return

    def _fail(self, item: _OpenItem, error: Exception) -> None:
        """Record that an item failed."""
        index = item.frame.item_index
        if not self._collects or self._thread.is_cancelled:
            raise error
        assert index is not None
        item.stand_in = Failure.of(error, index, self._thread.failed_at)
        item.frame.close()
        item.is_done = True
