"""Cancels runs that were started inside another run."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Protocol

from hypernodes.locks import reset_after_fork

if TYPE_CHECKING:
    from concurrent.futures import CancelledError


def unfinished_call() -> CancelledError:
    """Return the error of a call whose result nobody waits for any more, since the run is over."""
    from concurrent.futures import CancelledError  # which takes long to import

    return CancelledError("the run ended before the call did")


class Run(Protocol):
    """A run that can be cancelled from another thread."""

    def cancel(self) -> None:
        """Cancel it; the thread that waits for it raises `CancelledError` as soon as possible."""


class RunRegistry:
    """The open runs that were started by the calls of another run, or by one of its nested pipelines."""

    def __init__(self) -> None:
        self._open: set[Run] = set()
        self._lock = reset_after_fork(threading.Lock())
        self._is_cancelled = False

    def add(self, run: Run) -> None:
        """Add a run that begins; it is cancelled at once if the registry has been cancelled."""
        with self._lock:
            self._open.add(run)
            is_too_late = self._is_cancelled
        if is_too_late:
            run.cancel()

    def remove(self, run: Run) -> None:
        """Remove a run that has ended."""
        with self._lock:
            self._open.discard(run)

    def cancel(self) -> None:
        """Cancel all open runs, and those that begin from now on."""
        with self._lock:
            self._is_cancelled = True
            runs = list(self._open)
        for run in runs:
            run.cancel()


current_registry: contextvars.ContextVar[RunRegistry | None] = contextvars.ContextVar("runs", default=None)
"""The registry for runs that begin in this context."""
