"""Runs nested pipelines on their own backends, concurrently with other steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import perf_counter

from hypernodes.engine.cancellation import RunRegistry
from hypernodes.engine.drivers.concurrent.activity import Activity, Host, PlanActivity, Task
from hypernodes.engine.frames.delegated import prepare_delegation
from hypernodes.engine.workers.workers import Outcome
from hypernodes.plan import NestedStep


class DelegatedTask(Task):
    """A nested pipeline that its own backend runs.

    Args:
        calls: The set of delegated calls that it belongs to.
        activity: The plan in which it is a step.
        step: The step.

    Attributes:
        step: The same.
        started_at: When it was started, on the performance counter.
        registry: The runs that the backend starts for it, so that they can be cancelled.
        elements: For each output of a mapped one, the signature of each result, if known beforehand.
    """

    __slots__ = ("_calls", "elements", "registry", "started_at", "step")

    activity: PlanActivity

    def __init__(self, calls: DelegatedCalls, activity: PlanActivity, step: NestedStep) -> None:
        super().__init__(activity)
        self._calls = calls
        self.step = step
        self.started_at = perf_counter()
        self.registry = RunRegistry()
        self.elements: list[list[bytes]] = []

    def activities(self) -> Iterable[tuple[Activity, int | None]]:
        return [(self.activity, self.step.index)]

    def settle(self, host: Host, outcome: Outcome) -> None:
        self._calls.discard(self)
        self.activity.frame.complete_delegated(self.step, outcome.result(), self.elements)
        self._end(host)

    def fail(self, host: Host, error: BaseException) -> None:
        self._calls.discard(self)
        path = self.activity.frame.path_to(self.step)  # the note of the error says where inside it was raised
        self._end(host)
        host.fail(self.activity, error, path)
        host.wake(self.activity)

    def _end(self, host: Host) -> None:
        self.activity.frame.end_nested(self.step, perf_counter() - self.started_at)
        self.activity.pending -= 1
        host.wake(self.activity)


class DelegatedCalls:
    """Runs nested pipelines on their own backends: no more than the run may have calls at a time.

    Each waits in a thread of its own, which makes no calls of the run; what it waits for counts as one, for its backend
    may run it in this process.

    Args:
        host: The loop.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks: set[DelegatedTask] = set()
        self._waiting: deque[tuple[PlanActivity, NestedStep]] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> Iterable[DelegatedTask]:
        """Those in flight."""
        return self._tasks

    def start(self, activity: PlanActivity, step: NestedStep) -> None:
        """Run a nested pipeline on its own backend, as soon as there is room for it."""
        self._waiting.append((activity, step))
        self.start_waiting()

    def start_waiting(self) -> None:
        """Start what there is room for."""
        while self._waiting and len(self._tasks) < self._host.workers.max_workers:
            activity, step = self._waiting.popleft()
            if activity.is_stopped:
                activity.pending -= 1
                self._host.wake(activity)
            else:
                self._start(activity, step)

    def _start(self, activity: PlanActivity, step: NestedStep) -> None:
        host, frame = self._host, activity.frame
        context = frame.begin_nested(step)
        frame.run.flush_store()  # the other backend may read the cache, and may take long
        task = DelegatedTask(self, activity, step)
        try:
            run, task.elements = prepare_delegation(frame, step, context)
        except Exception as error:
            activity.pending -= 1
            host.fail(activity, error, frame.fail_nested(step, error, perf_counter() - task.started_at))
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
            task.activity.frame.end_nested(task.step, perf_counter() - task.started_at)
        self._tasks.clear()
        self._waiting.clear()

    def cancel(self, within: Activity | None = None) -> None:
        """Cancel the runs in flight, and let none begin: those within an activity, or all."""
        for activity, step in list(self._waiting):
            if within is None or activity.is_within(within):
                self._waiting.remove((activity, step))
                activity.pending -= 1
                self._host.wake(activity)
        for task in self._tasks:
            if within is None or task.activity.is_within(within):
                task.registry.cancel()
