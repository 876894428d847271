"""Daemon threads, which do not keep a program from exiting."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from itertools import count
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from hypernodes.engine.cancellation import RunRegistry, current_registry
from hypernodes.engine.step import close_unwanted
from hypernodes.errors import ExecutionError

_T = TypeVar("_T")


class _Job(NamedTuple):
    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    by_keyword: dict[str, Any]


def run_in_copied_context(
    executor: Executor, registry: RunRegistry, function: Callable[..., _T], /, *arguments: Any, **by_keyword: Any
) -> Future[_T]:
    """Start a call with the context variables of the caller; runs that it starts are registered in `registry`."""
    context = contextvars.copy_context()
    context.run(current_registry.set, registry)
    return executor.submit(context.run, function, *arguments, **by_keyword)


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        ExecutionError: The system allows no more of them.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise ExecutionError(
            f"no thread can be started ({error}): the limit of threads and processes of this user or container, or its "
            "memory, is exhausted"
        ) from error


def log_shortage(what: str, error: BaseException) -> None:
    """Log that a run goes on with fewer workers than it may have."""
    import logging  # imported on failure only: it would slow down `import hypernodes`

    logging.getLogger("hypernodes").warning("only %s: %s", what, error)


class DaemonThreads(Executor):
    """An executor with daemon threads, which are created when a call finds none idle, and reused.

    The standard library's executor joins its threads when the interpreter exits, so that after Ctrl-C a program would
    stay until the last sleeping function wakes up. Callers limit the number of calls at a time.

    Args:
        name: Prefix of the names of the threads.
        most: The largest number of threads, for which further calls wait; None for any number.
    """

    def __init__(self, name: str, most: int | None = None) -> None:
        self._name = name
        self._most = most
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, Future[Any] | None] = {}  # each with the call that it is making
        self._free = (
            0  # threads that wait for a job that has not been submitted yet; less than 0: jobs without a thread
        )
        self._numbers = count(1)
        self._is_shut_down = False
        self._is_short = False

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Call a function in some thread.

        Raises:
            RuntimeError: The executor has been shut down.
            ExecutionError: It has no thread, and none can be started.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the threads of this run have been released")
            self._jobs.put(_Job(future, fn, args, kwargs))
            if self._free > 0 or len(self._threads) == self._most:
                self._free -= 1
            else:
                self._start_thread()
        return future

    def abandon(self, future: Future[Any]) -> None:
        """Stop waiting for the thread that makes a call; it ends by itself when the function returns."""
        future.add_done_callback(close_unwanted)
        with self._lock:
            for thread, current in self._threads.items():
                if current is future:
                    del self._threads[thread]
                    return

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Release the threads.

        Args:
            wait: Whether to wait until all of them have ended, except those that were abandoned.
            cancel_futures: Whether to cancel calls that have not begun.
        """
        with self._lock:
            self._is_shut_down = True
            waiting: list[_Job] = []
            while cancel_futures and not self._jobs.empty():
                job = self._jobs.get()
                waiting += [] if job is None else [job]
            threads = list(self._threads)
            for _ in threads:
                self._jobs.put(None)
        for job in waiting:
            job.future.cancel()
        if wait:
            for thread in threads:
                thread.join()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"{self._name}-{next(self._numbers)}", daemon=True)
        self._threads[thread] = None
        try:
            start_thread(thread)
        except ExecutionError as error:
            del self._threads[thread]
            if not self._threads:
                self._jobs.get()  # nobody else will
                raise
            self._free -= 1  # those that are there make the call when they have made theirs
            if not self._is_short:
                self._is_short = True
                log_shortage(f"{len(self._threads)} thread(s) for the calls of a run", error)

    def _serve(self) -> None:
        thread = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            if not self._do(job, thread):
                return
            del job  # an idle thread must not keep values alive
        with self._lock:
            self._threads.pop(thread, None)

    def _do(self, job: _Job, thread: threading.Thread) -> bool:
        """Make a call; return whether the thread still belongs to this executor."""
        future = job.future
        is_wanted = future.set_running_or_notify_cancel()
        result, error = None, None
        if is_wanted:
            self._threads[thread] = future
            try:
                result = job.function(*job.arguments, **job.by_keyword)
            except BaseException as raised:
                error = raised
        with self._lock:  # mark the thread as free before the result is set, so that the next call reuses it
            is_ours = not is_wanted or thread in self._threads
            if is_ours:
                self._threads[thread] = None
                self._free += 1
        if is_wanted:
            try:
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            finally:
                del error, result  # a traceback refers to this frame
        return is_ours
