"""The caller's end of the queue beside a call: what the worker says is taken, and answered, while the call runs."""

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

_SHORT_JOB_S = 0.02  # before the first look into the queue


class MessageRelay(threading.Thread):
    """Carries what the worker says to the caller, and answers back, until the worker has said everything.

    Args:
        queue: The queue.
        take_message: Takes a message and returns the answer to a question.
    """

    def __init__(self, queue: modal.Queue, take_message: Callable[[bytes], bytes | None]) -> None:
        super().__init__(name="hypernodes-modal-relay", daemon=True)
        self._queue = queue
        self._take_message = take_message
        self._lock = threading.Lock()
        self._taken: SentMessages | None = None
        self._is_over = threading.Event()
        self._is_complete = threading.Event()  # nothing that was said is still under way
        self._loop: asyncio.AbstractEventLoop | None = None
        self._request: asyncio.Task[Sequence[bytes]] | None = None
        self._failure: BaseException | None = None

    def finish(self, rest: MessageBacklog | None) -> None:
        """Take everything that was said; the job is over, so nothing more is.

        Args:
            rest: What the worker's outcome brought with it; None when there is no outcome.

        Raises:
            BaseException: What a callback raised that must not be swallowed (an interrupt).
        """
        with self._lock:
            if rest is not None and (rest.is_all or rest.said == self._taken):
                self._is_complete.set()
                if self._request is not None and self._loop is not None:
                    self._loop.call_soon_threadsafe(self._request.cancel)
            self._is_over.set()
        if not self._is_complete.is_set() and self.is_alive():
            with suppress(modal.exception.Error):  # then the connection is lost, which ends the waiting as well
                self._queue.put(END_OF_MESSAGES, partition=TO_CALLER)  # behind everything else
        self.join()
        if self._failure is not None:
            raise self._failure
        for message in rest.latest if rest is not None else ():
            self._take_message(message)  # which knows those that have come

    def run(self) -> None:
        self._is_over.wait(_SHORT_JOB_S)
        if self._is_complete.is_set():
            return
        self._loop = asyncio.new_event_loop()
        try:
            for message in self._messages():
                self._take(message)
        except (modal.exception.Error, ConnectionError):
            return  # the queue is lost, and with it the liveness; the worker keeps the rest for the outcome
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
            for piece in self._look():
                if piece == END_OF_MESSAGES:
                    return
                message = incoming.add(piece)
                if message is not None:
                    yield message

    def _look(self) -> Sequence[bytes]:
        try:
            return retry_transient(self._ask_for_pieces, give_up=self._is_over.is_set)
        except Empty:
            return [END_OF_MESSAGES] if self._is_over.is_set() else []

    def _ask_for_pieces(self) -> Sequence[bytes]:
        """Wait for something in the queue, with a request that `finish` can cancel."""
        assert self._loop is not None
        with self._lock:
            if self._is_complete.is_set():
                return [END_OF_MESSAGES]
            asking = self._queue.get_many.aio(100, block=True, timeout=WAIT_S, partition=TO_CALLER)
            self._request = self._loop.create_task(asking)
        try:
            return self._loop.run_until_complete(self._request)
        except asyncio.CancelledError:
            if self._is_complete.is_set():
                return [END_OF_MESSAGES]
            raise ConnectionError("the request was cancelled, and not from here") from None
        finally:
            with self._lock:
                self._request = None
