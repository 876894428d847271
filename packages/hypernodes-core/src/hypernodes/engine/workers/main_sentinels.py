"""Sentinels (`UNSET = object()`) of modules that the other side does not import, which stay what they are there.

Those of other modules are found again by import (`signature.reduce_sentinel`). A worker process does not import
`__main__`, a remote worker none of the user's own modules; it makes one object for each name, wherever the name or the
value arrives, and sends it back under that name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from hypernodes.signature.sentinels import sentinel_name

_own: dict[tuple[str, str], Any] = {}  # sentinels of this process that were sent to others
_arrived: dict[tuple[str, str], Any] = {}
_names: dict[int, tuple[tuple[str, str], Any]] = {}  # by the id of what arrived, which stays alive as long


def reduce_sentinel_of_main(value: Any) -> Any:
    """Return how pickle finds a sentinel of the main module again; None for any other object."""
    return reduce_sent_sentinel(value, ("__main__", "__mp_main__").__contains__)


def reduce_sent_sentinel(value: Any, is_sent: Callable[[str], bool]) -> Any:
    """Return how pickle finds a sentinel again that is of a module which is sent; None for any other object."""
    if id(value) in _names:
        key, _ = _names[id(value)]
    else:
        name = sentinel_name(value)
        if name is None or not is_sent(name.module):
            return None
        key = (name.module, name.variable)
        _own[key] = value
    return find_sent_sentinel, (*key, type(value), dict(getattr(value, "__dict__", ())))


def find_sent_sentinel(module: str, variable: str, kind: type, state: dict[str, str]) -> Any:
    """Return the sentinel of this name, which is made when it arrives for the first time."""
    key = (module, variable)
    here = {} if module in ("__main__", "__mp_main__") else getattr(sys.modules.get(module), "__dict__", {})
    for known in (_own.get(key), _arrived.get(key), here.get(variable)):
        if type(known) is kind:
            return known
    made: Any = object.__new__(kind)  # again, if its class is that of a notebook cell that was run again
    if state:
        made.__dict__.update(state)
    _arrived[key] = made
    _names[id(made)] = key, made
    return made
