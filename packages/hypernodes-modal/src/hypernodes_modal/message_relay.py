"""The caller's end of the queue beside a call: reads the worker's messages and answers them while the call runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty

import modal

from hypernodes.extension import wants_reply
from hypernodes_modal.queue_transport import (
    END_OF_MESSAGES,
    TO_CALLER,
    TO_WORKER,
    WAIT_S,
    AssembledMessage,
    MessageAssembler,
    MessageBacklog,
    SentMessages,
    pieces_of,
    retry_transient,
    send,
)

_SHORT_JOB_S = 0.02  # the queue is not read before a job has taken this long


class MessageRelay(threading.Thread):
    """Passes the worker's messages to the caller, and replies back, until all of them have been taken.

    Args:
        queue: The queue.
        take_message: Takes a message and returns the reply to a question.
    """

    def __init__(self, queue: modal.Queue, take_message: Callable[[bytes], bytes | None]) -> None:
        super().__init__(name="hypernodes-modal-relay", daemon=True)
        self._queue = queue
        self._take_message = take_message
        self._lock = threading.Lock()
        self._taken: SentMessages | None = None
        self._is_over = threading.Event()
        self._is_complete = threading.Event()  # all messages have been taken
        self._loop: asyncio.AbstractEventLoop | None = None
        self._request: asyncio.Task[Sequence[bytes]] | None = None
        self._failure: BaseException | None = None

    def finish(self, backlog: MessageBacklog | None) -> None:
        """Take the remaining messages; the job is over, so no more will be sent.

        Args:
            backlog: The messages that came with the worker's outcome; None when there is no outcome.

        Raises:
            BaseException: An exception of a callback that must not be swallowed (an interrupt).
        """
        with self._lock:
            if backlog is not None and (backlog.is_complete or backlog.sent == self._taken):
                self._is_complete.set()
                if self._request is not None and self._loop is not None:
                    self._loop.call_soon_threadsafe(self._request.cancel)
            self._is_over.set()
        if not self._is_complete.is_set() and self.is_alive():
            with suppress(modal.exception.Error):  # the connection is lost, which ends the waiting as well
                self._queue.put(END_OF_MESSAGES, partition=TO_CALLER)  # after all messages
        self.join()
        if self._failure is not None:
            raise self._failure
        for message in backlog.latest if backlog is not None else ():
            self._take_message(message)  # ignores those that it has taken already

    def run(self) -> None:
        self._is_over.wait(_SHORT_JOB_S)
        if self._is_complete.is_set():
            return
        self._loop = asyncio.new_event_loop()
        try:
            for message in self._messages():
                self._take(message)
        except (modal.exception.Error, ConnectionError):
            return  # the queue is lost, so events come late: the worker returns the rest with the outcome
        except BaseException as error:
            self._failure = error
        finally:
            self._loop.close()

    def _take(self, message: AssembledMessage) -> None:
        reply = self._take_message(message.content)
        if wants_reply(message.content):
            send(self._queue, TO_WORKER, pieces_of(reply or b"", message.attempt, message.number))
        with self._lock:
            self._taken = SentMessages(message.attempt, message.number + 1)

    def _messages(self) -> Iterator[AssembledMessage]:
        incoming = MessageAssembler()
        while True:
            for piece in self._read():
                if piece == END_OF_MESSAGES:
                    return
                message = incoming.add(piece)
                if message is not None:
                    yield message

    def _read(self) -> Sequence[bytes]:
        try:
            return retry_transient(self._request_pieces, give_up=self._is_over.is_set)
        except Empty:
            return [END_OF_MESSAGES] if self._is_over.is_set() else []

    def _request_pieces(self) -> Sequence[bytes]:
        """Wait for pieces in the queue, with a request that `finish` can cancel."""
        assert self._loop is not None
        with self._lock:
            if self._is_complete.is_set():
                return [END_OF_MESSAGES]
            request = self._queue.get_many.aio(100, block=True, timeout=WAIT_S, partition=TO_CALLER)
            self._request = self._loop.create_task(request)
        try:
            return self._loop.run_until_complete(self._request)
        except asyncio.CancelledError:
            if self._is_complete.is_set():
                return [END_OF_MESSAGES]
            raise ConnectionError("the request was cancelled by Modal's client") from None
        finally:
            with self._lock:
                self._request = None
