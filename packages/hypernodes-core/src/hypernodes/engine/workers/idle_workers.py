"""Worker processes that stay after a run, so that the next one starts at once."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from hypernodes.engine.timing import now
from hypernodes.engine.workers.threads import start_thread
from hypernodes.errors import ExecutionError
from hypernodes.locks import reset_after_fork

T = TypeVar("T")
_WATCH_S = 60.0  # so that not every run starts a thread


class _Idle(NamedTuple, Generic[T]):
    key: Hashable
    workers: T
    until: float


class IdleWorkers(Generic[T]):
    """Keeps worker processes that no run needs, each for a limited time, and ends them at the end of the program.

    Args:
        end: Ends some.
        most: How many are kept; those that were needed last.
    """

    def __init__(self, end: Callable[[T], None], most: int) -> None:
        self._end = end
        self._most = most
        self._changed = reset_after_fork(threading.Condition())
        self._idle: list[_Idle[T]] = []
        self._is_watched = False  # by a thread that ends those whose time is over
        self._watch_until = 0.0  # how long that thread stays if there are none
        self._of_parents: list[_Idle[T]] = []  # of the process that this one was forked from; nothing of them is ours
        self._process_id = os.getpid()
        atexit.register(self.close)

    def take(self, key: Hashable) -> T | None:
        """Return workers that were given with a key; None when there are none."""
        with self._changed:
            self._leave_those_of_parent()
            for idle in reversed(self._idle):
                if idle.key == key:
                    self._idle.remove(idle)
                    return idle.workers
        return None

    def give(self, key: Hashable, workers: T, keep_s: float) -> None:
        """Keep workers.

        Args:
            key: What they can be used for.
            workers: The workers.
            keep_s: How long, in seconds.
        """
        if keep_s <= 0:
            self._end(workers)
            return
        with self._changed:
            self._leave_those_of_parent()
            self._idle.append(_Idle(key, workers, now() + keep_s))
            self._watch_until = now() + _WATCH_S
            self._changed.notify()
            surplus = self._idle[: -self._most]
            del self._idle[: -self._most]
            is_watched, self._is_watched = self._is_watched, True
        for idle in surplus:
            self._end(idle.workers)
        if not is_watched:
            self._start_watch()

    def close(self) -> None:
        """End all workers that are kept."""
        with self._changed:
            self._leave_those_of_parent()
            idle, self._idle = self._idle, []
            self._watch_until = 0.0
            self._changed.notify()
        for each in idle:
            self._end(each.workers)

    def _leave_those_of_parent(self) -> None:
        if self._process_id != os.getpid():
            self._process_id = os.getpid()
            self._of_parents += self._idle
            self._idle = []
            self._is_watched = False

    def _start_watch(self) -> None:
        thread = threading.Thread(target=self._watch, name="hypernodes-idle-workers", daemon=True)
        try:
            start_thread(thread)
        except ExecutionError:  # nobody could end them later
            self._is_watched = False
            self.close()

    def _watch(self) -> None:
        """End what nobody has needed for long enough; in a thread of its own."""
        while (over := self._wait_until_over()) is not None:
            for idle in over:
                self._end(idle.workers)

    def _wait_until_over(self) -> list[_Idle[T]] | None:
        """Return what is to end now; None when there has been nothing for a while."""
        with self._changed:
            while True:
                over = [idle for idle in self._idle if idle.until <= now()]
                if over:
                    self._idle = [idle for idle in self._idle if idle not in over]
                    return over
                left_s = min((idle.until for idle in self._idle), default=self._watch_until) - now()
                if left_s <= 0:
                    self._is_watched = False
                    return None
                self._changed.wait(left_s)


def surroundings() -> tuple[Hashable, ...]:
    """Return what a new process takes over from this one: folder, environment variables, arguments, paths, outputs."""
    files = tuple([_identity(os.fstat, descriptor) for descriptor in (1, 2)])
    return (*_folder(), _environment(), tuple(sys.argv), tuple(sys.path), files)


def _folder() -> tuple[Hashable, ...]:
    try:
        return os.getcwd(), _identity(os.stat, ".")
    except OSError:  # it was removed
        return (None,)


def _identity(look: Callable[[Any], os.stat_result], file: Any) -> tuple[int, int] | None:
    try:
        found = look(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _environment() -> Hashable:
    while True:
        try:
            return tuple(os.environ.items())
        except (KeyError, RuntimeError):  # another thread changed it meanwhile
            continue


idle_pools: IdleWorkers[Any] = IdleWorkers(lambda pool: pool.close(), most=1)
"""The processes of the last run in this process that made calls in parallel; see `process_pool`."""
