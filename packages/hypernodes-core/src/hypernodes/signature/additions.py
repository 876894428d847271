"""What the user's code puts into installed modules and classes: replaced functions, accessors, registered methods."""

from __future__ import annotations

import functools
import operator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from hypernodes.signature.origin import origin_of_class, origin_of_function, origin_of_module

_HEAP_TYPE = 1 << 9  # of `type.__flags__`: nothing can be put into other classes
_LRU_CACHE: Any = type(functools.lru_cache(len))
# Of what installed classes and modules hold, what has no code: the user's code may have set it.
PLAIN_TYPES = frozenset({int, float, str, bool, bytes, type(None), list, tuple, dict, set, frozenset})
# Of classes whose objects clear the caches of functions that were sent, or arrived; see `kept_caches`.
_CLEARING = frozenset({f"hypernodes.engine.workers.{name}" for name in ("cache_identities", "kept_caches")})
_DECORATED = (staticmethod, classmethod, functools.partialmethod)

# By class: the values it held when it was looked at, and the user's own among them.
_seen: dict[type, tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]] = {}
_MOST_CLASSES = 4096


def additions_to(kind: type) -> tuple[tuple[str, Any], ...]:
    """Return the attributes of an installed class and its bases that are the user's own, by name."""
    found: tuple[tuple[str, Any], ...] = ()
    for base in kind.__mro__:
        if base.__flags__ & _HEAP_TYPE:
            found += _additions_to_one(base)
    return found


def _additions_to_one(kind: type) -> tuple[tuple[str, Any], ...]:
    values = tuple(kind.__dict__.values())
    known = _seen.get(kind)
    if known is not None and len(known[0]) == len(values) and all(map(operator.is_, known[0], values)):
        return known[1]
    if not origin_of_module(str(kind.__module__)):
        return ()  # the user's own class: it is identified with all that it holds
    found = tuple((name, value) for name, value in sorted(kind.__dict__.items()) if is_users_own(value))
    if len(_seen) >= _MOST_CLASSES:
        _seen.clear()
    _seen[kind] = values, found
    return found


def added_attributes(function: Any) -> list[tuple[str, Any]]:
    """Return what the user's code has set on a function of an installed library, or on what one made of a function."""
    return [
        (f".{name}", value)
        for name, value in attributes_of(function)
        if name != "__wrapped__" and (is_users_own(value) or type(value) in PLAIN_TYPES)
    ]


def attributes_of(function: Any) -> list[tuple[str, Any]]:
    """Return what was set on a function, by name, but for what the library itself sets on functions with caches."""
    return [
        (str(name), value)
        for name, value in sorted(function.__dict__.items(), key=lambda item: str(item[0]))
        if str(type(value).__module__) not in _CLEARING
    ]


def added_to_function(function: FunctionType) -> list[tuple[str, Any]]:
    """Return what the user's code has put into an installed function, also by `register` of a dispatcher."""
    registry = function.__dict__.get("registry", ())
    found = {
        f".registry[{kind.__module__}.{kind.__qualname__}]": (kind, registry[kind])
        for kind in registry
        if isinstance(kind, type) and is_users_own(registry[kind])
    }
    return [*sorted(found.items()), *added_attributes(function)]


def is_users_own(value: Any) -> bool:
    """Whether something found in an installed module or class was made by the user's code."""
    if isinstance(value, FunctionType):
        return not origin_of_function(value) and not _is_generated(value)
    if isinstance(value, type):
        return _says_users_own(value)
    if isinstance(value, ModuleType):
        return not origin_of_module(value.__name__)
    if isinstance(value, functools.partial):
        return is_users_own(value.func)
    if isinstance(value, MethodType):
        return is_users_own(value.__func__)
    if isinstance(value, _DECORATED):
        return is_users_own(getattr(value, "__func__", getattr(value, "func", None)))
    if isinstance(value, property):
        return any(is_users_own(part) for part in (value.fget, value.fset, value.fdel) if part is not None)
    if type(value) is _LRU_CACHE:
        return is_users_own(value.__wrapped__)
    if _says_users_own(type(value)):
        return True
    if not type(value).__flags__ & _HEAP_TYPE:
        return False
    try:
        attributes = object.__getattribute__(value, "__dict__")  # whatever the class makes of a look-up
    except AttributeError:
        return False
    return any(is_users_own(item) for item in attributes.values() if isinstance(item, (FunctionType, type)))


def _says_users_own(kind: type) -> bool:
    name: Any = kind.__module__
    return isinstance(name, str) and not origin_of_module(name) and not origin_of_class(kind)


def _is_generated(function: FunctionType) -> bool:
    """Whether a function was made from text by a library, which leaves no module name in its globals."""
    return not isinstance(function.__globals__.get("__name__"), str)
