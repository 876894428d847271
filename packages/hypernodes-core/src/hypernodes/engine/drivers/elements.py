"""The elements that a generator function yields, taken one by one by a mapped pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from itertools import islice
from time import perf_counter
from typing import Any

from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.step import check_read_once, prepare, with_resources
from hypernodes.engine.workers.calling_thread import CallingThread
from hypernodes.plan import CallStep


def open_generator(step: CallStep, values: list[Any]) -> Iterator[Any]:
    """Call the function of a node that yields its elements; return the iterator over them."""
    call = prepare(step, values)
    if step.resources:
        call = with_resources(call)
    return iter(step.node.func(*call.arguments, **call.by_keyword))


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
        self._elements: list[Any] = []
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
            if step.read_often and slot is not None:
                check_read_once(step, slot, self._elements)
            frame.complete(step, (self._elements,), self._duration_s + perf_counter() - started_at)
            raise
        except BaseException as error:
            self._is_over = True
            self._thread.failed_at = frame.fail(step, error)
            raise
        self._duration_s += perf_counter() - started_at
        self._elements.append(element)
        return element

    def close(self) -> None:
        """End a generator whose elements nobody wants any more."""
        if self._is_over:
            return
        self._is_over = True
        close = getattr(self._generator, "close", None)
        if close is not None:
            close()
        self._frame.report_error(self._step, CancelledError("the run ended before the call did"))
