"""Awaits what ordinary functions return, in runs that need nothing else of a `CallingThread`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hypernodes.plan import CallStep

if TYPE_CHECKING:
    from hypernodes.engine.workers.calling_thread import CallingThread


class Waiter:
    """Stands for the `CallingThread` of a run that may not need one: it makes one for the first result to be awaited.

    Args:
        thread: That of the run, if it has one.

    Attributes:
        has_awaited: Whether an ordinary function returned something that had to be awaited.
    """

    def __init__(self, thread: CallingThread | Waiter | None) -> None:
        self._thread = thread
        self._own: CallingThread | None = None
        self.has_awaited = False

    @property
    def is_cancelled(self) -> bool:
        return self._thread is not None and self._thread.is_cancelled

    def checked(self, steps: Iterable[Any]) -> Iterable[Any]:
        return steps if self._thread is None else self._thread.checked(steps)

    def call(self, step: CallStep, values: Any) -> tuple[Any, ...]:
        assert self._thread is not None  # there are calls that need it
        return self._thread.call(step, values)

    def wait_for(self, coroutine: Any) -> Any:
        self.has_awaited = True
        if self._thread is not None:
            return self._thread.wait_for(coroutine)
        if self._own is None:
            from hypernodes.engine.workers.calling_thread import CallingThread

            self._own = CallingThread()
        return self._own.wait_for(coroutine)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()


def wait_alone(coroutine: Any) -> Any:
    """Return the value of a coroutine that came unexpectedly."""
    waiter = Waiter(None)
    try:
        return waiter.wait_for(coroutine)
    finally:
        waiter.close()
