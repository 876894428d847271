"""Sentinels (`UNSET = object()`) of code that is sent by value, which stay what they are on the other side.

Those of modules that the other side imports are found again by import (`signature.reduce_sentinel`). Others, e.g. of a
script or notebook, it makes anew: one object for each name, wherever the name or the value arrives. It sends them back
under that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypernodes.engine.workers.code_owner import ArrivedSentinels, code_owner
from hypernodes.signature.sentinels import may_be_sentinel, sentinel_name

_own: dict[tuple[str, str], Any] = {}  # sentinels of this process that were sent to others
_arrived_here = ArrivedSentinels()


def is_main(module: str) -> bool:
    """Whether a name is that of the main module, which no other process imports."""
    return module in ("__main__", "__mp_main__")


def reduce_sent_sentinel(value: Any, is_sent: Callable[[str], bool] = is_main) -> Any:
    """Return how pickle finds a sentinel again; None for any other object.

    Args:
        value: Any object.
        is_sent: Whether the module of this name is sent by value.
    """
    kind = type(value)
    if may_be_sentinel(kind):
        owner = code_owner.get()
        arrived = _arrived_here if owner is None else owner.sentinels
        key: Any = arrived.name_of(value)
        if key is None:
            key = sentinel_name(value)
            if key is None or not is_sent(key.module):
                return None
            if owner is None:
                _own[tuple(key)] = value
        return find_sent_sentinel, (*key, kind, dict(getattr(value, "__dict__", ())))
    return None


def find_sent_sentinel(module: str, variable: str, kind: type, state: dict[str, str]) -> Any:
    """Return the sentinel of this name, which is made when it arrives for the first time; it may hold its name."""
    key = (module, variable)
    owner = code_owner.get()
    if owner is not None:
        return owner.sentinels.find(key, kind, state)
    return _own[key] if type(_own.get(key)) is kind else _arrived_here.find(key, kind, state)
