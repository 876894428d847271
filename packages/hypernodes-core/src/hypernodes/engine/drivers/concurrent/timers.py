"""What has to happen at a certain time: calls that have lasted too long, and calls that are to be made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple

from hypernodes.engine.drivers.concurrent.activity import CallTask
from hypernodes.engine.timing import now


class Timer(NamedTuple):
    """One of them.

    Attributes:
        due: When, on the monotonic clock.
        number: Tells apart those that are due at the same time.
        task: The call.
        is_limit: Whether its time is over then, rather than the delay before its next attempt.
    """

    due: float
    number: int
    task: CallTask
    is_limit: bool


class Timers:
    """Time limits and delays, the next one first."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._numbers = count()

    def __bool__(self) -> bool:
        return bool(self._heap)

    def limit(self, task: CallTask, started_at: float, limit_s: float) -> None:
        """Note that a call that has begun must be done in time."""
        heappush(self._heap, Timer(started_at + limit_s, next(self._numbers), task, True))

    def delay(self, task: CallTask, delay_s: float) -> None:
        """Note that a call is to be made again after some time."""
        heappush(self._heap, Timer(now() + delay_s, next(self._numbers), task, False))

    def forget(self, task: CallTask) -> None:
        """Remove the time limit of a call that is done; otherwise it would hold on to everything until it is over."""
        self._heap = [timer for timer in self._heap if timer.task is not task]
        heapify(self._heap)

    def end_delays(self, is_meant: Callable[[CallTask], bool]) -> None:
        """Let the delays of some calls be over at once."""
        self._heap = [
            timer._replace(due=0.0) if not timer.is_limit and is_meant(timer.task) else timer for timer in self._heap
        ]
        heapify(self._heap)

    def seconds_left(self) -> float | None:
        """Return how long it is until the next one is due; None when there is none."""
        return max(self._heap[0].due - now(), 0) if self._heap else None

    def due(self) -> Iterator[Timer]:
        """Take those that are due."""
        while self._heap and self._heap[0].due <= now():
            yield heappop(self._heap)
