"""Decides what to send: cached results stay with the caller unless a remote step needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

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


class FoundResult(NamedTuple):
    """A result that a cache holds.

    Attributes:
        cache: Number of the cache.
        key: Its key.
        value: The result.
        is_sent: Whether something on the remote side takes it.
        codes: The code of the calls that it comes from.
    """

    cache: int
    key: str
    value: Any
    is_sent: bool
    codes: tuple[bytes | None, ...]


class Known(NamedTuple):
    """What is known of the caches, as far as a job is concerned.

    Attributes:
        results: What the job is told, by number of the cache.
        stored: Results that it is told of, and that stay here, by number of the cache and key.
    """

    results: dict[int, KnownResults]
    stored: dict[tuple[int, str], Any]


class OpenItems:
    """Items of a map that have to be computed remotely, and what was found of them.

    Args:
        part: The items.
        found: Results of theirs that a cache holds, by position in the part; nothing for most.
        misses: The keys that the caches do not hold, by number of the cache, shortened.
        know: Returns what a job is told of results that were found.
    """

    def __init__(
        self,
        part: MapPart,
        found: Mapping[int, list[FoundResult]],
        misses: Mapping[int, frozenset[bytes]],
        know: Callable[[Iterable[FoundResult], Mapping[int, frozenset[bytes]]], Known],
    ) -> None:
        self.part = part
        self._found = found
        self._misses = misses
        self._know = know

    def __len__(self) -> int:
        return len(self.part.indexes)

    def all(self) -> tuple[MapPart, Known]:
        """Return all items, and what is known of the caches."""
        return self.part, self._know(chain.from_iterable(self._found.values()), self._misses)

    def some(self, positions: Sequence[int]) -> tuple[MapPart, Known]:
        """Return some items, and what is known of the caches.

        Args:
            positions: Where they are in the part, in increasing order.
        """
        part = self.part
        chosen = part._replace(
            columns=[_at(column, positions) for column in part.columns],
            indexes=_at(part.indexes, positions),
            elements={name: _at(column, positions) for name, column in part.elements.items()},
        )
        found = chain.from_iterable(self._found.get(position, ()) for position in positions) if self._found else ()
        return chosen, self._know(found, self._misses)


def _at(values: Sequence[Any], positions: Sequence[int]) -> Any:
    if isinstance(positions, range) and positions.step == 1:
        return values[positions.start : positions.stop]
    return [values[position] for position in positions]


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
        self._found: list[FoundResult] = []
        self._undecided_code: set[bytes | None] = set()  # of calls whose keys are not all known here
        self._undecided_maps: set[NestedStep] = set()

    def _take_misses(self) -> dict[int, frozenset[bytes]]:
        """Return the keys that the caches turned out not to hold, by number of the cache; they are forgotten here."""
        store = self.state.store
        assert isinstance(store, ReadOnlyStore)
        misses, store.misses = store.misses, {}
        return {self._number_of(c): frozenset(map(miss_of, misses.get(id(c), ()))) for c in self._caches()}

    def _take_found(self) -> list[FoundResult]:
        found, self._found = self._found, []
        return found

    def _know(self, found: Iterable[FoundResult], misses: Mapping[int, frozenset[bytes]]) -> Known:
        """Return what a job is told of results that were found.

        What a step there takes is sent. So are results of calls that may have the same key as one that is only known
        over there, such as those inside a mapped pipeline whose items have to be computed first: it would find what
        stands for a result, and give that to a node in its place.
        """
        sent: dict[int, dict[str, Any]] = {number: {} for number in misses}
        stored: dict[tuple[int, str], Any] = {}
        for number, key, value, is_sent, codes in found:
            if is_sent or not self._undecided_code.isdisjoint(codes):
                sent[number][key] = value
            else:
                stored[number, key] = value
                sent[number].setdefault(key, StoredResult(number, key))
        return Known({number: KnownResults(sent[number], misses[number]) for number in misses}, stored)

    def _caches(self) -> Iterable[Cache]:
        if not self._looks:
            return ()
        found = (scope.cache for plan in plans_in(self._plan) for scope in plan.scopes)
        return {id(cache): cache for cache in found if cache is not None}.values()

    # --- one run --------------------------------------------------------------------------------------------------

    def known_of_run(self) -> Known:
        """Return what `run` found."""
        return self._know(self._take_found(), self._take_misses())

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
            if step.is_delegated:
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
        self._found.append(FoundResult(self._number_of(cache), key, value, is_sent, tuple(codes)))

    # --- a map ----------------------------------------------------------------------------------------------------

    def map(self, given: MapInputs, on_error: OnError, took: Callable[[StoringFrame], None]) -> OpenItems:
        """Return the items of a map that have to be sent.

        Args:
            given: What the map runs over.
            on_error: "raise" or "collect".
            took: Called with the frame of each item that was found whole.
        """
        names = tuple(given.columns)
        shared = dict(given.shared)
        if not self._looks:
            columns = given.values_of_items()
            every = given.indexes or range(len(columns[0]))
            known_rows = given.signature_rows() if self._plan.is_cached else None
            known_columns = [] if known_rows is None else [list(own) for own in zip(*known_rows, strict=True)]
            known_elements = dict(zip(names, known_columns, strict=False))
            part = MapPart(names, columns, every, known_elements, shared, dict(given.signatures), on_error)
            return OpenItems(part, {}, {}, self._know)
        items = ItemFrames(self._plan, self.state, self._root, given, asks_for_complete=True)
        open_columns: list[list[Any]] = [[] for _ in names]
        elements: list[list[bytes]] = [[] for _ in names]
        indexes: list[int] = []
        found: dict[int, list[FoundResult]] = {}
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
                if self._found:
                    found[len(indexes)] = self._take_found()
            for values_sent, slot in zip(open_columns, items.mapped_slots, strict=True):
                values_sent.append(values[slot])
            indexes.append(frame.item_index)
            for column, own in zip(elements, frame.signatures_of(items.mapped_slots), strict=True):
                column.append(own)
        slot_names = {slot: name for name, slot in self._plan.inputs.items()}
        signed = {slot_names[slot]: own for slot, own in items.shared_signatures.items() if slot in slot_names}
        known = {name: own for name, own in signed.items() if name in shared and own}
        by_name = dict(zip(names, elements, strict=True))
        part = MapPart(names, open_columns, indexes, by_name, shared, known, on_error)
        return OpenItems(part, found, self._take_misses(), self._know)
