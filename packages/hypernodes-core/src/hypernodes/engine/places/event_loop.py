"""An event loop in a thread of its own, whose timers do not wait for the next millisecond."""

from __future__ import annotations

import asyncio
import select
import selectors
import threading

_PRECISE_S = 0.1  # for longer waits a millisecond does not matter


class LoopThread:
    """An event loop in a thread of its own.

    Attributes:
        loop: The loop.
    """

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._thread = threading.Thread(target=self._serve, name="hypernodes-event-loop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the loop; cancels what still runs in it, and waits until it has cleaned up."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            pending = asyncio.all_tasks(loop)
            for task in pending:
                task.cancel()
            if pending:
                loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()  # as the caller's policy has it
    if type(loop) is asyncio.SelectorEventLoop and hasattr(selectors, "EpollSelector"):
        loop.close()
        return asyncio.SelectorEventLoop(_precise_selector())
    return loop


def _precise_selector() -> selectors.BaseSelector:
    class PreciseSelector(selectors.EpollSelector):
        """epoll counts in whole milliseconds, rounded up: a tenth of what many short waits take.

        That makes timers go off in bunches, too. Waiting for epoll itself with `select`, which counts in microseconds,
        costs one more system call.
        """

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            descriptor = self.fileno()
            if timeout is not None and 0 < timeout < _PRECISE_S and descriptor < 1024:  # what `select` can take
                select.select([descriptor], [], [], timeout)
                timeout = 0
            return super().select(timeout)

    return PreciseSelector()
