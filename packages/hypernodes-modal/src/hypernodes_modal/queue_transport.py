"""The channel beside a call, over a Modal queue made for it, with a partition for each direction.

A request takes longer than many jobs, so a short job makes none: what it has to say comes with its outcome, and nobody
looks into the queue before that. An entry of a queue holds at most 1 MiB, so messages travel in pieces. Each piece says
which attempt sent it (Modal starts a call again in another container when one is lost), which message it is of, and
which piece of that message it is: what comes twice is known, and what is incomplete is left out. Connections that fail
are tried again on both sides; when that does not help, the worker keeps what it has to say for the outcome. What was
taken out of the queue by a request whose reply was lost is gone, so the last messages come with the outcome once more.
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
_PIECES_A_CALL = 8
_LATEST_BYTES = 256 * 1024
TO_CALLER = "up"  # partition for what the container says
TO_WORKER = "down"  # for the caller's answers
_BEGUN = "begun"  # not empty when a container may have had results kept
WAIT_S = 30.0
_ANSWER_PATIENCE_S = 600.0  # for an answer of the caller's, before the worker goes on without it
_PATIENCE_S = 60.0  # with a connection that fails
_PAUSES_S = (0.1, 2.0)
_HEADER = struct.Struct("!4sII?")  # attempt, number of the message, number of the piece, whether it is the last
END_OF_MESSAGES = b""

_T = TypeVar("_T")


class SentMessages(NamedTuple):
    """What a worker has said over the queue.

    Attributes:
        attempt: Stands for the worker.
        messages: How many.
    """

    attempt: bytes
    messages: int


class MessageBacklog(NamedTuple):
    """What comes with an outcome.

    Attributes:
        said: What was said over the queue before.
        latest: The last messages of it that nobody waited for, once more.
        is_all: Whether these are all of them.
    """

    said: SentMessages
    latest: list[bytes]
    is_all: bool


class QueueExchange:
    """The worker's transport, in the container.

    Args:
        queue: The queue.
        may_be_repeated: Whether it matters that a container before this one may have had results kept.

    Attributes:
        is_repeated: Whether one may have.
    """

    def __init__(self, queue: modal.Queue, may_be_repeated: bool) -> None:
        self._queue = queue
        self._said = SentMessages(secrets.token_bytes(4), 0)
        self._latest: deque[bytes] = deque()
        self._latest_bytes = 0
        self._is_all = True
        self.is_repeated = may_be_repeated and self._was_begun()
        self._is_noted = self.is_repeated or not may_be_repeated

    def __call__(self, message: bytes) -> bytes | None:
        """Send a message; return the answer to a question.

        Raises:
            Exception: The queue is lost.
        """
        is_question = wants_reply(message)
        if not (is_question or self._is_noted):
            retry_transient(partial(self._queue.put, b"", partition=_BEGUN))
            self._is_noted = True
        attempt, number = self._said
        self._said = SentMessages(attempt, number + 1)
        if not is_question:
            self._keep(message)
        send(self._queue, TO_CALLER, pieces_of(message, attempt, number))
        return self._answer(attempt, number) if is_question else None

    def rest(self) -> MessageBacklog:
        """Return what is to come with the outcome."""
        return MessageBacklog(self._said, list(self._latest), self._is_all)

    def _keep(self, message: bytes) -> None:
        self._latest.append(message)
        self._latest_bytes += len(message)
        while self._latest_bytes > _LATEST_BYTES:
            self._latest_bytes -= len(self._latest.popleft())
            self._is_all = False

    def _was_begun(self) -> bool:
        try:
            return retry_transient(partial(self._queue.len, partition=_BEGUN)) > 0
        except Exception:  # the queue is lost, so that nobody knows
            return True

    def _answer(self, attempt: bytes, number: int) -> bytes:
        deadline = monotonic() + _ANSWER_PATIENCE_S
        answer = MessageAssembler()
        while (left_s := deadline - monotonic()) > 0:
            try:
                piece = retry_transient(partial(self._queue.get, timeout=min(left_s, WAIT_S), partition=TO_WORKER))
            except Empty:
                continue
            whole = answer.add(piece or b"")
            if whole is not None and (whole.attempt, whole.number) == (attempt, number):
                return whole.content
        raise ConnectionError("the caller does not answer")


class AssembledMessage(NamedTuple):
    """A whole message.

    Attributes:
        attempt: Stands for the worker that sent it.
        number: How many it sent before.
        content: What it says.
    """

    attempt: bytes
    number: int
    content: bytes


class MessageAssembler:
    """Makes messages of pieces; leaves out what was there already, and what has a gap."""

    def __init__(self) -> None:
        self._attempt = b""
        self._done = -1
        self._number = -1
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> AssembledMessage | None:
        """Take a piece; return the message of which it is the last."""
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
    """Return a message as entries of a queue."""
    starts = range(0, max(len(message), 1), _PIECE_BYTES)
    return [
        _HEADER.pack(attempt, number, index, start == starts[-1]) + message[start : start + _PIECE_BYTES]
        for index, start in enumerate(starts)
    ]


def send(queue: modal.Queue, partition: str, pieces: Sequence[bytes]) -> None:
    """Put pieces into a queue, a few at a time."""
    for start in range(0, len(pieces), _PIECES_A_CALL):
        retry_transient(partial(queue.put_many, list(pieces[start : start + _PIECES_A_CALL]), partition=partition))


def retry_transient(act: Callable[[], _T], give_up: Callable[[], Any] = lambda: False) -> _T:
    """Do something again while the connection fails."""
    pause_s, longest_pause_s = _PAUSES_S
    deadline = monotonic() + _PATIENCE_S
    while True:
        try:
            return act()
        except TRANSIENT:
            if give_up() or monotonic() > deadline:
                raise
            sleep(pause_s)
            pause_s = min(2 * pause_s, longest_pause_s)
