"""Calls of generator functions whose elements a mapped pipeline takes while they are yielded, in the concurrent driver.

The generator has a thread of its own. It occupies a worker only while it makes elements: when enough of them wait, it
pauses until some have been taken.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from itertools import count
from time import perf_counter
from typing import Any

from hypernodes.engine.cancellation import current_registry, unfinished_call
from hypernodes.engine.drivers.concurrent.activity import Activity, CallTask, Host, PlanActivity
from hypernodes.engine.drivers.elements import YieldedList, close_generator, open_generator
from hypernodes.engine.step import Returned
from hypernodes.engine.workers.threads import DaemonThreads
from hypernodes.engine.workers.workers import Outcome
from hypernodes.plan import CallStep


class StreamedColumn:
    """The elements of a streamed call, as one mapped pipeline reads them.

    Args:
        call: The call.
    """

    def __init__(self, call: StreamedCall) -> None:
        self._call = call
        self._read = 0

    @property
    def number(self) -> int:
        """The number of the call."""
        return self._call.number

    @property
    def is_starved(self) -> bool:
        """Whether the next element has not been made yet."""
        return self._read >= len(self._call.elements) and not self._call.is_over

    @property
    def waiting(self) -> int:
        """Number of elements that have been made and not read."""
        return len(self._call.elements) - self._read

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._read >= len(self._call.elements):
            assert self._call.is_over, "read before it was there"
            raise StopIteration
        element = self._call.elements[self._read]
        self._read += 1
        self._call.on_read()
        return element


class StreamedCall(CallTask):
    """One call of a generator function.

    Args:
        calls: The `StreamedCalls` that it belongs to.
        activity: The plan in which it is a step.
        step: The step.
        key: Signature of the result, when there is one.
        number: Which streamed call of the run it is.

    Attributes:
        number: The same.
        elements: The elements so far.
        is_over: Whether there will be no more.
        columns: The elements as mapped pipelines read them, with the maps to be woken when there are more.
    """

    __slots__ = (
        "_calls",
        "_context",
        "_duration_s",
        "_generator",
        "_has_ended",
        "_is_ready",
        "_is_unread",
        "_list",
        "_threads",
        "columns",
        "elements",
        "is_over",
        "number",
    )

    def __init__(
        self, calls: StreamedCalls, activity: PlanActivity, step: CallStep, key: bytes | None, number: int
    ) -> None:
        super().__init__(activity, step, key)
        self._calls = calls
        self.number = number
        self._context = contextvars.copy_context()
        self._context.run(current_registry.set, calls.host.workers.registry)
        self._threads = DaemonThreads("hypernodes-stream", most=1)  # always the same: generators may depend on it
        self._generator: Iterator[Any] | None = None
        self._duration_s = 0.0
        self._has_ended = False
        self._is_ready = True
        self._is_unread = False  # no mapped pipeline can start before the list is complete, as it seems
        self._list = YieldedList(activity.frame, step)
        self.elements: list[Any] = []
        self.is_over = False
        self.columns: list[tuple[StreamedColumn, Activity]] = []

    def resume(self) -> None:
        """Make more elements."""
        host = self._calls.host
        self._is_ready = False
        host.wait_for(self, self._threads.submit(self._context.run, self._make_elements, host))

    def on_read(self) -> None:
        """Take note that an element was read: more may be made."""
        is_paused = self.future is None and not self.is_over and not self._is_ready
        if is_paused and self._waiting <= self._calls.most_waiting // 2:
            self._is_ready = True
            self._calls.ready.append(self)

    @property
    def _waiting(self) -> int:
        """Number of elements that some map has not read, and will; 0 if nothing but the list waits for them."""
        if not self.columns:
            return 0 if self._is_unread else len(self.elements)
        return max((column.waiting for column, activity in self.columns if not activity.is_stopped), default=0)

    def _make_elements(self, host: Host) -> None:
        """Make elements until enough of them wait; in the thread of the generator."""
        started_at = perf_counter()
        try:
            if self._generator is None:
                self._generator = open_generator(self.step, self.activity.frame.values)
            while self._waiting < self._calls.most_waiting and not (self.is_stopped or host.workers.is_cancelled):
                try:
                    element = next(self._generator)
                except StopIteration:
                    self._has_ended = True
                    return
                self._list.add(element)
                self.elements.append(element)
                host.post(self, None)
        finally:
            self._duration_s += perf_counter() - started_at

    def on_progress(self, host: Host) -> None:
        if not self.is_over:
            self._calls.start_consumers(self)
        for _, activity in self.columns:
            host.wake(activity)

    def settle(self, host: Host, outcome: Outcome) -> None:
        outcome.result()
        if self._has_ended:
            elements = self._list.complete()
            self._calls.discard(self)
            self.record(host, Returned((elements,), self._duration_s))
            self.is_over = True
        elif self.is_stopped:
            self._end_unfinished(host)
            return
        else:
            self._calls.start_consumers(self)
            self._is_unread = not self.columns
            self.on_read()  # elements may have been read meanwhile
        self.on_progress(host)

    def fail(self, host: Host, error: BaseException) -> None:
        self._close().result()  # its thread is free: the call ended, or was cancelled before it went on
        self._calls.discard(self)
        self.is_over = True
        super().fail(host, error)
        self.on_progress(host)

    def end_if_paused(self, host: Host) -> None:
        """End a call that nobody will resume, since its elements are not wanted any more."""
        if self.future is None and not self.is_over and self.is_stopped:
            self._end_unfinished(host)

    def release(self) -> None:
        """Release its thread, which closes the generator first if it has not ended."""
        if not self._has_ended:
            self._close()
        self._threads.shutdown(wait=False)

    def _end_unfinished(self, host: Host) -> None:
        self.is_over = True
        error = unfinished_call()
        self._close(error).result()
        self._calls.discard(self)
        self.end_stopped(host, error)

    def _close(self, error: CancelledError | None = None) -> Future[None]:
        """Close the generator in its own thread, as soon as it makes no elements."""

        def close() -> None:
            if self._has_ended:
                return
            self._has_ended = True
            close_generator(self._generator, error or CancelledError())

        return self._threads.submit(self._context.run, close)


class StreamedCalls:
    """The streamed calls of a run.

    Args:
        host: The loop.
        start_consumers: Starts the mapped pipelines that wait for nothing but the elements of a call, of which there
            are some.

    Attributes:
        host: The same.
        start_consumers: The same.
        ready: Those that are paused and can make more elements as soon as a worker is free.
        most_waiting: How many elements wait when a call pauses.
    """

    def __init__(self, host: Host, start_consumers: Callable[[StreamedCall], None]) -> None:
        self.host = host
        self.start_consumers = start_consumers
        self.ready: deque[StreamedCall] = deque()
        self.most_waiting = max(host.workers.open_items, 2)
        self._open: dict[StreamedCall, None] = {}
        self._numbers = count()

    @property
    def open_calls(self) -> Iterable[StreamedCall]:
        """Those that have begun and not ended."""
        return list(self._open)

    def start(self, activity: PlanActivity, step: CallStep, key: bytes | None) -> None:
        """Let a generator function make elements as soon as a worker is free."""
        call = StreamedCall(self, activity, step, key, next(self._numbers))
        self._open[call] = None
        self.ready.append(call)

    def discard(self, call: StreamedCall) -> None:
        """Forget a call that is over."""
        self._open.pop(call, None)
        if call in self.ready:
            self.ready.remove(call)
        call.release()

    def resume_next(self) -> None:
        """Let the next call that is ready make elements."""
        self.ready.popleft().resume()

    def drop_stopped(self) -> None:
        """End the calls that are paused and whose elements are not wanted any more."""
        for call in list(self._open):
            call.end_if_paused(self.host)

    def abandon(self) -> list[StreamedCall]:
        """Forget all calls, and return those that are paused; the others are among the tasks in flight."""
        paused = [call for call in self._open if call.future is None]
        for call in list(self._open):
            call.release()
        self._open.clear()
        self.ready.clear()
        return paused
