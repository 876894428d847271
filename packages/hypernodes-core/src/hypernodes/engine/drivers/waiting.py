"""Awaits what ordinary functions return, in runs that need nothing else of a `CallingThread`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypernodes.engine.workers.calling_thread import CallingThread


class Waiter:
    """Awaits in an event loop of its own, which it makes for the first coroutine."""

    def __init__(self) -> None:
        self._thread: CallingThread | None = None

    def wait_for(self, coroutine: Any) -> Any:
        """Return the value of a coroutine."""
        if self._thread is None:
            from hypernodes.engine.workers.calling_thread import CallingThread

            self._thread = CallingThread()
        return self._thread.wait_for(coroutine)

    def close(self) -> None:
        """Release the event loop."""
        if self._thread is not None:
            self._thread.close()
