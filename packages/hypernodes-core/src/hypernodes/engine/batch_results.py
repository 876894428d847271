"""Reads what the function of a batched node returned: one result per item, from a list, an array or a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from hypernodes.errors import BatchResultError
from hypernodes.nodes import Node

_NO_LISTS = (str, bytes, bytearray, memoryview, Mapping, Set)


def results_of_items(node: Node[..., Any], result: Any, count: int) -> list[tuple[Any, ...]]:
    """Return the results of a call of a batched node: for each item, one value per output.

    Args:
        node: The node.
        result: What its function returned.
        count: Number of items that it was given.

    Raises:
        BatchResultError: There is not one result per item.
    """
    names = node.outputs
    if len(names) == 1:
        return [(value,) for value in _elements(node, names[0], result, count)]
    if not isinstance(result, (tuple, list)) or len(result) != len(names):
        got = f"{len(result)} values" if isinstance(result, (tuple, list)) else _kind(result)
        raise BatchResultError(
            f"batched node {node.name!r} must return a tuple of {len(names)} values ({', '.join(names)}), each with "
            f"one result per item; it returned {got}",
            node_name=node.name,
            expected=count,
            got=None,
        )
    columns = [_elements(node, name, column, count) for name, column in zip(names, result, strict=True)]
    return list(zip(*columns, strict=True))


def _elements(node: Node[..., Any], name: str, column: Any, count: int) -> Sequence[Any]:
    elements = column if type(column) is list or type(column) is tuple else _as_list(column)
    if elements is not None and len(elements) == count:
        return elements
    items = f"{count} item{'s' if count > 1 else ''}"
    if elements is None:
        returned = f"returned {_kind(column)} for {name!r}"
    else:
        returned = f"returned {len(elements)} result{'' if len(elements) == 1 else 's'} for {name!r}"
    raise BatchResultError(
        f"batched node {node.name!r} was given {items} and {returned}; return one result per item, in the same order: "
        "a list, tuple, array or table",
        node_name=node.name,
        expected=count,
        got=None if elements is None else len(elements),
    )


def _as_list(column: Any) -> list[Any] | None:
    """Return the elements of an array, a column or a table (whose rows become dicts); None for what has none."""
    if isinstance(column, _NO_LISTS):
        return None
    if hasattr(column, "to_pylist"):  # Arrow
        return list(column.to_pylist())
    if hasattr(column, "to_dicts"):  # a table of Polars
        return list(column.to_dicts())
    if hasattr(column, "iloc") and hasattr(column, "columns"):  # one of pandas
        return list(column.to_dict("records"))
    shape = getattr(column, "shape", None)
    if isinstance(shape, tuple) and hasattr(column, "__getitem__"):
        if not shape:  # a single number
            return None
        if type(column).__module__ == "numpy" and len(shape) > 1:
            return [row.copy() for row in column]  # else each row would hold the whole array
        if not hasattr(column, "iloc"):
            return [column[index] for index in range(shape[0])]  # also a sparse matrix, which has no length
    if isinstance(column, Iterable):
        return list(column)
    return None


def _kind(value: Any) -> str:
    """Return what a value is, for a message."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
