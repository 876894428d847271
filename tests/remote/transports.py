"""Remote places without a process: what travels can be counted, and the way can be bad, as a seed says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from random import Random

from hypernodes import RemoteBackend, WorkerLostError
from hypernodes.remote.channel import Channel
from hypernodes.remote.messages import Entries, open_message, wants_reply
from hypernodes.remote.packing import unpack
from hypernodes.remote.worker import execute


class InProcess(RemoteBackend):
    """Executes jobs here; what would travel does travel, as bytes.

    Attributes:
        jobs: Every job that was submitted.
        notes: Number of messages that nobody waited for.
        questions: Number of questions.
    """

    backend_name = "in process"
    patience_s = 0.0

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.jobs: list[bytes] = []
        self.notes = 0
        self.questions = 0

    def submit(self, job: bytes, channel: Channel) -> bytes:
        self.jobs.append(job)

        def exchange(message: bytes) -> bytes | None:
            if wants_reply(message):
                self.questions += 1
            else:
                self.notes += 1
            return channel.handle(message)

        return execute(job, exchange, patience_s=self.patience_s, fetch=self.fetch)

    def fetch(self, locator: str) -> bytes:
        """Return what several jobs have in common."""
        raise KeyError(locator)

    def clear(self) -> None:
        self.jobs.clear()
        self.notes = self.questions = 0


class Patient(InProcess):
    """Says nothing for a minute unless it has to ask."""

    patience_s = 60.0


class SeveralAtOnce(InProcess):
    """Executes several jobs at a time, each in a thread.

    Attributes:
        shared: What the jobs share, by key.
    """

    backend_name = "several"

    def __init__(self, jobs_at_once: int = 3, **settings: object) -> None:
        super().__init__(**settings)
        self.jobs_at_once = jobs_at_once
        self.shared: dict[str, bytes] = {}

    def share(self, key: str, data: bytes) -> str:
        self.shared[key] = data
        return key

    def fetch(self, locator: str) -> bytes:
        return self.shared[locator]


class Silent(RemoteBackend):
    """A place that says nothing before the outcome."""

    backend_name = "silent"

    def submit(self, job: bytes, channel: Channel) -> bytes:
        return execute(job)


class Unreliable(RemoteBackend):
    """A place at the end of a bad line.

    Messages arrive late, twice, or in another order. At some point the line may break, perhaps after it carried one
    more message; or the worker is lost, with all that is under way.

    Args:
        seed: Says what happens.

    Attributes:
        was_broken: Whether the line broke.
        was_killed: Whether the worker was lost.
        arrived: The results that arrived over the line, by key and the number of their cache.
    """

    backend_name = "unreliable"

    def __init__(self, seed: int, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._random = Random(seed)
        self.was_broken = self.was_killed = False
        self.arrived: set[tuple[int, str]] = set()

    def submit(self, job: bytes, channel: Channel) -> bytes:
        line = _Line(self._random, channel.handle, self.arrived)
        outcome: list[bytes] = []
        worker = threading.Thread(target=lambda: outcome.append(execute(job, line.exchange)))
        worker.start()
        worker.join()
        self.was_broken |= line.is_broken
        if line.is_killed:
            self.was_killed = True
            raise WorkerLostError("the worker was lost", backend_name=self.backend_name, exit_code=None, log_tail="")
        line.deliver(everything=True)
        return outcome[0]


class UnreliableCluster(Unreliable):
    """Executes several jobs at a time, each at the end of a bad line of its own; some of its workers are lost.

    Args:
        seed: Says what happens.
        losses: How many workers may be lost.

    Attributes:
        lost: How many were.
    """

    backend_name = "unreliable cluster"
    jobs_at_once = 3

    def __init__(self, seed: int, losses: int, **settings: object) -> None:
        super().__init__(seed, **settings)
        self._losses = losses
        self._lock = threading.Lock()
        self.lost = 0

    def submit(self, job: bytes, channel: Channel) -> bytes:
        with self._lock:
            line = _Line(Random(self._random.random()), channel.handle, self.arrived)
        outcome = execute(job, line.exchange)
        if line.is_killed:
            with self._lock:
                self.lost += 1
                is_lost = self.lost <= self._losses
            if is_lost:
                raise WorkerLostError("it was lost", backend_name=self.backend_name, exit_code=None, log_tail="")
        self.was_broken |= line.is_broken or line.is_killed
        line.deliver(everything=True)
        return outcome


class Restarting(RemoteBackend):
    """A place that loses workers after some messages, and has the job done again until one is not lost.

    Args:
        losses: For each worker that is lost, how many of its messages arrive before.
    """

    backend_name = "restarting"

    def __init__(self, losses: Sequence[int], **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.losses = losses

    def submit(self, job: bytes, channel: Channel) -> bytes:
        for number, messages in enumerate(self.losses):
            left = iter(range(messages))

            def exchange(message: bytes, left: Iterator[int] = left) -> bytes | None:
                if next(left, None) is None:
                    raise ConnectionError("nobody is there any more")
                return channel.handle(message)

            execute(job, exchange, is_repeated=number > 0)  # its outcome is lost
        return execute(job, channel.handle, is_repeated=bool(self.losses))


def content_of(message: bytes) -> memoryview:
    """Return the content of a message of any job."""
    return open_message(message, message[1:17].hex()).content


class _Line:
    def __init__(self, random: Random, handle: Callable[[bytes], bytes | None], arrived: set[tuple[int, str]]) -> None:
        self._random = random
        self._take = handle
        self._arrived = arrived
        self._under_way: list[bytes] = []
        self._until_break = random.choice([None, None, random.randrange(12)])
        self._until_kill = random.choice([None, None, random.randrange(12)])
        self.is_killed = self.is_broken = False

    def exchange(self, message: bytes) -> bytes | None:
        if self._is_due("_until_kill"):
            self.is_killed = True
        if self.is_killed:
            raise ConnectionError("nobody is there any more")
        if self._is_due("_until_break"):
            self.is_broken = True
            if self._random.random() < 0.5:  # it arrives, but the worker is told that it does not
                self._handle(message)
            raise ConnectionError("the line is broken")
        if wants_reply(message):
            self.deliver()
            replies = [self._handle(message) for _ in range(self._random.choice([1, 1, 2]))]
            return replies[-1]
        self._under_way += [message] * self._random.choice([1, 1, 1, 2])
        self._random.shuffle(self._under_way)
        self.deliver()
        return None

    def deliver(self, everything: bool = False) -> None:
        """Hand over some of what is under way."""
        count = len(self._under_way) if everything else self._random.randint(0, len(self._under_way))
        arrived, self._under_way = self._under_way[:count], self._under_way[count:]
        for message in arrived:
            self._handle(message)

    def _handle(self, message: bytes) -> bytes | None:
        if not wants_reply(message):
            content = unpack(content_of(message), lambda reference: reference)
            entries = [note for note in content if isinstance(note, Entries)]
            self._arrived.update((note.cache, key) for note in entries for key in note.values)
        return self._take(message)

    def _is_due(self, what: str) -> bool:
        left = getattr(self, what)
        if left is None:
            return False
        setattr(self, what, max(left - 1, 0))
        return bool(left == 0)
