"""Locks that are free in a forked process, although a thread of its parent held them when it was forked."""

from __future__ import annotations

import os
import weakref
from typing import Any, TypeVar

_Lock = TypeVar("_Lock", bound=Any)
_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def reset_after_fork(lock: _Lock) -> _Lock:
    """Return a lock of the standard library that a fork frees in the child process.

    Servers and task queues fork processes that have imported an application. The thread that held a lock does not exist
    in the child process, where the lock would stay locked for ever. What it protects must be usable at any moment.
    """
    _locks.add(lock)
    return lock


def _reset() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
