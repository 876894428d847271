"""Runs nested pipelines, and neighbouring steps, on other backends, concurrently with other steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hypernodes.engine.cancellation import RunRegistry
from hypernodes.engine.drivers.concurrent.activity import Activity, Host, PlanActivity, Task
from hypernodes.engine.frames.delegated import Delegated, delegate
from hypernodes.engine.workers.workers import Outcome
from hypernodes.plan import Step


class DelegatedTask(Task):
    """Something that another backend runs.

    Args:
        calls: The set of delegated calls that it belongs to.
        activity: The plan of which it does steps.
        delegated: What it runs.

    Attributes:
        delegated: The same.
        registry: The runs that the backend starts for it, so that they can be cancelled.
    """

    __slots__ = ("_calls", "delegated", "registry")

    activity: PlanActivity

    def __init__(self, calls: DelegatedCalls, activity: PlanActivity, delegated: Delegated) -> None:
        super().__init__(activity)
        self._calls = calls
        self.delegated = delegated
        self.registry = RunRegistry()

    def activities(self) -> Iterable[tuple[Activity, int | None]]:
        return [(self.activity, step.index) for step in self.delegated.steps]

    def settle(self, host: Host, outcome: Outcome) -> None:
        self._calls.discard(self)
        self.delegated.complete(outcome.result())
        self._end(host)

    def fail(self, host: Host, error: BaseException) -> None:
        self._calls.discard(self)
        path = self.delegated.failed_path(error)
        self._end(host)
        host.fail(self.activity, error, path)
        host.wake(self.activity)

    def _end(self, host: Host) -> None:
        self.delegated.end()
        self.activity.pending -= 1
        host.wake(self.activity)


class DelegatedCalls:
    """Runs steps on other backends.

    Each waits in a thread of its own, which makes no calls of the run. A nested pipeline counts as a call of the run,
    for its backend may run it in this process. Steps that were placed do not.

    Args:
        host: The loop.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks: set[DelegatedTask] = set()
        self._waiting: deque[DelegatedTask] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def calls(self) -> int:
        """How many of those in flight count as calls of the run."""
        return sum(task.delegated.counts_as_call for task in self._tasks)

    @property
    def tasks(self) -> Iterable[DelegatedTask]:
        """Those in flight."""
        return self._tasks

    def start(self, activity: PlanActivity, step: Step) -> None:
        """Run a step on another backend, with its neighbours there, as soon as there is room for it."""
        self._waiting.append(DelegatedTask(self, activity, delegate(activity.frame, step)))
        self.start_waiting()

    def start_waiting(self) -> None:
        """Start what there is room for."""
        waiting, self._waiting = self._waiting, deque()
        while waiting:
            task = waiting.popleft()
            if task.activity.is_stopped:
                task.activity.pending -= 1
                self._host.wake(task.activity)
            elif self._has_room_for(task):
                self._start(task)
            else:
                self._waiting.append(task)

    def _has_room_for(self, task: DelegatedTask) -> bool:
        workers = self._host.workers
        if task.delegated.counts_as_call:
            return self.calls < workers.max_workers
        return len(self._tasks) - self.calls < workers.most_elsewhere

    def _start(self, task: DelegatedTask) -> None:
        host, activity = self._host, task.activity
        try:
            run = task.delegated.begin()
        except Exception as error:
            activity.pending -= 1
            host.fail(activity, error, task.delegated.refuse(error))
            host.wake(activity)
            return
        self._tasks.add(task)
        task.future = future = host.workers.submit_waiting(task.registry, run)
        future.add_done_callback(lambda future: host.post(task, future))

    def discard(self, task: DelegatedTask) -> None:
        """Remove a task that is over; another one may take its place."""
        self._tasks.discard(task)
        self.start_waiting()

    def abandon(self) -> None:
        """Cancel all runs in flight, and report their ends without waiting for them."""
        self.cancel()
        for task in self._tasks:
            task.future = None
            task.delegated.end()
        self._tasks.clear()
        self._waiting.clear()

    def cancel(self, within: Activity | None = None) -> None:
        """Cancel the runs in flight, and let none begin: those within an activity, or all."""
        for task in list(self._waiting):
            if within is None or task.activity.is_within(within):
                self._waiting.remove(task)
                task.activity.pending -= 1
                self._host.wake(task.activity)
        for task in self._tasks:
            if within is None or task.activity.is_within(within):
                task.registry.cancel()
