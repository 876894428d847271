"""Runs nested pipelines, and neighbouring steps, on other backends, concurrently with other steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, NamedTuple, TypeAlias

from hypernodes.engine.cancellation import RunRegistry
from hypernodes.engine.drivers.concurrent.activity import Activity, Host, PlanActivity, Task
from hypernodes.engine.drivers.concurrent.maps import MapActivity
from hypernodes.engine.frames.delegated import Delegated, Neighbours, Run, delegate, run_gathered
from hypernodes.engine.workers.workers import Outcome
from hypernodes.failure import Failure
from hypernodes.plan import PlanPart, Step

_Group: TypeAlias = tuple[MapActivity, PlanPart]

_GATHERS_S = 0.25  # for so long items are gathered while others can begin


class _Member(NamedTuple):
    """What is delegated of one plan.

    Attributes:
        activity: The plan.
        delegated: What is delegated.
        key: Signature of its first result, for which others may wait; None if there is none.
    """

    activity: PlanActivity
    delegated: Delegated
    key: bytes | None

    @property
    def item_index(self) -> int:
        """Index of the item that the plan computes; -1 if it computes none."""
        index = self.activity.frame.item_index
        return -1 if index is None else index

    def end(self, host: Host) -> None:
        """Record that it ended, successfully or not."""
        self.delegated.end()
        self.leave(host)

    def leave(self, host: Host) -> None:
        """Let the plan, and those that wait for its result, go on."""
        self.activity.end_delegated(self.delegated.counts_as_call)
        host.wake(self.activity)
        if self.key is not None:
            host.release(self.key)


class DelegatedTask(Task):
    """Something that another backend runs: steps of one plan, or the same steps of several items of a map.

    Args:
        calls: The set of delegated calls that it belongs to.
        member: What it does, at first of one plan.
        group: The map and the steps, if those of several items can run together.

    Attributes:
        members: What it does, of each plan.
        group: The same.
        registry: The runs that the backend starts for it, so that they can be cancelled.
        since_s: Since when it waits, on the monotonic clock.
    """

    __slots__ = ("_calls", "group", "members", "registry", "since_s")

    activity: PlanActivity

    def __init__(self, calls: DelegatedCalls, member: _Member, group: _Group | None) -> None:
        super().__init__(member.activity)
        self._calls = calls
        self.members = [member]
        self.group = group
        self.registry = RunRegistry()
        self.since_s = monotonic()

    @property
    def counts_as_call(self) -> bool:
        """Whether it counts among the calls that the run may make at a time."""
        return self.members[0].delegated.counts_as_call

    @property
    def backend(self) -> Any:
        """The backend that runs it."""
        return self.members[0].delegated.backend

    @property
    def is_stopped(self) -> bool:
        return all(member.activity.is_stopped for member in self.members)

    def is_within(self, outer: Activity) -> bool:
        return all(member.activity.is_within(outer) for member in self.members)

    def activities(self) -> Iterable[tuple[Activity, int | None]]:
        return [(member.activity, step.index) for member in self.members for step in member.delegated.steps]

    def begin(self) -> Run:
        """Record that it is about to run; return what runs it, and returns the outputs of each member."""
        if self.group is None:
            run = self.members[0].delegated.begin()
            return lambda: [run()]
        self.members.sort(key=lambda member: member.item_index)
        owner, _ = self.group
        steps = [member.delegated for member in self.members if isinstance(member.delegated, Neighbours)]
        return run_gathered(steps, owner.request.inputs.columns, owner.request.on_error)

    def settle(self, host: Host, outcome: Outcome) -> None:
        self._calls.discard(self)
        results = zip(self.members, outcome.result(), strict=True)
        for member, outputs in reversed(list(results)):  # what is woken last goes on first
            if isinstance(outputs, Failure):
                member.end(host)
                host.fail(member.activity, outputs.error, outputs.node_path)
                host.wake(member.activity)
            else:
                member.delegated.complete(outputs)
                member.end(host)

    def fail(self, host: Host, error: BaseException) -> None:
        self._calls.discard(self)
        if len(self.members) > 1 and isinstance(error, Exception) and self.group is not None:
            owner, _ = self.group
            if owner.collects and not self.is_stopped:
                self._calls.start_one_by_one(self.members)  # to find out which of them it is about
                return
        path = self.members[0].delegated.failed_path(error)
        for position, member in enumerate(self.members):
            member.end(host)
            if position == 0:  # it fails the map, if there are others
                host.fail(member.activity, error, path)
            host.wake(member.activity)

    def drop(self, host: Host) -> None:
        """End it before it began, because its results are not wanted any more."""
        for member in self.members:
            member.leave(host)


class DelegatedCalls:
    """Runs steps on other backends.

    Each waits in a thread of its own, which makes no calls of the run. A nested pipeline counts as a call of the run,
    for its backend may run it in this process. Steps that were placed do not; those of the items of a map are gathered,
    and sent as a map: the first ones when nothing else can begin, or after a short time, the next ones when these are
    done.

    Args:
        host: The loop.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks: set[DelegatedTask] = set()
        self._waiting: deque[DelegatedTask] = deque()
        self._gathering: dict[_Group, DelegatedTask] = {}  # waiting ones, to which others are added

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def are_waiting(self) -> bool:
        """Whether any wait for others, or for room."""
        return bool(self._waiting)

    @property
    def calls(self) -> int:
        """How many of those in flight count as calls of the run."""
        return sum(task.counts_as_call for task in self._tasks)

    @property
    def tasks(self) -> Iterable[DelegatedTask]:
        """Those in flight."""
        return self._tasks

    def start(self, activity: PlanActivity, step: Step, key: bytes | None = None) -> None:
        """Run a step on another backend, with its neighbours there, as soon as there is room for it.

        Args:
            activity: The plan.
            step: The step.
            key: Signature of its result, which is to be released when it ends; None if there is none.
        """
        member = _Member(activity, delegate(activity.frame, step), key)
        activity.begin_delegated(member.delegated.counts_as_call)
        group = _group_of(member)
        if group is not None and group in self._gathering:
            self._gathering[group].members.append(member)
        else:
            self._add(DelegatedTask(self, member, group))
        self.start_waiting()

    def start_one_by_one(self, members: Iterable[_Member]) -> None:
        """Run the steps of several items again, those of each item by themselves."""
        self._waiting.extend([DelegatedTask(self, member, None) for member in members])
        self.start_waiting()

    def _add(self, task: DelegatedTask) -> None:
        self._waiting.append(task)
        if task.group is not None:
            self._gathering[task.group] = task

    def start_waiting(self, *, is_idle: bool = False) -> bool:
        """Start what there is room for, and what need not be gathered further; return whether anything was started.

        Args:
            is_idle: Whether nothing else can begin now.
        """
        waiting, self._waiting = self._waiting, deque()
        is_started = False
        while waiting:
            task = waiting.popleft()
            if task.is_stopped:
                self._forget(task)
                task.drop(self._host)
            elif self._has_room_for(task) and (is_idle or self._is_gathered(task)):
                self._forget(task)
                self._start(task)
                is_started = True
            else:
                self._waiting.append(task)
        return is_started

    def _has_room_for(self, task: DelegatedTask) -> bool:
        workers = self._host.workers
        if task.counts_as_call:
            return self.calls < workers.max_workers
        if task.group is not None and any(task.group == other.group for other in self._tasks):
            return False
        there = sum(other.backend is task.backend for other in self._tasks)
        most_there = getattr(task.backend, "jobs_at_once", workers.most_elsewhere)  # of remote backends
        return there < most_there and len(self._tasks) - self.calls < workers.most_elsewhere

    @staticmethod
    def _is_gathered(task: DelegatedTask) -> bool:
        return task.group is None or monotonic() - task.since_s >= _GATHERS_S

    def _forget(self, task: DelegatedTask) -> None:
        if task.group is not None:
            self._gathering.pop(task.group, None)

    def _start(self, task: DelegatedTask) -> None:
        host, activity = self._host, task.activity
        try:
            run = task.begin()
        except Exception as error:
            path = task.members[0].delegated.refuse(error)
            task.drop(host)
            host.fail(activity, error, path)
            host.wake(activity)
            return
        self._tasks.add(task)
        task.future = future = host.workers.submit_waiting(task.registry, run)
        future.add_done_callback(lambda future: host.post(task, future))

    def discard(self, task: DelegatedTask) -> None:
        """Remove a task that is over; another one may take its place."""
        self._tasks.discard(task)
        self.start_waiting(is_idle=True)

    def abandon(self) -> None:
        """Cancel all runs in flight, and report their ends without waiting for them."""
        self.cancel()
        for task in self._tasks:
            task.future = None
            for member in task.members:
                member.delegated.end()
        self._tasks.clear()
        self._waiting.clear()
        self._gathering.clear()

    def cancel(self, within: Activity | None = None) -> None:
        """Cancel the runs in flight, and let none begin: those within an activity, or all."""
        for task in list(self._waiting):
            if within is None or task.is_within(within):
                self._waiting.remove(task)
                self._forget(task)
                task.drop(self._host)
        for task in self._tasks:
            if within is None or task.is_within(within):
                task.registry.cancel()


def _group_of(member: _Member) -> _Group | None:
    """Return the map, and the steps, if those of other items of the map can run together with them."""
    owner, delegated = member.activity.owner, member.delegated
    if not isinstance(delegated, Neighbours) or not isinstance(owner, MapActivity):
        return None
    return (owner, delegated.part) if delegated.can_be_gathered(owner.request.inputs.columns) else None
