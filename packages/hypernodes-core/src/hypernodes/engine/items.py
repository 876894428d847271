"""The items of a map as frames: what all of them share is prepared once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frame import Frame
from hypernodes.engine.lookup import CachedFrame
from hypernodes.engine.mapping import MapInputs, nested_columns, rows_of
from hypernodes.engine.run_state import RunState
from hypernodes.errors import MapLengthError
from hypernodes.plan import NestedStep, Plan


def nested_map_inputs(frame: Frame, step: NestedStep) -> MapInputs:
    """Return what a mapped pipeline that is a step of its own runs over."""
    columns = dict(zip(step.mapped, nested_columns(step, frame.values), strict=True))
    elements: dict[str, Sequence[bytes]] = {}
    signatures: dict[str, bytes] = {}
    if isinstance(frame, CachedFrame):
        for name, slot in zip(step.mapped, step.arguments, strict=False):
            if slot in frame.elements:
                elements[name] = frame.elements[slot]
        signatures = {name: own for name, slot in step.shared if (own := frame.signatures[slot])}
    shared = {name: frame.values[slot] for name, slot in step.shared}
    return MapInputs(columns, step.node.map_mode, shared, signatures, elements)


class ItemFrames:
    """Makes the frames of the items of a map, one after the other; what all items share is prepared once.

    Attributes:
        template: Value of every slot that is the same for all items.
        mapped_slots: The slots that vary.
        count: Number of items begun so far.
    """

    def __init__(self, plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs) -> None:
        self._plan = plan
        self._run = run
        self._base = base
        self._rows = inputs.rows()
        self.count = 0
        self._shared: dict[int, bytes] = {}
        self._elements: Iterator[tuple[bytes, ...]] | None = None
        self.mapped_slots = [plan.inputs[name] for name in inputs.columns]
        self.template = list(plan.template)
        for name, value in inputs.shared.items():
            self.template[plan.inputs[name]] = value
        if plan.is_cached:
            known = {plan.inputs[name]: own for name, own in inputs.signatures.items()}
            probe = CachedFrame(plan, run, self.template, base, signatures=known)
            self._shared = probe.identify_inputs(except_slots=self.mapped_slots)
            if inputs.elements:
                unknown = {name: [b""] * len(c) for name, c in inputs.columns.items() if isinstance(c, Sequence)}
                known_elements = {**unknown, **inputs.elements}
                self._elements = rows_of([known_elements[name] for name in inputs.columns], inputs.mode)

    def next_values(self) -> list[Any] | None:
        """Return the slots of the next item with its inputs filled in; None after the last."""
        try:
            row = next(self._rows, None)
        except ValueError as error:
            if str(error).startswith("zip() argument"):
                raise _unequal(self._plan, self.count, error) from error
            raise
        if row is None:
            return None
        values = self.template.copy()
        for slot, value in zip(self.mapped_slots, row, strict=True):
            values[slot] = value
        self.count += 1
        return values

    def frame(self, values: list[Any]) -> Frame:
        """Return the frame of the item that `next_values` gave last."""
        index = self.count - 1
        if not self._plan.is_cached:
            return Frame(self._plan, self._run, values, self._base, index)
        frame = CachedFrame(self._plan, self._run, values, self._base, index, self._shared)
        if self._elements is not None:
            for slot, own in zip(self.mapped_slots, next(self._elements), strict=True):
                frame.signatures[slot] = own or None
        return frame


def _unequal(plan: Plan, count: int, error: ValueError) -> MapLengthError:
    return MapLengthError(
        f"pipeline {plan.scopes[0].pipeline_id!r} pairs its inputs item by item, but one of them ends after {count} "
        f"values and another does not ({error}); use map_mode='product' for every combination",
        lengths={},
    )
