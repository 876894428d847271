"""Values as bytes and back: what is pickled how, and what a pickle needs to mean the same thing later."""

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
from hypernodes.extension import UnhashableValueError, digest

Part: TypeAlias = bytes | bytearray | memoryview

# How the parts of a value are to be read. The numbers are in files: they never change their meaning.
RAW = 0  # the only part is the value, which is bytes
PICKLE = 1  # a pickle, then the buffers that it left out
MAIN_PICKLE = 2  # what it needs of __main__, then as PICKLE
BY_VALUE_PICKLE = 3  # which Python may read it, then as PICKLE, with classes and functions in it

CODEC_NAMES = {RAW: "bytes", PICKLE: "pickle", MAIN_PICKLE: "pickle of __main__", BY_VALUE_PICKLE: "cloudpickle"}

# Functions and classes that are stored by value hold bytecode, which another Python would misunderstand.
_PYTHON = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}".encode()

_digests: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()


class UnreadableError(Exception):
    """What is stored does not give back the value that was put; the message says why."""


class Packed(NamedTuple):
    """A value as bytes.

    Attributes:
        codec: How the parts are to be read.
        parts: The bytes; large buffers are those of the value itself, not copies.
    """

    codec: int
    parts: Sequence[Part]


def pack(value: Any) -> Packed:
    """Return a value as bytes, with pickle if it can, and with cloudpickle (if installed) where pickle cannot.

    Raises:
        Exception: Neither can take it.
    """
    if type(value) is bytes:
        return Packed(RAW, (value,))
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, 5, buffer_callback=buffers.append)
        if b"__main__" in data:
            return _pack_with_main(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return _pack_by_value(value, error)
    return Packed(PICKLE, (data, *(buffer.raw() for buffer in buffers)) if buffers else (data,))


def unpack(codec: int, parts: Sequence[Part]) -> Any:
    """Return the value that was packed. The parts must be known to come from somebody trusted.

    Raises:
        UnreadableError: It needs something that is not as it was.
        Exception: Whatever unpickling raises.
    """
    if codec == RAW:
        return parts[0] if type(parts[0]) is bytes else bytes(parts[0])
    if codec == PICKLE:
        return pickle.loads(parts[0], buffers=parts[1:]) if len(parts) > 1 else pickle.loads(parts[0])
    if codec == MAIN_PICKLE:
        _check_main(pickle.loads(parts[0]))
    elif codec == BY_VALUE_PICKLE:
        if bytes(parts[0]) != _PYTHON:
            raise UnreadableError(f"it holds code for {bytes(parts[0]).decode('ascii', 'replace')}")
    else:
        raise UnreadableError(f"its codec {codec} is not known to this version")
    return pickle.loads(parts[1], buffers=parts[2:])


# --- classes and functions of __main__ ---------------------------------------------------------------------------
#
# Pickle names them (`__main__.Config`), and in the next process `__main__` may be another program. Storing them by
# value would be no better: what comes back were instances of a copy of the class, for which `isinstance` is false. So
# they are named, together with their signature, and the entry counts only where the name still means the same.


class _MainPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, 5, buffer_callback=buffers.append)
        self.found: dict[str, Any] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__":
            self.found[obj.__qualname__] = obj
        return NotImplemented


def _pack_with_main(value: Any) -> Packed:
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    pickler = _MainPickler(file, buffers)
    pickler.dump(value)
    raw = [buffer.raw() for buffer in buffers]
    if not pickler.found:
        return Packed(PICKLE, (file.getvalue(), *raw))
    needed = {name: _identity(named) for name, named in pickler.found.items()}
    return Packed(MAIN_PICKLE, (pickle.dumps(needed, 5), file.getvalue(), *raw))


def _identity(named: Any) -> bytes:
    known = _digests.get(named)
    if known is None:
        try:
            known = _digests[named] = digest(named)
        except UnhashableValueError as error:
            raise SerializationError(
                f"it holds {named.__qualname__!r} of __main__{error}; define it in a module of its own"
            ) from error
    return known


def _check_main(needed: dict[str, bytes]) -> None:
    for name, known in needed.items():
        try:
            named = reduce(getattr, name.split("."), sys.modules["__main__"])
        except AttributeError:
            raise UnreadableError(f"it needs {name!r} of another __main__ than this") from None
        if _identity(named) != known:
            raise UnreadableError(f"{name!r} of __main__ is not what it was when the entry was made")


# --- by value ----------------------------------------------------------------------------------------------------


def _pack_by_value(value: Any, refusal: Exception) -> Packed:
    try:
        import cloudpickle
    except ImportError:
        refusal.add_note("Install cloudpickle to store classes and functions made inside functions.")
        raise refusal from None

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
        def reducer_override(self, obj: Any) -> Any:
            # cloudpickle takes these, but what comes back is something else.
            if isinstance(obj, memoryview) or (
                isinstance(obj, io.IOBase) and type(obj) not in (io.BytesIO, io.StringIO)
            ):
                raise refusal
            return super().reducer_override(obj)

    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    try:
        Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    except Exception:
        raise refusal from None
    return Packed(BY_VALUE_PICKLE, (_PYTHON, file.getvalue(), *(buffer.raw() for buffer in buffers)))
