"""RunRegistry inside of something that is under way, so that they end with it."""

from __future__ import annotations

import contextvars
import threading
from typing import Protocol


class Run(Protocol):
    """A run that can be ended from another thread."""

    def cancel(self) -> None:
        """End it as soon as possible; the thread that waits for it gets a `CancelledError`."""


class RunRegistry:
    """The runs that were started by the calls of another run, or by one nested pipeline of it."""

    def __init__(self) -> None:
        self._open: set[Run] = set()
        self._lock = threading.Lock()
        self._is_cancelled = False

    def add(self, run: Run) -> None:
        """Take note of a run that begins; it is cancelled at once if it comes too late."""
        with self._lock:
            self._open.add(run)
            is_late = self._is_cancelled
        if is_late:
            run.cancel()

    def remove(self, run: Run) -> None:
        """Take note of a run that has ended."""
        with self._lock:
            self._open.discard(run)

    def cancel(self) -> None:
        """End all of them, and those that begin from now on."""
        with self._lock:
            self._is_cancelled = True
            runs = list(self._open)
        for run in runs:
            run.cancel()


current_registry: contextvars.ContextVar[RunRegistry | None] = contextvars.ContextVar("runs", default=None)
"""Where a run that begins in this context has to register."""
