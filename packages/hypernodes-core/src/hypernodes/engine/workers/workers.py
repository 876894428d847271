"""The workers of a run: the calling thread, threads, an event loop, worker processes; and the limit of calls."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Protocol

from hypernodes.engine.awaitables import Unawaited
from hypernodes.engine.cancellation import RunRegistry, current_registry
from hypernodes.engine.settings import ExecutionMode
from hypernodes.engine.step import Call, FinishedWithin, Returned, make, make_within
from hypernodes.engine.workers.coroutines import Coroutines
from hypernodes.engine.workers.threads import DaemonThreads, run_in_copied_context
from hypernodes.plan import CallStep, Plan

if TYPE_CHECKING:
    import asyncio

    from hypernodes.engine.workers.worker_processes import WorkerProcesses

_current_executor: contextvars.ContextVar[Executor | None] = contextvars.ContextVar("executor", default=None)

_ASYNC_WORKERS = 100
_CHUNK_S = 0.1  # duration of the work that is sent to a worker process at a time
_CHUNK_BYTES = 8 * 1024 * 1024
_MAX_CHUNK = 2048


class Outcome(Protocol):
    """The part of `concurrent.futures.Future` that the scheduler needs."""

    def cancel(self) -> bool: ...

    def exception(self) -> BaseException | None: ...

    def result(self) -> Any: ...


_MOST_ELSEWHERE = 16
_MOST_GATHERED = 1024  # items whose steps are sent to another backend together


class CallRunner(Protocol):
    """Makes calls in this process, but not in the calling thread."""

    @property
    def enforces_time_limits(self) -> bool:
        """Whether it stops a call that exceeds its time limit by itself."""

    def submit(self, call: Call, report: Callable[[Any], object], begun: Callable[[], object] | None) -> Outcome:
        """Start a call.

        Args:
            call: The call.
            report: Called with the outcome, in any thread, when the call ended.
            begun: Called in the thread of the call when it begins; None when this need not be reported.
        """


class Workers:
    """The workers that make the calls of one run.

    Args:
        node_execution: How the nodes of one run are executed.
        map_execution: How the items of a map are executed.
        max_workers: The largest number of calls at a time; None for a number that suits the modes.
        executor: The caller's own executor.
        processes: Worker processes; given when a mode is "parallel".
        loop: The event loop of an `async` caller.
        is_dedicated: Whether the calling thread only runs the scheduler until everything is done.
        max_in_flight: The largest number of items of a map that are open at a time; None for one that suits.

    Attributes:
        capacity: The largest number of calls at a time.
        runs_nodes_in_order: Whether the nodes of one run are executed one after the other.
        has_executor: Whether calls are made on an executor of the caller's own.
        is_cancelled: Whether the run was cancelled, so that no new call may begin.
        registry: Runs that were started by the calls; cancelled when the run is aborted.
        loop_runner: Awaits coroutines.
        most_elsewhere: The largest number of other backends' jobs that steps of the run are at a time.
        open_items: The largest number of items of one map that are open at a time.
        must_help: Whether the calling thread is itself a worker of the caller's executor, so that it has to make calls
            rather than wait for a worker that may never be free.
    """

    def __init__(
        self,
        node_execution: ExecutionMode,
        map_execution: ExecutionMode,
        max_workers: int | None = None,
        executor: Executor | None = None,
        processes: WorkerProcesses | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        is_dedicated: bool = False,
        max_in_flight: int | None = None,
    ) -> None:
        self.node_execution = node_execution
        self.map_execution = map_execution
        modes = {node_execution, map_execution}
        self.max_workers = max_workers or default_workers(modes)
        self.most_elsewhere = max_workers or _MOST_ELSEWHERE
        self.capacity = processes.prefetch(self.max_workers) if processes else self.max_workers
        self._max_in_flight = max_in_flight
        self.open_items = self._limited(1 if map_execution == "sequential" else 2 * self.capacity + 2)
        self.processes = processes
        self.runs_nodes_in_order = node_execution == "sequential"
        self._executor = executor if processes is None else None  # else calls in worker processes are made on it
        self.has_executor = self._executor is not None
        self._threads: DaemonThreads | None = None
        # This thread may be a worker of the executor that its own calls would wait for.
        self.must_help = self._executor is not None and _current_executor.get() is self._executor
        self.is_cancelled = False
        self.registry = RunRegistry()
        self._pid = os.getpid()
        is_here = not modes & {"async", "threaded"}
        may_run_here = is_dedicated and not self.must_help
        self.coroutines = Coroutines(loop, is_here, may_run_here, self.registry)
        self.loop_runner = LoopRunner(self.coroutines)

    def is_in_process(self, is_item: bool) -> bool:
        """Whether calls are made in worker processes.

        Args:
            is_item: Whether they belong to an item of a map.
        """
        return self.processes is not None and (
            self.node_execution == "parallel" or (is_item and self.map_execution == "parallel")
        )

    def runner_for(self, step: CallStep, is_item: bool) -> CallRunner | None:
        """Return the runner of a step that is not called in a worker process; None for the calling thread."""
        is_here = self.node_execution == "sequential" and not (is_item and self.map_execution != "sequential")
        if step.node.is_async:
            return None if is_here else self.loop_runner
        if is_here and step.node.timeout is None:
            return None
        if self._executor is not None and not is_here:
            return ThreadRunner(self._executor, self._executor, self.registry)
        return self.own_threads()

    def own_threads(self) -> CallRunner:
        """Return the threads of the run."""
        return ThreadRunner(self._daemons(), None, self.registry)

    def open_items_of(self, plan: Plan) -> int:
        """Return the largest number of items of a map that are open at a time: more where batches gather them."""
        if plan.has_places:
            return self._limited(max(self.open_items, _MOST_GATHERED))
        if not plan.batched_nodes:
            return self.open_items
        batched = [node.batching for node in plan.batched_nodes]
        most = sum(batching.most_items for batching in batched if batching is not None)
        batches = 1 if self.map_execution == "sequential" else 1 + self.capacity  # one that grows, others under way
        return self._limited(self.open_items + batches * most)

    def _limited(self, open_items: int) -> int:
        return open_items if self._max_in_flight is None else min(open_items, self._max_in_flight)

    def make_here(self, call: Call) -> Returned:
        """Make a call in this thread."""
        token = current_registry.set(self.registry)
        try:
            if call.step.node.is_async:
                returned: Returned = self.coroutines.wait_for(_awaitable(call))
                return returned
            return make(call, self.coroutines.wait_for)  # type: ignore[return-value]
        finally:
            current_registry.reset(token)

    def make_instead(self, call: Call) -> Returned | Unawaited:
        """Make a call in this thread, a worker of the caller's executor, instead of submitting it to that executor."""
        return contextvars.copy_context().run(make, call, None)

    def submit_waiting(self, registry: RunRegistry, function: Any, *arguments: Any) -> Future[Any]:
        """Start a function that mostly waits, outside the workers; runs that it starts are registered in `registry`."""
        return run_in_copied_context(self._daemons(), registry, function, *arguments)

    def submit_to_thread(self, function: Any, *arguments: Any) -> Future[Any]:
        """Start a function in a thread of the run."""
        return self._daemons().submit(function, *arguments)

    def abandon(self, future: Any) -> None:
        """Abandon a call that took too long: its thread cannot be stopped, so another thread replaces it."""
        if self._threads is not None and isinstance(future, Future):
            self._threads.abandon(future)

    def chunk_size(self, seconds_per_item: float | None, bytes_per_item: float, remaining: int | None) -> int:
        """Return how many items to send to a worker process at a time: enough to pay off, a fair share for each."""
        if seconds_per_item is None:
            return 1
        size = int(min(_CHUNK_S / max(seconds_per_item, 1e-7), _CHUNK_BYTES / max(bytes_per_item, 1))) + 1
        fair = size if remaining is None else remaining // (2 * self.max_workers) + 1
        most = _MAX_CHUNK if self._max_in_flight is None else self._max_in_flight // self.capacity
        return max(1, min(size, fair, most))

    @property
    def belong_to_parent(self) -> bool:
        """Whether this process was forked from that of the run, whose threads and processes are not here."""
        return self._pid != os.getpid()

    def close(self) -> None:
        """Release everything that belongs to the run."""
        if self.belong_to_parent:
            return
        self.coroutines.close()
        if self._threads is not None:
            self._threads.shutdown()
        if self.processes is not None:
            self.processes.end_run()

    def kill(self) -> None:
        """Release everything at once, without waiting for calls that cannot be stopped."""
        self.registry.cancel()
        self.coroutines.kill()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
        if self.processes is not None:
            self.processes.kill()

    def _daemons(self) -> DaemonThreads:
        if self._threads is None:
            self._threads = DaemonThreads("hypernodes")
        return self._threads


class ThreadRunner:
    """Makes calls in threads, or on the caller's executor."""

    enforces_time_limits = False

    def __init__(self, executor: Executor, callers: Executor | None, runs: RunRegistry) -> None:
        self._executor = executor
        self._callers = callers
        self.registry = runs

    def submit(self, call: Call, report: Callable[[Any], object], begun: Callable[[], object] | None) -> Outcome:
        context = contextvars.copy_context()
        context.run(current_registry.set, self.registry)
        if self._callers is not None:
            context.run(_current_executor.set, self._callers)
        function = make if begun is None else _reporting_begin(begun)
        future = self._executor.submit(context.run, function, call, None)
        future.add_done_callback(report)
        return future


def _reporting_begin(begun: Callable[[], object]) -> Callable[[Call, None], Returned | Unawaited]:
    def make_reported(call: Call, wait_for: None) -> Returned | Unawaited:
        begun()
        return make(call, wait_for)

    return make_reported


class LoopRunner:
    """Awaits `async def` nodes concurrently in an event loop."""

    enforces_time_limits = True

    def __init__(self, coroutines: Coroutines) -> None:
        self._coroutines = coroutines

    def submit(self, call: Call, report: Callable[[Any], object], begun: Callable[[], object] | None) -> Outcome:
        return self._coroutines.submit(_awaitable(call), report)

    def finish(self, call: Call, unawaited: Unawaited, report: Callable[[Any], object]) -> Outcome:
        """Await what an ordinary function returned."""
        return self._coroutines.submit(FinishedWithin(call, unawaited, call.step.node.timeout), report)


def _awaitable(call: Call) -> Coroutine[Any, Any, Returned]:
    return make_within(call, call.step.node.timeout)


def default_workers(modes: set[ExecutionMode]) -> int:
    """Return the default number of calls at a time for the modes."""
    cores = os.cpu_count() or 1
    if "parallel" in modes:
        return cores
    if "async" in modes:
        return _ASYNC_WORKERS
    return min(32, cores + 4) if "threaded" in modes else 1
