"""What is being executed: plans and their parts, each knowing what it can start next and what it still waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypernodes.engine.frames.frame import Frame
from hypernodes.failures import Failure
from hypernodes.plan import CallStep

if TYPE_CHECKING:
    from hypernodes.engine.drivers.concurrent.maps import MapActivity
    from hypernodes.engine.drivers.concurrent.scheduler import Scheduler
    from hypernodes.engine.workers.payloads import Payloads


class Activity:
    """Something that is being executed: it starts calls or other activities, and is closed when all of them are done.

    Attributes:
        parent: The activity that this one is a part of; None for the outermost.
        children: The parts that are open.
        pending: Number of calls and parts that have been started and are not done.
        error: Why it failed, with the path of the node that raised; None while all is well.
        is_open: Whether it is not done yet.
        is_queued: Whether the scheduler will ask it again what it can start.
        files: Files with values of its own for worker processes, to be removed when it is done.
    """

    def __init__(self, parent: Activity | None) -> None:
        self.parent = parent
        self.children: dict[Activity, None] = {}
        self.pending = 0
        self.error: tuple[BaseException, tuple[str, ...]] | None = None
        self.is_open = True
        self.is_queued = False
        self.files: list[str] = []
        self._held: dict[int, Any] = {}
        self._parcels: Payloads | None = None
        self._is_stopped = False
        if parent is not None:
            parent.children[self] = None

    @property
    def is_stopped(self) -> bool:
        """Whether nothing new may be started in it, because it or something around it failed."""
        activity: Activity | None = self
        while activity is not None:
            if activity._is_stopped:
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
        """Start nothing new in it; what has been started is waited for."""
        self._is_stopped = True

    def hold(self, payloads: Payloads, value: Any) -> None:
        """Let a value be packed only once for all the worker processes that take it while this is open."""
        self._parcels = payloads
        if id(value) not in self._held and payloads.hold(value):
            self._held[id(value)] = value

    def start_next(self, scheduler: Scheduler) -> bool:
        """Start one more thing; return False when there is nothing to start at present."""
        raise NotImplementedError

    def is_done(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        raise NotImplementedError

    def close(self, scheduler: Scheduler) -> None:
        """Announce the end and hand the results on."""
        self.is_open = False
        if self.parent is not None:
            del self.parent.children[self]
        if self._parcels is not None:
            for value in self._held.values():
                self._parcels.drop(value)
        if self.files:
            scheduler.remove(self.files)


class PlanActivity(Activity):
    """One execution of a plan.

    Args:
        frame: What is executed; it has been started.
        parent: The map that this is an item of; None for a run.

    Attributes:
        failed_input: What stands in place of an input because it failed upstream; then nothing runs.
    """

    def __init__(self, frame: Frame, parent: MapActivity | None) -> None:
        super().__init__(parent)
        self.frame = frame
        self.owner = parent
        self.failed_input: Failure | None = None

    def start_next(self, scheduler: Scheduler) -> bool:
        if self.pending and scheduler.runs_nodes_in_order:
            return False
        step = self.frame.next_step()
        if step is None:
            return False
        self.pending += 1
        if isinstance(step, CallStep):
            scheduler.call(self, step)
        elif step.node.pipeline.has_own_backend:
            scheduler.delegate(self, step)
        else:
            scheduler.open_map(self, step)
        return True

    def is_done(self) -> bool:
        return self.pending == 0 and (self.frame.is_done or self.is_stopped)

    def close(self, scheduler: Scheduler) -> None:
        super().close(scheduler)
        if self.failed_input is not None:
            self.frame.skip()
        else:
            self.frame.close()
        if self.owner is not None:
            self.owner.end_item(self, scheduler)
