"""How `MemoryCache` keeps a value so that what one reader does to it is not seen by the next.

A value that cannot change is shared. Of anything else every reader gets a copy of its own, made in the way that is
fastest for its type. What is large, or cannot be copied, is shared, and compared with what it was when it was put.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import io
import pickle
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from hypernodes.cache.base import CONSTANTS
from hypernodes.cache.size import estimate_size_bytes

LARGE_BYTES = 64 << 20
"""Values larger than this are not copied unless that is asked for: two of them may not fit into the memory."""

_IMMUTABLE = CONSTANTS | {
    range,
    slice,
    decimal.Decimal,
    uuid.UUID,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    FunctionType,
    BuiltinFunctionType,
    ModuleType,
    type,
}
_FLAT: dict[type, Callable[[Any], Any]] = {list: list, dict: dict, set: set, bytearray: bytearray}
_PROTOCOL = 5


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
        Exception: It is to be copied always, and cannot be.
    """
    if is_immutable(value):
        return value
    kind = type(value)
    flat = _FLAT.get(kind)
    if flat is not None and _is_flat(kind, value):
        return Copied(flat(value), flat)
    try:
        return _copied(value, sys.maxsize if copies_always else LARGE_BYTES)
    except Exception:  # it is too large, or cannot be copied
        if copies_always:
            raise
        return Shared(value, _digest_of(value))


def is_immutable(value: Any) -> bool:
    """Whether nothing can change a value, so that it may be shared."""
    if type(value) in _IMMUTABLE:
        return True
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
        _check_size(value.nbytes, limit_bytes)
        return Copied(value.__copy__(), lambda kept: kept.__copy__())
    if type(value).__module__.partition(".")[0] == "torch":  # pickling tensors is slow, and takes them off a GPU
        from copy import deepcopy

        _check_size(estimate_size_bytes(value), limit_bytes)
        return Copied(deepcopy(value), deepcopy)
    return Copied(_Pickled(value, limit_bytes), _Pickled.load)


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise OverflowError("too large to be copied")


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


# --- copies by pickling --------------------------------------------------------------------------------------------

_references = threading.local()


class _LimitedFile(io.BytesIO):
    """A file in memory that takes no more than some number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._left = limit_bytes

    def write(self, data: Any) -> int:
        self.note(len(data))
        return super().write(data)

    def note(self, size_bytes: int) -> None:
        """Count bytes that are stored out of band."""
        self._left -= size_bytes
        _check_size(-self._left, 0)


class _Pickled:
    """A value as a pickle. What stands for something by being itself (functions, sentinels) is referred to.

    Args:
        value: The value.
        limit_bytes: The largest size.
    """

    __slots__ = ("_buffers", "_data", "_references")

    def __init__(self, value: Any, limit_bytes: int) -> None:
        buffers: list[bytes] = []
        file = _LimitedFile(limit_bytes)

        def keep_buffer(buffer: pickle.PickleBuffer) -> None:
            with buffer.raw() as raw:
                file.note(raw.nbytes)
                buffers.append(bytes(raw))

        pickler = _Pickler(file, _PROTOCOL, buffer_callback=keep_buffer)
        pickler.dump(value)
        self._data = file.getvalue()
        self._references = pickler.references
        self._buffers = buffers
        _check_round_trip(value, self.load)

    def load(self) -> Any:
        """Return a copy of the value."""
        before = getattr(_references, "table", None)
        _references.table = self._references
        try:
            return pickle.loads(self._data, buffers=[bytearray(buffer) for buffer in self._buffers])
        finally:
            _references.table = before


class _Pickler(pickle.Pickler):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.references: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        from hypernodes.signature.sentinels import sentinel_name

        if obj is _refer:
            return NotImplemented
        if isinstance(obj, (FunctionType, type, ModuleType, MethodType)):
            is_itself = isinstance(obj, ModuleType) or not (isinstance(obj, MethodType) or _is_found_by_name(obj))
        else:
            is_itself = sentinel_name(obj) is not None
        if not is_itself:
            return NotImplemented
        self.references.append(obj)
        return _refer, (len(self.references) - 1,)


def _refer(position: int) -> Any:
    return _references.table[position]


def _is_found_by_name(obj: Any) -> bool:
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _check_round_trip(value: Any, load: Callable[[], Any]) -> None:
    """Refuse a class that is pickled as something else, e.g. a file that is pickled as its name."""
    if type(load()) is not type(value):
        raise TypeError(f"{type(value).__qualname__} is pickled as something else")
