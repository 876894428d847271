"""Checks that what a backend returned is what it was asked for: no output and no item is lost, added or repeated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from math import prod
from typing import Any

from hypernodes.errors import RemoteError


def check_outputs(backend: Any, found: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return what `Backend.run` returned.

    Args:
        backend: The backend.
        found: What it returned.
        names: Names of the requested outputs.

    Raises:
        RemoteError: It is not a value for each of these, and nothing else.
    """
    if not isinstance(found, Mapping) or found.keys() != set(names):
        raise _wrong(backend, f"{_outputs(found)} instead of {_outputs(dict.fromkeys(names))}")
    return found  # type: ignore[return-value]


def check_columns(backend: Any, found: Any, names: Iterable[str], count: int | None) -> dict[str, list[Any]]:
    """Return what `Backend.map_columns` returned.

    Args:
        backend: The backend.
        found: What it returned.
        names: Names of the requested outputs.
        count: Number of items; None when it cannot be known without reading them.

    Raises:
        RemoteError: It is not a column for each of these with one value per item, and nothing else.
    """
    columns = check_outputs(backend, found, names)
    for name, column in columns.items():
        if not isinstance(column, Sized):
            raise _wrong(backend, f"a {type(column).__name__} instead of a list for output {name!r}")
        count = len(column) if count is None else count
        if len(column) != count:
            raise _wrong(backend, f"{len(column)} values of output {name!r} for {count} items")
    return columns


def check_rows(backend: Any, found: Any, names: Iterable[str], count: int) -> list[dict[str, Any]]:
    """Return what `Backend.map` returned; see `check_columns`."""
    if not isinstance(found, Sized) or len(found) != count:
        size = f"{len(found)} items" if isinstance(found, Sized) else f"a {type(found).__name__}"
        raise _wrong(backend, f"{size} instead of {count} items")
    expected = list(names)
    return [check_outputs(backend, row, expected) for row in found]  # type: ignore[attr-defined]


def checked_items(
    backend: Any, found: Iterable[tuple[int, Any]], names: Iterable[str], count: int | None, is_ordered: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield what `Backend.map_iter` yields.

    Args:
        backend: The backend.
        found: Its iterator.
        names: Names of the requested outputs.
        count: Number of items; None when it cannot be known without reading them.
        is_ordered: Whether items have to come in order.

    Raises:
        RemoteError: An item is lost, repeated or out of order, or has other outputs.
    """
    expected = set(names)
    ahead: set[int] = set()  # indexes that came before an earlier one
    following = 0
    for index, outputs in found:
        if index < following or index in ahead or (is_ordered and index != following):
            raise _wrong(backend, f"item {index} where item {following} was to come")
        ahead.add(index)
        while following in ahead:
            ahead.discard(following)
            following += 1
        yield index, check_outputs(backend, outputs, expected)
    if ahead or (count is not None and following != count):
        raise _wrong(backend, f"no item {following}" + ("" if count is None else f" of {count}"))


def count_of_items(columns: Mapping[str, Any], map_mode: str) -> int | None:
    """Return the number of items of a map; None when its inputs do not know their lengths."""
    if not all(isinstance(column, Sized) for column in columns.values()):
        return None
    lengths = [len(column) for column in columns.values()]
    return prod(lengths) if map_mode == "product" else min(lengths, default=0)


def _outputs(found: Any) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    return f"outputs {', '.join(map(repr, found)) or '(none)'}"


def _wrong(backend: Any, what: str) -> RemoteError:
    name = getattr(backend, "backend_name", type(backend).__name__)
    return RemoteError(f"backend {name!r} returned {what}: nothing of it is used", backend_name=name)
