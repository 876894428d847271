"""Event loops for `async def` nodes: in the calling thread, in a helper thread, or the caller's own."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class Coroutines:
    """Runs the `async def` nodes of a run, all in one event loop, made when the first one is met.

    Args:
        loop: The running event loop of an `async` caller, to be used instead of one of our own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._runner: asyncio.Runner | None = None
        self._helper: _LoopThread | None = None
        self._awaited: Future[Any] | None = None
        self._is_cancelled = False

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of `coroutine`, running it in this thread unless a loop already runs here."""
        import asyncio  # not before it is needed: it is the slowest import of the standard library

        if self._loop is None and self._helper is None and asyncio._get_running_loop() is None:
            if self._runner is None:
                self._runner = asyncio.Runner()
            return self._runner.run(coroutine, context=contextvars.copy_context())
        self._awaited = self.submit(coroutine)
        if self._is_cancelled:  # in the moment before there was anything to cancel
            self._awaited.cancel()
        return self._awaited.result()

    def cancel(self) -> None:
        """Cancel what `wait_for` waits for in another thread, now or from now on."""
        self._is_cancelled = True
        if self._awaited is not None:
            self._awaited.cancel()

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Start `coroutine` in a loop of another thread, with the context variables of the caller."""
        if self._loop is None and self._helper is None:
            self._helper = _LoopThread()
        loop = self._loop or (self._helper.loop if self._helper else None)
        assert loop is not None
        return _start_in(loop, coroutine)

    def close(self) -> None:
        """End our own loop; cancels what still runs in it."""
        if self._runner is not None:
            self._runner.close()
        if self._helper is not None:
            self._helper.close()
        self._runner = self._helper = None


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        import asyncio

        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="hypernodes-event-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        import asyncio

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

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


class _TaskOutcome(Future[Any]):
    """The outcome of a task in an event loop of another thread; cancelling it cancels the task, which may clean up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self.task: asyncio.Task[tuple[Any, BaseException | None]] | None = None
        self._is_cancelled = False

    def cancel(self) -> bool:
        if not self.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_task)
        return False  # not yet: it is over when the task has ended

    def _cancel_task(self) -> None:
        if self.task is not None and not self._is_cancelled:
            self._is_cancelled = True  # a second request would interrupt the cleaning up after the first
            self.task.cancel()


def _start_in(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
    """Like `asyncio.run_coroutine_threadsafe`, with the context variables of the calling thread."""
    outcome = _TaskOutcome(loop)
    context = contextvars.copy_context()

    async def guarded() -> tuple[Any, BaseException | None]:
        try:
            return await coroutine, None
        except (SystemExit, KeyboardInterrupt) as error:  # would end the loop, and the others in it
            return None, error

    def start() -> None:
        outcome.task = loop.create_task(guarded(), context=context)
        outcome.task.add_done_callback(hand_over)

    def hand_over(task: asyncio.Task[tuple[Any, BaseException | None]]) -> None:
        if task.cancelled():
            coroutine.close()  # in case it never began
            outcome.set_exception(CancelledError("the call was cancelled"))
            return
        error = task.exception()
        result, ended = (None, error) if error is not None else task.result()
        if ended is not None:
            outcome.set_exception(ended)
        else:
            outcome.set_result(result)

    loop.call_soon_threadsafe(start)
    return outcome
