"""Makes the frames of the items of a map: shared parts are prepared once, and several items are looked up together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, TypeAlias

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.columns import MapInputs, has_stand_in, stand_in_for_item
from hypernodes.engine.frames.demand import DemandFrame, start_together
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.identified import IdentifiedFrame, look_up_identified
from hypernodes.engine.frames.prior_results import PriorResults
from hypernodes.engine.identity.plan_code import IdentifiedCalls
from hypernodes.engine.identity.slot_signatures import SlotSignatures, identify
from hypernodes.engine.state import RunState
from hypernodes.errors import MapLengthError
from hypernodes.plan import Plan

_QUICK_LOOKUP_S = 0.0005  # items with faster look-ups are small, so that more of them are looked up together
_MAX_WINDOW = 512


# The inputs of an item of a map: its index, the value of every slot with the inputs filled in, and the signatures of
# the values in the mapped slots (empty where unknown).
ItemInputs: TypeAlias = tuple[int, list[Any], tuple[bytes, ...]]


class ItemReader:
    """Reads the inputs of the items of a map, one after the other; shared parts are prepared once.

    Attributes:
        template: Value of every slot that is the same for all items.
        mapped_slots: The slots that vary.
        shared_signatures: Signatures of the shared values that cached steps read, by slot.
        is_read_whole: Whether all items are known beforehand; generators are read item by item.
        may_hold_stand_ins: Whether a `Failure` or `SKIPPED` may be among the inputs.
    """

    def __init__(self, plan: Plan, run: RunState, inputs: MapInputs) -> None:
        self._plan = plan
        columns = inputs.columns.values()
        self.is_read_whole = all(isinstance(column, Sequence) for column in columns)
        self.may_hold_stand_ins = not self.is_read_whole or any(map(has_stand_in, columns))
        self._rows = inputs.rows() if self.is_read_whole else checked_rows(plan, inputs)
        self._read = 0
        self._indexes = inputs.indexes
        self._elements: Iterator[tuple[bytes, ...]] | None = None
        self.shared_signatures: dict[int, bytes] = {}
        self.mapped_slots = [plan.inputs[name] for name in inputs.columns]
        self._unsigned = (b"",) * len(self.mapped_slots)
        self.template = list(plan.template)
        for name, value in inputs.shared.items():
            self.template[plan.inputs[name]] = value
        if plan.is_cached:
            known = {plan.inputs[name]: own for name, own in inputs.signatures.items()}
            self.shared_signatures = SlotSignatures(plan, run.codes, self.template, known).of_inputs(
                except_slots=self.mapped_slots
            )
            self._elements = inputs.signature_rows()

    def read(self) -> ItemInputs | None:
        """Return the inputs of the next item; None after the last."""
        row = next(self._rows, None)
        if row is None:
            return None
        values = self.template.copy()
        for slot, value in zip(self.mapped_slots, row, strict=True):
            values[slot] = value
        index = self._read if self._indexes is None else self._indexes[self._read]
        self._read += 1
        return index, values, self._unsigned if self._elements is None else next(self._elements)


class _Window:
    """The number of items that are looked up together: as many as a short time allows.

    Thus large results are not loaded long before they are needed.

    Args:
        least: The smallest number, and the initial one.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self.size = least

    def learn(self, seconds: float, items: int) -> None:
        """Adjust the number to the duration of a look-up of `items` items."""
        seconds_per_item = seconds / max(items, 1)
        if seconds_per_item < _QUICK_LOOKUP_S:
            self.size = min(2 * self.size, _MAX_WINDOW)
        elif seconds_per_item > 4 * _QUICK_LOOKUP_S:
            self.size = max(self.size // 2, self._least)


class ItemFrames:
    """Makes the frames of the items of a map, one after the other.

    With a cache, several items are looked up together ahead of time, unless their inputs come from generators.

    Args:
        plan: The plan of one item.
        run: The run.
        base: Context of the map.
        inputs: The inputs of the items.
        asks_for_complete: In a dry run, whether nothing but the results is asked of an item of which all are found.

    Attributes:
        plan: The plan of one item.
        run: The run.
        template: Value of every slot that is the same for all items.
        mapped_slots: The slots that vary.
        shared_signatures: Signatures of the shared values that cached steps read, by slot.
        count: Number of items begun so far.
    """

    def __init__(
        self, plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs, asks_for_complete: bool = False
    ) -> None:
        self.plan = plan
        self.run = run
        self._base = base
        self._items = items = ItemReader(plan, run, inputs)
        self.count = 0
        self._ahead: deque[Frame] = deque()
        self._looks_ahead = plan.is_cached and items.is_read_whole
        self._window = _Window(run.look_ahead)
        self.mapped_slots = items.mapped_slots
        self.template = items.template
        self.shared_signatures = items.shared_signatures
        is_general = run.is_dry_run and not (asks_for_complete and self._looks_ahead)
        self._calls = None if is_general else identified_calls(plan, run, is_item=True)
        if self._calls is not None:
            self._shared = [items.shared_signatures.get(slot, b"") for slot in range(len(items.template))]
            self._varying = self._calls.inputs.intersection(items.mapped_slots)
            if not all(self._shared[slot] for slot in self._calls.inputs - self._varying):
                self._calls = None

    def next_item(self) -> Frame | None:
        """Return the frame of the next item with its inputs filled in; None after the last."""
        if self._looks_ahead:
            if not self._ahead:
                self._look_ahead()
            if not self._ahead:
                return None
            frame = self._ahead.popleft()
        else:
            read = self._items.read()
            if read is None:
                return None
            frame = self._frame(read)
        self.count += 1
        return frame

    def _look_ahead(self) -> None:
        started_at = perf_counter()
        identified: list[IdentifiedFrame] = []
        others: list[DemandFrame] = []
        while len(self._ahead) < self._window.size and (read := self._items.read()) is not None:
            frame = self._frame(read)
            self._ahead.append(frame)
            if frame.stand_in is not None:
                continue
            if isinstance(frame, IdentifiedFrame):
                identified.append(frame)
            elif isinstance(frame, DemandFrame):
                others.append(frame)
        look_up_identified(identified)
        if self.run.is_dry_run and identified:
            others += self._replace_incomplete()
        start_together(others)
        self._window.learn(perf_counter() - started_at, len(self._ahead))

    def _replace_incomplete(self) -> list[DemandFrame]:
        """Give incomplete items the frame that knows what is found of them.

        If all are incomplete, the items to come get it without being looked up twice.
        """
        replaced: list[DemandFrame] = []
        for position, frame in enumerate(self._ahead):
            if isinstance(frame, IdentifiedFrame) and not frame.is_done:
                known = {slot: own for slot, own in enumerate(frame.signatures) if own}
                general = DemandFrame(self.plan, self.run, frame.values, self._base, frame.item_index, known)
                replaced.append(general)
                self._ahead[position] = general
        if len(replaced) == len(self._ahead):
            self._calls = None
        return replaced

    def _frame(self, item: ItemInputs) -> Frame:
        index, values, known = item
        plan, run = self.plan, self.run
        if self._items.may_hold_stand_ins:
            stand_in = stand_in_for_item([values[slot] for slot in self.mapped_slots])
            if stand_in is not None:
                frame = Frame(plan, run, values, self._base, index)
                frame.stand_in = stand_in
                return frame
        if not plan.runs_on_demand:
            return Frame(plan, run, values, self._base, index)
        if self._calls is not None:
            signatures = self._shared.copy()
            for slot, own in zip(self.mapped_slots, known, strict=True):
                signatures[slot] = own
            identified = IdentifiedFrame(plan, run, values, self._base, index, self._calls, signatures)
            if identified.sign(self._varying):
                return identified
        general = DemandFrame(plan, run, values, self._base, index, self.shared_signatures)
        for slot, own in zip(self.mapped_slots, known, strict=True):
            if own:
                general.signatures[slot] = own
        return general


def frame_of_run(
    plan: Plan, run: RunState, values: list[Any], base: CallbackContext, known: PriorResults | None
) -> Frame:
    """Return the frame of a plan that is executed once.

    Args:
        plan: The plan.
        run: The run.
        values: Value of every slot, with the inputs filled in.
        base: Context of the pipeline.
        known: Prior results of the run.
    """
    if not plan.runs_on_demand:
        return Frame(plan, run, values, base)
    calls = identified_calls(plan, run, is_item=False) if known is None else None
    if calls is not None:
        frame = IdentifiedFrame(plan, run, values, base, None, calls, [b""] * len(values))
        if frame.sign(calls.inputs):
            return frame
    return DemandFrame(plan, run, values, base, known=known)


def identified_calls(plan: Plan, run: RunState, is_item: bool) -> IdentifiedCalls | None:
    """Return the calls of a plan with what is needed to sign them, if `IdentifiedFrame` can execute it; else None."""
    if not plan.is_cached or plan.places:
        return None
    if run.observes(plan) and (len(plan.scopes) > 1 or not is_item or plan.open_scopes is not None):
        return None  # events of nested pipelines depend on the hits; see `DemandFrame`
    return run.codes.of(plan).identified


def sign_elements(plan: Plan, run: RunState, inputs: MapInputs) -> MapInputs:
    """Return the inputs of a map with the signatures of all column values that are part of signatures of results."""
    code = run.codes.of(plan)
    signed = {slot for step in plan.steps for slot in code.signed[step.index]}
    elements = dict(inputs.elements)
    for name, column in inputs.columns.items():
        slot = plan.inputs[name]
        if name not in elements and slot in signed:
            elements[name] = [identify(plan, run.codes, slot, value) for value in column]
    return inputs._replace(elements=elements)


def sign_items(plan: Plan, run: RunState, inputs: MapInputs) -> list[list[bytes]]:
    """Return the expected signatures of each requested output, one per item; empty where there is none."""
    items = ItemReader(plan, run, inputs)
    columns: list[list[bytes]] = [[] for _ in plan.outputs]
    while (read := items.read()) is not None:
        _, values, known = read
        own = {slot: element for slot, element in zip(items.mapped_slots, known, strict=True) if element}
        identities = SlotSignatures(plan, run.codes, values, {**items.shared_signatures, **own})
        identities.sign_all()
        for column, slot in zip(columns, plan.outputs.values(), strict=True):
            column.append(identities.signatures[slot] or b"")
    return columns


def checked_rows(plan: Plan, inputs: MapInputs) -> Iterator[tuple[Any, ...]]:
    """Yield one tuple of values per item.

    Raises:
        MapLengthError: The inputs turn out to be of different lengths.
        Exception: The error that an input raised while it was read.
    """
    rows, count = inputs.rows(), 0
    try:
        for row in rows:
            yield row
            count += 1
    except ValueError as error:
        if str(error).startswith("zip() argument"):
            raise unequal_lengths(plan, count, error) from error
        raise


def unequal_lengths(plan: Plan, count: int, error: ValueError) -> MapLengthError:
    """Return the error for inputs that turn out to be of different lengths while they are read.

    Args:
        plan: The plan of one item.
        count: Number of items that were read before.
        error: The error of `zip`.
    """
    return MapLengthError(
        f"pipeline {plan.scopes[0].pipeline_id!r} pairs its inputs item by item, but one of them ends after {count} "
        f"values and another does not ({error}); use map_mode='product' for every combination",
        lengths={},
    )
