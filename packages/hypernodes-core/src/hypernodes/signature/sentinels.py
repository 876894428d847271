"""Objects that stand for something by being themselves (`UNSET = object()`): code asks `x is UNSET`.

A copy of one means nothing. So it is identified by its name, and where objects are pickled it is named and found again.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import suppress
from types import MemberDescriptorType, ModuleType
from typing import Any, NamedTuple

from hypernodes.signature.origin import origin_of_module

_HEAP_TYPE = 1 << 9  # of `type.__flags__`
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__eq__")
_MOST_TEXTS = 4  # that a sentinel holds, e.g. its name and what it is for
_slots: weakref.WeakKeyDictionary[type, tuple[str, ...] | None] = weakref.WeakKeyDictionary()


class SentinelName(NamedTuple):
    """Where a sentinel is found: a global variable of a module."""

    module: str
    variable: str


def sentinel_name(value: Any) -> SentinelName | None:
    """Return where a sentinel is found; None for an object that is none.

    A sentinel has no state, is compared by identity, and is a global variable of the module that its class is from (of
    a bare `object()`, of any module; one of the user's own comes first). It may hold its name: `X = Unset("X")`, in an
    attribute or a slot.
    """
    kind = type(value)
    slots = _slots_of(kind)
    if slots is None:
        return None
    state = getattr(value, "__dict__", None)
    if slots:
        state = attributes_of(value, slots)
    if state:
        return _name_held(state, value, kind)
    for module in _modules(kind):
        for variable, held in module.__dict__.items():
            if held is value:
                return SentinelName(module.__name__, variable)
    return None


def may_be_sentinel(kind: type) -> bool:
    """Whether objects of a class may be sentinels."""
    return _slots_of(kind) is not None


def attributes_of(value: Any, slots: tuple[str, ...]) -> dict[str, Any]:
    """Return the attributes of an object by name, also those in slots that are set."""
    state = {**getattr(value, "__dict__", {})}
    for name in slots:
        with suppress(AttributeError):
            state[name] = object.__getattribute__(value, name)  # without a `__getattr__` that computes what is missing
    return state


def slot_names(kind: type) -> tuple[str, ...]:
    """Return the names of the slots of a class, under which its objects have them as attributes."""
    return tuple(
        name
        for base in kind.__mro__
        for name, member in base.__dict__.items()
        if type(member) is MemberDescriptorType and base.__flags__ & _HEAP_TYPE
    )


def _slots_of(kind: type) -> tuple[str, ...] | None:
    """Return the names of the slots of a class whose objects may be sentinels; None for any other."""
    try:
        return _slots[kind]
    except KeyError:
        slots = () if kind is object else slot_names(kind)
        found = _slots[kind] = slots if kind is object or _has_sentinels(kind, slots) else None
        return found


def _name_held(state: dict[str, Any], value: Any, kind: type) -> SentinelName | None:
    """Return the name of a sentinel that holds nothing but texts, its name among them."""
    if len(state) > _MOST_TEXTS or any(type(text) is not str for text in state.values()):
        return None
    namespace = getattr(sys.modules.get(kind.__module__), "__dict__", {})
    name = next((text for text in state.values() if namespace.get(text) is value), None)
    return None if name is None else SentinelName(kind.__module__, name)


def reduce_sentinel(value: Any, *, is_main_found: bool = False) -> Any:
    """Return how pickle finds an object again that is a sentinel; None for any other.

    Args:
        value: Any object.
        is_main_found: Whether what is in the main module is found again under its name.
    """
    name = sentinel_name(value)
    if name is None or name.module == "__mp_main__" or (name.module == "__main__" and not is_main_found):
        return None
    return find_sentinel, tuple(name)


def find_sentinel(module: str, name: str) -> Any:
    """Return the global variable of a module.

    Raises:
        AttributeError: There is none; or in `__main__`, which may be another program by now, it is no sentinel.
    """
    from importlib import import_module

    found = getattr(import_module(module), name)
    if module == "__main__" and sentinel_name(found) != (module, name):
        raise AttributeError(f"{name!r} of __main__ is no longer an object that stands for itself")
    return found


def _has_sentinels(kind: type, slots: tuple[str, ...]) -> bool:
    """Whether objects of a class may be without state, but for a few texts, and are compared by identity."""
    if not kind.__flags__ & _HEAP_TYPE or not isinstance(kind.__module__, str):
        return False
    bases = kind.__mro__[:-1]
    if any(name in base.__dict__ for base in bases for name in _PICKLING):
        return False
    return len(slots) <= _MOST_TEXTS and kind.__basicsize__ <= (4 + len(slots)) * tuple.__itemsize__


def _modules(kind: type) -> list[ModuleType]:
    if kind is not object:
        module = sys.modules.get(kind.__module__)
        return [module] if isinstance(module, ModuleType) else []
    modules = [
        module
        for name, module in sorted(sys.modules.items(), key=lambda item: (item[0].count("."), item[0]))
        if type(module) is ModuleType and module.__name__ == name
    ]
    # A module can be imported by another process, `__main__` cannot: it comes after the module that it imported from.
    return sorted(modules, key=lambda module: (origin_of_module(module.__name__) != "", module.__name__ == "__main__"))
