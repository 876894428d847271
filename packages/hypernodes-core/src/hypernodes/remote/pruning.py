"""Decides what to send: cached results stay with the caller unless a remote step needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hypernodes.cache.base import Cache
from hypernodes.callbacks import CallbackContext
from hypernodes.conditions import SKIPPED
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.demand import DemandFrame
from hypernodes.engine.frames.dry_run import (
    dry_run_state,
    item_frames,
    open_maps,
    plans_in,
    slots_taken,
    steps_to_come,
)
from hypernodes.engine.frames.items import ItemFrames
from hypernodes.engine.frames.prior_results import PriorResults
from hypernodes.engine.frames.storing import StoringFrame
from hypernodes.engine.state import RunState
from hypernodes.engine.store.manifests import origin_of
from hypernodes.engine.store.read_only import ReadOnlyStore
from hypernodes.engine.store.run_store import manifest_key
from hypernodes.plan import CallStep, NestedStep, OnError, Plan, Step
from hypernodes.remote.job import ABSENT, KnownResults, MapPart, RunPart, StoredResult, miss_of


class Pruning:
    """Looks into the caches before a job is made.

    Args:
        plan: What is to run.
        root: Context of the pipeline.
        backend_name: Name of the backend, for messages.
        number_of: Gives a cache its number in the job.
        are_caches_here: Whether the caches are looked into by the caller.

    Attributes:
        state: State of a run that only looks.
    """

    def __init__(
        self, plan: Plan, root: CallbackContext, backend_name: str, number_of: Any, are_caches_here: bool = True
    ) -> None:
        self._plan = plan
        self._looks = plan.is_cached and are_caches_here
        self._root = root
        self._number_of = number_of
        self.state: RunState = dry_run_state(root, backend_name)
        self._found: dict[int, dict[str, Any]] = {}
        self._stored: dict[tuple[int, str], Any] = {}
        self._stored_by_code: dict[bytes | None, list[tuple[int, str]]] = {}
        self._undecided_code: set[bytes | None] = set()  # of calls whose keys are not all known here
        self._undecided_maps: set[NestedStep] = set()

    def forget(self) -> None:
        """Forget what was found, before other items of the same map are looked up."""
        assert isinstance(self.state.store, ReadOnlyStore)
        self.state.store.misses.clear()
        self._found.clear()
        self._stored.clear()
        self._stored_by_code.clear()
        self._undecided_code.clear()
        self._undecided_maps.clear()

    def stored(self, cache: int, key: str) -> Any:
        """Return a result that stayed here."""
        return self._stored[cache, key]

    def known_results(self) -> dict[int, KnownResults]:
        """Return what is known of the caches, by their numbers."""
        if not self._looks:
            return {}
        assert isinstance(self.state.store, ReadOnlyStore)
        self._send_what_may_be_taken()
        misses = self.state.store.misses
        numbers = {self._number_of(cache): id(cache) for cache in self._caches()}
        return {
            number: KnownResults(
                self._found.get(number, {}),
                frozenset(map(miss_of, misses.get(identity, ()))),
            )
            for number, identity in numbers.items()
        }

    def _caches(self) -> Iterable[Cache]:
        found = (scope.cache for plan in plans_in(self._plan) for scope in plan.scopes)
        return {id(cache): cache for cache in found if cache is not None}.values()

    def _send_what_may_be_taken(self) -> None:
        """Send results that no step known here takes, if calls that are only known over there may have the same keys.

        Such calls are those inside a mapped pipeline whose items have to be computed first. They would find what stands
        for a result, and give that to a node in its place.
        """
        for code in self._undecided_code & self._stored_by_code.keys():
            for number, key in self._stored_by_code[code]:
                self._found[number][key] = self._stored[number, key]

    # --- one run --------------------------------------------------------------------------------------------------

    def run(self, values: list[Any], before: PriorResults | None = None) -> tuple[RunPart, bool]:
        """Return what of one run has to be sent, and whether anything has to run at all.

        Args:
            values: Value of every slot, with the inputs filled in; results that are found are filled in too.
            before: What is known of it already.
        """
        before = before or PriorResults([], {}, frozenset())
        if not self._looks:
            return RunPart(values, before), True
        frame = DemandFrame(self._plan, self.state, values, self._root, known=before)
        frame.start()
        remaining = steps_to_come(frame)
        found = frozenset(step.index for step in frame.found_steps())
        skipped = frozenset(step.index for step in frame.skipped_steps())
        known = PriorResults(frame.signatures, frame.elements, found, skipped)
        if not remaining:
            return RunPart(values, known), False
        taken = slots_taken(remaining) | self._plan.condition_slots
        sent: list[Any] = [value if slot in taken else ABSENT for slot, value in enumerate(values)]
        uses = [slot for step in remaining for slot in step.arguments]
        self._record_inside(frame, taken, found)
        for step, items in self._open_maps(frame, remaining):
            done, elements = self._items(items, self._outputs_sent(step, taken))
            if step.node.pipeline.has_own_backend:
                continue  # which gets values of all items, and may look at them
            if step.node.map_mode == "product" or len(items.mapped_slots) != len(step.mapped):
                continue
            slot_of = dict(zip(step.inner_inputs, step.arguments, strict=True))
            for position, inner in enumerate(step.mapped):
                slot = slot_of[inner]
                if step.inner.inputs[inner] in step.inner.readers.decisive:
                    continue  # over there it decides again which steps of an item run
                whole: Any = sent[slot]
                if uses.count(slot) == 1 and whole is not ABSENT:
                    frame.identities.of(slot)  # it cannot be identified any more when a part of it is absent
                    sent[slot] = [ABSENT if index in done else value for index, value in enumerate(whole)]
                    known.elements[slot] = [own[position] for own in elements]
        return RunPart(sent, known), True

    @staticmethod
    def _outputs_sent(step: Any, taken: set[int]) -> set[int]:
        """Slots of a mapped plan whose values are taken by something that runs on the remote side."""
        pairs = zip(step.inner.outputs.values(), step.outputs, strict=True)
        return {inner for inner, outer in pairs if outer in taken}

    # --- items ----------------------------------------------------------------------------------------------------

    def _items(self, items: ItemFrames, sent: set[int]) -> tuple[set[int], list[tuple[bytes, ...]]]:
        """Look up the items of a mapped pipeline; return which are done, and the signatures of what all are made of."""
        done: set[int] = set()
        elements: list[tuple[bytes, ...]] = []
        nothing = (b"",) * len(items.mapped_slots)
        for position, frame in item_frames(items):
            elements += [nothing] * (position - len(elements))
            elements.append(tuple(frame.signatures[slot] or b"" for slot in items.mapped_slots))
            self.record(frame, sent)
            if frame.is_done:
                done.add(position)
        elements += [nothing] * (items.count - len(elements))
        return done, elements

    def record(self, frame: DemandFrame, sent: set[int]) -> None:
        """Note what was found for an execution of a plan; values that nothing on the remote side takes stay here.

        Args:
            frame: The execution, after it was looked up.
            sent: Its outputs that remote steps take.
        """
        remaining = steps_to_come(frame)
        taken = slots_taken(remaining) | sent | frame.plan.condition_slots
        for step in frame.found_steps():
            if isinstance(step, CallStep):
                cache = frame.plan.scopes[step.scope].cache
                code = self._code(frame.plan, step)
                slots = [made for made in step.outputs if made is not None]
                is_dated = step.node.cache_for is not None
                for own, key, value in zip(slots, frame.keys_of(step), frame.stored_values(step), strict=True):
                    self._record(cache, key, value, own in taken or is_dated, (code,))
            elif step.mapped:
                for inner_slot, slot in zip(step.inner.outputs.values(), step.outputs, strict=True):
                    plan, producer, origin = origin_of(step.inner, inner_slot)
                    if slot is None or not isinstance(producer, CallStep):
                        continue  # lists of lists are asked back
                    elements = frame.elements[slot]
                    manifest = manifest_key(frame.identities.key(slot))
                    self._record(step.inner.scopes[0].cache, manifest, b"".join(elements), True)
                    cache = plan.scopes[producer.scope].cache
                    codes = [self._code(plan, plan.steps[maker]) for maker in plan.makers(origin)]
                    for element, value in zip(elements, frame.values[slot], strict=True):
                        if value is not SKIPPED:
                            self._record(cache, element.hex(), value, slot in taken, codes)
        self._record_inside(frame, taken)
        if remaining:
            for step, items in self._open_maps(frame, remaining):
                self._items(items, self._outputs_sent(step, taken))

    def _record_inside(self, frame: DemandFrame, taken: set[int], sent: frozenset[int] = frozenset()) -> None:
        """Note what was found for nested pipelines that run once.

        Args:
            frame: The execution that they are a part of.
            taken: The slots whose values are taken on the remote side.
            sent: Steps whose results are sent anyway.
        """
        for index, inside in list(frame.inside.items()):
            step: Any = frame.plan.steps[index]
            if not inside.is_done:
                inside = frame.look_inside(step)  # now that what goes into it has been found
            self.record(inside, set() if index in sent else self._outputs_sent(step, taken))

    def _open_maps(self, frame: DemandFrame, remaining: Sequence[Step]) -> list[tuple[NestedStep, ItemFrames]]:
        """Return the mapped pipelines whose items are known here, and note the code of calls that are not known."""
        opened = list(open_maps(frame))
        nested = [step for step in remaining if isinstance(step, NestedStep)]
        seen = {step.index for step, _ in opened} | frame.inside.keys()
        for step in nested:
            if step.index not in seen and step not in self._undecided_maps:
                self._undecided_maps.add(step)
                for plan in plans_in(step.inner):
                    self._undecided_code.update(self.state.codes.of(plan).calls)
        # The signatures of what depends on a mapped pipeline change when some of its items fail.
        calls = remaining if nested else frame.undecided_steps()
        self._undecided_code.update(self._code(frame.plan, step) for step in calls if isinstance(step, CallStep))
        self._undecided_code.discard(None)  # what is never cached
        return opened

    def _code(self, plan: Plan, step: Step) -> bytes | None:
        return self.state.codes.of(plan).calls[step.index]

    def _record(
        self, cache: Cache | None, key: str, value: Any, is_sent: bool, codes: Iterable[bytes | None] = (None,)
    ) -> None:
        assert cache is not None
        number = self._number_of(cache)
        found = self._found.setdefault(number, {})
        if is_sent:
            found[key] = value
        else:
            self._stored[number, key] = value
            for code in codes:
                self._stored_by_code.setdefault(code, []).append((number, key))
            found.setdefault(key, StoredResult(number, key))

    # --- a map ----------------------------------------------------------------------------------------------------

    def map(self, given: MapInputs, on_error: OnError, took: Callable[[StoringFrame], None]) -> MapPart:
        """Return the items of a map that have to be sent.

        Args:
            given: What the map runs over.
            on_error: "raise" or "collect".
            took: Called with the frame of each item that was found whole.
        """
        names = tuple(given.columns)
        part = MapPart(names, [[] for _ in names], [], {}, dict(given.shared), {}, on_error)
        if not self._looks:
            columns = given.values_of_items()
            every = given.indexes or range(len(columns[0]))
            return part._replace(columns=columns, indexes=every, signatures=dict(given.signatures))
        items = ItemFrames(self._plan, self.state, self._root, given, asks_for_complete=True)
        elements: list[list[bytes]] = [[] for _ in names]
        indexes: list[int] = []
        while (frame := items.next_item()) is not None:
            values = frame.values
            assert frame.item_index is not None
            if frame.stand_in is None:
                assert isinstance(frame, StoringFrame)
                frame.start()
                if frame.is_done:
                    took(frame)
                    continue
                assert isinstance(frame, DemandFrame)
                self.record(frame, set())
            for values_sent, slot in zip(part.columns, items.mapped_slots, strict=True):
                values_sent.append(values[slot])
            indexes.append(frame.item_index)
            for column, own in zip(elements, frame.signatures_of(items.mapped_slots), strict=True):
                column.append(own)
        slot_names = {slot: name for name, slot in self._plan.inputs.items()}
        shared = {slot_names[slot]: own for slot, own in items.shared_signatures.items() if slot in slot_names}
        known = {name: own for name, own in shared.items() if name in part.shared and own}
        return part._replace(indexes=indexes, elements=dict(zip(names, elements, strict=True)), signatures=known)
