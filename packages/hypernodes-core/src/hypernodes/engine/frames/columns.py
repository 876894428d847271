"""The inputs of maps: one column of values for each mapped-over input, and checks of these columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from hypernodes.caller import warn_caller
from hypernodes.conditions import SKIPPED, Skipped
from hypernodes.engine.failed_items import STAND_INS
from hypernodes.errors import DependencyError, HyperNodesWarning
from hypernodes.failure import Failure
from hypernodes.plan import UNSET, CallStep, MapMode, NestedStep, Plan
from hypernodes.read_once import REREADABLE, held_iterator, holding, is_read_once, kind_of, listing, remedy
from hypernodes.request import as_column, check_lengths, rows_of


class MapInputs(NamedTuple):
    """The inputs of the items of a map.

    Attributes:
        columns: For each mapped-over input, one value per item (zip) or the values to combine (product).
        mode: "zip" or "product".
        shared: Values of the other inputs.
        signatures: Signatures of shared inputs, where they are already known.
        elements: Signatures of the single values of a column, where they are already known.
        indexes: Index of each item in the whole map, when these are only some of its items.
    """

    columns: Mapping[str, Iterable[Any]]
    mode: MapMode
    shared: Mapping[str, Any]
    signatures: Mapping[str, bytes]
    elements: Mapping[str, Sequence[bytes]]
    indexes: Sequence[int] | None = None

    def total(self) -> int | None:
        """Return the number of items; None when a column does not know its length."""
        lengths = [len(column) if isinstance(column, Sequence) else None for column in self.columns.values()]
        total = 1
        for length in lengths if self.mode == "product" else lengths[:1]:
            if length is None:
                return None
            total *= length
        return total

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Return one tuple of values per item."""
        return rows_of(self.columns.values(), self.mode)

    def signature_rows(self) -> Iterator[tuple[bytes, ...]] | None:
        """Return one tuple of signatures per item, empty ones where unknown; None if none are known."""
        if not self.elements:
            return None
        unknown = {name: [b""] * len(column) for name, column in self.columns.items() if isinstance(column, Sequence)}
        known = {**unknown, **self.elements}
        return rows_of([known[name] for name in self.columns], self.mode)

    def rest(self, plan: Plan) -> tuple[Any, ...]:
        """Return the initial values of all slots after the ones that vary."""
        return (*self.shared.values(), *plan.rest)

    def values_of_items(self) -> list[list[Any]]:
        """Return, for each mapped-over input, one value per item."""
        columns = [*self.columns.values()]
        lengths = {len(column) if isinstance(column, Sequence) else None for column in columns}
        if self.mode == "zip" and len(lengths) == 1 and None not in lengths:
            return list(map(list, columns))
        return list(map(list, zip(*self.rows(), strict=True))) or [[] for _ in columns]


def check_inputs(plan: Plan, inputs: Mapping[str, Any], where: str) -> None:
    """Refuse inputs of one execution that can be read only once and are read more often; warn of those in containers.

    Raises:
        DependencyError: There is one.
    """
    for name, value in inputs.items():
        readers = plan.inputs_read_often.get(plan.inputs[name])
        if readers is not None:
            if is_read_once(value):
                _refuse_input(name, value, where, listing(readers))
            _warn_of_held(name, value, where, readers)


def check_shared(plan: Plan, inputs: Mapping[str, Any], where: str) -> None:
    """Refuse inputs that the items of a map share and that can be read only once.

    Raises:
        DependencyError: There is one.
    """
    for name, value in inputs.items():
        if plan.inputs[name] in plan.readers.of:
            if is_read_once(value):
                _refuse_input(name, value, where, "every item needs it")
            _warn_of_held(name, value, where, ())


def check_items(plan: Plan, columns: Mapping[str, Iterable[Any]], mode: MapMode, where: str) -> None:
    """Refuse items that can be read only once and are read more often.

    Raises:
        DependencyError: There is one.
    """
    is_combined = mode == "product" and len(columns) > 1
    for name, column in columns.items():
        readers = plan.inputs_read_often.get(plan.inputs[name], ())
        if not (readers or is_combined) or not isinstance(column, (list, tuple)):
            continue
        if column and readers:  # items are alike, as a rule
            _warn_of_held(f"{name}[0]", column[0], where, readers)
        if REREADABLE.issuperset(map(type, column)):
            continue
        for index, item in enumerate(column):
            if is_read_once(item):
                needed = listing(readers) if readers else "every combination needs it"
                _refuse_input(f"{name}[{index}]", item, where, needed)


def _refuse_input(name: str, value: Any, where: str, needed: str) -> NoReturn:
    raise DependencyError(
        f"input {name!r} of {where} is {kind_of(value)}, which can be read only once, but {needed}. "
        f"Pass {remedy(value, name)}",
        input_name=name,
    )


def _warn_of_held(name: str, value: Any, where: str, readers: Sequence[str]) -> None:
    """Warn of an input that holds an iterator; without readers, all items of a map get it."""
    held = held_iterator(value)
    if held is not None:
        got = listing(readers, "gets it", "get it") if readers else "every item gets it"
        warn_caller(
            f"input {name!r} of {where} is {holding(value, held, name)}, which can be read only once, and {got}: "
            "all but the first find nothing. Pass a list there",
            HyperNodesWarning,
        )


def has_failure(column: Iterable[Any]) -> bool:
    """Return whether any of these values is a `Failure`."""
    return Failure in map(type, column)


def has_stand_in(column: Iterable[Any]) -> bool:
    """Return whether any of these values stands for a result that an upstream step did not make.

    It is a `Failure`, with which an item cannot be executed, or `SKIPPED`, with which it need not be.
    """
    return not STAND_INS.isdisjoint(map(type, column))


def stand_in_for_item(values: Iterable[Any]) -> Failure | Skipped | None:
    """Return what stands for all outputs of an item that is not executed, because of one of the inputs that vary."""
    is_skipped = False
    for value in values:
        if isinstance(value, Failure):
            return value
        is_skipped = is_skipped or value is SKIPPED
    return SKIPPED if is_skipped else None


def column_in(values: list[Any], slot: int, name: str, where: str) -> Sequence[Any]:
    """Return the mapped-over value in a slot as a sequence; an iterator is replaced by a list for all its readers."""
    column = as_column(name, values[slot], where)
    if isinstance(values[slot], Iterator):
        values[slot] = column
    return column


def nested_columns(step: NestedStep, values: list[Any]) -> list[Sequence[Any]]:
    """Return one column per mapped-over input of a mapped pipeline that is a step of a plan.

    Iterators among `values` are replaced by lists where more than one step reads them.

    Raises:
        MapInputError: A value cannot be mapped over.
        MapLengthError: The columns are to be paired, and their lengths differ.
    """
    where = f"node {step.node.name!r}"
    names = step.node.map_over
    columns = [column_in(values, slot, name, where) for name, slot in zip(names, step.arguments, strict=False)]
    if step.inner.inputs_read_often or len(columns) > 1:
        check_items(step.inner, dict(zip(step.mapped, columns, strict=True)), step.node.map_mode, where)
    materialize_shared_iterators(step, values)
    if len(columns) > 1:
        check_lengths(dict(zip(names, columns, strict=True)), step.node.map_mode, where)
    return columns


def materialize_shared_iterators(step: NestedStep, values: list[Any]) -> None:
    """Replace an iterator by a list where every item of a map maps over it, so that the first does not exhaust it."""
    for name, slot in step.shared:
        if isinstance(values[slot], Iterator) and is_mapped_inside(step.inner, step.inner.inputs[name]):
            values[slot] = list(values[slot])


def is_mapped_inside(plan: Plan, slot: int) -> bool:
    """Whether a mapped pipeline in a plan, at any depth, maps over the value in a slot."""
    for step in plan.steps:
        if isinstance(step, CallStep):
            continue
        for name, own in zip(step.inner_inputs, step.arguments, strict=True):
            if own != slot:
                continue
            if name in step.mapped:
                return True
            if name in step.inner.inputs and is_mapped_inside(step.inner, step.inner.inputs[name]):
                return True
    return False


def check_given_columns(plan: Plan, values: list[Any], *, is_nested: bool = False) -> None:
    """Check the mapped-over inputs of nested pipelines that are known before any step runs.

    Args:
        plan: The plan.
        values: Value of every slot; iterators that are mapped over are replaced by lists.
        is_nested: Whether it is part of another run: then these pipelines fail when they are about to run.
    """
    for step in plan.maps:
        try:
            _check_columns_of(step, plan, values)
        except DependencyError:
            if not is_nested:
                raise


def _check_columns_of(step: NestedStep, plan: Plan, values: list[Any]) -> None:
    where = f"node {step.node.name!r}"
    columns: dict[str, Sequence[Any]] = {}
    for outer_name, slot in zip(step.node.map_over, step.arguments, strict=False):
        if plan.producers[slot] < 0 and values[slot] is not UNSET and values[slot] is not SKIPPED:
            columns[outer_name] = column_in(values, slot, outer_name, where)
    materialize_shared_iterators(step, values)
    check_lengths(columns, step.node.map_mode, where)
