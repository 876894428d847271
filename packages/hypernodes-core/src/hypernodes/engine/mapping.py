"""Items: one plan, executed once for each set of values of the mapped-over inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frame import Frame
from hypernodes.engine.lookup import CachedFrame
from hypernodes.engine.run_state import RunState
from hypernodes.errors import MapInputError, MapLengthError
from hypernodes.plan import CallStep, MapMode, NestedStep, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator


class MapInputs(NamedTuple):
    """What a map runs over.

    Attributes:
        columns: For each mapped-over input, one value per item (zip) or the values to combine (product).
        mode: "zip" or "product".
        shared: Values of the other inputs.
        signatures: Signatures of shared inputs, where they are known already.
        elements: Signatures of the single values of a column, where they are known already.
    """

    columns: Mapping[str, Sequence[Any]]
    mode: MapMode
    shared: Mapping[str, Any]
    signatures: Mapping[str, bytes]
    elements: Mapping[str, Sequence[bytes]]

    def __len__(self) -> int:
        lengths = [len(column) for column in self.columns.values()]
        total = 1
        for length in lengths if self.mode == "product" else lengths[:1]:
            total *= length
        return total

    def rows(self, columns: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        """Return one tuple per item."""
        return product(*columns) if self.mode == "product" else zip(*columns, strict=True)


class MapResults(NamedTuple):
    """What a map made.

    Attributes:
        columns: For each requested output, one result per item.
        elements: For each requested output, the signature of each result; None where some have none.
    """

    columns: list[list[Any]]
    elements: list[list[bytes] | None]


def as_column(name: str, values: Any, where: str) -> Sequence[Any]:
    """Return the values of a mapped-over input as a sequence.

    Raises:
        MapInputError: It is not iterable, or a single string.
    """
    if isinstance(values, (list, tuple)):
        return values
    if isinstance(values, (str, bytes)):
        raise MapInputError(
            f"{where} maps over {name!r}, which is a single {type(values).__name__}; pass a list of values, "
            f"e.g. [{name}]",
            input_name=name,
        )
    try:
        return list(values)
    except TypeError as error:
        if hasattr(type(values), "__iter__"):
            raise  # the user's own iterator failed
        raise MapInputError(
            f"{where} maps over {name!r}, which must hold one value per item; {type(values).__name__} is not iterable",
            input_name=name,
        ) from error


def check_lengths(columns: Mapping[str, Sequence[Any]], mode: MapMode, where: str) -> None:
    """Refuse columns of different lengths in zip mode."""
    lengths = {name: len(column) for name, column in columns.items()}
    if mode == "zip" and len(set(lengths.values())) > 1:
        listing = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise MapLengthError(
            f"{where} pairs its inputs item by item, but {listing} values; "
            "use map_mode='product' for every combination",
            lengths=lengths,
        )


class ItemFrames:
    """Makes the frames of items, with the signatures that all items share computed once."""

    def __init__(
        self,
        plan: Plan,
        run: RunState,
        base: CallbackContext,
        template: list[Any],
        inputs: MapInputs,
        slots: Sequence[int],
    ) -> None:
        self._plan = plan
        self._run = run
        self._base = base
        self._shared: dict[int, bytes] = {}
        self._element_slots: list[int] = []
        self._element_rows: Iterator[tuple[bytes, ...]] | None = None
        if not plan.is_cached:
            return
        known = {plan.inputs[name]: own for name, own in inputs.signatures.items() if name in plan.inputs}
        probe = CachedFrame(plan, run, template, base, signatures=known)
        self._shared = probe.identify_inputs(except_slots=slots)
        columns = [inputs.elements.get(name, ()) for name in inputs.columns]
        if all(len(own) == len(inputs.columns[name]) for name, own in zip(inputs.columns, columns, strict=True)):
            self._element_slots = list(slots)
            self._element_rows = inputs.rows(columns)

    def frame(self, values: list[Any], index: int) -> Frame:
        if not self._plan.is_cached:
            return Frame(self._plan, self._run, values, self._base, index)
        frame = CachedFrame(self._plan, self._run, values, self._base, index, self._shared)
        if self._element_rows is not None:
            for slot, own in zip(self._element_slots, next(self._element_rows), strict=True):
                frame.signatures[slot] = own or None
        return frame


def check_given_columns(plan: Plan, values: list[Any]) -> None:
    """Check the mapped-over inputs that are known before anything runs, and keep them as sequences."""
    for step in plan.steps:
        if isinstance(step, CallStep) or not step.mapped:
            continue
        columns: dict[str, Sequence[Any]] = {}
        for inner_name, outer_name, slot in _mapped_slots(step):
            if plan.producers[slot] < 0:
                values[slot] = as_column(outer_name, values[slot], f"node {step.node.name!r}")
                columns[outer_name or inner_name] = values[slot]
        check_lengths(columns, step.node.map_mode, f"node {step.node.name!r}")


def _mapped_slots(step: NestedStep) -> list[tuple[str, str, int]]:
    slot_of = dict(zip(step.inner_inputs, step.arguments, strict=True))
    return [(inner, outer, slot_of[inner]) for inner, outer in zip(step.mapped, step.node.map_over, strict=True)]


def nested_map_inputs(frame: Frame, step: NestedStep) -> MapInputs:
    where = f"node {step.node.name!r}"
    columns: dict[str, Sequence[Any]] = {}
    elements: dict[str, Sequence[bytes]] = {}
    for inner, outer, slot in _mapped_slots(step):
        columns[inner] = as_column(outer, frame.values[slot], where)
        if isinstance(frame, CachedFrame) and slot in frame.elements:
            elements[inner] = frame.elements[slot]
    check_lengths(columns, step.node.map_mode, where)
    shared = {
        name: slot
        for name, slot in zip(step.inner_inputs, step.arguments, strict=True)
        if name not in columns and name in step.inner.inputs
    }
    signatures: dict[str, bytes] = {}
    if isinstance(frame, CachedFrame):
        signatures = {name: frame.signatures[slot] or b"" for name, slot in shared.items()}
    return MapInputs(
        columns,
        step.node.map_mode,
        {name: frame.values[slot] for name, slot in shared.items()},
        {name: own for name, own in signatures.items() if own},
        elements,
    )
