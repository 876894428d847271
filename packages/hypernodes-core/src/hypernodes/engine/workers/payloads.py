"""Transfers values between processes: small ones as bytes, large ones in files that the receiving process reads.

A large value does not go through the pipe of a process pool, which copies it several times on either side: it is
written once, its arrays straight from their memory, and read once by each process that needs it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import count, islice
from typing import Any, NamedTuple

from hypernodes.buffers import new_buffer
from hypernodes.conditions import Skipped
from hypernodes.engine.workers.pickling import Dumper, blame
from hypernodes.errors import SerializationError
from hypernodes.plan import CallStep, Step
from hypernodes.temporary import OwnedFolder, remove_abandoned

_PREFIX = "hypernodes-"
_FILE_MIN_BYTES = 64 * 1024
_SCALARS = frozenset((bool, int, float, complex, type(None), Skipped))
_TEXTS = frozenset((str, bytes))
_SHORT = 8  # elements of a tuple that are looked at
_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
_MOST_LOOKED_AT = 32  # elements of a container in which an object is looked for


class Payload(NamedTuple):
    """A serialized value.

    Attributes:
        data: The value as bytes; None when it is in a file.
        path: Name of the file; empty when there is none.
        size_bytes: Size of the serialized value.
        is_shared: Whether it is sent more than once, so that a worker should store it for later orders.
    """

    data: bytes | None
    path: str = ""
    size_bytes: int = 0
    is_shared: bool = False


DEFAULT = Payload(None)
"""Stands for the default of the parameter that it is passed for, which the function over there has as well."""


def is_sent_as_is(value: Any) -> bool:
    """Whether a value is so simple that it is sent without being serialized first."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind in _TEXTS:
        return len(value) < _FILE_MIN_BYTES
    return kind is tuple and len(value) <= _SHORT and are_scalars(value)


def are_scalars(values: Iterable[Any]) -> bool:
    """Whether all values are numbers, truth values, None or `SKIPPED`."""
    return _SCALARS.issuperset(map(type, values))


def holds_object(value: Any, depth: int = 3) -> bool:
    """Whether a value is an object of a class, rather than of builtin types, or a container with one near its top."""
    kind = type(value)
    if kind.__module__ != "builtins":
        return True
    if kind not in _CONTAINERS or not depth:
        return False
    elements = value.values() if kind is dict else value
    return any(holds_object(element, depth - 1) for element in islice(elements, _MOST_LOOKED_AT))


def new_dumper(is_by_value: bool) -> Dumper:
    """Return a serializer for `pack`."""
    return Dumper(is_by_value, _FILE_MIN_BYTES)


def pack(
    value: Any, label: str, dumper: Dumper, new_path: Callable[[], str], file_min_bytes: int = _FILE_MIN_BYTES
) -> Any:
    """Return a simple value unchanged, and others as a `Payload`.

    Args:
        value: The value to send.
        label: Names the value in messages.
        dumper: Serializes it.
        new_path: Returns the name of a file for the value, if it is large.
        file_min_bytes: From which size on it is large.

    Raises:
        SerializationError: The value cannot be serialized or written.
    """
    if is_sent_as_is(value):
        return value
    head, buffers = dumper.dump(value, label)
    if not buffers and len(head) < file_min_bytes:
        return Payload(head, "", len(head))
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    path = new_path()
    _write(path, parts, label)
    return Payload(None, path, sum(part.nbytes for part in parts))


def unpack(payload: Any) -> Any:
    """Return the value of a payload, or a simple value as it is.

    Raises:
        Exception: The error that the value raises while it is unpickled.
    """
    if type(payload) is not Payload:
        return payload
    if payload.data is not None:
        return pickle.loads(payload.data)
    head, *buffers = _read(payload.path)
    return pickle.loads(head, buffers=buffers)


def _write(path: str, parts: list[memoryview], label: str) -> None:
    sizes = [2 * part.nbytes + part.readonly for part in parts]
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(struct.pack(f"<{len(parts) + 1}Q", len(parts), *sizes))
            for part in parts:
                rest = part.cast("B")
                while rest:
                    rest = rest[file.write(rest) :]
    except OSError as error:
        raise SerializationError(f"{label} cannot be written to {path}: {error}", path=label) from error


def _read(path: str) -> list[memoryview]:
    """Return head and arrays; an array that was read-only in the sending process is read-only here as well."""
    parts: list[memoryview] = []
    with open(path, "rb", buffering=0) as file:
        (number,) = struct.unpack("<Q", file.read(8))
        for size in struct.unpack(f"<{number}Q", file.read(8 * number)):
            part = new_buffer(size // 2)
            parts.append(part.toreadonly() if size % 2 else part)
            rest = part
            while rest:
                read = file.readinto(rest)
                if not read:
                    raise EOFError(f"{path} is shorter than it should be")
                rest = rest[read:]
    return parts


class _Held:
    """A value that several calls may receive."""

    __slots__ = ("holders", "payload", "value")

    def __init__(self, value: Any) -> None:
        self.value = value  # referenced so that its id is not reused
        self.holders = 0
        self.payload: Payload | None = None


def input_name(step: CallStep, slot: int) -> str:
    """Return the name of an argument in messages about a call."""
    return f"input {step.node.inputs[step.arguments.index(slot)]!r} of node {step.node.name!r}"


class Payloads:
    """Serializes the values that one run sends to worker processes; values that are held are serialized only once.

    Args:
        is_by_value: See `pickling.Dumper`.
    """

    def __init__(self, is_by_value: bool) -> None:
        self._dumper = new_dumper(is_by_value)
        self._folder: OwnedFolder | None = None
        self._numbers = count()
        self._held: dict[int, _Held] = {}
        remove_abandoned(_PREFIX)

    @property
    def folder(self) -> str:
        """Folder of the run, created when it is first needed."""
        if self._folder is None:
            self._folder = OwnedFolder(_PREFIX)
        return self._folder.path

    def hold(self, value: Any) -> bool:
        """Hold a value that several calls may receive, until it is dropped as often; return whether that is useful."""
        if is_sent_as_is(value):
            return False
        held = self._held.get(id(value))
        if held is None:
            held = self._held[id(value)] = _Held(value)
        held.holders += 1
        return True

    def drop(self, value: Any) -> None:
        """Release a value that was held."""
        held = self._held.get(id(value))
        if held is None:  # the run is over
            return
        held.holders -= 1
        if not held.holders:
            del self._held[id(value)]
            if held.payload is not None and held.payload.path:
                self.remove([held.payload.path])

    def pack(self, value: Any, label: str) -> Any:
        """Return a value as a payload; see the function `pack`."""
        held = self._held.get(id(value)) if self._held else None
        if held is not None and held.payload is not None:
            return held.payload
        # An object in a file is loaded once by each process, so that what it loads itself, as needed, is loaded once.
        is_object = held is not None and holds_object(value)
        payload = pack(value, label, self._dumper, self.new_path, 0 if is_object else _FILE_MIN_BYTES)
        if held is not None and type(payload) is Payload:
            payload = held.payload = payload._replace(is_shared=True)
        return payload

    def pack_input(self, value: Any, step: CallStep, slot: int, steps: Sequence[Step]) -> Any:
        """Return a value that a call takes as a payload.

        A default that nobody has overridden stays what it is to the function, which may ask `x is UNSET`.

        Args:
            value: The value.
            step: The call.
            slot: Where the value stands.
            steps: The calls that may get the payload.
        """
        if is_sent_as_is(value) and type(value) is not tuple:
            return value
        if step.node.defaults and step.is_default(slot, value):
            takers = [other for other in steps if slot in other.arguments]
            if all(isinstance(taker, CallStep) and taker.is_default(slot, value) for taker in takers):
                return DEFAULT
        name = input_name(step, slot)
        try:
            return self.pack(value, name)
        except SerializationError as error:
            raise blame(error, value, name, self._dumper.is_by_value) from error.__cause__

    def write(self, path: str, value: Any, label: str) -> None:
        """Write a value to a file, large or not."""
        head, buffers = self._dumper.dump(value, label)
        _write(path, [memoryview(head), *(buffer.raw() for buffer in buffers)], label)

    def new_path(self) -> str:
        """Return a name for a new file."""
        return os.path.join(self.folder, str(next(self._numbers)))

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files that are not needed any more."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def close(self) -> None:
        """Delete all files of the run."""
        self._held.clear()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()
