"""The pool of worker processes, and the threads that drive them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import BrokenExecutor, Future
from itertools import count
from multiprocessing import util
from typing import Any, Protocol

from hypernodes.engine.workers.caller_settings import take_over
from hypernodes.engine.workers.callers_main import locate_callers_main
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.engine.workers.idle_workers import idle_pools, surroundings
from hypernodes.engine.workers.pickling import PROTOCOL
from hypernodes.engine.workers.process_start import serve_orders, thread_limits
from hypernodes.engine.workers.refreshing import refresh
from hypernodes.engine.workers.threads import log_shortage, start_thread
from hypernodes.engine.workers.worker_process import LostWorkerError, NotBegunError, WorkerProcess, describe_exit
from hypernodes.errors import ConfigurationError, ExecutionError, WorkerDiedError

_NAME = "hypernodes-worker"
_WITHOUT_GUARD = 79  # exit code of a worker whose script starts a run while the worker imports it
_TAKE_OVER = pickle.dumps(take_over, PROTOCOL)
_REFRESH = pickle.dumps(refresh, PROTOCOL)
_MAX_ATTEMPTS = 5
_EXIT_PRIORITY = 20  # before multiprocessing, at the exit of the interpreter, waits for processes
_numbers = count(1)
_pools: weakref.WeakSet[ProcessPool] = weakref.WeakSet()


class NoWorkersError(BrokenExecutor):
    """No worker process can be started.

    Args:
        reason: What a run raises because of it.
    """

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


class User(Protocol):
    """A run that submits orders.

    Attributes:
        settings: What its processes take over from this one; see `caller_settings`.
    """

    settings: bytes


class _Order:
    """Work for a process.

    Args:
        user: The run that it belongs to.
        function: The function to call, as a pickle.
        argument: The argument of the function.

    Attributes:
        future: Its outcome.
        attempts: How often it was given to a process that turned out to have ended.
    """

    __slots__ = ("argument", "attempts", "function", "future", "user")

    def __init__(self, user: User, function: bytes, argument: bytes) -> None:
        self.future: Future[bytes] = Future()
        self.user = user
        self.function = function
        self.argument = argument
        self.attempts = 0


class _Driver:
    """A worker process and the thread that drives it.

    Attributes:
        thread: The thread.
        process: The process; None before it is started.
        order: What it executes now.
        is_up: Whether the process has come up.
        is_idle: Whether it waits for an order, or will when its thread has told the outcome of the last one.
        settings: What the process took over from this one.
        was_idle: Whether it has waited for an order since it answered last.
        refreshed: How often the processes of the pool had to be refreshed when this one was.
        is_unwanted: Whether the process is to end, or not to start.
    """

    def __init__(self, serve: Callable[[_Driver], None]) -> None:
        self.thread = threading.Thread(target=serve, args=(self,), name=_NAME, daemon=True)
        self.process: WorkerProcess | None = None
        self.order: _Order | None = None
        self.is_up = False
        self.is_idle = False
        self.settings = b""
        self.was_idle = True
        self.refreshed = 0
        self.is_unwanted = False

    def kill(self) -> None:
        """End the process, or let it not start."""
        self.is_unwanted = True
        if self.process is not None:
            self.process.kill()

    def join(self) -> None:
        """Wait for the end of the thread, unless it is this one, which collects a map that nobody reads any more."""
        if self.thread is not threading.current_thread():
            self.thread.join()


class ProcessPool:
    """Worker processes, started when they are needed, each driven by a thread of its own.

    So it is known what each process executes: one that dies, or is killed because a run is aborted or a call takes too
    long, takes nothing else with it. Several runs may use a pool at the same time.

    Processes are started by loky where it is installed, so that scripts need no `__main__` guard and functions of every
    kind can be sent; otherwise by the standard library.

    Args:
        size: The largest number of processes.
        around: What a process takes over from this one when it starts; None if it need not be the same for all.

    Attributes:
        size: The same.
        around: The same; None also if it has changed since.
        is_loky: Whether loky starts the processes.
        users: Number of runs that use it now; for its owner.
        is_of_block: Whether it ends with a `with` block; for its owner.

    Raises:
        ConfigurationError: This process is daemonic, so that it may not start processes.
    """

    def __init__(self, size: int, around: Hashable = None) -> None:
        if multiprocessing.current_process().daemon:
            raise ConfigurationError(
                '"parallel" needs worker processes, but this is a daemonic process (as in a multiprocessing.Pool or a '
                'Celery worker), which may not start any; use "threaded" or "sequential" here'
            )
        _leave_worker_without_guard()
        self.size = size
        self.around = around
        self._changed = threading.Condition()
        self._queue: deque[_Order] = deque()
        self._drivers: list[_Driver] = []
        self._idle = 0
        self._starting = 0
        self._refreshed = 0  # how often processes were to be refreshed
        self._is_closed = False
        self._finalizer: util.Finalize | None = None
        self.users = 0
        self.is_of_block = False
        try:
            from loky.backend import get_context

            self._context: Any = get_context("loky")
            self.is_loky = True
        except ImportError:
            self._context = multiprocessing.get_context("spawn")
            self.is_loky = False
        self._has_started = False
        self._failed_starts = 0  # in a row
        self._is_short = False
        _pools.add(self)
        # Without loky a worker imports the script; should that fail, it must not fail in all of them.
        self._may_start_several = self.is_loky

    # --- for runs -------------------------------------------------------------------------------------------------

    def submit(self, user: User, function: bytes, argument: bytes) -> Future[bytes]:
        """Let a process call a function.

        Args:
            user: The run that wants it.
            function: The function, as a pickle; it takes and returns bytes.
            argument: Its argument.
        """
        order = _Order(user, function, argument)
        with self._changed:
            self._queue.append(order)
            self._grow()
            self._changed.notify()
        return order.future

    def drop(self, user: User) -> None:
        """Cancel the orders of a run that have not begun, and end the processes that execute one."""
        with self._changed:  # so that no thread turns to the work of another run meanwhile
            waiting = [order for order in self._queue if order.user is user]
            self._queue = deque(order for order in self._queue if order.user is not user)
            at_work = [driver for driver in self._drivers if driver.order is not None and driver.order.user is user]
            if self.users <= 1:
                at_work += [driver for driver in self._drivers if not driver.is_up]  # nobody else waits for them
            for driver in at_work:
                driver.kill()
            self._changed.notify_all()
        for order in waiting:
            order.future.cancel()
        for driver in at_work:
            driver.join()

    # --- for the owner --------------------------------------------------------------------------------------------

    @property
    def has_processes(self) -> bool:
        """Whether any process is there, or starting."""
        return bool(self._drivers)

    def refresh(self) -> None:
        """Let idle processes release what the last run left in them; those end whose code is not that of now."""
        with self._changed:
            self._refreshed += 1
            self._changed.notify_all()

    def kill_at_exit(self, owner: object) -> None:
        """End the processes when the interpreter exits, or when an owner is lost that did not close the pool."""
        if self._finalizer is not None:
            self._finalizer.cancel()
        self._finalizer = util.Finalize(owner, ProcessPool.kill, args=(self,), exitpriority=_EXIT_PRIORITY)

    def close(self) -> None:
        """End the processes once they are idle."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            drivers = list(self._drivers)
        try:
            for driver in drivers:
                driver.join()
        except BaseException:
            self.kill()
            raise
        if self._finalizer is not None:
            self._finalizer.cancel()

    def kill(self) -> None:
        """End the processes at once."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
            drivers = list(self._drivers)
        for order in waiting:
            order.future.cancel()
        for driver in drivers:
            driver.kill()

    # --- threads --------------------------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Start processes for the orders that none is free for."""
        while len(self._drivers) < self.size and len(self._queue) > self._idle + self._starting:
            if not self._may_start_several and self._drivers:
                return
            driver = _Driver(self._drive)
            self._drivers.append(driver)
            self._starting += 1
            try:
                start_thread(driver.thread)
            except ExecutionError as error:
                self._give_up(driver, error)
                return
            except BaseException:  # an interrupt: whether the thread runs is not known
                self._drivers.remove(driver)
                self._starting -= 1
                raise

    def _drive(self, driver: _Driver) -> None:
        """Drive one process; in a thread of its own."""
        with self._changed:  # held by whoever starts this thread
            if driver not in self._drivers:
                return
        try:
            self._start(driver)
        except BaseException as error:
            self._give_up(driver, error)
            return
        while self._serve(driver):
            pass
        assert driver.process is not None
        driver.process.end()
        with self._changed:
            self._drivers.remove(driver)
            self._grow()

    def _start(self, driver: _Driver) -> None:
        ours, theirs = multiprocessing.Pipe()
        name = f"{_NAME}-{next(_numbers)}"
        limits = thread_limits(self.size)
        of_loky: dict[str, Any] = {"env": {**limits, **locate_callers_main()}} if self.is_loky else {}
        arguments = (theirs, os.getpid(), self.is_loky)
        process = self._context.Process(target=serve_orders, args=arguments, name=name, **of_loky)
        driver.process = WorkerProcess(process, ours, theirs, {} if self.is_loky else limits)
        if driver.is_unwanted:
            driver.process.kill()  # so that it ends as soon as it has started
        driver.process.start()
        if self.around is not None and surroundings() != self.around:
            self.around = None  # it may have started with others

    def _give_up(self, driver: _Driver, error: BaseException) -> None:
        """Do without a process that cannot be started; without any, what waits for one fails."""
        if driver.process is not None:
            driver.process.end()
        with self._changed:
            self._starting -= 1
            self._drivers.remove(driver)
            self._failed_starts += 1
            was_killed = isinstance(error, LostWorkerError) and (error.exit_code is None or error.exit_code < 0)
            if (was_killed or self._has_started) and self._failed_starts < _MAX_ATTEMPTS:
                self._grow()
            if self._drivers:
                if not was_killed and not self._is_short:
                    self._is_short = True
                    log_shortage(f"{len(self._drivers)} of {self.size} worker processes", self._why_none_starts(error))
                return
            waiting = list(self._queue)
            self._queue.clear()
        for order in waiting:
            if order.future.running() or order.future.set_running_or_notify_cancel():
                order.future.set_exception(NoWorkersError(self._why_none_starts(error)))

    def _serve(self, driver: _Driver) -> bool:
        """Let a process do what is next; return whether it can go on."""
        order = self._take(driver)
        if order is not None:
            return self._execute(driver, order)
        assert driver.process is not None
        return not (self._is_closed or driver.process.is_killed) and self._refresh(driver)

    def _refresh(self, driver: _Driver) -> bool:
        """Let a process release what it holds; return whether it can go on."""
        assert driver.process is not None
        try:
            return driver.process.call(_REFRESH, b"", driver.was_idle) == b""
        except (NotBegunError, LostWorkerError):
            return False
        except BaseException:
            driver.process.kill()
            return False

    def _take(self, driver: _Driver) -> _Order | None:
        """Wait for the next order; None when the process is to end, or to be refreshed before it takes another."""
        assert driver.process is not None
        with self._changed:
            is_first = not driver.is_up
            if is_first:
                driver.is_up = self._has_started = self._may_start_several = True
                self._starting -= 1
                self._failed_starts = 0
                driver.refreshed = self._refreshed
            self._set_idle(driver, False)
            driver.order = None
            while not driver.process.is_killed:
                if driver.refreshed != self._refreshed and not self._is_closed:
                    driver.refreshed = self._refreshed
                    break
                while self._queue and driver.order is None:
                    order = self._queue.popleft()
                    if order.future.running() or order.future.set_running_or_notify_cancel():
                        driver.order = order
                if is_first:
                    self._grow()
                if driver.order is not None or self._is_closed:
                    break
                self._set_idle(driver, True)
                driver.was_idle = True
                self._changed.wait()
                self._set_idle(driver, False)
            return driver.order

    def _set_idle(self, driver: _Driver, is_idle: bool) -> None:
        self._idle += is_idle - driver.is_idle
        driver.is_idle = is_idle

    def _execute(self, driver: _Driver, order: _Order) -> bool:
        """Let a process execute an order; return whether the process can go on."""
        process = driver.process
        assert process is not None
        try:
            if driver.settings != order.user.settings:
                driver.settings = order.user.settings
                process.call(_TAKE_OVER, driver.settings)
            outcome = process.call(order.function, order.argument, driver.was_idle)
            driver.was_idle = False
        except NotBegunError:
            order.attempts += 1
            if order.attempts < _MAX_ATTEMPTS and not process.is_killed:  # else its run was aborted
                with self._changed:
                    self._queue.appendleft(order)
                    self._changed.notify()  # another process may be idle
            else:
                order.future.set_exception(LostWorkerError(None))
            return False
        except LostWorkerError as error:
            order.future.set_exception(error)
            return False
        except BaseException as error:
            process.kill()
            order.future.set_exception(error)
            return False
        with self._changed:  # before the outcome is known, so that the next order starts no other process
            self._set_idle(driver, True)
        if isinstance(outcome, BaseException):
            order.future.set_exception(outcome)
        else:
            order.future.set_result(outcome)
        return True

    def _why_none_starts(self, error: BaseException) -> BaseException:
        """Return what a run raises because no worker process can be started."""
        guard = (
            "a script must start its runs under `if __name__ == '__main__':`, because each worker process imports it; "
            "after `pip install 'hypernodes-core[parallel]'` it need not"
        )
        if isinstance(error, ExecutionError):
            return error
        if not isinstance(error, LostWorkerError):
            return ExecutionError(
                f"no worker process can be started ({type(error).__name__}: {error}). The limit of processes, threads, "
                "files or memory of this user or container may be reached; max_workers= sets how many are started"
            )
        if error.exit_code == _WITHOUT_GUARD:
            message = f"worker processes cannot start: {guard}"
        else:
            message = (
                f"a worker process {describe_exit(error.exit_code)} before it took any work; what it printed says why"
            )
            message += "" if self.is_loky else f". One cause: {guard}"
        return WorkerDiedError(message, node_names=(), item_index=None)


def take_pool(size: int) -> ProcessPool:
    """Return idle worker processes, or a pool that will start some.

    Args:
        size: The largest number of processes.
    """
    around = surroundings()
    pool: ProcessPool | None = idle_pools.take((size, around))
    if pool is None:
        return ProcessPool(size, around)
    pool.refresh()
    return pool


def give_pool(pool: ProcessPool, keep_s: float) -> None:
    """Keep the processes of a pool that no run uses, for the next one, or end them.

    Args:
        pool: The pool.
        keep_s: How long they are kept, in seconds.
    """
    is_of_one_sender = code_owner.get() is not None  # whose code is not for others
    if not pool.has_processes or pool.around is None or is_of_one_sender:
        pool.close()
        return
    pool.refresh()
    pool.kill_at_exit(None)
    idle_pools.give((pool.size, pool.around), pool, keep_s)


def _disown_processes() -> None:
    """Let a forked process, at its exit, not wait for the workers of its parent."""
    for pool in list(_pools):
        for driver in list(pool._drivers):  # noqa: SLF001
            if driver.process is not None:
                driver.process.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_processes)


def _leave_worker_without_guard() -> None:
    """End a worker process whose script starts a run while the worker imports it; the caller then says why."""
    process = multiprocessing.current_process()
    if process.name.startswith(_NAME) and getattr(process, "_inheriting", False):
        os._exit(_WITHOUT_GUARD)
