"""Calls of batched nodes in the concurrent driver: items wait for others, until no more can come or are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from hypernodes.engine.batches import (
    BatchSizes,
    Group,
    Groups,
    errors_of_items,
    halves,
    is_out_of_memory,
    note_batch,
)
from hypernodes.engine.cancellation import unfinished_call
from hypernodes.engine.drivers.concurrent.activity import Activity, CallTask, Host, Task
from hypernodes.engine.step import Call, Returned, prepare_batch, timeout_error
from hypernodes.engine.timing import now
from hypernodes.errors import BatchResultError
from hypernodes.nodes import Node
from hypernodes.plan import CallStep


class BatchedCall(CallTask):
    """One call for several items.

    Args:
        calls: The `BatchedCalls` that it belongs to.
        members: The calls of the single items, which this one replaces.

    Attributes:
        members: The same.
        is_begun: Whether its beginning was reported.
    """

    __slots__ = ("_calls", "is_begun", "members")

    def __init__(self, calls: BatchedCalls, members: list[CallTask], is_begun: bool = False) -> None:
        super().__init__(members[0].activity, members[0].step, None)
        self._calls = calls
        self.members = members
        self.is_begun = is_begun

    @property
    def is_stopped(self) -> bool:
        return all(member.is_stopped for member in self.members)

    def is_within(self, outer: Activity) -> bool:
        return all(member.is_within(outer) for member in self.members)

    def activities(self) -> Iterable[tuple[Activity, int | None]]:
        return [(member.activity, member.step.index) for member in self.members]

    def prepared(self) -> Call:
        members = self.members
        call = prepare_batch(self.step, [m.activity.frame.values for m in members], [m.step for m in members])
        return call if self.permit is None else call._replace(permit=self.permit)

    def begin(self) -> None:
        """Report that it is about to be made, unless that was reported."""
        if not self.is_begun:
            self.is_begun = True
            for member in self.members:
                member.activity.frame.begin(member.step)

    def drop_stopped(self, host: Host) -> bool:
        """End the calls for items that are not wanted any more; return whether any are left."""
        stopped = [member for member in self.members if member.is_stopped]
        if stopped:
            self.members = [member for member in self.members if not member.is_stopped]
            if self.members:
                self.activity = self.members[0].activity
            for member in stopped:
                member.end_stopped(host, unfinished_call() if self.is_begun else None)
        return bool(self.members)

    def end_stopped(self, host: Host, error: BaseException | None = None) -> None:
        for member in self.members:
            member.end_stopped(host, error)

    def can_try_again(self, error: BaseException) -> bool:
        is_too_large = len(self.members) > 1 and is_out_of_memory(error)
        return not (is_too_large or isinstance(error, BatchResultError)) and super().can_try_again(error)

    def report_retry(self, error: BaseException, delay_s: float) -> None:
        for member in self.members:
            member.activity.frame.retry(member.step, self.attempt, error, delay_s)

    def report_limited(self, limit_names: tuple[str, ...]) -> None:
        for member in self.members:
            member.report_limited(limit_names)

    def report_error(self, error: BaseException) -> None:
        for member in self.members:
            member.report_error(error)

    def record(self, host: Host, returned: Returned) -> None:
        share_s = returned.duration_s / len(self.members)
        frame = self.activity.frame
        with frame.run.store.gathering() if frame.plan.is_cached else nullcontext():
            made = iter(zip(self.members, returned.outputs, strict=True))
            try:
                _record(host, made, share_s)
            except BaseException:  # an interrupt, while a callback observes one: the others have been computed, too
                _record(host, made, share_s)
                raise

    def give_up(self, host: Host, error: BaseException) -> None:
        if not self.drop_stopped(host):
            return
        if not isinstance(error, Exception):
            first, *others = self.members
            note_batch(error, len(self.members))
            first.give_up(host, error)
            for member in others:  # the run is over
                member.end_stopped(host, unfinished_call())
        elif len(self.members) > 1 and not isinstance(error, BatchResultError):
            self._calls.divide(self.members, error)
        else:
            for member, own in zip(self.members, errors_of_items(error, len(self.members)), strict=True):
                member.give_up(host, own)

    def explain(self, error: BaseException) -> None:
        first, *others = self.members
        note_batch(error, len(self.members))
        first.explain(error)
        for member in others:
            member.report_error(unfinished_call())
        self.is_explained = True

    def parts(self) -> list[Task]:
        if len(self.members) == 1:
            return [self]
        return [BatchedCall(self._calls, [member], is_begun=True) for member in self.members]

    def described(self) -> tuple[Sequence[CallStep], int | None]:
        return [self.step], self.activity.frame.item_index if len(self.members) == 1 else None

    def settle_time_limit(self, host: Host, position: int, step: int) -> list[Task]:
        host.fail_call(self, timeout_error(self.step.node))
        return []


def _record(host: Host, made: Iterator[tuple[CallTask, tuple[Any, ...]]], share_s: float) -> None:
    for member, outputs in made:
        member.record(host, Returned(outputs, share_s))


class BatchedCalls:
    """The items of a run that wait for calls of batched nodes.

    Args:
        host: The loop.
        sizes: The sizes of batches in the run.

    Attributes:
        ready: The calls to make as soon as workers are free.
    """

    def __init__(self, host: Host, sizes: BatchSizes) -> None:
        self._host = host
        self._sizes = sizes
        self._groups: Groups[CallTask] = Groups(sizes)
        self.ready: deque[BatchedCall] = deque()

    @property
    def has_any(self) -> bool:
        """Whether anything waits, for others or for a worker."""
        return bool(self.ready or self._groups)

    @property
    def are_waiting(self) -> bool:
        """Whether items wait for others."""
        return bool(self._groups)

    @property
    def awaited_nodes(self) -> set[Node[..., Any]]:
        """The nodes whose items wait for others."""
        return {group.step.node for group in self._groups.open_groups}

    def add(self, task: CallTask) -> None:
        """Let a call wait for others that can be made together with it."""
        frame, step = task.activity.frame, task.step
        try:
            self._groups.add(step, frame.values, task, frame.signatures_of(step.shared_by_batch))
        except Exception as error:  # of the function that weighs items
            frame.begin(step)
            self._host.fail_call(task, error, can_try_again=False)
            return
        self._take_full()

    def start_next(self) -> None:
        """Make the next call that is ready."""
        call = self.ready.popleft()
        if not call.drop_stopped(self._host):
            return
        call.begin()
        most = self._sizes.most(call.step.node)
        if most is not None and len(call.members) > most:  # one before it did not fit into memory
            self.ready.appendleft(BatchedCall(self, call.members[most:], is_begun=True))
            call.members = call.members[:most]
        self._host.submit(call)

    def end_waiting(self, to_come: Collection[Node[..., Any]]) -> bool:
        """Let items wait no longer that have waited long enough, or for which no others can come.

        Args:
            to_come: The batched nodes that more items may reach.

        Returns:
            Whether there is a call to make now.
        """
        time_s = now()

        def need_not_wait(group: Group[CallTask]) -> bool:
            batching = group.step.node.batching
            assert batching is not None
            return group.step.node not in to_come or time_s - group.since_s >= batching.wait_s

        self._groups.close(need_not_wait)
        self._take_full()
        return bool(self.ready)

    def seconds_left(self) -> float | None:
        """Return for how long items may still wait, in seconds; None if none wait."""
        ends = [
            group.since_s + group.step.node.batching.wait_s
            for group in self._groups.open_groups
            if group.step.node.batching is not None
        ]
        return max(min(ends) - now(), 0) if ends else None

    def divide(self, members: list[CallTask], error: BaseException) -> None:
        """Make a call that failed again, first for one half of its items and then for the other."""
        for part in reversed(halves(members[0].step.node, members, self._sizes, error)):
            self.ready.appendleft(BatchedCall(self, part, is_begun=True))

    def drop_stopped(self) -> None:
        """End what waits in activities that are stopped."""
        for member in self._groups.remove(lambda member: member.is_stopped):
            member.end_stopped(self._host)
        for _ in range(len(self.ready)):
            call = self.ready.popleft()
            if call.drop_stopped(self._host):
                self.ready.append(call)

    def abandon(self) -> list[BatchedCall]:
        """Forget everything that waits; return the calls whose beginning was reported."""
        self._groups.clear()
        begun = [call for call in self.ready if call.is_begun]
        self.ready.clear()
        return begun

    def _take_full(self) -> None:
        groups = self._groups
        while groups.full:
            self.ready.append(BatchedCall(self, groups.full.popleft().members))
