"""Closes SQLite connections before a fork, since a child process must not even close them; they are reopened on use."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class _Closable(Protocol):
    _lock: threading.RLock  # type: ignore[valid-type, unused-ignore]

    def _close_database(self) -> None: ...


_caches: weakref.WeakSet[_Closable] = weakref.WeakSet()
_held: list[_Closable] = []
_one_at_a_time = threading.Lock()


def close_before_fork(cache: _Closable) -> None:
    """Register a cache whose connection is closed whenever this process forks."""
    _caches.add(cache)


def _before() -> None:
    _one_at_a_time.acquire()
    for cache in list(_caches):
        cache._lock.acquire()  # noqa: SLF001
        _held.append(cache)
        cache._close_database()  # noqa: SLF001


def _after() -> None:
    while _held:
        _held.pop()._lock.release()  # noqa: SLF001
    _one_at_a_time.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
