"""The channel beside a call, over a pair of Modal queues made for it.

An entry of a queue holds at most 1 MiB, so messages travel in pieces. Each piece says which attempt sent it (Modal
starts a call again in another container when one is lost), which message it is of, and which piece of that message it
is: what comes twice is known, and what is incomplete is left out. Connections that fail are tried again on both sides;
when that does not help, the worker keeps what it has to say for the outcome.
"""

from __future__ import annotations

import secrets
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar

import modal

from hypernodes.remote.messages import wants_reply
from hypernodes_modal.trouble import TRANSIENT

_PIECE_BYTES = 900 * 1024
_PIECES_A_CALL = 8
_WAIT_S = 30.0
_ANSWER_PATIENCE_S = 600.0  # for an answer of the caller's, before the worker goes on without it
_PATIENCE_S = 60.0  # with a connection that fails
_PAUSES_S = (0.1, 2.0)
_HEADER = struct.Struct("!4sII?")  # attempt, number of the message, number of the piece, whether it is the last
_FIRST_ATTEMPT = b"first"
_END = b""

_T = TypeVar("_T")


class Queues(NamedTuple):
    """A pair of queues.

    Attributes:
        up: From the container to the caller.
        down: From the caller to the container.
    """

    up: modal.Queue
    down: modal.Queue

    def prepare(self) -> None:
        """Lay out, at the caller, what tells the first attempt of the call from later ones."""
        self.down.put(_FIRST_ATTEMPT)


class QueueExchange:
    """The worker's transport, in the container.

    Attributes:
        is_first_attempt: Whether no container has had this call before.
    """

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._attempt = secrets.token_bytes(4)
        self._number = 0
        found = _persistently(partial(queues.down.get, block=False))
        self.is_first_attempt = found == _FIRST_ATTEMPT

    def __call__(self, message: bytes) -> bytes | None:
        """Send a message; return the answer to a question.

        Raises:
            Exception: The queue is lost.
        """
        number, self._number = self._number, self._number + 1
        _send(self._queues.up, _pieces(message, self._attempt, number))
        return self._answer(number) if wants_reply(message) else None

    def close(self) -> None:
        """Say that nothing more comes."""
        with suppress(Exception):  # the queue may be lost: the caller does not depend on this
            self._queues.up.put(_END)

    def _answer(self, number: int) -> bytes:
        deadline = monotonic() + _ANSWER_PATIENCE_S
        answer = _Assembly()
        while (left_s := deadline - monotonic()) > 0:
            try:
                piece = _persistently(partial(self._queues.down.get, timeout=min(left_s, _WAIT_S)))
            except Empty:
                continue
            whole = answer.add(piece or b"")
            if whole is not None and (whole.attempt, whole.number) == (self._attempt, number):
                return whole.content
        raise ConnectionError("the caller does not answer")


class Pump(threading.Thread):
    """Carries what the worker says to the caller, and answers back, until the worker has said everything.

    Args:
        queues: The queues.
        take_message: Takes a message and returns the answer to a question.
    """

    def __init__(self, queues: Queues, take_message: Callable[[bytes], bytes | None]) -> None:
        super().__init__(name="hypernodes-modal-pump", daemon=True)
        self._queues = queues
        self._take_message = take_message
        self._is_over = threading.Event()
        self._failure: BaseException | None = None

    def finish(self) -> None:
        """Take everything that was said; the job is over, so nothing more is.

        Raises:
            BaseException: What a callback raised that must not be swallowed (an interrupt).
        """
        self._is_over.set()
        if self.is_alive():
            with suppress(modal.exception.Error):  # then the connection is lost, which ends the waiting as well
                self._queues.up.put(_END)  # a container that was lost has not said so itself
        self.join()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        try:
            for message in self._messages():
                reply = self._take_message(message.content)
                if wants_reply(message.content):
                    _send(self._queues.down, _pieces(reply or b"", message.attempt, message.number))
        except (modal.exception.Error, ConnectionError):
            return  # the queue is lost, and with it the liveness; the worker keeps the rest for the outcome
        except BaseException as error:
            self._failure = error

    def _messages(self) -> Iterator[_Message]:
        incoming = _Assembly()
        while True:
            for piece in self._take():
                if piece == _END:
                    if self._is_over.is_set():
                        return
                    continue  # of an attempt whose outcome was lost on the way; another one may follow
                message = incoming.add(piece)
                if message is not None:
                    yield message

    def _take(self) -> Sequence[bytes]:
        try:
            taken: Sequence[bytes] = _persistently(
                partial(self._queues.up.get_many, 100, block=True, timeout=_WAIT_S), give_up=self._is_over.is_set
            )
        except Empty:
            return [_END] if self._is_over.is_set() else []
        return taken


class _Message(NamedTuple):
    attempt: bytes
    number: int
    content: bytes


class _Assembly:
    """Makes messages of pieces; leaves out what was there already, and what has a gap."""

    def __init__(self) -> None:
        self._attempt = b""
        self._done = -1
        self._number = -1
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> _Message | None:
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
        return _Message(attempt, number, b"".join(self._pieces))


def _pieces(message: bytes, attempt: bytes, number: int) -> list[bytes]:
    starts = range(0, max(len(message), 1), _PIECE_BYTES)
    return [
        _HEADER.pack(attempt, number, index, start == starts[-1]) + message[start : start + _PIECE_BYTES]
        for index, start in enumerate(starts)
    ]


def _send(queue: modal.Queue, pieces: Sequence[bytes]) -> None:
    for start in range(0, len(pieces), _PIECES_A_CALL):
        _persistently(partial(queue.put_many, list(pieces[start : start + _PIECES_A_CALL])))


def _persistently(act: Callable[[], _T], give_up: Callable[[], Any] = lambda: False) -> _T:
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
