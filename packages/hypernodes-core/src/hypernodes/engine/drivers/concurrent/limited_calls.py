"""Calls of nodes with limits in the concurrent driver: they wait for permits, and meanwhile occupy no worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from hypernodes.engine.cancellation import unfinished_call
from hypernodes.engine.drivers.concurrent.activity import CallTask, Host
from hypernodes.engine.limits import Limit, Need, Request, Usage, needs_of


class _Queue:
    """Calls that need the same limits, and the request for the first of them.

    Attributes:
        calls: The calls, each with what it needs.
        request: The request; None while none is made.
    """

    __slots__ = ("calls", "request")

    def __init__(self) -> None:
        self.calls: deque[tuple[CallTask, Sequence[Need]]] = deque()
        self.request: Request | None = None


class LimitedCalls:
    """The calls of a run that need permits.

    Args:
        host: The loop.
        limits: The limits of the engine, by name.
    """

    def __init__(self, host: Host, limits: Mapping[str, Limit]) -> None:
        self._host = host
        self._limits = limits
        self._queues: dict[tuple[Usage, ...], _Queue] = {}

    @property
    def are_waiting(self) -> bool:
        """Whether any calls wait."""
        return bool(self._queues)

    @property
    def tasks(self) -> list[CallTask]:
        """The calls that wait."""
        return [task for queue in self._queues.values() for task, _ in queue.calls]

    def add(self, task: CallTask) -> None:
        """Make a call as soon as its limits allow; report it if it has to wait."""
        try:
            needs = needs_of(task.step, self._limits, task.prepared().by_name())
        except Exception as error:
            self._host.fail_call(task, error, can_try_again=False)
            return
        key = tuple([usage for usage, _ in needs])
        queue = self._queues.setdefault(key, _Queue())
        queue.calls.append((task, needs))
        is_started = len(queue.calls) == 1 and self._advance(key)
        if not is_started:
            names = queue.request.limit_names if queue.request is not None else ()
            task.report_limited(names or tuple([usage.name for usage in key]))

    def start_granted(self) -> bool:
        """Make a call that has a permit by now; return whether there was one."""
        for key, queue in list(self._queues.items()):
            if queue.request is None:
                if self._advance(key):
                    return True
                continue
            queue.request.look_again()
            if queue.request.permit is not None:
                self._start_first(key)
                return True
        return False

    def seconds_left(self) -> float | None:
        """Return after how long time may bring a permit, in seconds; None if only the end of other calls does."""
        requests = [queue.request for queue in self._queues.values() if queue.request is not None]
        times = [request.ready_in_s for request in requests if request.ready_in_s is not None]
        return max(min(times), 0.0) if times else None

    def drop_stopped(self) -> None:
        """End the calls that are not wanted any more."""
        stopped: list[CallTask] = []
        for key, queue in list(self._queues.items()):
            if not any(task.is_stopped for task, _ in queue.calls):
                continue
            stopped += [task for task, _ in queue.calls if task.is_stopped]
            queue.calls = deque([(task, needs) for task, needs in queue.calls if not task.is_stopped])
            self._withdraw(queue)  # it may have been for one of these
            if not queue.calls:
                del self._queues[key]
        for task in stopped:
            task.end_stopped(self._host, unfinished_call())

    def pause(self) -> None:
        """Ask for nothing until `start_granted` is called again, so that other runs need not wait for this one."""
        for queue in self._queues.values():
            self._withdraw(queue)

    def abandon(self) -> list[CallTask]:
        """Forget all calls that wait, and return them."""
        self.pause()
        tasks = self.tasks
        self._queues.clear()
        return tasks

    def _advance(self, key: tuple[Usage, ...]) -> bool:
        """Ask for a permit for the first call of a queue; return whether it was made at once."""
        queue = self._queues[key]
        _, needs = queue.calls[0]
        queue.request = Request(needs, self._host.wake_up)
        if queue.request.submit() is None:
            return False
        self._start_first(key)
        return True

    def _start_first(self, key: tuple[Usage, ...]) -> None:
        queue = self._queues[key]
        request, queue.request = queue.request, None
        assert request is not None
        task, _ = queue.calls.popleft()
        task.permit = request.permit
        if not queue.calls:
            del self._queues[key]
        self._host.submit(task)

    @staticmethod
    def _withdraw(queue: _Queue) -> None:
        request, queue.request = queue.request, None
        if request is not None:
            request.withdraw()
