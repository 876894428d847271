"""Running plans whose results are all known by what goes in: what most cached maps are.

This is what `CachedFrame` and `in_order` do, unrolled for speed: in sequential mode, for plans of calls with one cache,
and for maps over a single pipeline also when somebody listens. Items are signed and looked up many at a time, and what
is missing is called in a plain loop. An item with an input that cannot be identified is left to the general way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.cached import Answers, CachedFrame
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.items import ItemResults, MapItems, Window, cached_frame
from hypernodes.engine.identity.plan_code import IdentifiedCalls, sign_call, sign_outputs
from hypernodes.engine.identity.records import Computed
from hypernodes.engine.identity.slot_signatures import identify, sign_item
from hypernodes.engine.state import RunState
from hypernodes.engine.step import add_note, call
from hypernodes.engine.store.run_store import LONGEST_WAIT_S
from hypernodes.failures import Failure
from hypernodes.plan import Plan

_IDLE, _ASKED, _WANTED, _FOUND = range(4)


class _Item:
    """One execution of the plan.

    Attributes:
        index: Index of the map item; None when it is no map item.
        values: Value of every slot so far.
        signatures: Signature of what is in every slot.
        missing: Positions of the steps to call, in order, as far as is known from the last look into the cache.
        found: Positions of those whose results were found while some are missing.
        asked_at: Number of results that the run had computed at that look.
        frame: Executes it in the general way, if it has to be.
    """

    __slots__ = ("asked_at", "found", "frame", "index", "missing", "signatures", "values")

    def __init__(self, index: int | None, values: list[Any], signatures: list[bytes]) -> None:
        self.index = index
        self.values = values
        self.signatures = signatures
        self.missing: list[int] = []
        self.found: list[int] = []
        self.asked_at = 0
        self.frame: CachedFrame | None = None


def run_identified(plan: Plan, run: RunState, base: CallbackContext, calls: IdentifiedCalls, values: list[Any]) -> bool:
    """Run a plan that nobody hears once; return False, without having run anything, when an input cannot be identified.

    Args:
        plan: The plan.
        run: The run.
        base: Context of the pipeline.
        calls: The plan again, as it is signed.
        values: Value of every slot, with the inputs filled in; takes the results.

    Raises:
        Exception: What a node raised, with a note saying where.
    """
    runner = _Runner(plan, run, base, calls)
    item = _Item(None, values, [b""] * len(values))
    if not runner.sign(item, calls.inputs):
        return False
    runner.look_up([item])
    runner.execute(item)
    return True


def map_identified(
    plan: Plan,
    run: RunState,
    base: CallbackContext,
    calls: IdentifiedCalls,
    inputs: MapInputs,
    execute: Callable[[CachedFrame], None],
) -> ItemResults:
    """Run a plan once per item.

    Args:
        plan: The plan.
        run: The run.
        base: Context of the map.
        calls: The plan again, as it is signed.
        inputs: What to map over.
        execute: The general way for an item.

    Raises:
        Exception: What a node raised, with a note saying where; or what stands in the place of an input that failed.
    """
    runner = _Runner(plan, run, base, calls)
    slots = tuple(plan.outputs.values())
    columns: list[list[Any]] = [[] for _ in slots]
    elements: list[list[bytes]] = [[] for _ in slots]
    for item in runner.items(inputs):
        if item.frame is None:
            runner.execute(item)
        else:
            execute(item.frame)
            item.signatures = [own or b"" for own in item.frame.signatures]
        for column, signed, slot in zip(columns, elements, slots, strict=True):
            column.append(item.values[slot])
            signed.append(item.signatures[slot])
    return ItemResults(columns, elements)


class _Runner:
    """Signs items, looks them up and makes the calls whose results are missing."""

    def __init__(self, plan: Plan, run: RunState, base: CallbackContext, calls: IdentifiedCalls) -> None:
        self._plan = plan
        self._run = run
        self._base = base
        self._calls = calls
        self._store = run.store

    def items(self, inputs: MapInputs) -> Iterable[_Item]:
        """Return the items of a map, looked up; one after the other, since an item may need what another computed."""
        items = MapItems(self._plan, self._run, inputs)
        shared = [items.shared_signatures.get(slot, b"") for slot in range(len(items.template))]
        varying = self._calls.inputs.intersection(items.mapped_slots)
        can_be_identified = all(shared[slot] for slot in self._calls.inputs - varying)
        window = Window(self._run.look_ahead)
        while True:
            started_at = perf_counter()
            ahead: deque[_Item] = deque()
            identified: list[_Item] = []
            failure: Failure | None = None
            while len(ahead) < window.size and (read := items.read()) is not None:
                position, values, known = read
                item = _Item(position, values, shared.copy())
                if (failure := items.failed_input(values)) is not None:
                    break
                for slot, own in zip(items.mapped_slots, known, strict=True):
                    item.signatures[slot] = own
                if can_be_identified and self.sign(item, varying):
                    identified.append(item)
                else:
                    item.frame = cached_frame(self._plan, self._run, self._base, items, read)
                ahead.append(item)
            self.look_up(identified)
            window.learn(perf_counter() - started_at, len(ahead))
            is_last = not ahead
            identified.clear()
            while ahead:
                yield ahead.popleft()  # and not keep it: its results may be large
            if failure is not None:
                Frame(self._plan, self._run, item.values, self._base, item.index).skip()
                raise failure.error
            if is_last:
                return

    def sign(self, item: _Item, inputs: Iterable[int]) -> bool:
        """Compute the signatures of an item; return whether its inputs can be identified."""
        signatures = item.signatures
        for slot in inputs:
            if not signatures[slot]:
                own = signatures[slot] = identify(self._plan, self._run, slot, item.values[slot])
                if not own:
                    return False
        for step, code, signed, kept in self._calls.calls:
            own = sign_call(code, [signatures[source] for source in signed])
            if len(step.outputs) == 1:
                signatures[kept[0]] = own
                continue
            for output, part in zip(step.outputs, sign_outputs(step, own), strict=True):
                if output is not None:
                    signatures[output] = part
        return True

    # --- looking up -----------------------------------------------------------------------------------------------

    def look_up(self, items: Sequence[_Item]) -> None:
        """Find out what is missing: what is asked for first, and of what is not there all that it needs."""
        slots, computed = self._calls.slots, self._run.computed
        keys = [[item.signatures[slot].hex() for slot in slots] for item in items]
        found = Answers(self._store, self._calls.cache, [key for own in keys for key in own])
        incomplete: list[tuple[_Item, bytearray, Sequence[int]]] = []
        for item, own in zip(items, keys, strict=True):
            item.missing, item.asked_at = [], computed
            values = found.take(own)
            if values is not None:
                for slot, value in zip(slots, values, strict=True):
                    item.values[slot] = value
            else:
                status = bytearray(len(self._calls.calls))
                for position in self._calls.requested:
                    status[position] = _ASKED
                incomplete.append((item, status, self._calls.requested))
        while incomplete:
            incomplete = self._take_answers(incomplete, found)
            asked = [
                item.signatures[slot].hex()
                for item, _, positions in incomplete
                for position in positions
                for slot in self._calls.calls[position].kept
            ]
            if asked:
                found = Answers(self._store, self._calls.cache, asked)

    def _take_answers(
        self, asking: Sequence[tuple[_Item, bytearray, Sequence[int]]], found: Answers
    ) -> list[tuple[_Item, bytearray, Sequence[int]]]:
        """Take what was found; return what is to be asked next."""
        upstream: list[tuple[_Item, bytearray, Sequence[int]]] = []
        for item, status, positions in asking:
            needed: list[int] = []
            for position in positions:
                if self._take(item, position, found):
                    status[position] = _FOUND
                    continue
                status[position] = _WANTED
                for source in self._calls.calls[position].step.needs:
                    if status[source] == _IDLE:
                        status[source] = _ASKED
                        needed.append(source)
            if needed:
                upstream.append((item, status, needed))
            else:
                item.missing = [position for position, state in enumerate(status) if state == _WANTED]
                item.found = [position for position, state in enumerate(status) if state == _FOUND]
        return upstream

    def _take(self, item: _Item, position: int, found: Answers) -> bool:
        """Take the results of a step if all of them were found."""
        kept = self._calls.calls[position].kept
        values = found.take([item.signatures[slot].hex() for slot in kept])
        if values is None:
            return False
        for slot, value in zip(kept, values, strict=True):
            item.values[slot] = value
        return True

    def _recall(self, item: _Item, position: int) -> bool:
        keys = [item.signatures[slot].hex() for slot in self._calls.calls[position].kept]
        return self._take(item, position, Answers(self._store, self._calls.cache, keys))

    # --- calling --------------------------------------------------------------------------------------------------

    def execute(self, item: _Item) -> None:
        """Make the calls whose results are missing.

        Raises:
            Exception: What a node raised, with a note saying where.
        """
        keys = [item.signatures[self._calls.calls[position].kept[0]] for position in item.missing]
        if True in [self._run.was_computed(key, item.asked_at) for key in keys]:
            self.look_up([item])  # an item before it may have computed what was missing
        events = Frame(self._plan, self._run, item.values, self._base, item.index) if self._plan.is_observed else None
        if not item.missing:
            if events is not None:
                self._announce_untouched(events, item)
            return
        try:
            if events is not None:
                events.begin()
                for position in item.found:
                    self._announce_found(events, item, position)
            for position in item.missing:
                own = item.signatures[self._calls.calls[position].kept[0]]
                if not (self._run.was_computed(own, item.asked_at) and self._recall(item, position)):
                    self._call(item, position, events)
                elif events is not None:
                    self._announce_found(events, item, position)
        finally:
            if events is not None:
                events.close()
            self._store.flush()

    def _call(self, item: _Item, position: int, events: Frame | None) -> None:
        step, _, _, kept = self._calls.calls[position]
        run, values, signatures = self._run, item.values, item.signatures
        if not run.is_quick(step):
            self._store.flush()  # what has been computed must not be lost with a call that takes long
        if events is not None:
            events.announce_call(step)
        started_at = perf_counter()
        try:
            outputs = call(step, values)
        except Exception as error:
            add_note(error, self._plan, step, self._base, run.backend_name, item.index)
            if events is not None:
                events.announce_error(step, error)
            raise
        duration_s = perf_counter() - started_at
        run.note_duration(step, duration_s)
        for slot, value in zip(step.outputs, outputs, strict=True):
            if slot is not None:
                values[slot] = value
        entries = {signatures[slot].hex(): values[slot] for slot in kept}
        self._store.put(self._calls.cache, entries, step.node.name)
        if step not in run.records.recorded:
            run.records.add(Computed(self._plan, run, values, signatures), step)
        if duration_s > LONGEST_WAIT_S:
            self._store.flush()  # it is worth more than the time that writing takes
        if events is not None:
            events.announce_result(step, outputs, duration_s)
        run.remember(signatures[kept[0]])

    # --- events of what was found ---------------------------------------------------------------------------------

    def _announce_untouched(self, events: Frame, item: _Item) -> None:
        listeners = events.listeners[0]
        if listeners.on_map_item_cached:
            own = sign_item(self._plan, item.signatures)
            listeners.notify(listeners.on_map_item_cached, item.index, own, events.context(0))

    def _announce_found(self, events: Frame, item: _Item, position: int) -> None:
        listeners = events.listeners[0]
        if listeners.on_node_cached:
            step, _, _, kept = self._calls.calls[position]
            own = item.signatures[kept[0]].hex()
            listeners.notify(listeners.on_node_cached, step.node.name, own, events.context(0))
