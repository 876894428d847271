"""Values that are preset for inputs of a pipeline: where they may come from, and their checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hypernodes.checks import shown
from hypernodes.errors import ConfigurationError, UnknownInputError
from hypernodes.graph import Graph, describe
from hypernodes.nearest import suggest


def values_of(settings: Any) -> dict[str, Any]:
    """Return the values in a dict, or in an object that holds settings, by name; none for None.

    Raises:
        ConfigurationError: It is something else.
    """
    if settings is None:
        return {}
    if isinstance(settings, Mapping):
        return dict(settings)
    names = None if isinstance(settings, type) else _fields_of(settings)
    if names is None:
        advice = ": pass an instance of it" if isinstance(settings, type) else ""
        raise ConfigurationError(
            "with_inputs takes values by keyword, a dict of values by name, or an instance of a dataclass, of a "
            f"pydantic or attrs class, or of a named tuple; got {shown(settings)}{advice}"
        )
    try:
        return {name: getattr(settings, name) for name in names}
    except AttributeError as error:
        raise ConfigurationError(f"with_inputs: a field of {type(settings).__name__} has no value ({error})") from None


def _fields_of(settings: Any) -> list[str] | None:
    kind = type(settings)
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        return [field.name for field in fields(settings)]
    if hasattr(kind, "__pydantic_fields__"):
        return [*kind.model_fields, *(settings.model_extra or {})]
    if hasattr(kind, "__attrs_attrs__"):
        return [attribute.name for attribute in kind.__attrs_attrs__]
    if isinstance(settings, tuple) and hasattr(kind, "_fields"):
        return list(kind._fields)
    return None


def check_preset(preset: Mapping[Any, Any], graph: Graph, pipeline_id: str) -> None:
    """Check values that are to be preset.

    Raises:
        UnknownInputError: A name is not that of a root input.
        ConfigurationError: A name is no string, or a value is an iterator.
    """
    for name, value in preset.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"with_inputs takes values by name; names must be str, got {shown(name)}")
        if name in graph.root_inputs and isinstance(value, Iterator):
            raise ConfigurationError(
                f"with_inputs got {shown(value)} for {name!r}, which only the first run could read; pass list({name})"
            )
    unknown = tuple([name for name in preset if name not in graph.root_inputs])
    if unknown:
        listing = "; ".join([f"{name!r} is not an input{_hint(graph, name)}" for name in unknown])
        raise UnknownInputError(
            f"with_inputs of pipeline {pipeline_id!r}: {listing}. Its inputs are: "
            f"{', '.join(graph.root_inputs) or 'none'}",
            unknown=unknown,
            available=tuple(graph.root_inputs),
        )


def _hint(graph: Graph, name: str) -> str:
    if name in graph.producers:
        maker = describe(graph.nodes[graph.producers[name]])
        return f" but an output of {maker}, which a value in run(inputs=...) replaces"
    return suggest(name, graph.root_inputs)
