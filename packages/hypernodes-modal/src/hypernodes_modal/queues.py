"""The channel beside a call, over a pair of Modal queues made for it.

An entry of a queue holds at most 1 MiB, so messages travel in pieces. Each piece begins with a byte that says whether
it is the last of its message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty
from typing import NamedTuple

import modal

from hypernodes.remote.messages import wants_reply

_PIECE_BYTES = 900 * 1024
_PIECES_A_CALL = 8
_WAIT_S = 2.0
_PATIENCE_S = 600.0  # for an answer of the caller's, before the worker goes on without it
_MORE, _LAST, _END = b"m", b"l", b"e"


class Queues(NamedTuple):
    """A pair of queues.

    Attributes:
        up: From the container to the caller.
        down: From the caller to the container.
    """

    up: modal.Queue
    down: modal.Queue


class QueueExchange:
    """The worker's transport, in the container."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    def __call__(self, message: bytes) -> bytes | None:
        """Send a message; return the answer to a question.

        Raises:
            Exception: The queue is lost.
        """
        _send(self._queues.up, message)
        return _receive(self._queues.down, _PATIENCE_S) if wants_reply(message) else None

    def close(self) -> None:
        """Say that nothing more comes."""
        with suppress(Exception):  # the queue may be lost: then the caller gives up waiting by itself
            self._queues.up.put(_END)


class Pump(threading.Thread):
    """Carries what the worker says to the caller, and answers back, until the worker has said everything.

    Args:
        queues: The queues.
        handle: Takes a message and returns the answer to a question.
    """

    def __init__(self, queues: Queues, handle: Callable[[bytes], bytes | None]) -> None:
        super().__init__(name="hypernodes-modal-pump", daemon=True)
        self._queues = queues
        self._handle = handle
        self._is_over = threading.Event()
        self._failure: BaseException | None = None

    def finish(self) -> None:
        """Wait until everything has been carried; the job is over, so nothing more is said.

        Raises:
            BaseException: What a callback raised that must not be swallowed (an interrupt).
        """
        self._is_over.set()
        self.join()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        try:
            for message in self._messages():
                reply = self._handle(message)
                if wants_reply(message):
                    _send(self._queues.down, reply or b"")
        except modal.exception.Error:
            return  # the queue is lost, and with it the liveness; the rest comes with the outcome
        except BaseException as error:
            self._failure = error

    def _messages(self) -> Iterator[bytes]:
        pieces: list[bytes] = []
        while True:
            is_over = self._is_over.is_set()
            try:
                entries = self._queues.up.get_many(100, timeout=0.05 if is_over else _WAIT_S)
            except Empty:
                entries = []
            for entry in entries:
                if entry[:1] == _END:
                    return
                pieces.append(entry[1:])
                if entry[:1] == _LAST:
                    yield b"".join(pieces)
                    pieces = []
            if is_over and not entries:
                return


def _send(queue: modal.Queue, message: bytes) -> None:
    pieces = [message[start : start + _PIECE_BYTES] for start in range(0, max(len(message), 1), _PIECE_BYTES)]
    marked = [_MORE + piece for piece in pieces[:-1]] + [_LAST + pieces[-1]]
    for start in range(0, len(marked), _PIECES_A_CALL):
        queue.put_many(marked[start : start + _PIECES_A_CALL])


def _receive(queue: modal.Queue, patience_s: float) -> bytes:
    pieces: list[bytes] = []
    while True:
        try:
            entry = queue.get(timeout=patience_s)
        except Empty:
            raise ConnectionError("the caller does not answer") from None
        if entry is None:
            raise ConnectionError("the caller does not answer")
        pieces.append(entry[1:])
        if entry[:1] == _LAST:
            return b"".join(pieces)
