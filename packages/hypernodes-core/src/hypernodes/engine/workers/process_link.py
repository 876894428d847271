"""The worker's end of the connection to the thread of the caller that drives it, and the messages on it.

The thread sends a function and its argument, and waits for the result. Meanwhile the worker announces calls that have a
time limit, so that a worker that cannot end such a call itself, because it is stopped or in native code, can be ended;
and it lets the caller call functions.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from hypernodes.engine.workers.pickling import PROTOCOL
from hypernodes.engine.workers.serialized_errors import describe

DONE, FAILED, LIMIT, LIMIT_OVER, READY, REPORT = b"D", b"F", b"L", b"O", b"R", b"T"
SIZE_FORMAT = struct.Struct("<I")  # of the pickled function, which the argument follows: one message, since this
# process waits for its turn in the interpreter after each part that it sends or receives
LIMIT_FORMAT = struct.Struct("<dqq")


_own: _WorkerEnd | None = None


class _WorkerEnd:
    """The end of a worker process, which receives calls and answers them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.RLock()
        self._sender = 0  # the thread that is sending now
        self._waiting: deque[bytes] = deque()
        self.process_id = os.getpid()  # a node may fork, and the fork does not talk to the caller

    def serve(self) -> None:
        """Make calls, one after the other, until there are no more."""
        connection = self._connection
        try:
            connection.send_bytes(READY)
        except (BrokenPipeError, ConnectionResetError):  # the caller has ended meanwhile
            return
        while True:
            try:
                message = connection.recv_bytes()
            except (EOFError, OSError):
                return
            if not message:
                return
            content = self._make(message)
            del message
            try:
                self.send(content)
            except (BrokenPipeError, ConnectionResetError):
                return
            del content  # an idle worker must not keep it

    def _make(self, message: bytes) -> bytes:
        try:
            (size,) = SIZE_FORMAT.unpack_from(message)
            function = pickle.loads(message[SIZE_FORMAT.size : SIZE_FORMAT.size + size])
            return DONE + function(message[SIZE_FORMAT.size + size :])  # type: ignore[no-any-return]
        except BaseException as error:
            return FAILED + pickle.dumps(describe(error), PROTOCOL)

    def send(self, message: bytes) -> None:
        """Send a message. A time limit must not interrupt that, halfway through.

        Something that is collected meanwhile may log or warn, in this thread: its message is sent after this one.
        """
        this_thread = threading.get_ident()
        self._waiting.append(message)
        while self._waiting and self._sender != this_thread:
            with self._sending, _no_alarm():
                self._sender = this_thread
                try:
                    while self._waiting:
                        self._connection.send_bytes(self._waiting.popleft())
                finally:
                    self._sender = 0


def serve(connection: Connection) -> None:
    """Make the calls that arrive, in a worker process, until there are no more."""
    global _own
    _own = _WorkerEnd(connection)
    _own.serve()


def announce_time_limit(limit_s: float, item: int, step: int) -> bool:
    """Announce, in a worker process, that a call with a time limit begins; return whether anybody is told.

    Args:
        limit_s: The limit, in seconds.
        item: Position of its item in the order.
        step: Position of the call in the plan.
    """
    if _own is None or _own.process_id != os.getpid():
        return False
    _own.send(LIMIT + LIMIT_FORMAT.pack(limit_s, item, step))
    return True


def announce_end_of_limit() -> None:
    """Announce that the call has ended whose time limit was announced."""
    if _own is not None and _own.process_id == os.getpid():
        _own.send(LIMIT_OVER)


def report(function: Callable[..., object], *arguments: Any) -> bool:
    """Let the caller of this worker process call a function; return whether there is one that is told.

    Args:
        function: A function that can be imported.
        arguments: What can be pickled.
    """
    if _own is None or _own.process_id != os.getpid():
        return False
    _own.send(REPORT + pickle.dumps((function, arguments), PROTOCOL))
    return True


@contextlib.contextmanager
def _no_alarm() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
