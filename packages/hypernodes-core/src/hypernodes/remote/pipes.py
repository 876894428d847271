"""Messages over a pair of pipes: one letter for the kind, eight bytes for the length, then the content."""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

JOB, OUTCOME, MESSAGE, REPLY, PRINTED, LIMIT = b"J", b"O", b"M", b"R", b"P", b"L"
PING, PONG, END = b"?", b"!", b"E"
LIMIT_FORMAT = struct.Struct(">Qd")  # of a call: its number, and its time limit in seconds; then the name of its node
_HEAD = struct.Struct(">cQ")
_LOOK_MS = 200  # between looks whether the other process is still there, where the system does not tell
_MAX_WRITE = 1 << 30


class Received(NamedTuple):
    """A message over the pipes.

    Attributes:
        kind: Its letter.
        content: What follows; memory of its own.
    """

    kind: bytes
    content: bytearray


class PipeConnection:
    """One end of a pair of pipes.

    Args:
        incoming: File descriptor that is read from.
        outgoing: File descriptor that is written to; several threads may send.
        is_peer_gone: Whether the process at the other end has ended. Its end alone does not close the pipes, since a
            process that it started may hold them open.
        peer: File descriptor that becomes readable when that process ends; -1 when there is none.
    """

    def __init__(
        self, incoming: int, outgoing: int, is_peer_gone: Callable[[], bool] = lambda: False, peer: int = -1
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._is_peer_gone = is_peer_gone
        self._peer = peer
        self._sending = threading.Lock()
        self._polls = hasattr(select, "poll")
        if self._polls:
            os.set_blocking(outgoing, False)

    def send(self, kind: bytes, content: bytes | bytearray) -> None:
        """Send one message.

        Raises:
            BrokenPipeError: The other end is gone.
        """
        with self._sending:
            self._write(memoryview(_HEAD.pack(kind, len(content))))
            self._write(memoryview(content))

    def receive(self, due: float | None = None) -> Received | None:
        """Return the next message; None when the other end is closed, or the process there has ended.

        Args:
            due: The time on the monotonic clock at which it must have begun to arrive; None for no limit.

        Raises:
            TimeoutError: It did not.
        """
        if due is not None and self._polls and not self._wait(self._incoming, select.POLLIN, due):
            return None
        head = self._read(_HEAD.size)
        if head is None:
            return None
        kind, size = _HEAD.unpack(head)
        content = self._read(size)
        return None if content is None else Received(kind, content)

    def _read(self, size: int) -> bytearray | None:
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            if not self._wait(self._incoming, select.POLLIN if self._polls else 0):
                return None
            count = os.readv(self._incoming, [rest]) if hasattr(os, "readv") else self._read_some(rest)
            if not count:
                return None
            rest = rest[count:]
        return content

    def _read_some(self, rest: memoryview) -> int:
        data = os.read(self._incoming, len(rest))
        rest[: len(data)] = data
        return len(data)

    def _write(self, rest: memoryview) -> None:
        while rest:
            if not self._wait(self._outgoing, select.POLLOUT if self._polls else 0):
                raise BrokenPipeError("the process at the other end has ended")
            try:
                rest = rest[os.write(self._outgoing, rest[:_MAX_WRITE]) :]
            except BlockingIOError:
                continue

    def _wait(self, descriptor: int, event: int, due: float | None = None) -> bool:
        """Wait until something can be done with a pipe; return whether it can, rather than the other end being gone."""
        if not self._polls:
            return True
        poll = select.poll()
        poll.register(descriptor, event)
        if self._peer >= 0:
            poll.register(self._peer, select.POLLIN)
        while True:
            left_ms = None if due is None else max(due - monotonic(), 0) * 1000
            limits_ms = [limit for limit in (left_ms, None if self._peer >= 0 else _LOOK_MS) if limit is not None]
            ready = dict(poll.poll(min(limits_ms, default=None)))
            if descriptor in ready:
                return True
            if self._peer in ready or self._is_peer_gone():
                return bool(dict(poll.poll(0)).get(descriptor))  # what it wrote before it ended is still to be read
            if due is not None and monotonic() >= due:
                raise TimeoutError
