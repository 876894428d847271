"""Owns the worker processes of an engine, for one run or for several."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hypernodes.engine.scoped import scoped
from hypernodes.locks import reset_after_fork

if TYPE_CHECKING:
    from hypernodes.engine.workers.process_pool import ProcessPool

_of_parents: list[ProcessPool] = []
"""Pools of the process that this one was forked from; no thread drives their processes here, and they are not ours."""


class PoolOwner:
    """Gives runs the worker processes that they need: each its own, or while it is entered, all of them the same.

    Those of a run of its own stay for a while, for the next one; see `idle_workers`.

    Args:
        keep_s: How long they stay, in seconds.
    """

    def __init__(self, keep_s: float) -> None:
        self.keep_s = keep_s
        self._lock = reset_after_fork(threading.Lock())
        self._times_entered = 0
        self._kept: ProcessPool | None = None
        self._process_id = os.getpid()

    def enter(self) -> None:
        """Keep worker processes for further runs, until `leave` has been called as often."""
        with self._lock:
            self._times_entered += 1

    def leave(self) -> None:
        """Undo `enter`."""
        with self._lock:
            self._times_entered -= 1
            is_last = self._times_entered == 0
        if is_last:
            self._close_kept()

    def close(self) -> None:
        """Keep processes no more, also idle ones. They end now, or with the runs of other threads that use them."""
        self._close_kept()
        from hypernodes.engine.workers.idle_workers import idle_pools

        idle_pools.close()

    def _close_kept(self) -> None:
        with self._lock:
            self._leave_pool_of_parent()
            pool, self._kept = self._kept, None
            is_used = pool is not None and pool.users > 0
        if pool is not None and not is_used:
            pool.close()

    @scoped
    def lease(self, size: int) -> Iterator[ProcessPool]:
        """Provide worker processes for a run.

        Args:
            size: The largest number of processes.
        """
        from hypernodes.engine.workers.process_pool import give_pool, take_pool

        with self._lock:
            self._leave_pool_of_parent()
            pool = self._kept
            if pool is None:
                pool = take_pool(size)
                pool.kill_at_exit(self)
                if self._times_entered:
                    self._kept = pool
                    pool.is_of_block = True
            pool.users += 1
        try:
            yield pool
        finally:
            with self._lock:
                pool.users -= 1
                is_unused, is_kept = not pool.users, pool is self._kept
            if is_unused and is_kept:
                pool.refresh()
            elif is_unused:
                give_pool(pool, 0 if pool.is_of_block else self.keep_s)

    def _leave_pool_of_parent(self) -> None:
        if self._process_id != os.getpid():
            self._process_id = os.getpid()
            if self._kept is not None:
                _of_parents.append(self._kept)
                self._kept = None
