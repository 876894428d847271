"""Messages over a pair of pipes: one letter for the kind, eight bytes for the length, then the content."""

from __future__ import annotations

import struct
import threading
from typing import IO

JOB, OUTCOME, MESSAGE, REPLY, PRINTED, PING, PONG = b"J", b"O", b"M", b"R", b"P", b"?", b"!"
_HEAD = struct.Struct(">cQ")


class PipeConnection:
    """One end of a pair of pipes.

    Args:
        incoming: Read from.
        outgoing: Written to; several threads may send.
    """

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = threading.Lock()

    def send(self, kind: bytes, content: bytes) -> None:
        """Send one message.

        Raises:
            OSError: The other end is gone.
        """
        with self._sending:
            self._outgoing.write(_HEAD.pack(kind, len(content)))
            self._outgoing.write(content)
            self._outgoing.flush()

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return kind and content of the next message; None when the other end is closed."""
        head = self._incoming.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        kind, size = _HEAD.unpack(head)
        content = self._incoming.read(size)
        return None if len(content) < size else (kind, content)
