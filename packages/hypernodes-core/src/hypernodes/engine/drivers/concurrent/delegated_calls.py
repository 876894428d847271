"""Nested pipelines with a backend of their own, while others run beside them."""

from __future__ import annotations

from time import perf_counter

from hypernodes.engine.cancellation import RunRegistry
from hypernodes.engine.drivers.concurrent.activity import Activity, Host, PlanActivity, Task
from hypernodes.engine.frames.delegated import prepare_delegation
from hypernodes.engine.workers.workers import Outcome
from hypernodes.plan import NestedStep


class DelegatedTask(Task):
    """A nested pipeline that its own backend runs.

    Args:
        calls: What takes the result.
        activity: The plan in which it is a step.
        step: The step.

    Attributes:
        step: The same.
        started_at: When it was started, on the performance counter.
        registry: What it runs, so that it can be ended.
        elements: For each output of a mapped one, the signature of each result, as far as they are known beforehand.
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

    def settle(self, host: Host, outcome: Outcome) -> None:
        self._calls.discard(self)
        self.activity.frame.complete_delegated(self.step, outcome.result(), self.elements)
        self._end(host)

    def fail(self, host: Host, error: BaseException) -> None:
        self._calls.discard(self)
        path = self.activity.frame.path_to(self.step)  # the error itself has a note of where it was raised in there
        self._end(host)
        host.fail(self.activity, error, path)
        host.wake(self.activity)

    def _end(self, host: Host) -> None:
        self.activity.frame.end_nested(self.step, perf_counter() - self.started_at)
        self.activity.pending -= 1
        host.wake(self.activity)


class DelegatedCalls:
    """Hands nested pipelines to their own backends; they wait in threads outside of the workers.

    Args:
        host: The loop.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks: set[DelegatedTask] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, activity: PlanActivity, step: NestedStep) -> None:
        """Hand a nested pipeline to its own backend."""
        host, frame = self._host, activity.frame
        context = frame.begin_nested(step)
        frame.run.flush_store()  # what it finds in a cache must be there, and it may take long
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
        """Take note that one is over."""
        self._tasks.discard(task)

    def cancel(self, within: Activity | None = None) -> None:
        """End those that are under way, as a part of an activity or at all."""
        for task in self._tasks:
            if within is None or task.activity.is_within(within):
                task.registry.cancel()
