"""Messages between the worker and the caller, over a Modal queue with a partition for each direction.

A request takes longer than many jobs, so a short job sends nothing: its messages come with its outcome, and the caller
does not read the queue before a job has taken some time. An entry of a queue holds at most 1 MiB, so messages are sent
in pieces. Each piece names the attempt that sent it (Modal starts a call again in another container when one is lost),
its message, and its position in the message: duplicates are recognised, and incomplete messages are dropped. Both sides
retry while the connection fails; if that does not help, the worker returns its messages with the outcome. Entries that
a request took out of the queue are lost when its reply is lost, so the latest messages come with the outcome again.
"""

from __future__ import annotations

import secrets
import struct
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar

import modal

from hypernodes.extension import wants_reply
from hypernodes_modal.error_translation import TRANSIENT

_PIECE_BYTES = 900 * 1024
_PIECES_PER_REQUEST = 8
_LATEST_BYTES = 256 * 1024
TO_CALLER = "to caller"  # partition for the worker's messages
TO_WORKER = "to worker"  # partition for the caller's replies
_STARTED = "started"  # partition that is not empty once a container may have had results stored
WAIT_S = 30.0
_REPLY_PATIENCE_S = 600.0  # the worker waits this long for a reply, then continues without it
_PATIENCE_S = 60.0  # how long to retry while the connection fails
_PAUSES_S = (0.1, 2.0)
_HEADER = struct.Struct("!4sII?")  # attempt, number of the message, number of the piece, whether it is the last
END_OF_MESSAGES = b""

_T = TypeVar("_T")


class SentMessages(NamedTuple):
    """How many messages a worker has sent over the queue.

    Attributes:
        attempt: Identifies the worker.
        messages: Number of messages.
    """

    attempt: bytes
    messages: int


class MessageBacklog(NamedTuple):
    """The messages that come with an outcome.

    Attributes:
        sent: How many messages were sent over the queue before.
        latest: The last of them that nobody waited for, again.
        is_complete: Whether these are all of them.
    """

    sent: SentMessages
    latest: list[bytes]
    is_complete: bool


class QueueExchange:
    """The worker's end of the queue, in the container.

    Args:
        queue: The queue.
        may_be_repeated: Whether it matters that an earlier container may have had results stored.

    Attributes:
        is_repeated: Whether an earlier container may have had results stored.
    """

    def __init__(self, queue: modal.Queue, *, may_be_repeated: bool) -> None:
        self._queue = queue
        self._sent = SentMessages(secrets.token_bytes(4), 0)
        self._latest: deque[bytes] = deque()
        self._latest_bytes = 0
        self._is_complete = True
        self.is_repeated = may_be_repeated and self._was_started()
        self._is_marked = self.is_repeated or not may_be_repeated

    def begin(self) -> bool:
        """Note that the job begins; return whether this is the first container that does."""
        if self.is_repeated:
            return False
        self._mark()
        return True

    def _mark(self) -> None:
        retry_transient(partial(self._queue.put, b"", partition=_STARTED))
        self._is_marked = True

    def __call__(self, message: bytes) -> bytes | None:
        """Send a message; return the reply to a question.

        Raises:
            Exception: The queue is lost.
        """
        is_question = wants_reply(message)
        if not (is_question or self._is_marked):
            self._mark()
        attempt, number = self._sent
        self._sent = SentMessages(attempt, number + 1)
        if not is_question:
            self._remember(message)
        send(self._queue, TO_CALLER, pieces_of(message, attempt, number))
        return self._reply(attempt, number) if is_question else None

    def backlog(self) -> MessageBacklog:
        """Return the messages to send with the outcome."""
        return MessageBacklog(self._sent, list(self._latest), self._is_complete)

    def _remember(self, message: bytes) -> None:
        self._latest.append(message)
        self._latest_bytes += len(message)
        while self._latest_bytes > _LATEST_BYTES:
            self._latest_bytes -= len(self._latest.popleft())
            self._is_complete = False

    def _was_started(self) -> bool:
        try:
            return retry_transient(partial(self._queue.len, partition=_STARTED)) > 0
        except Exception:  # the queue is lost, so it is not known
            return True

    def _reply(self, attempt: bytes, number: int) -> bytes:
        deadline = monotonic() + _REPLY_PATIENCE_S
        incoming = MessageAssembler()
        while (left_s := deadline - monotonic()) > 0:
            try:
                piece = retry_transient(partial(self._queue.get, timeout=min(left_s, WAIT_S), partition=TO_WORKER))
            except Empty:
                continue
            reply = incoming.add(piece or b"")
            if reply is not None and (reply.attempt, reply.number) == (attempt, number):
                return reply.content
        raise ConnectionError(f"the caller did not reply within {_REPLY_PATIENCE_S:g} s")


class AssembledMessage(NamedTuple):
    """A message with all its pieces.

    Attributes:
        attempt: Identifies the worker that sent it, or asked for it.
        number: How many messages that worker sent before.
        content: The message.
    """

    attempt: bytes
    number: int
    content: bytes


class MessageAssembler:
    """Assembles messages from pieces; drops duplicates, and messages with a missing piece."""

    def __init__(self) -> None:
        self._attempt = b""
        self._done = -1
        self._number = -1
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> AssembledMessage | None:
        """Add a piece; return the message that it completes, if any."""
        if len(piece) < _HEADER.size:
            return None
        attempt, number, index, is_last = _HEADER.unpack_from(piece)
        if attempt != self._attempt:
            self._attempt, self._done = attempt, -1
        if number <= self._done:
            return None
        if index == 0:
            self._number, self._pieces = number, []
        if number != self._number or index != len(self._pieces):
            return None
        self._pieces.append(piece[_HEADER.size :])
        if not is_last:
            return None
        self._done = number
        return AssembledMessage(attempt, number, b"".join(self._pieces))


def pieces_of(message: bytes, attempt: bytes, number: int) -> list[bytes]:
    """Return a message as entries for a queue."""
    starts = range(0, max(len(message), 1), _PIECE_BYTES)
    return [
        _HEADER.pack(attempt, number, index, start == starts[-1]) + message[start : start + _PIECE_BYTES]
        for index, start in enumerate(starts)
    ]


def send(queue: modal.Queue, partition: str, pieces: Sequence[bytes]) -> None:
    """Put pieces into a queue, a few in each request."""
    for start in range(0, len(pieces), _PIECES_PER_REQUEST):
        retry_transient(partial(queue.put_many, list(pieces[start : start + _PIECES_PER_REQUEST]), partition=partition))


def retry_transient(action: Callable[[], _T], *, give_up: Callable[[], Any] = lambda: False) -> _T:
    """Return the result of a function, which is called again while the connection fails.

    Args:
        action: The function.
        give_up: Asked after a failure; the error is raised at once if it returns true.
    """
    pause_s, longest_pause_s = _PAUSES_S
    deadline = monotonic() + _PATIENCE_S
    while True:
        try:
            return action()
        except TRANSIENT:
            if give_up() or monotonic() > deadline:
                raise
            sleep(pause_s)
            pause_s = min(2 * pause_s, longest_pause_s)
