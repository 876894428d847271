"""Running `async def` nodes to completion from ordinary code, whether or not an event loop is running."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class CoroutineRunner:
    """One event loop for all `async def` nodes of a run, made when the first one is met.

    The loop runs in the calling thread. Where that thread already runs a loop (a notebook cell), coroutines run in the
    loop of a helper thread, with the context variables of the caller.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._helper: _LoopThread | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of `coroutine`."""
        import asyncio  # not before it is needed: it is the slowest import of the standard library

        if asyncio._get_running_loop() is None:
            if self._runner is None:
                self._runner = asyncio.Runner()
            return self._runner.run(coroutine, context=contextvars.copy_context())
        if self._helper is None:
            self._helper = _LoopThread()
        return self._helper.run(coroutine)

    def close(self) -> None:
        """End the loop; cancels what still runs in it."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._helper is not None:
            self._helper.close()
            self._helper = None


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        import asyncio

        self._runner = asyncio.Runner()
        self._is_ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._serve, name="hypernodes-event-loop", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def _serve(self) -> None:
        import asyncio

        async def wait_for_stop() -> None:
            self._stop = asyncio.Event()
            self._is_ready.set()
            await self._stop.wait()

        with self._runner:
            self._runner.run(wait_for_stop())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio
        from concurrent.futures import Future

        outcome: Future[Any] = Future()
        context = contextvars.copy_context()

        def start() -> None:
            task = asyncio.get_running_loop().create_task(coroutine, context=context)
            task.add_done_callback(lambda task: _hand_over(task, outcome))

        self._runner.get_loop().call_soon_threadsafe(start)
        return outcome.result()

    def close(self) -> None:
        assert self._stop is not None
        self._runner.get_loop().call_soon_threadsafe(self._stop.set)
        self._thread.join()


def _hand_over(task: Any, outcome: Any) -> None:
    if task.cancelled():
        import asyncio

        outcome.set_exception(asyncio.CancelledError("the event loop of the run was closed"))
    elif task.exception() is not None:
        outcome.set_exception(task.exception())
    else:
        outcome.set_result(task.result())
