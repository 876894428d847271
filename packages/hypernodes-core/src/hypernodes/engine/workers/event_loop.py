"""Event loops with precise timers, in a thread of their own or in the calling thread."""

from __future__ import annotations

import asyncio
import select
import selectors
import threading
from queue import SimpleQueue
from typing import Any

from hypernodes.engine.workers.threads import start_thread
from hypernodes.errors import ExecutionError

_PRECISE_S = 0.1  # for longer waits a millisecond does not matter


class LoopThread:
    """An event loop in a thread of its own.

    Attributes:
        loop: The loop.
    """

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._thread = threading.Thread(target=self._serve, name="hypernodes-event-loop", daemon=True)
        try:
            start_thread(self._thread)
        except ExecutionError:
            self.loop.close()
            raise

    def close(self, limit_s: float | None = None) -> None:
        """Close the loop; cancels the tasks in it, and waits until they have cleaned up.

        Args:
            limit_s: How long to wait for them, in seconds; None for as long as it takes.
        """
        self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:  # an iterator that nobody refers to is closed anywhere
            self._thread.join(limit_s)

    def _serve(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            _end(loop)
            asyncio.set_event_loop(None)


class LoopHere:
    """An event loop in the calling thread, which runs while that thread waits for a queue.

    Attributes:
        loop: The loop.
        is_closing: Whether its tasks are only to clean up.
    """

    def __init__(self) -> None:
        self.loop = _new_loop()
        self.is_closing = False
        self._thread = threading.get_ident()
        self._is_waiting = False

    def get(self, queue: SimpleQueue[Any], timeout_s: float) -> Any:
        """Return the next entry of a queue; runs the loop until `wake` is called.

        Raises:
            Empty: No entry arrived in time.
        """
        self._is_waiting = True  # before the check, so that a `put` after it wakes the loop
        try:
            if queue.empty():
                limit = self.loop.call_later(timeout_s, self.loop.stop)
                try:
                    self.loop.run_forever()
                finally:
                    limit.cancel()
            else:
                self.turn()  # so that coroutines progress even if the queue never runs empty
            return queue.get_nowait()
        finally:
            self._is_waiting = False

    def turn(self) -> None:
        """Run everything in the loop that is ready."""
        self.loop.stop()
        self.loop.run_forever()

    def wake(self) -> None:
        """Signal, from any thread, that the queue has an entry."""
        if threading.get_ident() == self._thread:
            self.loop.stop()
        elif self._is_waiting:
            self.loop.call_soon_threadsafe(self.loop.stop)

    def close(self) -> None:
        """Close the loop; cancels the tasks in it, and waits until they have cleaned up."""
        self.is_closing = True
        self.turn()  # a pending wake-up call must not stop the loop below
        _end(self.loop)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    try:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()  # follows the caller's event loop policy
    if type(loop) is asyncio.SelectorEventLoop and hasattr(selectors, "EpollSelector"):
        loop.close()
        return asyncio.SelectorEventLoop(_precise_selector())
    return loop


def _precise_selector() -> selectors.BaseSelector:
    class PreciseSelector(selectors.EpollSelector):
        """epoll counts in whole milliseconds, rounded up, which adds about a tenth to many short waits.

        It also makes timers expire in bunches. Waiting for epoll itself with `select`, which counts in microseconds,
        costs one more system call.
        """

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            descriptor = self.fileno()
            if timeout is not None and 0 < timeout < _PRECISE_S and descriptor < 1024:  # the limit of `select`
                select.select([descriptor], [], [], timeout)
                timeout = 0
            return super().select(timeout)

    return PreciseSelector()
