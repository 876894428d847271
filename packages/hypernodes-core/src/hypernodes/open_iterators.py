"""Closes iterators that are still open when the program ends.

At the end of a program Python stops all threads that do not keep it from ending, and closes generators only afterwards:
one that has to stop threads, event loops and processes would wait for what does not run any more.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Generator
from contextlib import suppress
from typing import Any

_open: weakref.WeakSet[Generator[Any, Any, Any]] = weakref.WeakSet()
_is_before_pools = False


def close_at_exit(iterator: Generator[Any, Any, Any]) -> None:
    """Close a generator when the program ends, unless it is over or released before."""
    _open.add(iterator)


def close_before_pools() -> None:
    """Close open iterators also before pools of processes wait for the calls that they have been given.

    Has to be called after such a pool was started: what is registered last is called first.
    """
    global _is_before_pools
    register = getattr(threading, "_register_atexit", None)  # as pools do themselves
    if register is not None and not _is_before_pools:
        _is_before_pools = True
        with suppress(RuntimeError):  # the program is ending already
            register(_close_unless_threads_go_on)


def _close_unless_threads_go_on() -> None:
    """Close all, unless there are threads that Python will wait for: they may still take results."""
    for thread in threading.enumerate():
        is_of_pool = type(thread).__name__ == "_ExecutorManagerThread"
        if not (thread.daemon or is_of_pool or thread is threading.main_thread()):
            return
    _close_all()


@atexit.register
def _close_all() -> None:
    for iterator in list(_open):
        with suppress(ValueError):  # a thread is executing it right now
            iterator.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)  # they belong to the parent process
