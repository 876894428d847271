"""Sentinels of a script or notebook (`UNSET = object()`), which stay what they are in worker processes.

Those of other modules are found again by import (`signature.reduce_sentinel`). A worker does not import `__main__`; it
makes one object for each name, wherever the name or the value arrives, and sends it back under that name.
"""

from __future__ import annotations

from typing import Any

from hypernodes.signature.sentinels import sentinel_name

_own: dict[tuple[str, str], Any] = {}  # sentinels of this process that were sent to others
_arrived: dict[tuple[str, str], Any] = {}
_names: dict[int, tuple[tuple[str, str], Any]] = {}  # by the id of what arrived, which stays alive as long


def reduce_sentinel_of_main(value: Any) -> Any:
    """Return how pickle finds a sentinel of the main module again; None for any other object."""
    if id(value) in _names:
        key, _ = _names[id(value)]
    else:
        name = sentinel_name(value)
        if name is None or name.module not in ("__main__", "__mp_main__"):
            return None
        key = (name.module, name.variable)
        _own[key] = value
    return find_sentinel_of_main, (*key, type(value))


def find_sentinel_of_main(module: str, variable: str, kind: type) -> Any:
    """Return the sentinel of this name, which is made when it arrives for the first time."""
    key = (module, variable)
    for known in (_own, _arrived):
        if type(known.get(key)) is kind:
            return known[key]
    made: Any = object.__new__(kind)  # again, if its class is that of a notebook cell that was run again
    _arrived[key] = made
    _names[id(made)] = key, made
    return made
