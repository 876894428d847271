"""Streams the results of a map one by one while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from hypernodes.engine.drivers.concurrent.maps import MapActivity
from hypernodes.engine.drivers.concurrent.scheduler import Scheduler
from hypernodes.errors import ExecutionError

_FORKED = (
    "this process was forked while an iterator of `map_iter` was open, whose threads and processes are those of its "
    "parent; read it there, and call `map_iter` again here"
)


class ItemStream:
    """Receives the results of items from the scheduler and yields them to the caller.

    Args:
        scheduler: The loop that executes the items.
        is_ordered: Whether results are yielded in item order, rather than in the order of completion.
        limit: Number of results that may wait to be consumed; no further items are begun while so many wait.
    """

    def __init__(self, scheduler: Scheduler, is_ordered: bool, limit: int) -> None:
        self._scheduler = scheduler
        self._is_ordered = is_ordered
        self._limit = limit
        self._ready: deque[tuple[int, tuple[Any, ...]]] = deque()
        self._early: dict[int, tuple[Any, ...]] = {}
        self._next_index = 0

    @property
    def is_full(self) -> bool:
        """Whether the limit of waiting results is reached."""
        return len(self._ready) + len(self._early) >= self._limit

    def __call__(self, index: int, outputs: tuple[Any, ...]) -> None:
        """Receive the outputs of an item."""
        if not self._is_ordered:
            self._ready.append((index, outputs))
            return
        self._early[index] = outputs
        while self._next_index in self._early:
            self._ready.append((self._next_index, self._early.pop(self._next_index)))
            self._next_index += 1

    def results(self, activity: MapActivity) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Execute a map and yield the index and the outputs of each item."""
        scheduler = self._scheduler
        try:
            scheduler.is_paused = lambda: bool(self._ready)
            scheduler.open(activity)
            while activity.is_open or self._ready:
                if self._ready:
                    activity.request.run.flush_store()  # the caller may pause here for any length of time
                    scheduler.pause()
                while self._ready:
                    yield self._ready.popleft()
                    scheduler.wake(activity)
                if activity.is_open:
                    if scheduler.workers.belong_to_parent:
                        raise ExecutionError(_FORKED)
                    scheduler.turn(activity)
        except BaseException:  # the caller stopped iterating; or it was interrupted, and the loop has stopped already
            if activity.is_open and not scheduler.workers.belong_to_parent:
                scheduler.abort(activity)
            raise
        if activity.error is not None:
            raise activity.error[0]
