"""The elements that a generator function yields, taken one by one by a mapped pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from itertools import islice
from time import perf_counter
from typing import Any

from hypernodes.engine.cancellation import unfinished_call
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.step import check_read_once, prepare, with_resources
from hypernodes.engine.workers.calling_thread import CallingThread
from hypernodes.errors import ExecutionError, add_note
from hypernodes.plan import CallStep


def open_generator(step: CallStep, values: list[Any]) -> Iterator[Any]:
    """Call the function of a node that yields its elements; return the iterator over them."""
    call = prepare(step, values)
    if step.resources:
        call = with_resources(call)
    return iter(step.node.func(*call.arguments, **call.by_keyword))


class YieldedList:
    """The elements of a step, for those who take the list when it is complete.

    A list that will be stored has them as they were yielded, whatever those do with them who take them one by one.

    Args:
        frame: The frame of the step.
        step: The step.
    """

    def __init__(self, frame: Frame, step: CallStep) -> None:
        self._step = step
        self._is_stored = frame.key_of(step) is not None
        self._elements: list[Any] = []

    def add(self, element: Any) -> None:
        """Add an element before anybody else has it."""
        self._elements.append(_kept(element) if self._is_stored else element)

    def complete(self) -> list[Any]:
        """Return the list.

        Raises:
            ExecutionError: An element that is too large to be copied was changed.
        """
        if not self._is_stored:
            return self._elements
        from hypernodes.cache.copies import KEPT, ChangedError

        try:
            return [kept.hand_out() if type(kept) in KEPT else kept for kept in self._elements]
        except ChangedError as error:
            raise ExecutionError(
                f"an element that node {self._step.node.name!r} yielded was changed by what took it before the list "
                "was complete, so the list cannot be stored: copy it before changing it, or give the node cache=False"
            ) from error


def _kept(element: Any) -> Any:
    from hypernodes.cache.copies import keep  # which takes long to import

    try:
        return keep(element, copies_always=False)
    except Exception:  # what cannot be read twice; the cache says so when it gets the list
        return element


def close_generator(generator: Any, error: CancelledError) -> None:
    """End a generator whose elements nobody wants any more; note in an error what it raises in its turn."""
    close = getattr(generator, "close", None)
    try:
        if close is not None:
            close()
    except Exception as raised:
        add_note(error, f"when it was closed, the generator raised {type(raised).__name__}: {raised}")


class YieldedElements:
    """An iterator over the elements of a step that has begun, in the calling thread; accounts for its end.

    Args:
        frame: The frame of the step.
        step: The step.
        thread: Knows whether the run was cancelled.
    """

    def __init__(self, frame: Frame, step: CallStep, thread: CallingThread) -> None:
        self._frame = frame
        self._step = step
        self._thread = thread
        self._list = YieldedList(frame, step)
        self._generator: Iterator[Any] | None = None
        self._duration_s = 0.0
        self._is_over = False
        self._ahead: list[Any] = []  # the first element, until it is taken

    def has_first(self) -> bool:
        """Whether there is any element; makes the first one.

        Raises:
            Exception: The error of the function.
        """
        self._ahead = list(islice(self, 1))
        return bool(self._ahead)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._ahead:
            return self._ahead.pop()
        if self._is_over:
            raise StopIteration
        self._thread.check()
        frame, step = self._frame, self._step
        started_at = perf_counter()
        try:
            if self._generator is None:
                self._generator = open_generator(step, frame.values)
            element = next(self._generator)
        except StopIteration:
            self._is_over = True
            slot = step.outputs[0]
            elements = self._list.complete()
            if step.read_often and slot is not None:
                check_read_once(step, slot, elements)
            frame.complete(step, (elements,), self._duration_s + perf_counter() - started_at)
            raise
        except BaseException as error:
            self._is_over = True
            self._thread.failed_at = frame.fail(step, error)
            raise
        self._duration_s += perf_counter() - started_at
        self._list.add(element)
        return element

    def close(self) -> None:
        """End a generator whose elements nobody wants any more."""
        if self._is_over:
            return
        self._is_over = True
        error = unfinished_call()
        close_generator(self._generator, error)
        self._frame.report_error(self._step, error)
