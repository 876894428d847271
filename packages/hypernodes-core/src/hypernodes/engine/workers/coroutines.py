"""Runs `async def` nodes in an event loop: in the calling thread, in a helper thread, or the caller's own.

Where the calling thread only waits for results, the loop runs there meanwhile: a call then costs half of what it costs
to pass it to another thread and back.
"""

from __future__ import annotations

import contextvars
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import sleep
from typing import TYPE_CHECKING, Any, TypeAlias

from hypernodes.engine.awaitables import ToAwait
from hypernodes.engine.cancellation import RunRegistry, current_registry

if TYPE_CHECKING:
    import asyncio

    from hypernodes.engine.workers.event_loop import LoopHere, LoopThread

CHECK_INTERVAL_S = 0.2
"""Longest single wait, in seconds: Ctrl-C at the moment in which a thread goes to sleep, or that the system delivers to
another thread, is noticed only when the thread wakes up."""

# An event loop refers to its tasks weakly. While a run is ended nothing else refers to them, and one that waits for
# something of its own would be collected instead of being cancelled.
_unfinished: set[asyncio.Task[None]] = set()
_CLEANUP_S = 1.0  # for coroutines of a run that was ended at once

_ARRIVALS = 16  # after so many, the loop in another thread gets a chance to start them
_ARRIVALS_HERE = 4  # the same in this thread: tasks that start together end together, and then wait for each other

_Report: TypeAlias = Callable[["TaskOutcome"], object]


class Coroutines:
    """Runs the `async def` nodes of a run, all in one event loop, which is created for the first one.

    Args:
        loop: The running event loop of an `async` caller, to be used instead of one of our own.
        is_here: Whether the calling thread waits for each coroutine of the run, and so runs the loop.
        may_run_here: Whether the calling thread mostly waits for messages of an `Inbox`, so that the loop can run there
            meanwhile.
        registry: The runs that are started by coroutines; None to leave it to their context.

    Attributes:
        here: The loop in the calling thread; None when there is none, or none yet.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        is_here: bool = False,
        may_run_here: bool = False,
        registry: RunRegistry | None = None,
    ) -> None:
        self._registry = registry
        self._loop = loop
        self._is_here = is_here
        self._may_be_here = may_run_here
        self._unstarted = 0
        self.here: LoopHere | None = None
        self._runner: asyncio.Runner | None = None
        self._helper: LoopThread | None = None
        self._awaited: TaskOutcome | None = None
        self._task_here: asyncio.Task[Any] | None = None
        self._is_cancelled = False
        self._arriving: deque[TaskOutcome] = deque()
        self._is_loop_awake = False
        self._cleanup_s: float | None = None

    @property
    def is_interrupted_here(self) -> bool:
        """Whether an interrupt from the keyboard in a coroutine is one of the thread that waits for it."""
        return self.here is not None and not self.here.is_closing

    def wait_for(self, coroutine: ToAwait) -> Any:
        """Return the result of `coroutine`; runs it in this thread if the loop of the run is here."""
        import asyncio  # not before it is needed: it is the slowest import of the standard library

        if self._is_here and self._loop is None and self._helper is None and asyncio._get_running_loop() is None:
            if self._runner is None:
                self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # leaves the thread's own as it is
            try:
                return self._runner.run(self._cancellable(coroutine), context=contextvars.copy_context())
            except asyncio.CancelledError:
                if self._is_cancelled:
                    raise CancelledError("the call was cancelled") from None
                raise
            finally:
                self._task_here = None
        done = Inbox(self)
        self._awaited = self.submit(coroutine, done.put)
        if self._is_cancelled:  # the run was cancelled before there was a task to cancel
            self._awaited.cancel()
        outcome: TaskOutcome | None = None
        while outcome is None:
            with suppress(Empty):
                outcome = done.get(CHECK_INTERVAL_S)
        return outcome.result()

    async def _cancellable(self, coroutine: ToAwait) -> Any:
        import asyncio

        self._task_here = asyncio.current_task()
        if self._is_cancelled:
            coroutine.close()
            raise asyncio.CancelledError
        return await coroutine

    def cancel(self) -> None:
        """Cancel the coroutine that `wait_for` awaits, and all later ones; from any thread."""
        self._is_cancelled = True
        if self._awaited is not None:
            self._awaited.cancel()
        task = self._task_here
        if task is not None:
            with suppress(RuntimeError):  # it has ended, and its loop as well
                task.get_loop().call_soon_threadsafe(task.cancel)

    def submit(self, coroutine: ToAwait, report: _Report) -> TaskOutcome:
        """Start `coroutine`, with the context variables of the caller.

        Args:
            coroutine: The coroutine.
            report: Called in the thread of the loop when it has ended.
        """
        try:
            loop = self._loop or self._new_loop()
        except BaseException:
            coroutine.close()
            raise
        context = contextvars.copy_context()
        if self._registry is not None:
            context.run(current_registry.set, self._registry)
        if self.here is not None:
            outcome = TaskOutcome(loop, coroutine, context, report, here=self.here)
            outcome.start()
            self._unstarted += 1
            if self._unstarted >= _ARRIVALS_HERE:
                self._unstarted = 0
                self.here.turn()
            return outcome
        is_eager = self._helper is not None  # the caller's loop may have its own task factory
        outcome = TaskOutcome(loop, coroutine, context, report, is_eager)
        self._arriving.append(outcome)
        # Waking a loop takes a system call, so all coroutines that arrive before it has woken up share one.
        if not self._is_loop_awake:
            self._is_loop_awake = True
            loop.call_soon_threadsafe(self._start_arrivals)
        elif len(self._arriving) >= _ARRIVALS:
            sleep(0)  # else the loop, in another thread, starts all of them together, and they end together as well
        return outcome

    def kill(self) -> None:
        """Let `close` wait only a second for tasks in another thread; those that need longer go on there."""
        self._cleanup_s = _CLEANUP_S

    def close(self) -> None:
        """Close our own loop; cancels the tasks in it, and waits until they have cleaned up."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self.here is not None:
            here, self.here, self._loop = self.here, None, None  # first, so that `Inbox.put` does not wake it any more
            here.close()
        if self._helper is not None:
            self._helper.close(self._cleanup_s)
            self._helper = self._loop = None

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        from hypernodes.engine.workers.event_loop import LoopHere, LoopThread

        if self._may_be_here and asyncio._get_running_loop() is None:
            self.here = LoopHere()
            self._loop = self.here.loop
        else:
            self._helper = LoopThread()
            self._loop = self._helper.loop
        return self._loop

    def _start_arrivals(self) -> None:
        self._is_loop_awake = False  # first, so that coroutines that arrive from now on wake the loop again
        while self._arriving:
            self._arriving.popleft().start()


class Inbox:
    """Messages for the thread that runs a scheduler; coroutines go on while it waits for one.

    Args:
        coroutines: The coroutines of the run.
    """

    def __init__(self, coroutines: Coroutines) -> None:
        self._coroutines = coroutines
        self._queue: SimpleQueue[Any] = SimpleQueue()

    def put(self, message: Any) -> None:
        """Add a message, from any thread."""
        self._queue.put(message)
        here = self._coroutines.here
        if here is not None:
            here.wake()

    def get(self, timeout_s: float) -> Any:
        """Return the next message; wait for it.

        Raises:
            Empty: No message arrived in time.
        """
        here = self._coroutines.here
        return self._queue.get(timeout=timeout_s) if here is None else here.get(self._queue, timeout_s)

    def get_nowait(self) -> Any:
        """Return the next message, without waiting.

        Raises:
            Empty: There is no message.
        """
        return self._queue.get_nowait()

    def empty(self) -> bool:
        """Whether there is no message."""
        return self._queue.empty()


class TaskOutcome:
    """The outcome of a task in an event loop: the part of `concurrent.futures.Future` that is needed.

    Cancelling it cancels the task, which may clean up; it is over when the task has ended.

    Args:
        loop: The loop.
        coroutine: The coroutine of the task.
        context: Context variables for it.
        report: Called in the thread of the loop when it has ended.
        is_eager: Whether to run it up to its first wait as soon as it is started, where Python supports that.
        here: The loop, if it runs in the thread of the scheduler: then Ctrl-C may interrupt the task, and ends the loop
            like any other wait.
    """

    __slots__ = (
        "_context",
        "_coroutine",
        "_error",
        "_here",
        "_is_cancelled",
        "_is_done",
        "_is_eager",
        "_loop",
        "_report",
        "_result",
        "_task",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: ToAwait,
        context: contextvars.Context,
        report: _Report,
        is_eager: bool = False,
        here: LoopHere | None = None,
    ) -> None:
        self._is_eager = is_eager
        self._here = here
        self._loop = loop
        self._coroutine = coroutine
        self._context = context
        self._report = report
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._is_done = False
        self._error: BaseException | None = None
        self._result: Any = None

    def start(self) -> None:
        """Start the task; called in the thread of the loop."""
        if self._is_cancelled:
            self._coroutine.close()
            self._end(CancelledError("the call was cancelled"))
        elif sys.version_info >= (3, 12) and self._is_eager:
            import asyncio

            self._task = asyncio.Task(self._awaited(), loop=self._loop, context=self._context, eager_start=True)
        else:
            self._task = self._loop.create_task(self._awaited(), context=self._context)
            self._task.add_done_callback(self._end_unbegun)
        if self._task is not None and not self._is_done:
            _unfinished.add(self._task)

    def cancel(self) -> bool:
        """Request cancellation of the task; return False, because it has not ended yet."""
        if not self._is_done and not self._is_cancelled and not self._loop.is_closed():
            self._is_cancelled = True  # a second request would interrupt the cleanup after the first
            self._loop.call_soon_threadsafe(self._cancel_task)
        return False

    def exception(self) -> BaseException | None:
        """Return the error that it raised; None when there is none."""
        return self._error

    def result(self) -> Any:
        """Return its result.

        Raises:
            BaseException: The error that it raised.
        """
        if self._error is not None:
            raise self._error
        return self._result

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _awaited(self) -> None:
        import asyncio

        try:
            self._result = await self._coroutine
        except asyncio.CancelledError as error:
            is_own = not (self._is_cancelled or self._is_being_cancelled())
            self._end(error if is_own else CancelledError("the call was cancelled"))
        except BaseException as error:  # also errors that would end the loop, and the other tasks in it
            if isinstance(error, KeyboardInterrupt) and self._here is not None and not self._here.is_closing:
                self._error = error
                raise
            self._end(error)
        else:
            self._end(None)

    def _is_being_cancelled(self) -> bool:
        """Whether the task has been asked to end, e.g. because its loop is closed."""
        import asyncio

        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    def _end_unbegun(self, task: asyncio.Task[None]) -> None:
        if not self._is_done:
            if not task.cancelled():
                task.exception()  # an interrupt that the loop has raised already: asyncio would log it as well
            self._coroutine.close()
            self._end(CancelledError("the call was cancelled"))

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._is_done = True
        if self._task is not None:
            _unfinished.discard(self._task)
            self._task = None
        self._report(self)
