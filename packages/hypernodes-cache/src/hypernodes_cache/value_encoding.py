"""Encodes values as bytes and decodes them, and records what a pickle needs to mean the same thing later."""

from __future__ import annotations

import io
import pickle
import sys
import weakref
from collections.abc import Sequence
from functools import reduce
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

from hypernodes import SerializationError
from hypernodes.extension import UnhashableValueError, digest, reduce_sentinel

ByteBuffer: TypeAlias = bytes | bytearray | memoryview

# How the parts of a value are decoded. The numbers are stored in files, so their meaning never changes.
RAW = 0  # one part: the value, which is of type bytes
PICKLE = 1  # a pickle, then its out-of-band buffers
MAIN_PICKLE = 2  # digests of the classes, functions and sentinels of __main__ that it names, then as PICKLE
BY_VALUE_PICKLE = 3  # the version of Python that can read it, then as PICKLE, with classes and functions by value

CODEC_NAMES = {RAW: "bytes", PICKLE: "pickle", MAIN_PICKLE: "pickle of __main__", BY_VALUE_PICKLE: "cloudpickle"}

# Functions and classes that are stored by value contain bytecode, which differs between versions of Python.
_PYTHON = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}".encode()

_SIMPLE = frozenset({int, float, bool, str, type(None)})
_digests: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()


class UnreadableError(Exception):
    """An entry does not yield the value that was stored; the message says why."""


class EncodedValue(NamedTuple):
    """A value as bytes.

    Attributes:
        codec: How the parts are decoded.
        parts: The bytes; large buffers are those of the value itself, not copies.
    """

    codec: int
    parts: Sequence[ByteBuffer]


def encode(value: Any) -> EncodedValue:
    """Return a value as bytes, by pickle if possible, otherwise by cloudpickle, if that is installed.

    Raises:
        Exception: Neither can serialize the value.
    """
    if type(value) is bytes:
        return EncodedValue(RAW, (value,))
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = _dumps(value, buffers)
        if b"__main__" in data:
            return _encode_with_main(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return _encode_by_value(value, error)
    return EncodedValue(PICKLE, (data, *(buffer.raw() for buffer in buffers)) if buffers else (data,))


class _Pickler(pickle.Pickler):
    """Pickles sentinels, which mean something by being themselves, under their names."""

    def reducer_override(self, obj: Any) -> Any:
        found = reduce_sentinel(obj, is_main_found=True)
        return NotImplemented if found is None else found


def _dumps(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    if type(value) in _SIMPLE:
        return pickle.dumps(value, 5)
    file = io.BytesIO()
    _Pickler(file, 5, buffer_callback=buffers.append).dump(value)
    return file.getvalue()


def decode(codec: int, parts: Sequence[ByteBuffer]) -> Any:
    """Return the value that was encoded. Unpickling runs code, so the parts must come from a trusted source.

    Raises:
        UnreadableError: The value needs something that is missing or has changed.
        Exception: Any error of unpickling.
    """
    if codec == RAW:
        return parts[0] if type(parts[0]) is bytes else bytes(parts[0])
    if codec == PICKLE:
        return pickle.loads(parts[0], buffers=parts[1:]) if len(parts) > 1 else pickle.loads(parts[0])
    if codec == MAIN_PICKLE:
        _check_main(pickle.loads(parts[0]))
    elif codec == BY_VALUE_PICKLE:
        if bytes(parts[0]) != _PYTHON:
            raise UnreadableError(f"it contains code for {bytes(parts[0]).decode('ascii', 'replace')}")
    else:
        raise UnreadableError(f"its codec {codec} is not known to this version")
    return pickle.loads(parts[1], buffers=parts[2:])


# --- classes and functions of __main__ ---------------------------------------------------------------------------
#
# Pickle refers to them by name (`__main__.Config`), and in the next process `__main__` may be another program. Storing
# them by value would not help: the values that come back would be instances of a copy of the class, for which
# `isinstance` is false. So they are stored by name together with their digest, and the entry is only used where the
# name still refers to the same code.


class _MainPickler(_Pickler):
    def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, 5, buffer_callback=buffers.append)
        self.found: dict[str, Any] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__":
            self.found[obj.__qualname__] = obj
        reduced = super().reducer_override(obj)
        if reduced is not NotImplemented and reduced[1][0] == "__main__":  # a sentinel, with where it is found
            self.found[reduced[1][1]] = obj
        return reduced


def _encode_with_main(value: Any) -> EncodedValue:
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    pickler = _MainPickler(file, buffers)
    pickler.dump(value)
    raw = [buffer.raw() for buffer in buffers]
    if not pickler.found:
        return EncodedValue(PICKLE, (file.getvalue(), *raw))
    needed = {name: _identity(named) for name, named in pickler.found.items()}
    return EncodedValue(MAIN_PICKLE, (pickle.dumps(needed, 5), file.getvalue(), *raw))


def _identity(named: Any) -> bytes:
    is_code = isinstance(named, (type, FunctionType))
    known = _digests.get(named) if is_code else None
    if known is None:
        try:
            known = digest(named)
            if is_code:
                _digests[named] = known
        except UnhashableValueError as error:
            name = named.__qualname__ if is_code else type(named).__qualname__
            raise SerializationError(
                f"it contains {name!r} of __main__{error}; define it in a module of its own"
            ) from error
    return known


def _check_main(needed: dict[str, bytes]) -> None:
    for name, known in needed.items():
        try:
            named = reduce(getattr, name.split("."), sys.modules["__main__"])
        except AttributeError:
            raise UnreadableError(f"it needs {name!r} of a different __main__") from None
        if _identity(named) != known:
            raise UnreadableError(f"{name!r} of __main__ has changed since the entry was made")


# --- by value ----------------------------------------------------------------------------------------------------


def _encode_by_value(value: Any, refusal: Exception) -> EncodedValue:
    try:
        import cloudpickle
    except ImportError:
        refusal.add_note("Install cloudpickle to store classes and functions made inside functions.")
        raise refusal from None

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
        def reducer_override(self, obj: Any) -> Any:
            # cloudpickle accepts these, but they come back as something else.
            if isinstance(obj, memoryview) or (
                isinstance(obj, io.IOBase) and type(obj) not in (io.BytesIO, io.StringIO)
            ):
                raise refusal
            found = reduce_sentinel(obj, is_main_found=True)
            return super().reducer_override(obj) if found is None else found

    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    try:
        Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    except Exception:
        raise refusal from None
    return EncodedValue(BY_VALUE_PICKLE, (_PYTHON, file.getvalue(), *(buffer.raw() for buffer in buffers)))
