"""Entries of results that count for some time only: with the time at which they were computed."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeGuard

Entry: TypeAlias = tuple[float, Any]


def dated(at: float, value: Any) -> Entry:
    """Return the entry of a result that was computed at a time, in seconds since the epoch.

    It is a plain tuple, which caches handle like any other value.
    """
    return (at, value)


def is_dated(entry: Any) -> TypeGuard[Entry]:
    """Whether a value from a cache is such an entry."""
    return type(entry) is tuple and len(entry) == 2 and type(entry[0]) is float
