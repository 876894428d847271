"""Objects that stand for something by being themselves (`UNSET = object()`): code asks `x is UNSET`.

A copy of one means nothing. So it is identified by its name, and where objects are pickled it is named and found again.
"""

from __future__ import annotations

import sys
import weakref
from types import ModuleType
from typing import Any, NamedTuple

from hypernodes.signature.origin import origin_of_module

_HEAP_TYPE = 1 << 9  # of `type.__flags__`
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__eq__")
_MOST_TEXTS = 4  # that a sentinel holds, e.g. its name and what it is for
_may_be: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


class SentinelName(NamedTuple):
    """Where a sentinel is found: a global variable of a module."""

    module: str
    variable: str


def sentinel_name(value: Any) -> SentinelName | None:
    """Return where a sentinel is found; None for an object that is none.

    A sentinel has no state, is compared by identity, and is a global variable of the module that its class is from (of
    a bare `object()`, of any module; one of the user's own comes first). It may hold its name: `X = Unset("X")`.
    """
    kind = type(value)
    if not may_be_sentinel(kind):
        return None
    state = getattr(value, "__dict__", None)
    if state:
        return _name_held(state, value, kind)
    for module in _modules(kind):
        for variable, held in module.__dict__.items():
            if held is value:
                return SentinelName(module.__name__, variable)
    return None


def may_be_sentinel(kind: type) -> bool:
    """Whether objects of a class may be sentinels."""
    may_be = _may_be.get(kind)
    if may_be is None:
        may_be = _may_be[kind] = kind is object or _has_sentinels(kind)
    return may_be


def _name_held(state: dict[str, Any], value: Any, kind: type) -> SentinelName | None:
    """Return the name of a sentinel that holds nothing but texts, its name among them."""
    if len(state) > _MOST_TEXTS or any(type(text) is not str for text in state.values()):
        return None
    namespace = getattr(sys.modules.get(kind.__module__), "__dict__", {})
    name = next((text for text in state.values() if namespace.get(text) is value), None)
    return None if name is None else SentinelName(kind.__module__, name)


def reduce_sentinel(value: Any) -> Any:
    """Return how pickle finds an object again that is a sentinel; None for any other."""
    name = sentinel_name(value)
    return None if name is None or name.module in ("__main__", "__mp_main__") else (find_sentinel, tuple(name))


def find_sentinel(module: str, name: str) -> Any:
    """Return the global variable of a module."""
    from importlib import import_module

    return getattr(import_module(module), name)


def _has_sentinels(kind: type) -> bool:
    """Whether objects of a class may be without state and are compared by identity."""
    if not kind.__flags__ & _HEAP_TYPE or not isinstance(kind.__module__, str):
        return False
    bases = kind.__mro__[:-1]
    if any(name in base.__dict__ for base in bases for name in _PICKLING):
        return False
    return all(not base.__dict__.get("__slots__") for base in bases) and kind.__basicsize__ <= 4 * tuple.__itemsize__


def _modules(kind: type) -> list[ModuleType]:
    if kind is not object:
        module = sys.modules.get(kind.__module__)
        return [module] if isinstance(module, ModuleType) else []
    modules = [
        module
        for name, module in sorted(sys.modules.items(), key=lambda item: (item[0].count("."), item[0]))
        if type(module) is ModuleType and module.__name__ == name
    ]
    return sorted(modules, key=lambda module: origin_of_module(module.__name__) != "")
