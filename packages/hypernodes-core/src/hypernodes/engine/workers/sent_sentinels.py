"""Sentinels (`UNSET = object()`) of code that is sent by value, which stay what they are on the other side.

Those of modules that the other side imports are found again by import (`signature.reduce_sentinel`). Others, e.g. of a
script or notebook, it makes anew: one object for each name, wherever the name or the value arrives. It sends them back
under that name. So it does with objects whose `__reduce__` returns the name of a global variable.
"""

from __future__ import annotations

import copyreg
import enum
from collections.abc import Callable
from types import FunctionType, MemberDescriptorType
from typing import Any

from hypernodes.engine.workers.code_owner import ArrivedSentinels, code_owner
from hypernodes.global_names import find_global
from hypernodes.signature.sentinels import SentinelName, attributes_of, may_be_sentinel, sentinel_name, slot_names

_PROTOCOL = 5
_HEAP_TYPE = 1 << 9  # of `type.__flags__`
_own: dict[tuple[str, str], Any] = {}  # sentinels of this process that were sent to others
_arrived_here = ArrivedSentinels()
_make: Any = copyreg._reconstructor  # type: ignore[attr-defined]  # pickle's own, for subclasses of built-in types  # noqa: SLF001


def is_main(module: str) -> bool:
    """Whether a name is that of the main module, which no other process imports."""
    return module in ("__main__", "__mp_main__")


def reduce_sent_sentinel(value: Any, is_sent: Callable[[str], bool] = is_main) -> Any:
    """Return how pickle finds a sentinel again; None for any other object.

    Of an object whose own `__reduce__` had to be asked whether it is one, what that returned is returned.

    Args:
        value: Any object.
        is_sent: Whether the module of this name is sent by value.
    """
    kind = type(value)
    if not may_be_sentinel(kind) and not _may_return_name(kind):
        return None
    owner = code_owner.get()
    key: Any = _arrived().name_of(value)
    if key is None:
        key = sentinel_name(value)
        if key is None and is_sent(kind.__module__) and not may_be_sentinel(kind):
            reduced = value.__reduce_ex__(_PROTOCOL)
            if not isinstance(reduced, str):
                return reduced
            key = _global_of(value, kind.__module__, reduced)
        if key is None or not is_sent(key.module):
            return None
        if owner is None:
            _own[tuple(key)] = value
    base = _built_in_base(kind)
    content = None if base is object else base(value)
    return find_sent_sentinel, (*key, kind, content), attributes_of(value, slot_names(kind)), None, None, fill_sentinel


def find_sent_sentinel(module: str, variable: str, kind: type, content: Any) -> Any:
    """Return the sentinel of this name, which is made when it arrives for the first time.

    Args:
        module: The module that has it.
        variable: Its name there.
        kind: Its class.
        content: What it is as an object of the built-in type that its class extends; None for `object`.
    """
    key = (module, variable)
    owner = code_owner.get()
    if owner is None and type(_own.get(key)) is kind:
        return _own[key]
    return _arrived().find(key, kind, lambda: _make(kind, _built_in_base(kind), content))


def fill_sentinel(sentinel: Any, attributes: dict[str, Any]) -> None:
    """Give a sentinel its attributes, e.g. its name, unless it is one that was sent from here."""
    if _arrived().name_of(sentinel) is None:
        return
    for name, value in attributes.items():
        member = getattr(type(sentinel), name, None)
        if type(member) is MemberDescriptorType:
            member.__set__(sentinel, value)
        else:
            sentinel.__dict__[name] = value


def _arrived() -> ArrivedSentinels:
    """Return what has arrived here, or, in a remote job, with that."""
    owner = code_owner.get()
    return _arrived_here if owner is None else owner.sentinels


def _may_return_name(kind: type) -> bool:
    """Whether the class says in Python how its objects are pickled, which may be as a global variable."""
    if issubclass(kind, (BaseException, enum.Enum)) or kind in copyreg.dispatch_table:
        return False
    if not kind.__flags__ & _HEAP_TYPE or not isinstance(kind.__module__, str):
        return False
    return FunctionType in (type(kind.__reduce__), type(kind.__reduce_ex__))


def _global_of(value: Any, module: str, name: str) -> SentinelName | None:
    return SentinelName(module, name) if find_global(module, name) is value else None


def _built_in_base(kind: type) -> Any:
    return next(base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE)
