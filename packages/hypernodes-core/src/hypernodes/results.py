"""Checks that what a backend returned is what it was asked for: no output and no item is lost, added or repeated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from math import prod
from typing import Any

from hypernodes.errors import RemoteError
from hypernodes.request import MapRequest, RunRequest


def checked_run(backend: Any, request: RunRequest, found: Any) -> dict[str, Any]:
    """Return what `Backend.run` returned.

    Args:
        backend: The backend.
        request: What it was asked for.
        found: What it returned.

    Raises:
        RemoteError: It is not a value for each requested output, and nothing else.
    """
    return _checked_outputs(backend, found, request.plan().outputs)


def checked_map(backend: Any, request: MapRequest, found: Any) -> dict[str, list[Any]]:
    """Return what `Backend.map` returned.

    Args:
        backend: The backend.
        request: What it was asked for.
        found: What it returned.

    Raises:
        RemoteError: It is not a column for each requested output with one value per item, and nothing else.
    """
    columns = _checked_outputs(backend, found, request.plan().outputs)
    count = _count_of_items(request)
    for name, column in columns.items():
        if not isinstance(column, Sized) or isinstance(column, (str, bytes, Mapping, Set)):
            raise _wrong(backend, f"a {type(column).__name__} instead of a list for output {name!r}")
        count = len(column) if count is None else count
        if len(column) != count:
            raise _wrong(backend, f"{len(column)} values of output {name!r} for {count} items")
    return columns


def checked_awaitable(backend: Any, method: str, found: Any) -> Any:
    """Return what `Backend.arun` or `Backend.amap` returned, to be awaited.

    Args:
        backend: The backend.
        method: Name of the method.
        found: What it returned.

    Raises:
        RemoteError: It cannot be awaited.
    """
    if not hasattr(type(found), "__await__"):
        raise _wrong(backend, f"a {type(found).__name__} from {method}, which must be an `async def` method")
    return found


def checked_items(backend: Any, request: MapRequest, found: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield what `Backend.map_iter` yields.

    Args:
        backend: The backend.
        request: What it was asked for.
        found: Its iterator.

    Raises:
        RemoteError: An item is lost, repeated or out of order, or has other outputs.
    """
    expected, count = set(request.plan().outputs), _count_of_items(request)
    ahead: set[int] = set()  # indexes that came before an earlier one
    following = 0
    if not hasattr(type(found), "__iter__"):
        raise _wrong(backend, f"a {type(found).__name__} instead of an iterator over index and outputs of each item")
    for pair in found:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], int):
            raise _wrong(backend, f"a {type(pair).__name__} instead of index and outputs of an item")
        index, outputs = pair
        if index < following or index in ahead or (request.in_order and index != following):
            raise _wrong(backend, f"item {index} where item {following} was to come")
        ahead.add(index)
        while following in ahead:
            ahead.discard(following)
            following += 1
        yield index, _checked_outputs(backend, outputs, expected)
    if ahead or (count is not None and following != count):
        raise _wrong(backend, f"no item {following}" + ("" if count is None else f" of {count}"))


def _checked_outputs(backend: Any, found: Any, names: Iterable[str]) -> dict[str, Any]:
    if not isinstance(found, Mapping) or found.keys() != set(names):
        raise _wrong(backend, f"{_outputs(found)} instead of {_outputs(dict.fromkeys(names))}")
    return found  # type: ignore[return-value]


def _count_of_items(request: MapRequest) -> int | None:
    """Return the number of items of a map; None when its inputs do not know their lengths."""
    if not all(isinstance(column, Sized) for column in request.columns.values()):
        return None
    lengths = [len(column) for column in request.columns.values()]
    return prod(lengths) if request.map_mode == "product" else min(lengths, default=0)


def _outputs(found: Any) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    return f"outputs {', '.join(map(repr, found)) or '(none)'}"


def name_of(backend: Any) -> str:
    """Return the name of a backend, for messages: that of its class if it has none of its own."""
    name: str = getattr(backend, "backend_name", type(backend).__name__)
    return name


def _wrong(backend: Any, what: str) -> RemoteError:
    name = name_of(backend)
    return RemoteError(f"backend {name!r} returned {what}: nothing of it is used", backend_name=name)
