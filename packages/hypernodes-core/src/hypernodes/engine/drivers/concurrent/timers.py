"""Timers of the concurrent driver: time limits of calls, and delays before the next attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple

from hypernodes.engine.drivers.concurrent.activity import CallTask
from hypernodes.engine.timing import now


class Timer(NamedTuple):
    """A time limit or a delay.

    Attributes:
        due: When it expires, on the monotonic clock.
        number: Breaks ties between timers that are due at the same time.
        task: The call.
        is_limit: Whether it is the time limit of the call, rather than the delay before its next attempt.
    """

    due: float
    number: int
    task: CallTask
    is_limit: bool


class Timers:
    """Time limits and delays, ordered by due time."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._numbers = count()

    def __bool__(self) -> bool:
        return bool(self._heap)

    def limit(self, task: CallTask, started_at: float, limit_s: float) -> None:
        """Add a time limit for a call that has begun."""
        heappush(self._heap, Timer(started_at + limit_s, next(self._numbers), task, True))

    def delay(self, task: CallTask, delay_s: float) -> None:
        """Add the delay before the next attempt of a call."""
        heappush(self._heap, Timer(now() + delay_s, next(self._numbers), task, False))

    def remove(self, task: CallTask) -> None:
        """Remove the time limit of a call that is done; it would keep the call's values alive until it expires."""
        self._heap = [timer for timer in self._heap if timer.task is not task]
        heapify(self._heap)

    def end_delays(self, matches: Callable[[CallTask], bool]) -> None:
        """Let the delays of the calls that match expire at once."""
        self._heap = [
            timer._replace(due=0.0) if not timer.is_limit and matches(timer.task) else timer for timer in self._heap
        ]
        heapify(self._heap)

    def delayed(self) -> list[CallTask]:
        """Return the calls that wait for their next attempt."""
        return [timer.task for timer in self._heap if not timer.is_limit]

    def seconds_left(self) -> float | None:
        """Return the time until the next timer is due, in seconds; None when there is none."""
        return max(self._heap[0].due - now(), 0) if self._heap else None

    def due(self) -> Iterator[Timer]:
        """Remove and yield the timers that are due."""
        while self._heap and self._heap[0].due <= now():
            yield heappop(self._heap)
