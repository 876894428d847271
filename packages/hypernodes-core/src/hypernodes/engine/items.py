"""The items of a map as frames: what all of them share is prepared once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frame import Frame
from hypernodes.engine.identity import Identities
from hypernodes.engine.lookup import CachedFrame, start_together
from hypernodes.engine.mapping import MapInputs, nested_columns, rows_of
from hypernodes.engine.run_state import RunState
from hypernodes.errors import MapLengthError
from hypernodes.failures import Failure
from hypernodes.plan import NestedStep, Plan

_QUICK_S = 0.0005  # an item that is looked up in less is small: more of them are looked up together
_MAX_WINDOW = 512


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

    With a cache, some items are looked up ahead together: as many as can be had in a short while, so that large results
    are not held before they are needed. Inputs that are read as they come (generators) are not read ahead.

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
        self._read = 0
        self._indexes = inputs.indexes
        self.count = 0
        self._ahead: deque[tuple[list[Any], Frame]] = deque()
        is_read_whole = all(isinstance(column, Sequence) for column in inputs.columns.values())
        self._looks_ahead = plan.is_cached and is_read_whole
        self._window = run.look_ahead
        self.shared_signatures: dict[int, bytes] = {}
        self._elements: Iterator[tuple[bytes, ...]] | None = None
        self.mapped_slots = [plan.inputs[name] for name in inputs.columns]
        self.template = list(plan.template)
        for name, value in inputs.shared.items():
            self.template[plan.inputs[name]] = value
        if plan.is_cached:
            known = {plan.inputs[name]: own for name, own in inputs.signatures.items()}
            self.shared_signatures = Identities(plan, run, self.template, known).of_inputs(
                except_slots=self.mapped_slots
            )
            if inputs.elements:
                unknown = {name: [b""] * len(c) for name, c in inputs.columns.items() if isinstance(c, Sequence)}
                known_elements = {**unknown, **inputs.elements}
                self._elements = rows_of([known_elements[name] for name in inputs.columns], inputs.mode)

    def next_item(self) -> tuple[list[Any], Frame] | None:
        """Return the slots of the next item with its inputs filled in, and its frame; None after the last."""
        if self._looks_ahead:
            if not self._ahead:
                self._look_ahead()
            item = self._ahead.popleft() if self._ahead else None
        else:
            item = self._read_item()
        if item is not None:
            self.count += 1
        return item

    def has_failed_input(self, values: list[Any]) -> bool:
        """Whether an item is made of something that failed upstream."""
        return any(isinstance(values[slot], Failure) for slot in self.mapped_slots)

    def _look_ahead(self) -> None:
        started_at = perf_counter()
        frames: list[CachedFrame] = []
        while len(self._ahead) < self._window and (item := self._read_item()) is not None:
            self._ahead.append(item)
            values, frame = item
            if isinstance(frame, CachedFrame) and not self.has_failed_input(values):
                frames.append(frame)
        start_together(frames)
        seconds_per_item = (perf_counter() - started_at) / max(len(self._ahead), 1)
        if seconds_per_item < _QUICK_S:
            self._window = min(2 * self._window, _MAX_WINDOW)
        elif seconds_per_item > 4 * _QUICK_S:
            self._window = max(self._window // 2, self._run.look_ahead)

    def _read_item(self) -> tuple[list[Any], Frame] | None:
        try:
            row = next(self._rows, None)
        except ValueError as error:
            if str(error).startswith("zip() argument"):
                raise unequal_lengths(self._plan, self._read, error) from error
            raise
        if row is None:
            return None
        values = self.template.copy()
        for slot, value in zip(self.mapped_slots, row, strict=True):
            values[slot] = value
        index = self._read if self._indexes is None else self._indexes[self._read]
        self._read += 1
        if not self._plan.is_cached:
            return values, Frame(self._plan, self._run, values, self._base, index)
        frame = CachedFrame(self._plan, self._run, values, self._base, index, self.shared_signatures)
        if self._elements is not None:
            for slot, own in zip(self.mapped_slots, next(self._elements), strict=True):
                frame.signatures[slot] = own or None
        return values, frame


def unequal_lengths(plan: Plan, count: int, error: ValueError) -> MapLengthError:
    """Return the error for inputs that turn out to be of different lengths while they are read.

    Args:
        plan: The plan of one item.
        count: Number of items that were read before.
        error: What `zip` said.
    """
    return MapLengthError(
        f"pipeline {plan.scopes[0].pipeline_id!r} pairs its inputs item by item, but one of them ends after {count} "
        f"values and another does not ({error}); use map_mode='product' for every combination",
        lengths={},
    )
