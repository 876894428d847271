"""A worker process, as the thread of the caller sees it that drives it."""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from hypernodes.engine.timing import now
from hypernodes.engine.workers import stopped_processes
from hypernodes.engine.workers.caller_settings import take_report
from hypernodes.engine.workers.process_link import FAILED, LIMIT, LIMIT_FORMAT, LIMIT_OVER, REPORT, SIZE_FORMAT
from hypernodes.engine.workers.serialized_errors import restore
from hypernodes.locks import reset_after_fork

_GRACE_S = 1.0  # after a time limit, for a call that ignores the interrupt
_END_S = 10.0  # for what a worker does at its end
_CHECK_S = 1.0  # between two checks whether a process lives, where its end does not report itself
_SHORT_S = 0.05


class LostWorkerError(BrokenExecutor):
    """A worker process ended while it executed something.

    Args:
        exit_code: Its exit code; negative for the number of a signal, None when unknown.
        late_call: Position of an item and of a step, when it was ended because that call exceeded its time limit.
    """

    def __init__(self, exit_code: int | None, late_call: tuple[int, int] | None = None) -> None:
        super().__init__(describe_exit(exit_code))
        self.exit_code = exit_code
        self.late_call = late_call


class NotBegunError(Exception):
    """A worker process had ended before it was to execute something."""


def describe_exit(exit_code: int | None) -> str:
    """Return how a process ended, to follow its name."""
    if exit_code is None:
        return "ended"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    except ValueError:
        return f"was ended by signal {-exit_code}"


class Process(Protocol):
    """The part of `multiprocessing.Process` that is needed here."""

    @property
    def pid(self) -> int | None: ...

    @property
    def exitcode(self) -> int | None: ...

    @property
    def sentinel(self) -> int: ...

    def start(self) -> None: ...

    def join(self, timeout: float | None = None) -> None: ...


_starting = reset_after_fork(threading.Lock())


class WorkerProcess:
    """A worker process as the thread sees it that drives it; other threads may only kill it.

    Args:
        process: The process, to be started.
        connection: The caller's end of the connection.
        other_end: The other end, which the process inherits.
        environ: Environment variables of the process beside those of this one.

    Attributes:
        is_killed: Whether it was killed.
    """

    def __init__(
        self, process: Process, connection: Connection, other_end: Connection, environ: Mapping[str, str]
    ) -> None:
        self._process = process
        self._connection = connection
        self._other_end = other_end
        self._environ = environ
        self._lock = threading.RLock()
        self._is_running = False
        self.is_killed = False
        self._stops = stopped_processes.StopWatch("a worker process")
        self._ended: int = -1  # becomes readable when the process ends

    def start(self) -> None:
        """Start the process, and wait until it can take work.

        Raises:
            LostWorkerError: It ended before.
            OSError: It cannot be started.
        """
        try:
            with _starting, _set_in_environment(self._environ), _without_interrupts():
                self._process.start()
        finally:
            self._other_end.close()
        with self._lock:
            self._is_running = True
            is_too_late = self.is_killed
        pid = self._process.pid
        assert pid is not None
        self._ended = _open_pid(pid)
        if is_too_late:
            self.kill()
        self._receive(None)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        with self._lock:
            return self._process.exitcode is not None

    def call(self, function: bytes, argument: bytes, was_idle: bool = True) -> bytes | BaseException:
        """Let the process call a function; return the result, or the error that the function raised.

        Args:
            function: The function, as a pickle.
            argument: Its argument.
            was_idle: Whether it may have ended since it answered last.

        Raises:
            NotBegunError: The process had ended before.
            LostWorkerError: The process ended.
        """
        if was_idle and self.has_ended:
            raise NotBegunError
        try:
            self._connection.send_bytes(SIZE_FORMAT.pack(len(function)) + function + argument)
        except OSError:
            raise NotBegunError from None
        late_call: tuple[int, int] | None = None
        due: float | None = None
        while True:
            message = self._receive(due, late_call)
            kind = message[:1]
            if kind == LIMIT:
                limit_s, item, step = LIMIT_FORMAT.unpack(message[1:])
                late_call, due = (item, step), now() + limit_s + _GRACE_S
            elif kind == LIMIT_OVER:
                due = None
            elif kind == REPORT:
                take_report(_call_packed, (message[1:],))
            else:
                return restore(pickle.loads(message[1:])) if kind == FAILED else message[1:]

    def _receive(self, due: float | None, late_call: tuple[int, int] | None = None) -> bytes:
        """Return the next message; a process that has sent none when it is due is ended."""
        connection = self._connection
        is_told = self._ended >= 0
        waited_for: list[Any] = [connection, self._ended if is_told else self._process.sentinel]
        while True:
            timeout_s = stopped_processes.LOOK_S if is_told else _CHECK_S
            if due is not None:
                timeout_s = min(max(due - now(), 0), _CHECK_S)
            ready = wait(waited_for, timeout_s)
            if ready or self.has_ended:
                break
            if self._process.pid is not None:
                self._stops.look(self._process.pid)
            if due is not None and now() >= due:
                self.kill()
                raise self._lost(late_call)
        try:
            if connection in ready or connection.poll():
                return connection.recv_bytes()
        except (EOFError, OSError):
            pass
        raise self._lost(None)

    def _lost(self, late_call: tuple[int, int] | None) -> LostWorkerError:
        if not self._join(_END_S):  # it closed the connection, and goes on
            self.kill()
            self._join(_END_S)
        return LostWorkerError(self._process.exitcode, late_call)

    def kill(self) -> None:
        """End it at once, with whatever it started; from any thread."""
        with self._lock:
            self.is_killed = True
            pid = self._process.pid
            if not self._is_running or pid is None or self._process.exitcode is not None:
                return
            for victim in (pid, *_descendants(pid)):
                _kill(victim)

    def end(self) -> None:
        """Let it end, with whatever it does at its end, and release what belongs to it here."""
        if not self._is_running:  # it could not be started
            self._connection.close()
            return
        with contextlib.suppress(OSError):  # it has ended
            self._connection.send_bytes(b"")
        if not self._join(_END_S):
            self.kill()
            self._join(_END_S)
        self._connection.close()
        with self._lock:
            self._is_running = False
            self._process.join(0)
            ended, self._ended = self._ended, -1
        if ended >= 0:
            os.close(ended)

    def disown(self) -> None:
        """Forget that the process is a child of this one, after a fork of its parent."""
        getattr(multiprocessing.process, "_children", set()).discard(self._process)

    def _join(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it came."""
        end = now() + timeout_s
        while not self.has_ended and now() < end:
            if self._ended >= 0:
                wait([self._ended], timeout_s)
            else:  # which tells nothing while something that the process started lives
                wait([self._process.sentinel], _SHORT_S)
        return self.has_ended


@contextlib.contextmanager
def _set_in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process, which the standard library gives to a process that it starts."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start a process without interrupts from the keyboard, until it ignores them (see `start_process`)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call_packed(packed: bytes) -> None:
    function, arguments = pickle.loads(packed)
    function(*arguments)


def _open_pid(pid: int) -> int:
    """Return a file descriptor that becomes readable when a process ends; -1 where there are none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _descendants(pid: int) -> list[int]:
    """Return what a process started and what that started; nothing where the system does not tell."""
    children: dict[int, list[int]] = {}
    try:
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, IndexError), open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry))
    except OSError:
        return []
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return found[1:]
