"""The caller's end of the channel beside a job: puts the messages of its workers in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from hypernodes.backend.base import Backend
from hypernodes.errors import SerializationError
from hypernodes.remote.messages import Rows, open_message, reply_to, wants_reply
from hypernodes.remote.observed_events import Attempt
from hypernodes.remote.receiver import Recall, Receiver


class Channel:
    """Takes the messages that the worker sends while a job runs.

    A backend whose transport can carry messages during a job gives every one of the worker to `handle`, and what that
    returns back to the worker. Messages that come twice or in another order do no harm, nor does a backend that gives
    the job to another worker when one is lost: callbacks observe no event again, and one end of all that began. A
    transport that carries nothing leaves the channel alone: everything then comes with the outcome.

    Args:
        job_id: The job; messages of others are not taken.
        receiver: Takes what is in the messages.
        recall: Returns what a reference of the worker's stands for.
        take_rows: Takes results of items that are sent before the outcome; None where none are.
        callable_backends: Other backends that nested pipelines in the job ask for.
        is_repeated: Whether some of the work was given to another worker before.
        node_names: Names of the nodes that may be called.
        shared: What the job needs of that which `RemoteBackend.share` made available: what that returned.

    Attributes:
        node_names: The same.
        shared: The same.
        callable_backends: Other backends that nested pipelines in the job ask for, by their number in it.
        is_cancelled: Whether nobody waits for the job any more.
        end_problem: What the backend raised when it was to end the job; None when it did not.
        has_lost_messages: Whether messages are known to have been lost.
    """

    def __init__(
        self,
        job_id: str,
        receiver: Receiver,
        recall: Recall,
        take_rows: Callable[[Rows], None] | None = None,
        callable_backends: Sequence[Backend] = (),
        is_repeated: bool = False,
        node_names: Sequence[str] = (),
        shared: Sequence[str] = (),
    ) -> None:
        self.node_names = node_names
        self.shared = shared
        self.callable_backends = callable_backends
        self._job_id = job_id
        self._receiver = receiver
        self._recall = recall
        self._take_rows = take_rows
        self._is_repeated = is_repeated
        self._workers: list[bytes] = []  # those that sent something, the current one last
        self._attempt = Attempt(is_repeated)
        self._next = 0  # number of the first message that has not been taken
        self._early: dict[int, memoryview] = {}
        self._is_over = False
        self._ending = threading.Lock()
        self._end: Callable[[], object] | None = None
        self.is_cancelled = False
        self.end_problem: BaseException | None = None
        self.has_lost_messages = False

    @property
    def has_listeners(self) -> bool:
        """Whether the worker has anything to send while the job runs: to a cache, a callback, or results of items."""
        return self._receiver.has_listeners or self._take_rows is not None

    @property
    def has_caches(self) -> bool:
        """Whether results of the job may be stored while it runs."""
        return self._receiver.has_caches

    def handle(self, message: bytes) -> bytes | None:
        """Take a message of the worker's.

        Args:
            message: What the worker gave to the transport.

        Returns:
            The reply, when the worker waits for one (`wants_reply`).
        """
        try:
            worker, number, content = open_message(message, self._job_id)
        except SerializationError as error:
            self._receiver.drop(str(error))
            return None
        with self._receiver.lock:
            if wants_reply(message):
                return reply_to(message, self._receiver.answer(self._receiver.read(content, self._recall)))
            if worker not in self._workers:
                self._begin(worker)
            is_current = worker == self._workers[-1]  # a lost worker's last words may come late
            if is_current and number >= self._next and not self._is_over:
                self._early[number] = content
                while self._next in self._early:
                    self._take_next()
            return None

    def _begin(self, worker: bytes) -> None:
        if self._workers:
            self._attempt = Attempt(is_repeated=True)
        self._workers.append(worker)
        self._next = 0
        self._early.clear()

    def _take_next(self) -> None:
        content = self._early.pop(self._next)
        self._next += 1
        self._take(content)

    def _take(self, content: memoryview, is_observed: bool = True) -> None:
        messages = self._receiver.read(content, self._recall)
        for message in messages:
            if isinstance(message, Rows) and self._take_rows is not None:
                self._take_rows(message)
        self._receiver.take(messages, self._recall, self._attempt, is_observed)

    def when_cancelled(self, end: Callable[[], object]) -> None:
        """Set how the job is ended before its time.

        A backend that can do so calls this when the job runs; otherwise a run that is cancelled waits for the job.

        Args:
            end: Makes `submit` return or raise soon; called at most once, from another thread.
        """
        with self._ending:
            self._end = end
            is_late = self.is_cancelled
        if is_late:
            self._call(end)

    def abandon(self) -> None:
        """Take nothing more of the job, and end it: others have done its work."""
        with self._receiver.lock:
            self._is_over = True
        self.cancel()

    def cancel(self) -> None:
        """End the job, if the backend can: nobody waits for it any more."""
        with self._ending:
            is_first = not self.is_cancelled
            self.is_cancelled = True
            end = self._end
        if is_first and end is not None:
            self._call(end)

    def _call(self, end: Callable[[], object]) -> None:
        try:
            end()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the run is cancelled all the same, and other runs with it are not held up
            self.end_problem = error

    def finish(self, messages: Sequence[bytes] = (), count: int | None = None) -> None:
        """Take what has come and nothing more.

        Args:
            messages: Those that came with the outcome.
            count: How many there are in all; None when there is no outcome that says so.
        """
        with self._receiver.lock:
            for message in messages:
                self.handle(message)
            lost = 0 if count is None else count - self._next - len(self._early)
            for number in sorted(self._early):  # what caused these events is lost: no callbacks for them
                self._take(self._early.pop(number), is_observed=False)
            self._is_over = True
            if lost > 0 and count is not None:
                self.has_lost_messages = True
                self._receiver.warn_of_lost(lost, count)
