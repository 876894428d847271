"""Divides the jobs that a backend takes at a time among the runs and maps that use it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypernodes.remote.channel import Channel

_ASK_S = 0.1  # after which one that waits looks whether it was cancelled, or more jobs can be executed


class JobShares:
    """Who uses a backend now: runs, which have one job each, and maps, which share what is left.

    Each has a share of at least one job. One that begins while others have all jobs waits until one of these ends;
    unless there are more runs and maps than jobs, since some of them may have been begun by jobs, which wait for them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_ended = threading.Condition(self._lock)
        self._jobs: set[Channel] = set()  # that are executed now
        self._runs = 0
        self._maps: list[object] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return JobShares, ()  # of another process

    @contextmanager
    def of_run(self) -> Iterator[None]:
        """Have one job while it is entered."""
        with self._lock:
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1

    @contextmanager
    def of_map(self) -> Iterator[Callable[[int], int]]:
        """Have a share while it is entered: the function returns how many of a number of jobs that is now."""
        token = object()

        def share(jobs: int) -> int:
            with self._lock:
                rest = max(jobs - self._runs, len(self._maps))
                each, remaining = divmod(rest, len(self._maps))
                return each + (self._maps.index(token) < remaining)

        with self._lock:
            self._maps.append(token)
        try:
            yield share
        finally:
            with self._lock:
                self._maps.remove(token)

    @contextmanager
    def of_job(self, channel: Channel, jobs_at_once: Callable[[], int]) -> Iterator[None]:
        """Be one of the jobs that are executed at a time; wait before if there are too many.

        Raises:
            CancelledError: The job was cancelled while it waited.
        """
        while not self._begin(channel, jobs_at_once()):
            if channel.is_cancelled:
                raise CancelledError("the run was cancelled")
        try:
            yield
        finally:
            with self._lock:
                self._jobs.discard(channel)
                self._has_ended.notify_all()

    def _begin(self, channel: Channel, jobs: int) -> bool:
        """Add a job if there is room for it, else wait for a moment; return whether it was added."""
        with self._lock:
            # Nobody waits for what was cancelled, which may take long to end.
            has_room = sum(not job.is_cancelled for job in self._jobs) < jobs
            if has_room or self._runs + len(self._maps) > jobs:
                self._jobs.add(channel)
                return True
            self._has_ended.wait(_ASK_S)
            return False
