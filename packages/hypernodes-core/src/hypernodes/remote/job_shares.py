"""Divides the jobs that a backend takes at a time among the runs and maps that use it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class JobShares:
    """Who uses a backend now: runs, which have one job each, and maps, which share what is left.

    Each has at least one job, so that none waits for another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
