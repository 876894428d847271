"""How `MemoryCache` keeps a value so that what one reader does to it is not seen by the next.

A value that cannot change is shared. Of anything else every reader gets a copy of its own, made in the way that is
fastest for its type. What is large, or cannot be copied, is shared, and compared with what it was when it was put.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import sys
import uuid
from collections.abc import Callable
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from hypernodes.cache.base import CONSTANTS
from hypernodes.cache.pickled import Pickled, ReadOnceError, check_size, has_own_state
from hypernodes.cache.size import estimate_size_bytes

LARGE_BYTES = 64 << 20
"""Values larger than this are not copied unless that is asked for: two of them may not fit into the memory."""

_IMMUTABLE = CONSTANTS | {
    range,
    decimal.Decimal,
    uuid.UUID,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    ModuleType,
    type,
}
_FLAT: dict[type, Callable[[Any], Any]] = {list: list, dict: dict, set: set, bytearray: bytearray}


class ChangedError(Exception):
    """A value is not what it was when it was put."""


class Shared:
    """A value that is handed out itself, as long as it is what it was when it was put.

    Args:
        value: The value.
        digest: Its digest; None when it cannot be identified, and so cannot be checked.
    """

    __slots__ = ("_digest", "_value")

    def __init__(self, value: Any, digest: bytes | None) -> None:
        self._value = value
        self._digest = digest

    def hand_out(self) -> Any:
        """Return the value.

        Raises:
            ChangedError: It has been changed since it was put.
        """
        if self._digest is not None and _digest_of(self._value) != self._digest:
            raise ChangedError
        return self._value


class Copied:
    """A value of which everybody gets a copy.

    Args:
        kept: A copy of the value that nobody else has.
        copy: Makes another one.
    """

    __slots__ = ("_copy", "_kept")

    def __init__(self, kept: Any, copy: Callable[[Any], Any]) -> None:
        self._kept = kept
        self._copy = copy

    def hand_out(self) -> Any:
        """Return a copy."""
        return self._copy(self._kept)


KEPT = frozenset({Shared, Copied})


def keep(value: Any, copies_always: bool) -> Any:
    """Return a value as it is kept: itself if it cannot change, else one of `KEPT`.

    Args:
        value: The value.
        copies_always: Whether it is copied whatever its size.

    Raises:
        Exception: It is to be copied always, and cannot be; or it holds an iterator that the first reader would use up.
    """
    if is_immutable(value):
        return value
    kind = type(value)
    flat = _FLAT.get(kind)
    if flat is not None and _is_flat(kind, value):
        return Copied(flat(value), flat)
    try:
        return _copied(value, sys.maxsize if copies_always else LARGE_BYTES)
    except Exception as error:  # it is too large, or cannot be copied
        if copies_always:
            raise
        digest = _digest_of(value)
        if digest is None and isinstance(error, ReadOnceError):
            raise
        return Shared(value, digest)


def is_immutable(value: Any) -> bool:
    """Whether nothing can change a value, so that it may be shared."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return True
    if kind is FunctionType:
        return not has_own_state(value)
    if kind is BuiltinFunctionType:  # also a method of an object
        owner = value.__self__
        return isinstance(owner, (type(None), ModuleType, type)) or type(owner).__name__ == "PyCapsule"
    if kind is slice:
        return all(map(is_immutable, (value.start, value.stop, value.step)))
    if isinstance(value, (tuple, frozenset, PurePath)):
        if getattr(value, "__dict__", None):  # of an object of a subclass
            return False
        return isinstance(value, PurePath) or all(type(item) in CONSTANTS or is_immutable(item) for item in value)
    return isinstance(value, enum.Enum)


def _is_flat(kind: type, value: Any) -> bool:
    if kind is bytearray:
        return True
    if kind is dict:
        return CONSTANTS.issuperset(map(type, value.values())) and all(map(is_immutable, value))
    return CONSTANTS.issuperset(map(type, value))


def _copied(value: Any, limit_bytes: int) -> Copied:
    if _is_array(value):
        check_size(value.nbytes, limit_bytes)
        return Copied(value.__copy__(), lambda kept: kept.__copy__())
    if type(value).__module__.partition(".")[0] == "torch":  # pickling tensors is slow, and takes them off a GPU
        from copy import deepcopy

        check_size(estimate_size_bytes(value), limit_bytes)
        return Copied(deepcopy(value), deepcopy)
    return Copied(Pickled(value, limit_bytes), Pickled.load)


def _is_array(value: Any) -> bool:
    """Whether a value is an array of numpy's that holds no references to other objects."""
    kind = type(value)
    return kind.__name__ == "ndarray" and kind.__module__ == "numpy" and not value.dtype.hasobject


def _digest_of(value: Any) -> bytes | None:
    from hypernodes.signature import digest

    try:
        return digest(value)
    except Exception:  # also of the value's own code
        return None
