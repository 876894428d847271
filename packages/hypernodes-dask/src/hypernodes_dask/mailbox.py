"""The caller's end of the lines to its jobs: one queue of the scheduler's, read by one thread."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Queue

from hypernodes.extension import Channel, start_thread, wants_reply
from hypernodes_dask.worker import Line

_END = ("", b"")  # put into the queue by `close`
_LOOK_S = 1.0  # between looks whether the connection is still there


class OpenLine:
    """The line of one job.

    Args:
        line: How the job reaches it.
        client: The connection to the scheduler.

    Attributes:
        line: The same.
        arrived: The messages that arrived and were not taken; None after the end of the job.
    """

    def __init__(self, line: Line, client: Any) -> None:
        self.line = line
        self._client = client
        self._taken = 0
        self._replies: Queue | None = None
        self.arrived: SimpleQueue[bytes | None] = SimpleQueue()

    def take_messages(self, channel: Channel) -> None:
        """Give the messages of the job to its channel until it has ended; in the thread that waits for it.

        Callbacks may take as long as they like, or run pipelines, without holding up other jobs.
        """
        while (message := self.arrived.get()) is not None:
            self._take(channel, message)

    def take_last(self, channel: Channel, sent: int, mailbox: Mailbox) -> None:
        """Give the last messages of an ended job to its channel.

        Args:
            channel: The channel.
            sent: How many messages the job sent in all.
            mailbox: What they come from.
        """
        while self._taken < sent:
            try:
                message = self.arrived.get(timeout=_LOOK_S)
            except Empty:
                if mailbox.is_closed:
                    return
                continue
            if message is not None:
                self._take(channel, message)

    def _take(self, channel: Channel, message: bytes) -> None:
        self._taken += 1
        reply = channel.handle(message)
        if wants_reply(message):
            if self._replies is None:
                self._replies = Queue(self.line.replies, client=self._client)
            self._replies.put(reply)

    def close(self) -> None:
        """Release the queue of replies."""
        if self._replies is not None:
            with contextlib.suppress(Exception):  # the connection may be lost
                self._replies.close()


class Mailbox:
    """Sorts the messages of workers by job.

    Args:
        client: The connection to the scheduler.

    Attributes:
        is_closed: Whether nothing is read any more: it was closed, or the connection was lost.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._name = f"hypernodes-{secrets.token_hex(8)}"
        self._queue = Queue(self._name, client=client)
        self._lines: dict[str, OpenLine] = {}
        self.is_closed = False
        self._thread = threading.Thread(target=self._serve, name="hypernodes-dask-mailbox", daemon=True)
        start_thread(self._thread)

    @contextmanager
    def open_line(self) -> Iterator[OpenLine]:
        """Sort the messages of a job while it is executed."""
        opened = OpenLine(Line(self._name, secrets.token_hex(8)), self._client)
        self._lines[opened.line.job_id] = opened
        try:
            yield opened
        finally:
            del self._lines[opened.line.job_id]
            opened.close()

    def close(self) -> None:
        """Read nothing more."""
        self.is_closed = True
        with contextlib.suppress(Exception):  # the connection may be lost, which ends the thread as well
            self._queue.put(_END)
        self._thread.join()
        with contextlib.suppress(Exception):
            self._queue.close()

    def _serve(self) -> None:
        try:
            while not self.is_closed:
                for job_id, message in [self._queue.get(), *self._queue.get(batch=True)]:
                    opened = self._lines.get(job_id)
                    if opened is not None:  # else the job is over
                        opened.arrived.put(message)
        except Exception:  # the connection is lost: the errors of the jobs say so
            self.is_closed = True
