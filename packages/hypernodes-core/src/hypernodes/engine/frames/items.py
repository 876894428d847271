"""The items of a map as frames: what all of them share is prepared once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.cached import CachedFrame, start_together
from hypernodes.engine.frames.columns import MapInputs, nested_columns, rows_of
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.identity.plan_code import code_of
from hypernodes.engine.identity.slot_signatures import Identities, identify
from hypernodes.engine.state import RunState
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


class ItemResults(NamedTuple):
    """What came of a map.

    Attributes:
        columns: For each requested output, one result per item.
        elements: For each requested output, the signature of each result; empty ones where there are none.
    """

    columns: list[list[Any]]
    elements: list[list[bytes]]


# What goes into an item of a map: its index, the value of every slot with the inputs filled in, and the signatures of
# what is in the mapped slots, as far as they are known (empty ones elsewhere).
ItemInputs: TypeAlias = tuple[int, list[Any], tuple[bytes, ...]]


class MapItems:
    """The inputs of the items of a map, one after the other; what all items share is prepared once.

    Attributes:
        template: Value of every slot that is the same for all items.
        mapped_slots: The slots that vary.
        shared_signatures: Signatures of what all items share, by slot, as far as cached steps take it.
        is_read_whole: Whether all of them are known beforehand: generators are read as they come.
    """

    def __init__(self, plan: Plan, run: RunState, inputs: MapInputs) -> None:
        self._plan = plan
        self._rows = inputs.rows()
        self._read = 0
        self._indexes = inputs.indexes
        self._elements: Iterator[tuple[bytes, ...]] | None = None
        self.is_read_whole = all(isinstance(column, Sequence) for column in inputs.columns.values())
        self.shared_signatures: dict[int, bytes] = {}
        self.mapped_slots = [plan.inputs[name] for name in inputs.columns]
        self._unsigned = (b"",) * len(self.mapped_slots)
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

    def read(self) -> ItemInputs | None:
        """Return the inputs of the next item; None after the last."""
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
        return index, values, self._unsigned if self._elements is None else next(self._elements)

    def failed_input(self, values: list[Any]) -> Failure | None:
        """Return what stands in the place of an input of an item because it failed upstream."""
        for slot in self.mapped_slots:
            if isinstance(value := values[slot], Failure):
                return value
        return None


class Window:
    """How many items are looked up together: as many as can be had in a short while.

    So large results are not held before they are needed.

    Args:
        least: The smallest number, and the first.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self.size = least

    def learn(self, seconds: float, items: int) -> None:
        """Take note of how long it took to look up so many items."""
        seconds_per_item = seconds / max(items, 1)
        if seconds_per_item < _QUICK_S:
            self.size = min(2 * self.size, _MAX_WINDOW)
        elif seconds_per_item > 4 * _QUICK_S:
            self.size = max(self.size // 2, self._least)


class ItemFrames:
    """Makes the frames of the items of a map, one after the other.

    With a cache, some items are looked up ahead together, unless their inputs are read as they come (generators).

    Attributes:
        template: Value of every slot that is the same for all items.
        mapped_slots: The slots that vary.
        shared_signatures: Signatures of what all items share, by slot, as far as cached steps take it.
        count: Number of items begun so far.
    """

    def __init__(self, plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs) -> None:
        self._plan = plan
        self._run = run
        self._base = base
        self._items = MapItems(plan, run, inputs)
        self.count = 0
        self._ahead: deque[tuple[list[Any], Frame]] = deque()
        self._looks_ahead = plan.is_cached and self._items.is_read_whole
        self._window = Window(run.look_ahead)
        self.mapped_slots = self._items.mapped_slots
        self.template = self._items.template
        self.shared_signatures = self._items.shared_signatures

    def next_item(self) -> tuple[list[Any], Frame] | None:
        """Return the slots of the next item with its inputs filled in, and its frame; None after the last."""
        item: tuple[list[Any], Frame] | None
        if self._looks_ahead:
            if not self._ahead:
                self._look_ahead()
            item = self._ahead.popleft() if self._ahead else None
        elif (read := self._items.read()) is None:
            item = None
        elif self._plan.is_cached:
            item = read[1], cached_frame(self._plan, self._run, self._base, self._items, read)
        else:
            index, values, _ = read
            item = values, Frame(self._plan, self._run, values, self._base, index)
        if item is not None:
            self.count += 1
        return item

    def has_failed_input(self, values: list[Any]) -> bool:
        """Whether an item is made of something that failed upstream."""
        return self._items.failed_input(values) is not None

    def _look_ahead(self) -> None:
        started_at = perf_counter()
        frames: list[CachedFrame] = []
        while len(self._ahead) < self._window.size and (read := self._items.read()) is not None:
            frame = cached_frame(self._plan, self._run, self._base, self._items, read)
            self._ahead.append((read[1], frame))
            if not self.has_failed_input(read[1]):
                frames.append(frame)
        start_together(frames)
        self._window.learn(perf_counter() - started_at, len(self._ahead))


def cached_frame(plan: Plan, run: RunState, base: CallbackContext, items: MapItems, item: ItemInputs) -> CachedFrame:
    """Return the frame of an item of a map that may find something in a cache."""
    index, values, signatures = item
    frame = CachedFrame(plan, run, values, base, index, items.shared_signatures)
    for slot, own in zip(items.mapped_slots, signatures, strict=True):
        if own:
            frame.signatures[slot] = own
    return frame


def sign_elements(plan: Plan, run: RunState, inputs: MapInputs) -> MapInputs:
    """Return the inputs of a map with the signatures of all values of the columns that make a difference."""
    code = code_of(plan, run)
    signed = {slot for step in plan.steps for slot in code.signed[step.index]}
    elements = dict(inputs.elements)
    for name, column in inputs.columns.items():
        slot = plan.inputs[name]
        if name not in elements and slot in signed:
            elements[name] = [identify(plan, run, slot, value) for value in column]
    return inputs._replace(elements=elements)


def sign_items(plan: Plan, run: RunState, inputs: MapInputs) -> list[list[bytes]]:
    """Return, for each requested output, the signature that it will have for each item; empty where there is none."""
    items = MapItems(plan, run, inputs)
    columns: list[list[bytes]] = [[] for _ in plan.outputs]
    while (read := items.read()) is not None:
        _, values, known = read
        own = {slot: element for slot, element in zip(items.mapped_slots, known, strict=True) if element}
        identities = Identities(plan, run, values, {**items.shared_signatures, **own})
        identities.sign_all()
        for column, slot in zip(columns, plan.outputs.values(), strict=True):
            column.append(identities.signatures[slot] or b"")
    return columns


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
