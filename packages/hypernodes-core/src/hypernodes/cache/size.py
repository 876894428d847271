"""Estimates how much memory a value takes, accurately enough to enforce a limit."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

# Objects that a value only refers to: they would be in memory without the value as well.
_NOT_OWNED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_ATOMS = frozenset({int, float, complex, bool, type(None), str, bytes, bytearray})


def estimate_size_bytes(value: Any) -> int:
    """Return an estimate of the memory that a value holds, in bytes.

    Every object reachable through containers and attributes counts once, however often it is referred to; code does not
    count. Arrays, tensors and frames count with their data, also where they are views of other objects: the value keeps
    the data alive. Memory that an extension type hides from Python and does not report (with `nbytes`, `estimated_size`
    or `memory_usage`) is not counted.
    """
    total = 0
    seen: set[int] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        kind = type(current)
        seen.add(id(current))
        if issubclass(kind, _NOT_OWNED):
            continue
        total += sys.getsizeof(current, 64)
        if kind in _ATOMS:
            continue
        if isinstance(current, dict):
            stack += current.keys()
            stack += current.values()
        elif isinstance(current, (list, tuple, set, frozenset, deque)):
            stack += current
        else:
            data = _data_bytes(current)
            if data is not None:
                total += max(0, data - sys.getsizeof(current, 64))
                if getattr(getattr(current, "dtype", None), "hasobject", False):  # numpy counts only the references
                    stack += current.ravel().tolist()
                continue
        stack += _attributes(current)
    return total


def _data_bytes(value: Any) -> int | None:
    """Return the size that an array, a tensor or a frame reports for its data; None for everything else."""
    try:
        if isinstance(value, memoryview):
            return value.nbytes
        if hasattr(type(value), "memory_usage"):  # pandas
            usage = value.memory_usage(deep=True)
            return int(usage.sum() if hasattr(usage, "sum") else usage)
        if hasattr(type(value), "estimated_size"):  # polars
            return int(value.estimated_size())
        if hasattr(type(value), "nbytes"):
            return int(value.nbytes)
    except Exception:  # a value that fails to report its size is measured by its attributes
        return None
    return None


def _attributes(value: Any) -> list[Any]:
    found: list[Any] = []
    with contextlib.suppress(TypeError):  # no __dict__
        found.append(vars(value))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            descriptor = kind.__dict__.get(name)
            if descriptor is None and name.startswith("__") and not name.endswith("__"):
                descriptor = kind.__dict__.get(f"_{kind.__name__.lstrip('_')}{name}")
            try:
                found.append(descriptor.__get__(value))  # type: ignore[union-attr]
            except AttributeError:
                continue  # never set
    return found
