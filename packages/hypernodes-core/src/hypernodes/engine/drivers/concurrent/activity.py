"""Activities and tasks of the concurrent driver, and the protocol by which they use its loop.

The loop (`scheduler`) is a `Host`: it keeps open activities on a stack, lets the topmost one start its next work, and
waits for tasks. Activities are plans and maps; tasks are work that occupies workers. Neither knows the loop's class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from hypernodes.engine.awaitables import Unawaited
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.limit_reports import LimitReport
from hypernodes.engine.limits import Permit
from hypernodes.engine.step import Call, Returned, prepare, timeout_error
from hypernodes.engine.workers.payloads import Payloads
from hypernodes.engine.workers.workers import Outcome, Workers
from hypernodes.plan import CallStep, Step


class Host(Protocol):
    """The loop, as activities and tasks see it."""

    @property
    def workers(self) -> Workers:
        """The workers that make calls."""

    def open(self, activity: Activity) -> None:
        """Begin an activity: the outermost, or a part of another."""

    def wake(self, activity: Activity) -> None:
        """Reconsider an activity: close it when it is done, else let it start its next work."""

    def fail(self, activity: Activity, error: BaseException, path: tuple[str, ...]) -> None:
        """Stop the item of the nearest map that collects failures, or the whole run, because of an error."""

    def start_step(self, activity: PlanActivity, step: Step) -> None:
        """Start a step of a plan: a call, a mapped pipeline, or a nested pipeline with a backend of its own."""

    def submit(self, task: CallTask) -> None:
        """Submit a call that was reported as begun to the kind of worker that the modes select."""

    def wait_for(self, task: Task, future: Outcome) -> None:
        """Count a task among those that occupy workers, until its future is done."""

    def post(self, task: Task, message: Any) -> None:
        """Send the loop a message about a task, from any thread: its finished future, or None to report progress."""

    def complete_call(self, task: CallTask, returned: Returned | Unawaited | bytes) -> None:
        """Record the results of a call; bytes come from a worker process."""

    def fail_call(self, task: CallTask, error: BaseException, can_try_again: bool = True) -> None:
        """Record that a call failed: schedule its next attempt, or pass the failure on."""

    def wake_up(self) -> None:
        """Let the loop look for what it can start, from any thread."""

    def reserve(self, keys: list[bytes], frame: Frame) -> bool:
        """Mark the results with these signatures as being computed; return False if one already is, or just was."""

    def release(self, key: bytes) -> None:
        """Resume the calls that waited for the result with this signature."""


class Activity:
    """A unit of execution: it starts tasks or other activities, and is closed when all of them are done.

    Attributes:
        parent: The activity that this one is a part of; None for the outermost.
        children: The parts that are open.
        pending: Number of tasks and parts that have been started and are not done.
        error: Why it failed, with the path of the node that raised; None while it has not failed.
        is_open: Whether it is not done yet.
        is_queued: Whether it is on the stack of the loop.
        collects: Whether a failure of one of its parts becomes a result.
        files: Files that hold its values for worker processes; they are removed when it is done.
    """

    collects = False

    def __init__(self, parent: Activity | None) -> None:
        self.parent = parent
        self.children: dict[Activity, None] = {}
        self.pending = 0
        self.error: tuple[BaseException, tuple[str, ...]] | None = None
        self.is_open = True
        self.is_queued = False
        self.files: list[str] = []
        self._shared: dict[int, Any] = {}  # values that are serialized only once while it is open
        self._payloads: Payloads | None = None
        self._is_stopped = False
        if parent is not None:
            parent.children[self] = None

    @property
    def is_stopped(self) -> bool:
        """Whether nothing new may be started in it, because it or an enclosing activity failed."""
        activity: Activity | None = self
        while activity is not None:
            if activity._is_stopped:  # noqa: SLF001
                return True
            activity = activity.parent
        return False

    def is_within(self, outer: Activity) -> bool:
        """Whether it is a part of another activity, or that one itself."""
        activity: Activity | None = self
        while activity is not None and activity is not outer:
            activity = activity.parent
        return activity is outer

    def stop(self) -> None:
        """Start nothing new in it; work that has been started is waited for."""
        self._is_stopped = True

    def share(self, payloads: Payloads, value: Any) -> None:
        """Serialize a value only once for all worker processes that receive it while this is open."""
        self._payloads = payloads
        if id(value) not in self._shared and payloads.hold(value):
            self._shared[id(value)] = value

    def start_next(self, host: Host) -> bool:
        """Start one more task or activity; return False when there is nothing to start at present."""
        raise NotImplementedError

    def is_done(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        raise NotImplementedError

    def close(self, host: Host) -> None:
        """Report the end and pass the results to the parent."""
        self.is_open = False
        if self.parent is not None:
            del self.parent.children[self]
        if self._payloads is not None:
            for value in self._shared.values():
                self._payloads.drop(value)
        if self.files and host.workers.processes is not None:
            host.workers.processes.payloads.remove(self.files)


class ItemOwner(Activity):
    """The interface of a map to its items."""

    def end_item(self, item: PlanActivity, host: Host) -> None:
        """Record the results of an item that is done."""
        raise NotImplementedError


class PlanActivity(Activity):
    """One execution of a plan.

    Args:
        frame: The frame to execute; it has been started.
        owner: The map that this is an item of; None for a run.
    """

    def __init__(self, frame: Frame, owner: ItemOwner | None) -> None:
        super().__init__(owner)
        self.frame = frame
        self.owner = owner
        self._placed = 0  # steps among the pending ones that were placed elsewhere

    def begin_delegated(self, counts_as_call: bool) -> None:
        """Record that a step that was started is for another backend."""
        self._placed += not counts_as_call

    def end_delegated(self, counts_as_call: bool) -> None:
        """Record that such a step ended."""
        self._placed -= not counts_as_call
        self.pending -= 1

    def start_next(self, host: Host) -> bool:
        if self.pending > self._placed and host.workers.runs_nodes_in_order:
            return False
        step = self.frame.next_step()
        if step is None:
            refusal = self.frame.refusal
            if refusal is not None and not self.is_stopped:
                host.fail(self, refusal.error, self.frame.refuse(refusal))
            return False
        self.pending += 1
        host.start_step(self, step)
        return True

    def is_done(self) -> bool:
        return self.pending == 0 and (self.frame.is_done or self.is_stopped)

    def close(self, host: Host) -> None:
        super().close(host)
        self.frame.close()
        if self.owner is not None:
            self.owner.end_item(self, host)


class Task:
    """Work that has been started and is waited for.

    Args:
        activity: The activity that it belongs to.

    Attributes:
        activity: The same.
        future: Its future; None before it is submitted, and when its result is not wanted any more.
        order: Number of the order to a worker process; -1 when there is none.
        deaths: How many worker processes died while they executed it.
    """

    __slots__ = ("activity", "deaths", "future", "order")

    def __init__(self, activity: Activity) -> None:
        self.activity = activity
        self.future: Outcome | None = None
        self.order = -1
        self.deaths = 0

    @property
    def is_stopped(self) -> bool:
        """Whether its results are not wanted any more."""
        return self.activity.is_stopped

    def is_within(self, outer: Activity) -> bool:
        """Whether all of it belongs to an activity."""
        return self.activity.is_within(outer)

    def activities(self) -> Iterable[tuple[Activity, int | None]]:
        """Return what it is part of, with the position of the step that it makes; None for several steps."""
        return [(self.activity, None)]

    def settle(self, host: Host, outcome: Outcome) -> None:
        """Record its outcome."""
        raise NotImplementedError

    def fail(self, host: Host, error: BaseException) -> None:
        """Record that it failed."""
        raise NotImplementedError

    def explain(self, error: BaseException) -> None:
        """Add a note to an error that it raised and that ends the run at once."""

    def on_progress(self, host: Host) -> None:
        """Handle a progress report while it goes on."""

    # --- after the worker process that executed it died -------------------------------------------------------------

    def parts(self) -> list[Task]:
        """Return its parts; each is then executed on its own, to find the one that kills its worker."""
        return [self]

    def submit_again(self, host: Host) -> None:
        """Submit it once more."""
        raise NotImplementedError

    def described(self) -> tuple[Sequence[CallStep], int | None]:
        """Return the calls that it consists of, and the index of the item that they belong to."""
        raise NotImplementedError

    def settle_time_limit(self, host: Host, position: int, step: int) -> list[Task]:
        """Record that its worker was killed because a call exceeded its time limit; return the tasks to submit again.

        Args:
            host: The loop.
            position: Position of the call's item in the task.
            step: Position of the call in the plan.
        """
        raise NotImplementedError


class CallTask(Task):
    """One call.

    Attributes:
        activity: The plan it belongs to.
        step: The step.
        key: Signature of the result, when there is one.
        attempt: Number of the attempt, from 1.
        is_explained: Whether its error was reported by `explain`.
        limit_report: Reports its time limit; None when it has none here.
        permit: What allows it to be made, where the calls of its node are limited; None while it has none.
    """

    __slots__ = ("attempt", "is_explained", "key", "limit_report", "permit", "step")

    activity: PlanActivity

    def __init__(self, activity: PlanActivity, step: CallStep, key: bytes | None) -> None:
        super().__init__(activity)
        self.step = step
        self.key = key
        self.attempt = 1
        self.is_explained = False
        self.limit_report: LimitReport | None = None
        self.permit: Permit | None = None

    def release_permit(self) -> None:
        """Release its permit, if it has one; another attempt needs another one."""
        if self.permit is not None:
            self.permit.release()
            self.permit = None

    def activities(self) -> Iterable[tuple[Activity, int | None]]:
        return [(self.activity, self.step.index)]

    def prepared(self) -> Call:
        """Return the call with its arguments."""
        call = prepare(self.step, self.activity.frame.values)
        return call if self.permit is None else call._replace(permit=self.permit)

    def can_try_again(self, error: BaseException) -> bool:
        """Whether a call that raised an error is to be made again as it is."""
        node = self.step.node
        return self.attempt <= node.retries and not self.is_stopped and isinstance(error, node.retry_on)

    def report_retry(self, error: BaseException, delay_s: float) -> None:
        """Report that it raised and will be made again."""
        self.activity.frame.retry(self.step, self.attempt, error, delay_s)

    def report_limited(self, limit_names: tuple[str, ...]) -> None:
        """Report that it has to wait because of limits."""
        self.activity.frame.report_limited(self.step, limit_names)

    def report_error(self, error: BaseException) -> None:
        """Report that it ended without a result."""
        self.activity.frame.report_error(self.step, error)

    def record(self, host: Host, returned: Returned) -> None:
        """Record its results."""
        activity = self.activity
        activity.frame.complete(self.step, returned.outputs, returned.duration_s)
        activity.pending -= 1
        if self.key is not None:
            host.release(self.key)
        host.wake(activity)

    def give_up(self, host: Host, error: BaseException) -> None:
        """Record that it failed for good, and pass the failure on."""
        activity = self.activity
        path = activity.frame.fail(self.step, error)
        activity.pending -= 1
        host.fail(activity, error, path)
        if self.key is not None:
            host.release(self.key)

    def end_stopped(self, host: Host, error: BaseException | None = None) -> None:
        """End it because its results are not wanted any more; report an error if its beginning was reported."""
        if error is not None:
            self.report_error(error)
        self.activity.pending -= 1
        host.wake(self.activity)
        if self.key is not None:
            host.release(self.key)

    def settle(self, host: Host, outcome: Outcome) -> None:
        host.complete_call(self, outcome.result())

    def fail(self, host: Host, error: BaseException) -> None:
        host.fail_call(self, error)

    def explain(self, error: BaseException) -> None:
        self.activity.frame.fail(self.step, error)
        self.is_explained = True

    def submit_again(self, host: Host) -> None:
        host.submit(self)

    def described(self) -> tuple[Sequence[CallStep], int | None]:
        return [self.step], self.activity.frame.item_index

    def settle_time_limit(self, host: Host, position: int, step: int) -> list[Task]:
        host.fail_call(self, timeout_error(self.step.node))
        return []


def cancelled(outcome: Outcome) -> bool:
    """Return whether a task was cancelled before it began."""
    return isinstance(outcome, Future) and outcome.cancelled()
