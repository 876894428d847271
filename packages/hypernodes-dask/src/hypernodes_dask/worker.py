"""What runs in a Dask worker: one job, with a line to the caller."""

from __future__ import annotations

from collections.abc import Mapping
from time import sleep
from typing import Any, NamedTuple

from distributed import Event, Queue, get_client, get_worker
from distributed.core import Status

from hypernodes.extension import execute, wants_reply

BEGUN_BEFORE = (b"", 0)
"""What is returned for a job that another worker had begun, and did not end."""

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05  # between looks whether there is a reply
_PATIENCE_S = 0.1  # a job that is over by then sends all with its outcome


class Line(NamedTuple):
    """How a job reaches its caller.

    Attributes:
        mailbox: Name of the queue that the caller reads; empty when it has nothing to hear.
        job_id: The job.
    """

    mailbox: str
    job_id: str

    @property
    def replies(self) -> str:
        """Name of the queue in which the caller replies."""
        return f"{self.mailbox}-{self.job_id}"

    @property
    def begun(self) -> str:
        """Name of the event that is set when a worker begins the job."""
        return f"hypernodes-begun-{self.job_id}"


def run_job(job: bytes, line: Line, shared: Mapping[str, bytes]) -> tuple[bytes, int]:
    """Execute a job; return its outcome, and how many messages were sent to the caller before.

    Args:
        job: The job.
        line: How it reaches the caller.
        shared: What it shares with others, by locator.
    """
    worker = get_worker()
    client = get_client()
    begun = Event(line.begun, client=client)
    if begun.is_set():
        return BEGUN_BEFORE  # a worker was lost: the caller gives out again what it has not done
    begun.set()
    key = worker.get_current_task()

    def should_stop() -> bool:
        """Whether the scheduler does not want the result any more; known in the worker, without asking."""
        if worker.status not in (Status.running, Status.paused, Status.closing_gracefully):
            return True
        state = worker.state.tasks.get(key)
        return state is None or state.state == "cancelled"

    exchange = _Exchange(client, line, should_stop) if line.mailbox else None
    try:
        outcome = execute(
            job,
            exchange,
            patience_s=_PATIENCE_S,
            fetch=shared.__getitem__,
            should_stop=should_stop,
        )
        return outcome, 0 if exchange is None else exchange.sent
    finally:
        if exchange is not None:
            exchange.close()


class _Exchange:
    """Sends messages to the caller over queues of the scheduler's.

    Args:
        client: The connection of this worker to the scheduler.
        line: The names of the queues.
        should_stop: Whether nobody waits for the job any more.

    Attributes:
        sent: How many messages were sent.
    """

    def __init__(self, client: Any, line: Line, should_stop: Any) -> None:
        self._line = line
        self._client = client
        self._should_stop = should_stop
        self._mailbox = Queue(line.mailbox, client=client)
        self._replies: Queue | None = None
        self.sent = 0

    def __call__(self, message: bytes) -> bytes | None:
        if self._should_stop():
            raise ConnectionError("nobody waits for this job any more")
        if wants_reply(message) and self._replies is None:
            self._replies = Queue(self._line.replies, client=self._client)
        self._mailbox.put((self._line.job_id, message))
        self.sent += 1
        if not wants_reply(message):
            return None
        assert self._replies is not None
        pause_s = _SHORTEST_PAUSE_S
        while not (replies := self._replies.get(batch=True)):  # a wait with a time limit is logged as an error there
            if self._should_stop():
                raise ConnectionError("nobody waits for this job any more")
            sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        reply: bytes = replies[-1]
        return reply

    def close(self) -> None:
        self._mailbox.close()
        if self._replies is not None:
            self._replies.close()
