"""The process that `SubprocessBackend` starts: executes the jobs that come through its standard input.

What nodes print goes to the caller as well; the process ends when the caller does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import secrets
import signal
import sys
import threading
from queue import Empty, SimpleQueue
from typing import Any, TextIO

from hypernodes.engine.limit_reports import report_limits_to
from hypernodes.engine.workers.callers_main import let_children_find_callers_main
from hypernodes.engine.workers.imported_files import are_unchanged
from hypernodes.engine.workers.process_start import remember_folder, return_to_folder
from hypernodes.remote.messages import wants_reply
from hypernodes.remote.pipes import (
    END,
    JOB,
    LIMIT,
    LIMIT_FORMAT,
    MESSAGE,
    OUTCOME,
    PING,
    PONG,
    PRINTED,
    PipeConnection,
)
from hypernodes.remote.worker import close_engines, execute

_LARGE_BYTES = 10_000_000
_PAUSE_S = 0.05  # after a job, before memory is looked through
_THREADS_TIMEOUT_S = 1.0  # for threads that nodes left running, when the process is to end


def main() -> None:
    """Serve until standard input ends; then end as any other program does, with open files flushed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the caller, who ends this process
    let_children_find_callers_main()
    remember_folder()
    connection = PipeConnection(os.dup(0), os.dup(1))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    output = _Output(connection)
    server = _Server(connection, output)
    with contextlib.suppress(BrokenPipeError):  # the caller is gone
        server.serve()
    close_engines()
    watchdog = threading.Timer(_THREADS_TIMEOUT_S, _end_without_threads)
    watchdog.daemon = True
    watchdog.start()
    atexit.register(watchdog.cancel)  # called first, when all threads have ended


class _Server:
    def __init__(self, connection: PipeConnection, output: _Output) -> None:
        self._connection = connection
        self._output = output
        self._jobs: SimpleQueue[bytearray | None] = SimpleQueue()
        self._replies: SimpleQueue[bytearray] = SimpleQueue()
        self._is_busy = False
        self._has_served = False
        self._pid = os.getpid()

    def serve(self) -> None:
        report_limits_to(self._report_limit)
        threading.Thread(target=self._receive, name="hypernodes-receive", daemon=True).start()
        while (job := self._next_job()) is not None:
            outcome = execute(job, self._exchange, is_dedicated=True, fetch=_read_shared)
            is_large = len(job) + len(outcome) > _LARGE_BYTES
            del job
            if os.getpid() != self._pid:  # a node forked, and its child returned as well
                os._exit(0)
            self._output.flush()
            return_to_folder()
            self._is_busy = False
            self._has_served = True  # first: the next job may be announced as soon as the outcome is there
            self._connection.send(OUTCOME, outcome)
            del outcome
            if is_large:
                gc.collect()

    def _next_job(self) -> bytearray | None:
        """Wait for the next job; meanwhile, release what the last one left that refers to itself."""
        if self._has_served:
            with contextlib.suppress(Empty):
                return self._jobs.get(timeout=_PAUSE_S)
            gc.collect()
        return self._jobs.get()

    def _exchange(self, message: bytes) -> bytes | None:
        self._connection.send(MESSAGE, message)
        return bytes(self._replies.get()) if wants_reply(message) else None

    def _report_limit(self, number: int, node_name: str, limit_s: float) -> None:
        with contextlib.suppress(OSError):  # the caller is gone
            self._connection.send(LIMIT, LIMIT_FORMAT.pack(number, limit_s) + node_name.encode())

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while (received := self._connection.receive()) is not None:
                if received.kind == END or (received.kind == PING and self._has_served and not are_unchanged()):
                    break  # without an answer, the caller starts another process
                if received.kind == PING:
                    self._connection.send(PONG, b"")
                elif received.kind == JOB:
                    self._is_busy = True
                    self._jobs.put(received.content)
                else:
                    self._replies.put(received.content)
                del received
        if self._is_busy:
            os._exit(0)  # the caller is gone, so nobody waits for what is still running
        self._jobs.put(None)


def _read_shared(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _end_without_threads() -> None:
    """End the process although threads that nodes started go on."""
    atexit._run_exitfuncs()  # noqa: SLF001
    for file in gc.get_objects():
        if isinstance(file, (io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)):
            with contextlib.suppress(Exception):
                file.flush()
    os._exit(0)


class _Output:
    """Standard output as messages; every job begins with the standard streams of the process."""

    def __init__(self, connection: PipeConnection) -> None:
        self._connection = connection
        self._mark = secrets.token_bytes(16)
        self._is_flushed = threading.Event()
        self._read_end, self._write_end = os.pipe()
        os.dup2(self._write_end, 1)
        self._streams = [
            _Stream("stdout", 1, self._write_end, sys.stdout),
            _Stream("stderr", 2, os.dup(2), sys.stderr),
        ]
        threading.Thread(target=self._pump, name="hypernodes-output", daemon=True).start()

    def flush(self) -> None:
        """Wait until everything that was printed has been sent; undo what nodes did to the standard streams."""
        self._is_flushed.clear()
        for stream in self._streams:
            stream.restore()
        os.write(self._write_end, self._mark)
        self._is_flushed.wait()

    def _pump(self) -> None:
        waiting = b""
        while data := os.read(self._read_end, 65536):
            *printed, waiting = (waiting + data).split(self._mark)
            for part in printed:
                self._send(part)
                self._is_flushed.set()
            complete = len(waiting) - _overlap(waiting, self._mark)
            self._send(waiting[:complete])
            waiting = waiting[complete:]

    def _send(self, printed: bytes) -> None:
        if printed:
            with contextlib.suppress(OSError):  # nobody is there any more to read it
                self._connection.send(PRINTED, printed)


class _Stream:
    """A standard stream of the process, which a node may close, detach or replace.

    Args:
        name: Its name in `sys`.
        descriptor: Its file descriptor.
        target: Another file descriptor for the same file.
        file: The stream.
    """

    def __init__(self, name: str, descriptor: int, target: int, file: TextIO) -> None:
        self._name = name
        self._descriptor = descriptor
        self._target = target
        self._file = file
        self._settings: dict[str, Any] = {"encoding": file.encoding, "errors": file.errors, "closefd": False}

    def restore(self) -> None:
        """Write what was printed, and put the stream back to what it was when the process began."""
        current = getattr(sys, self._name)
        if current is not self._file:
            _flush(current)  # something that a node put there
        if not _is_same_file(self._descriptor, self._target):
            os.dup2(self._target, self._descriptor)
        _flush(self._file)
        if current is not self._file or _is_closed(self._file):
            self._file = open(self._descriptor, "w", **self._settings)  # noqa: SIM115
            for name in (self._name, f"__{self._name}__"):
                setattr(sys, name, self._file)


def _flush(file: Any) -> None:
    with contextlib.suppress(Exception):
        file.flush()


def _is_closed(file: TextIO) -> bool:
    try:
        return file.closed
    except ValueError:  # it was detached from what is below it
        return True


def _is_same_file(descriptor: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(descriptor, other)
    except OSError:  # it was closed
        return False


def _overlap(text: bytes, mark: bytes) -> int:
    """Return how many bytes at the end of `text` may be the beginning of `mark`."""
    return next((size for size in range(min(len(text), len(mark)), 0, -1) if mark.startswith(text[-size:])), 0)
