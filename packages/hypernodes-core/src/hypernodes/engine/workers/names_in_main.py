"""What `__main__` of a worker process holds of the caller's, so that plain pickle, used inside a node, finds it.

Each part that arrives has its own copies of functions, while pickle takes only the very object that `__main__` holds.
Those of the program whose calls are being made come first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

SPAWNED_MAIN = "__mp_main__"  # the name of the main module in a process that multiprocessing spawned
_arriving: ContextVar[dict[str, Any] | None] = ContextVar("names_of_program", default=None)
_put_into_main: dict[str, Any] = {}
_in_use: Mapping[str, Any] = {}  # names of the program whose calls are being made


@contextmanager
def names_of_program() -> Iterator[Mapping[str, Any]]:
    """Let `__main__` hold what arrives with a program, which is used next; the names are for `use_names`, later."""
    global _in_use
    names: dict[str, Any] = {}
    _in_use = names
    token = _arriving.set(names)
    try:
        yield names
    finally:
        _arriving.reset(token)


def use_names(names: Mapping[str, Any]) -> None:
    """Let `__main__` hold what arrived with a program, whose calls are made now."""
    global _in_use
    if names is not _in_use:
        _in_use = names
        for name, made in names.items():
            _put(name, made)


def adopt_in_main(name: str, made: Any) -> None:
    """Let `__main__` hold what arrives, unless its own program or the program in use holds another of that name."""
    names = _arriving.get()
    if names is not None:
        names[name] = made
    if names is not None or name not in _in_use:
        _put(name, made)


def _put(name: str, made: Any) -> None:
    main = sys.modules["__main__"]
    current = getattr(main, name, None)
    if current is None or (name in _put_into_main and current is _put_into_main[name]):
        _put_into_main[name] = made
        setattr(main, name, made)
        if made.__module__ == SPAWNED_MAIN:
            sys.modules.setdefault(SPAWNED_MAIN, main)
