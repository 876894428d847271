"""Requests to a backend and to the engine: one run, or one map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Protocol, TypeAlias

from hypernodes.callbacks import CallbackContext
from hypernodes.checks import check_choice, shown
from hypernodes.errors import ConfigurationError, DependencyError, MapInputError, MapLengthError
from hypernodes.plan import MapMode, OnError, Plan, Settings

OutputNames: TypeAlias = str | Sequence[str] | None


class RunnablePipeline(Protocol):
    """The part of a pipeline that backends and the engine need."""

    @property
    def id(self) -> str:
        """Its name; for an unnamed pipeline an id that depends on its nodes only."""

    def plan_for(self, given: Iterable[str], output_name: OutputNames = None) -> Plan:
        """Return the pipeline compiled for given inputs and requested outputs."""

    def with_settings(self, settings: Settings) -> Any:
        """Return the same pipeline with other settings of its own."""


class RunRequest:
    """A request to run a pipeline once.

    Args:
        pipeline: The pipeline.
        inputs: Values by name.
        output_name: Outputs to compute; all that the pipeline shows when None.
        ctx: Context of the run that this one is part of, when a pipeline with a backend of its own is nested in
            another; None for an independent run. It may carry signatures of the inputs, so a backend that passes a
            request on must not change it or the inputs.

    Attributes:
        pipeline: The same.
        inputs: The same.
        output_name: The same.
        ctx: The same.
    """

    __slots__ = ("ctx", "inputs", "output_name", "pipeline")

    def __init__(
        self,
        pipeline: RunnablePipeline,
        inputs: Mapping[str, Any],
        output_name: OutputNames = None,
        ctx: CallbackContext | None = None,
    ) -> None:
        check_pipeline(pipeline, "pipeline")
        _check_values("inputs", inputs)
        self.pipeline = pipeline
        self.inputs = inputs
        self.output_name = output_name
        self.ctx = ctx

    def plan(self) -> Plan:
        """Return the pipeline compiled for this request.

        Raises:
            DependencyError: The inputs or outputs do not fit.
        """
        return self.pipeline.plan_for(self.inputs, self.output_name)

    @property
    def context(self) -> CallbackContext:
        """The context of the run in the hierarchy of runs."""
        return self.ctx or CallbackContext((self.pipeline.id,))

    def __repr__(self) -> str:
        return f"RunRequest({self.pipeline!r}, inputs: {', '.join(self.inputs) or 'none'})"


class MapRequest:
    """A request to run a pipeline once per item.

    Args:
        pipeline: The pipeline.
        columns: For each input that varies, an iterable: one value per item, or the values to combine.
        inputs: Values of the inputs that all items share.
        map_mode: "zip" pairs the n-th values of all columns; "product" takes every combination.
        output_name: Outputs to compute; all that the pipeline shows when None.
        on_error: "raise" ends the map with the first failing item; "collect" puts a `Failure` in place of its outputs.
        ctx: Context of the run that this one is part of; see `RunRequest`.
        in_order: Whether `map_iter` yields results in item order, rather than in the order of completion.
        indexes: Index of each item, in increasing order, when these are some items of a map of the run that this one is
            part of (`ctx`), which reports the items; None for all items of a map.

    Attributes:
        pipeline: The same.
        columns: The same.
        inputs: The same.
        map_mode: The same.
        output_name: The same.
        on_error: The same.
        ctx: The same.
        in_order: The same.
        indexes: The same.
    """

    __slots__ = ("columns", "ctx", "in_order", "indexes", "inputs", "map_mode", "on_error", "output_name", "pipeline")

    def __init__(
        self,
        pipeline: RunnablePipeline,
        columns: Mapping[str, Any],
        inputs: Mapping[str, Any] | None = None,
        *,
        map_mode: MapMode = "zip",
        output_name: OutputNames = None,
        on_error: OnError = "raise",
        ctx: CallbackContext | None = None,
        in_order: bool = True,
        indexes: Sequence[int] | None = None,
    ) -> None:
        check_pipeline(pipeline, "pipeline")
        _check_values("columns", columns)
        self.pipeline = pipeline
        self.columns = columns
        if inputs is not None:
            _check_values("inputs", inputs)
        self.inputs: Mapping[str, Any] = inputs or {}
        self.map_mode: MapMode = check_map_mode(map_mode)
        self.output_name = output_name
        self.on_error: OnError = check_on_error(on_error)
        self.ctx = ctx
        self.in_order = in_order
        self.indexes = indexes

    @classmethod
    def of_items(
        cls,
        pipeline: RunnablePipeline,
        items: Iterable[Mapping[str, Any]],
        inputs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> MapRequest:
        """Return the request for items that are given one by one.

        Args:
            pipeline: The pipeline.
            items: For each item, the values of the inputs that vary, by name; all with the same names.
            inputs: Values of the inputs that all items share.
            settings: See `MapRequest`.

        Raises:
            DependencyError: The items have different names.
        """
        rows = _as_items(items)
        for row in rows:
            _check_values("each of items", row)
        names = tuple(rows[0]) if rows else ()
        for index, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                raise DependencyError(
                    f"every item must have the same inputs: item 0 has {', '.join(names)}; "
                    f"item {index} has {', '.join(row) or 'none'}"
                )
        return cls(pipeline, {name: [row[name] for row in rows] for name in names}, inputs, **settings)

    def items(self) -> list[dict[str, Any]]:
        """Return, for each item, the values of the inputs that vary, by name; reads the columns.

        Raises:
            MapInputError: A column is not iterable, or a single string.
            MapLengthError: `map_mode` is "zip" and the lengths differ.
        """
        where = f"pipeline {self.pipeline.id!r}"
        columns = {name: as_column(name, values, where) for name, values in self.columns.items()}
        check_lengths(columns, self.map_mode, where)
        return [dict(zip(columns, row, strict=True)) for row in rows_of(columns.values(), self.map_mode)]

    def runs(self) -> list[RunRequest]:
        """Return one run for each item, for a simple backend that returns `to_columns` of the results.

        Raises:
            ConfigurationError: `on_error` is "collect", which single runs cannot do.
            DependencyError: See `items`.
        """
        if self.on_error != "raise":
            raise ConfigurationError(f"this backend does not support on_error={self.on_error!r}")
        return [RunRequest(self.pipeline, {**item, **self.inputs}, self.output_name, self.ctx) for item in self.items()]

    def to_columns(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Return the outputs of all items, given in item order, as one list for each requested output."""
        names = self.plan().outputs
        try:
            return {name: [row[name] for row in rows] for name in names}
        except (KeyError, TypeError, IndexError) as error:
            expected = ", ".join(map(repr, names))
            raise ConfigurationError(
                f"rows must be one dict for each item, with a value of each of {expected}"
            ) from error

    def plan(self) -> Plan:
        """Return the pipeline compiled for one item of this request.

        Raises:
            DependencyError: The inputs or outputs do not fit.
        """
        return self.pipeline.plan_for({**self.columns, **self.inputs}, self.output_name)

    @property
    def context(self) -> CallbackContext:
        """The context of the map in the hierarchy of runs."""
        return self.ctx or CallbackContext((self.pipeline.id,))

    def __repr__(self) -> str:
        return f"MapRequest({self.pipeline!r}, map over: {', '.join(self.columns)}, {self.map_mode})"


def request_of(
    pipeline: Any,
    inputs: Mapping[str, Any] | None,
    output_name: OutputNames,
    map_over: str | Sequence[str] | None,
    map_mode: MapMode,
) -> RunRequest | MapRequest:
    """Return the request that `run`, or `map` where `map_over` is given, would make, for what only looks at it.

    Raises:
        ConfigurationError: The pipeline is none, or the mode unknown.
        DependencyError: The inputs do not fit.
    """
    check_pipeline(pipeline, "pipeline")
    check_map_mode(map_mode)
    given: Mapping[str, Any] = {} if inputs is None else inputs
    if map_over is None:
        return RunRequest(pipeline, given, output_name)
    request: MapRequest = pipeline.map_request(given, map_over, map_mode, output_name)
    return request


def check_pipeline(pipeline: object, parameter: str) -> None:
    """Check that an argument is a pipeline.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(pipeline, type) or not hasattr(pipeline, "plan_for"):
        raise ConfigurationError(f"{parameter} must be a Pipeline; got {shown(pipeline)}")


def check_request(request: object, kind: type) -> None:
    """Check that a backend or an engine got what it takes.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(request, kind):
        raise ConfigurationError(f"request must be a {kind.__name__}; got {shown(request)}")


def _as_items(items: Any) -> list[Any]:
    if not isinstance(items, Iterable) or isinstance(items, type):
        raise DependencyError(f"items must be a list of dicts of values by name; got {shown(items)}")
    return list(items)


def _check_values(parameter: str, values: object) -> None:
    if type(values) is not dict and not isinstance(values, Mapping):
        raise DependencyError(f"{parameter} must be a dict of values by name; got {shown(values)}")


def check_map_mode(map_mode: object) -> MapMode:
    """Return `map_mode` if it is valid."""
    return check_choice("map_mode", map_mode, ("zip", "product"))  # type: ignore[no-any-return]


def check_on_error(on_error: object) -> OnError:
    """Return `on_error` if it is valid."""
    return check_choice("on_error", on_error, ("raise", "collect"))  # type: ignore[no-any-return]


def rows_of(columns: Iterable[Iterable[Any]], mode: MapMode) -> Iterator[tuple[Any, ...]]:
    """Return one tuple of values per item."""
    return product(*columns) if mode == "product" else zip(*columns, strict=True)


def as_column(name: str, values: Any, where: str) -> Sequence[Any]:
    """Return the values of a mapped-over input as a sequence.

    Raises:
        MapInputError: See `check_column`.
    """
    if isinstance(values, (list, tuple)):
        return values
    check_column(name, values, where)
    return list(values)


def check_column(name: str, values: Any, where: str) -> None:
    """Check that a value can be mapped over.

    Raises:
        MapInputError: It is not iterable, or iterating over it would not give its values in an order: a single string,
            a mapping (its keys), a table (the names of its columns) or a set.
    """
    kind = type(values)
    advice = None
    if isinstance(values, (str, bytes)):
        advice = f"is a single {kind.__name__}; pass a list of values, e.g. [{name}]"
    elif isinstance(values, Mapping):
        advice = f"is a {kind.__name__}; pass list({name}), list({name}.values()) or list({name}.items())"
    elif isinstance(values, (set, frozenset)):
        advice = f"is a {kind.__name__}, whose order is arbitrary, so that results could not be told apart; "
        advice += f"pass sorted({name})"
    elif hasattr(kind, "columns") and hasattr(kind, "shape"):  # what tables of pandas, Polars and Arrow have in common
        advice = f"is a table ({kind.__name__}); pass one of its columns, or a list of its rows"
    if advice is not None:
        raise MapInputError(f"{where} maps over {name!r}, which {advice}", input_name=name)
    try:
        iter(values)
    except TypeError as error:
        if hasattr(type(values), "__iter__"):
            raise  # the user's own iterator failed
        raise MapInputError(
            f"{where} maps over {name!r}, which must hold one value per item; {type(values).__name__} is not iterable",
            input_name=name,
        ) from error


def check_lengths(columns: Mapping[str, Sequence[Any]], mode: MapMode, where: str) -> None:
    """Check that columns have equal lengths in zip mode.

    Raises:
        MapLengthError: The lengths differ.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if mode == "zip" and len(set(lengths.values())) > 1:
        listing = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise MapLengthError(
            f"{where} pairs its inputs item by item, but their lengths differ: {listing} values; "
            "use map_mode='product' for every combination",
            lengths=lengths,
        )
