"""Where calls are made: here, in threads, in an event loop, in worker processes; and how many at a time."""

from __future__ import annotations

import contextvars
import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from hypernodes.engine.coroutines import Coroutines
from hypernodes.engine.engine import ExecutionMode
from hypernodes.engine.step import Call, make, make_async
from hypernodes.plan import CallStep

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Executor, ThreadPoolExecutor

    from hypernodes.engine.processes import ProcessPlace


_ASYNC_WORKERS = 100
_UNIT_S = 0.1  # work that is sent to a worker process at a time
_MAX_UNIT = 2048


class Place(Protocol):
    """Somewhere else than here, where a call can be made."""

    @property
    def keeps_time(self) -> bool:
        """Whether it ends a call that exceeds its time limit by itself."""

    def submit(self, call: Call) -> Future[Any]:
        """Start a call."""


class Places:
    """The places of one run.

    Args:
        node_execution: How the nodes of one run are executed.
        map_execution: How the items of a map are executed.
        max_workers: The largest number of calls at a time; None for a number that suits the modes.
        executor: The caller's own executor.
        processes: Worker processes; given when a mode is "parallel".
        loop: The event loop of an `async` caller.

    Attributes:
        capacity: The largest number of calls at a time.
        open_items: The largest number of items of one map that are under way at a time.
    """

    def __init__(
        self,
        node_execution: ExecutionMode,
        map_execution: ExecutionMode,
        max_workers: int | None = None,
        executor: Executor | None = None,
        processes: ProcessPlace | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.node_execution = node_execution
        self.map_execution = map_execution
        modes = {node_execution, map_execution}
        self.max_workers = max_workers or default_workers(modes)
        self.capacity = processes.prefetch(self.max_workers) if processes else self.max_workers
        self.open_items = 1 if map_execution == "sequential" else 2 * self.capacity + 2
        self.coroutines = Coroutines(loop)
        self.processes = processes
        self._executor = executor
        self._threads: ThreadPoolExecutor | None = None
        self._abandoned: list[ThreadPoolExecutor] = []

    def place_of(self, step: CallStep, is_item: bool) -> Place | None:
        """Return where a step is called; None for here."""
        modes = {self.node_execution, self.map_execution} if is_item else {self.node_execution}
        if self.processes is not None and "parallel" in modes:
            return self.processes
        if modes == {"sequential"}:
            if step.node.timeout is None:
                return None
            return _LoopPlace(self.coroutines) if step.node.is_async else _ThreadPlace(self._thread_pool())
        if step.node.is_async:
            return _LoopPlace(self.coroutines)
        return _ThreadPlace(self._executor or self._thread_pool())

    def submit_waiting(self, function: Any, *arguments: Any) -> Future[Any]:
        """Start something that mostly waits, outside the workers."""
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(1, thread_name_prefix="hypernodes-waiting")
        self._abandoned.append(pool)
        return pool.submit(contextvars.copy_context().run, function, *arguments)

    def abandon(self, step: CallStep) -> None:
        """Leave a call behind that took too long: its thread cannot be stopped, so others get new ones."""
        if not step.node.is_async and self._threads is not None and self._executor is None:
            self._threads.shutdown(wait=False)
            self._threads = None

    def unit_size(self, seconds_per_item: float | None, remaining: int | None) -> int:
        """Return how many items to send to a worker process at a time: enough to be worth it, and some for each."""
        if seconds_per_item is None:
            return 1
        size = int(_UNIT_S / max(seconds_per_item, 1e-7)) + 1
        fair = size if remaining is None else remaining // (2 * self.max_workers) + 1
        return max(1, min(size, fair, _MAX_UNIT))

    def close(self) -> None:
        """Release everything that belongs to the run."""
        self.coroutines.close()
        for pool in self._abandoned:
            pool.shutdown()
        if self._threads is not None:
            self._threads.shutdown()
        if self.processes is not None:
            self.processes.end_run()

    def kill(self) -> None:
        """Release everything at once, without waiting for calls that cannot be stopped."""
        for pool in (*self._abandoned, *([self._threads] if self._threads else ())):
            pool.shutdown(wait=False, cancel_futures=True)
        self._abandoned.clear()
        self._threads = None
        if self.processes is not None:
            self.processes.kill()

    def _thread_pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(self.max_workers, thread_name_prefix="hypernodes")
        return self._threads


class _ThreadPlace:
    """Threads, or an executor of the caller's own that takes any function."""

    keeps_time = False

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, call: Call) -> Future[Any]:
        return self._executor.submit(contextvars.copy_context().run, make, call, _never)


class _LoopPlace:
    """An event loop in which `async def` nodes are awaited side by side."""

    keeps_time = True

    def __init__(self, coroutines: Coroutines) -> None:
        self._coroutines = coroutines

    def submit(self, call: Call) -> Future[Any]:
        return self._coroutines.submit(_within_limit(call))


async def _within_limit(call: Call) -> Any:
    limit = call.step.node.timeout
    if limit is None:
        return await make_async(call)
    import asyncio

    from hypernodes.engine.scheduler import timeout_error

    timer = asyncio.timeout(limit)
    try:
        async with timer:
            return await make_async(call)
    except TimeoutError as error:
        if timer.expired():
            raise timeout_error(call.step) from error
        raise


def default_workers(modes: set[ExecutionMode]) -> int:
    """Return how many calls at a time suit the modes."""
    cores = os.cpu_count() or 1
    if "parallel" in modes:
        return cores
    if "async" in modes:
        return _ASYNC_WORKERS
    return min(32, cores + 4) if "threaded" in modes else 1


def _never(awaitable: Any) -> Any:
    raise AssertionError("async nodes are awaited in an event loop")  # pragma: no cover
