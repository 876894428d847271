"""One execution of a plan with a cache: requested results are looked up first, and only steps that miss are run.

Demand propagates upstream from the requested outputs. A step whose signature is known is looked up; its own inputs are
demanded only after a miss. Signatures come from code, inputs and upstream signatures, so they are known before any step
runs - except downstream of a result that is identified by its actual value (a `cache=False` node): such steps are
looked up as soon as that value exists.

Queries of several executions are answered together, round by round (`look_up`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappush
from typing import Any

from hypernodes import signature
from hypernodes.cache.base import Cache
from hypernodes.callbacks import CallbackContext
from hypernodes.conditions import SKIPPED
from hypernodes.engine.frames.cache_queries import CacheQuery, CacheReplies
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.dated_results import DatedResults
from hypernodes.engine.frames.decisions import Decisions, both_run
from hypernodes.engine.frames.frame import MapResults, Refusal
from hypernodes.engine.frames.hit_events import report_hits
from hypernodes.engine.frames.prior_results import PriorResults
from hypernodes.engine.frames.storing import StoringFrame
from hypernodes.engine.identity.slot_signatures import NEVER, UNKNOWN, SlotSignatures
from hypernodes.engine.state import RunState
from hypernodes.engine.store.manifests import (
    is_stored,
    listed_elements,
    read_elements,
    skipped_signature,
    stored_elements,
)
from hypernodes.engine.store.run_store import manifest_key, read_manifest
from hypernodes.errors import ExecutionError
from hypernodes.failure import contains_failure
from hypernodes.plan import UNSET, CallStep, NestedStep, Plan, PlanPart, Step

_IDLE, _QUERIED, _DEFERRED, _UNDECIDED, _WANTED, _DONE, _SKIPPED = range(7)


class DemandFrame(StoringFrame):
    """One execution of a plan in which some results may come from a cache, and some steps may be skipped.

    Attributes:
        identities: Computes the signatures of the values in the slots.
        elements: Signatures of the single elements of lists that a mapped pipeline made, by slot; empty where unknown.
        inside: Frames that looked up the nested pipelines that run once on a backend of their own, by step position.
        failed_before: For each step that depends on failed items, the mapped pipeline that they are of.
        hits: Steps whose results were found in the cache, which callbacks have not observed yet.
        queries: Look-ups to be answered before the steps to run are known.
        found: Positions of steps whose results are known already, as the creator of the frame passed them in.
        dated: The results that count for some time only; None if there are none.
        decisions: Which steps run, and which are skipped; None if all run.
    """

    __slots__ = (
        "_is_counted",
        "_is_started",
        "_status",
        "_traced",
        "_unverified",
        "dated",
        "decisions",
        "elements",
        "failed_before",
        "found",
        "hits",
        "identities",
        "inside",
        "queries",
        "refusal",
        "skipped",
    )

    signatures: list[bytes | None]

    def __init__(
        self,
        plan: Plan,
        run: RunState,
        values: list[Any],
        base: CallbackContext,
        item_index: int | None = None,
        signatures: Mapping[int, bytes] | None = None,
        known: PriorResults | None = None,
    ) -> None:
        super().__init__(plan, run, values, base, item_index)
        if known is not None:
            signatures = {slot: own for slot, own in enumerate(known.signatures) if own is not None}
        self._cache = None
        self.identities = SlotSignatures(plan, run.codes, values, signatures)
        self.signatures = self.identities.signatures
        self.elements: dict[int, list[bytes]] = {} if known is None else dict(known.elements)
        self.inside: dict[int, DemandFrame] = {}
        self.failed_before: dict[int, str] = {}
        self._unverified: set[int] = set()
        self.found: frozenset[int] = frozenset() if known is None else known.found
        self.skipped: frozenset[int] = frozenset() if known is None else known.skipped
        self.decisions: Decisions | None = None
        self.refusal: Refusal | None = None
        self.queries: list[CacheQuery] = []
        self._status = bytearray(len(plan.steps))
        self.hits: list[Step] = []
        self._is_started = self._is_counted = False
        self.dated = DatedResults(self.identities, run.store) if self.identities.code.is_dated else None
        self._looked_up_at = 0
        self._may_repeat = self.identities.code.may_repeat
        self._traced: set[int] = set()  # steps whose signature waits for a demanded result

    # --- demand ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look up the requested results, unless that has happened.

        What missed and was computed since is found when it is about to be computed.
        """
        if self._is_started:
            return
        self.begin_lookup()
        look_up([self])
        if self.item_index is None:
            report_hits(self)

    def begin_lookup(self) -> None:
        """Begin to determine which steps have to run; `queries` are to be answered afterwards."""
        self._is_started, self._is_counted = True, False
        self._looked_up_at = self.run.computed
        self._traced = set()
        if self.dated is not None:
            self.dated.unqueried.clear()
        self.inside = {}
        self.hits, self._ready = [], []
        self._scopes = self._new_scopes()
        self._status = bytearray(len(self.plan.steps))
        self._waiting = [0] * len(self.plan.steps)
        plan = self.plan
        if plan.guarded:
            self.decisions = Decisions(plan, self.values, self.run.store.actual, self.found, self.skipped)
            self.identities.undecided = set(plan.guarded)
            self._decide()
        self.identities.sign_all()
        if self.refusal is None:
            self._demand([maker for slot in plan.outputs.values() for maker in plan.makers(slot)])

    def take_replies(self, found: Mapping[int, CacheReplies]) -> None:
        """Process the answers to `queries`, by the id of the cache; there may be new queries afterwards."""
        queries, self.queries = self.queries, []
        for step, cache, keys in queries:
            if self._take(step, found[id(cache)].take(keys)):
                self._hit(step)
                if self._dated_with(step) is not None:
                    self._identify_results(step, looks_up=False)  # the queries of all frames are answered together
            else:
                self._want(step)
                self._demand(step.needs)

    def _take(self, step: CallStep, values: Sequence[Any] | None) -> bool:
        """Take the results of a step if all of them were found."""
        dated = self._dated_with(step)
        if values is not None and dated is not None:
            values = dated.fresh(step, values)
        if values is None:
            return False
        for slot, value in zip((slot for slot in step.outputs if slot is not None), values, strict=True):
            self.values[slot] = value
        return True

    def expect(self) -> None:
        """Count the remaining steps for the events of nested pipelines, once all queries are answered."""
        if self._scopes is not None and not self._is_counted:
            self._is_counted = True
            is_held = _DEFERRED in self._status or _UNDECIDED in self._status
            self._scopes.expect([*self.remaining_steps(), *self.hits], is_held)

    def remaining_steps(self) -> list[Step]:
        """Return the steps that have to run, or may have to."""
        return [step for step in self.plan.steps if _DEFERRED <= self._status[step.index] <= _WANTED]

    def undecided_steps(self) -> list[Step]:
        """Return the steps for which it is not known yet whether they have to run."""
        return [step for step in self.plan.steps if self._status[step.index] in (_DEFERRED, _UNDECIDED)]

    def found_steps(self) -> list[Step]:
        """Return the steps whose results were found."""
        return [step for step in self.plan.steps if self._status[step.index] == _DONE]

    def skipped_steps(self) -> list[Step]:
        """Return the steps of which it is known that they are skipped."""
        return [step for step in self.plan.steps if self._status[step.index] == _SKIPPED]

    def _may_run(self, position: int) -> bool:
        return self._status[position] < _DONE

    def remaining_calls(self) -> list[CallStep] | None:
        if self.plan.places:
            return None
        if _DEFERRED in self._status or _UNDECIDED in self._status or self.refusal is not None:
            return None
        if self.dated is not None and self.dated.unqueried:
            return None
        wanted = [step for step in self.plan.steps if self._status[step.index] == _WANTED]
        calls = [step for step in wanted if isinstance(step, CallStep)]
        return calls if calls and len(calls) == len(wanted) else None

    @property
    def is_unverified(self) -> bool:  # type: ignore[override]
        return bool(self._unverified)

    @property
    def is_done(self) -> bool:
        status = self._status
        is_done = _WANTED not in status and _DEFERRED not in status and _UNDECIDED not in status
        return is_done and self.refusal is None

    def _demand(self, indexes: Iterable[int]) -> None:
        stack = list(indexes)
        while stack:
            index = stack.pop()
            if self._status[index] != _IDLE:
                continue
            step = self.plan.steps[index]
            if index in self.found:
                if self.run.observes(self.plan) and isinstance(step, NestedStep) and not step.mapped:
                    self.look_inside(step)  # for the events
                self._hit(step)
                continue
            if self.decisions is not None and self.decisions.of(index) is None:
                self._status[index] = _UNDECIDED
                stack += self.decisions.awaited(step)
                continue
            dated = self._dated_with(step)
            if isinstance(step, CallStep) and dated is not None:
                if self.key_of(step) is not None:
                    self._status[index] = _QUERIED
                    self.queries.append(self._query(step))
                    continue
                dated.unqueried[index] = step
            elif self.identities.can_be_identified(step):
                if not self.identities.is_signed(step):
                    self._status[index] = _DEFERRED
                    stack += self._sources_of_signature(step)
                    continue
                if isinstance(step, CallStep):
                    self._status[index] = _QUERIED
                    self.queries.append(self._query(step))
                    continue
                if self._find_items(step) if step.mapped else self._find_inside(step):
                    self._hit(step)
                    continue
            self._want(step)
            stack += step.needs

    def _sources_of_signature(self, step: Step) -> list[int]:
        """Return the steps to demand so that the signature of a step becomes known."""
        sources = self.identities.unidentified_sources(step, self._traced)
        if self.decisions is None:
            return sources
        found: list[int] = []
        for source in sources:
            is_undecided = self.decisions.of(source) is None
            found += self.decisions.awaited(self.plan.steps[source]) if is_undecided else [source]
        return found

    def _query(self, step: CallStep) -> CacheQuery:
        cache = self.plan.scopes[step.scope].cache
        assert cache is not None
        return CacheQuery(step, cache, self.keys_of(step))

    def _hit(self, step: Step) -> None:
        self.hits.append(step)
        self._done(step)

    def _want(self, step: Step) -> None:
        assert self._waiting is not None
        self._status[step.index] = _WANTED
        waiting = self._waiting[step.index] = sum(self._status[source] < _DONE for source in step.needs)
        if waiting == 0 and self.refusal is None:
            heappush(self._ready, step.index)

    # --- nested pipelines that run once on a backend of their own --------------------------------------------------

    def _find_inside(self, step: NestedStep) -> bool:
        """Look up the requested results of a nested pipeline; return whether all were found."""
        frame = self.look_inside(step)
        if not frame.is_done:
            return False
        for inner_slot, slot in zip(step.inner.outputs.values(), step.outputs, strict=True):
            if slot is not None:
                self.values[slot] = frame.values[inner_slot]
                if inner_slot in frame.elements:
                    self.elements[slot] = frame.elements[inner_slot]
        return True

    def look_inside(self, step: NestedStep) -> DemandFrame:
        """Look up the results of a nested pipeline; only the signatures of its inputs have to be known."""
        plan = step.inner
        values = list(plan.template)
        signatures: list[bytes | None] = [UNKNOWN] * len(values)
        elements: dict[int, list[bytes]] = {}
        for name, slot in zip(step.inner_inputs, step.arguments, strict=True):
            inner_slot = plan.inputs[name]
            values[inner_slot] = self.values[slot]
            signatures[inner_slot] = self.signatures[slot]
            if slot in self.elements:
                elements[inner_slot] = self.elements[slot]
        base = self.context(step.scope).child(plan.scopes[0].pipeline_id, step.node.name)
        frame = DemandFrame(plan, self.run, values, base, known=PriorResults(signatures, elements, frozenset()))
        self.inside[step.index] = frame
        start_together([frame])
        return frame

    # --- lists made by mapped pipelines ---------------------------------------------------------------------------

    def _find_items(self, step: NestedStep) -> bool:
        """Read the results of a mapped pipeline: a manifest names the entry of every item."""
        cache = step.inner.scopes[0].cache
        assert cache is not None
        slots = [slot for slot in step.outputs if slot is not None]
        keys = [manifest_key(self.identities.key(slot)) for slot in slots]
        manifests = self.run.store.get_many(cache, keys)
        found: list[tuple[list[bytes], list[Any]]] = []
        for inner_slot, key in zip(step.inner.outputs.values(), keys, strict=True):
            elements = read_manifest(manifests.get(key))
            values = None if elements is None else read_elements(self.run.store, step.inner, inner_slot, elements)
            if elements is None or values is None:
                return False
            found.append((elements, values))
        for slot, (elements, values) in zip(slots, found, strict=True):
            self.values[slot] = values
            self.elements[slot] = elements
        return True

    # --- progress -------------------------------------------------------------------------------------------------

    def recall(self, step: CallStep) -> bool:
        key = self.key_of(step)
        is_unqueried = self.dated is not None and step.index in self.dated.unqueried
        if key is None or not (is_unqueried or self.was_computed(key)):
            return False
        if self.dated is not None:
            self.dated.unqueried.pop(step.index, None)
        _, cache, keys = self._query(step)
        if not self._take(step, self.run.store.get_each(cache, keys)):
            return False
        self._hit(step)
        if self._dated_with(step) is not None:
            self._identify_results(step)
        if self.queries:
            look_up([self])
        if self._started_at is not None or self.item_index is None:
            report_hits(self)
        return True

    def key_of(self, step: CallStep) -> bytes | None:
        dated = self._dated_with(step)
        if dated is not None:
            return dated.key(step)
        if not self.identities.can_be_identified(step):
            return None
        return next((self.signatures[slot] for slot in step.outputs if slot is not None), None) or None

    def keys_of(self, step: CallStep) -> list[str]:
        """Return the keys of the results of a call that has a signature."""
        dated = self._dated_with(step)
        if dated is not None:
            return list(dated.origins(step))
        return [self.identities.key(slot) for slot in step.outputs if slot is not None]

    def stored_values(self, step: CallStep) -> list[Any]:
        """Return the results of a call that were found, as the cache holds them."""
        values = [self.values[slot] for slot in step.outputs if slot is not None]
        dated = self._dated_with(step)
        return values if dated is None else dated.as_stored(step, values)

    def _dated_with(self, step: Step) -> DatedResults | None:
        """Return the results that count for some time only, if those of a step are among them."""
        return self.dated if self.dated is not None and self.dated.include(step) else None

    def _store(self, step: CallStep, outputs: Sequence[Any], duration_s: float) -> None:
        dated = self._dated_with(step)
        if dated is None:
            super()._store(step, outputs, duration_s)
            return
        cache = self.plan.scopes[step.scope].cache
        assert cache is not None
        if cache.notes_origins:
            cache.note_origins(dated.origins(step))
        self.run.store.put(cache, dated.entries(step, outputs), step.node.name)

    def complete(self, step: CallStep, outputs: Sequence[Any], duration_s: float) -> None:
        if step.index not in self.failed_before:
            super().complete(step, outputs, duration_s)
            return
        unread, self._unread = self._unread, None
        super().complete(step, outputs, duration_s)
        # Also of a result that is not stored, since `explain` says why; it needs the arguments.
        self._record(step, duration_s)
        self._unread = unread
        if unread is not None:
            self.release(step)

    def _put(self, step: Step, outputs: Iterable[Any]) -> None:
        for slot, value in zip(step.outputs, outputs, strict=True):
            if slot is not None:
                self.values[slot] = value
        self._done(step)
        if step.index in self._unverified or not self.identities.can_be_identified(step):
            self._identify_results(step)
        elif self.queries:
            look_up([self])

    def _is_wanted(self, position: int) -> bool:
        return self._status[position] == _WANTED

    def map_inputs(self, step: NestedStep, elements: Iterable[Any] | None = None) -> MapInputs:
        inputs = super().map_inputs(step, elements)
        pairs = zip(step.mapped, step.arguments, strict=False)
        elements = {name: self.elements[slot] for name, slot in pairs if slot in self.elements}
        signatures = {name: own for name, slot in step.shared if (own := self.signatures[slot])}
        return inputs._replace(signatures=signatures, elements=elements)

    def complete_map(self, step: NestedStep, results: MapResults) -> None:
        if results.has_failures or results.is_unverified:
            self._take_unverified(step, results.columns, results.elements)
        else:
            for slot, column, elements in zip(step.outputs, results.columns, results.elements, strict=True):
                if slot is not None and all(elements) and len(elements) == len(column):
                    self._put_manifest(step, slot, elements)
        self._put(step, results.columns)
        if self._unread is not None:
            self.release(step)

    def _put_manifest(self, step: NestedStep, slot: int, elements: list[bytes]) -> None:
        """Store which results a mapped pipeline put into the list in a slot."""
        self.elements[slot] = elements
        cache = step.inner.scopes[0].cache
        own = self.signatures[slot]
        if cache is not None and own:
            if cache.notes_origins:
                position = step.outputs.index(slot)
                cache.note_origins({manifest_key(own.hex()): self.identities.origins(step)[position]})
            self.run.store.put(cache, {manifest_key(own.hex()): b"".join(elements)}, step.node.name)

    def complete_delegated(self, step: NestedStep, outputs: Sequence[Any], elements: Sequence[list[bytes]]) -> None:
        # Results that caches hold under their expected signatures have these signatures. All others are identified by
        # their values only: made from a failure, not storable, or from a backend that does not run our engine.
        signatures = [UNKNOWN if slot is None else self.signatures[slot] for slot in step.outputs]
        if not elements:
            if is_stored(self.run.store, step.inner, signatures):
                for position, own in listed_elements(self.run.store, step.inner, signatures).items():
                    slot = step.outputs[position]
                    if slot is not None and len(own) == len(outputs[position]):
                        self.elements[slot] = own
            else:
                self._take_unverified(step, outputs, ())
        else:
            stored = stored_elements(self.run.store, step, outputs, elements)
            are_stored = [b"" not in known for known in stored]
            if all(held for own, held in zip(signatures, are_stored, strict=True) if own):
                for slot, known, held in zip(step.outputs, stored, are_stored, strict=True):
                    if slot is not None and held:
                        self._put_manifest(step, slot, known)
            else:
                self._take_unverified(step, outputs, stored)
        self._put(step, outputs)
        if self._unread is not None:
            self.release(step)

    def complete_together(self, part: PlanPart, steps: Sequence[Step], outputs: Sequence[Any]) -> None:
        values = dict(zip(part.leaving, outputs, strict=True))
        made = {
            step.index: [UNSET if slot is None else values.get(slot, UNSET) for slot in step.outputs] for step in steps
        }
        if not all(isinstance(step, CallStep) for step in steps):  # else all results are those of calls
            signatures = [self.signatures[slot] for slot in part.leaving]
            if is_stored(self.run.store, part.plan, signatures):
                for position, elements in listed_elements(self.run.store, part.plan, signatures).items():
                    self.elements[part.leaving[position]] = elements
            else:
                for step in steps:
                    self._take_unverified(step, made[step.index], ())
        for step in steps:
            key = self.key_of(step) if isinstance(step, CallStep) else None
            if key is not None:
                self.run.record_computed(key)  # for other items, which find it in the cache
            if self.dated is not None:
                self.dated.unqueried.pop(step.index, None)
            for slot, value in zip(step.outputs, made[step.index], strict=True):
                if slot is not None:
                    self.values[slot] = value
        for step in steps:  # before anything is looked up: none of them has to run again
            self._done(step)
        for step in steps:
            if step.index in self._unverified or not self.identities.can_be_identified(step):
                self._identify_results(step)
        if self.queries:
            look_up([self])
        self._leave_together(steps)

    def _take_unverified(self, step: Step, outputs: Sequence[Any], elements: Sequence[list[bytes]]) -> None:
        """Prepare for results that are not those that their signatures stand for, such as those of failed items.

        They are identified by what is in them: results of items by their signatures, and what has none (a `Failure`)
        by its value. Look-ups that depend on them are repeated when they are there.

        Args:
            step: The step.
            outputs: Its outputs.
            elements: For each output of a mapped one, the signature of each result; empty ones where there are none.
        """
        self._unverified.add(step.index)
        affected = self._forget_signatures(step)
        for slot, column, known in zip(step.outputs, outputs, elements, strict=False):
            if slot is not None and len(known) == len(column):
                self.elements[slot] = known
        if any(map(contains_failure, outputs)):
            self.failed_before.update((index, step.node.name) for index in affected if index != step.index)

    def _forget_signatures(self, step: Step) -> list[int]:
        """Drop the signatures of a step's results and of all that depends on them, as far as it is not done.

        Returns:
            The positions of the affected steps, which are looked up again as soon as they have new signatures.
        """
        affected: list[int] = []
        stack = [step.index]
        seen = {step.index}
        while stack:
            index = stack.pop()
            if self._status[index] >= _DONE:
                continue
            affected.append(index)
            if index != step.index and self._status[index] == _WANTED:
                self._status[index] = _DEFERRED
            for slot in self.plan.steps[index].outputs:
                if slot is not None:
                    self.signatures[slot] = UNKNOWN
                    self.elements.pop(slot, None)
            fresh = [consumer for consumer in self.plan.consumers[index] if consumer not in seen]
            seen.update(fresh)
            stack += fresh
        return affected

    def _done(self, step: Step) -> None:
        self._status[step.index] = _DONE
        self._release_consumers(step)
        if step.index in self.plan.deciders:
            self._decide_again()

    def _release_consumers(self, step: Step) -> None:
        waiting = self._waiting
        assert waiting is not None
        for consumer in self.plan.consumers[step.index]:
            if self._status[consumer] == _WANTED:
                waiting[consumer] -= 1
                if waiting[consumer] == 0 and self.refusal is None:
                    heappush(self._ready, consumer)

    def _identify_results(self, step: Step, looks_up: bool = True) -> None:
        """Sign the steps that depend on values that exist now, and look up those that waited for them."""
        may_be_demanded_later = self.decisions is not None or self.dated is not None
        if _DEFERRED not in self._status and not may_be_demanded_later:
            return
        for slot in step.outputs:
            if slot is not None:
                self._identify(slot)
        waiting = self._sign_downstream([step.index])
        if self.dated is not None and self.run.is_dry_run:  # else they are looked up when they are about to run
            unqueried = self.dated.unqueried
            known = [index for index, call in unqueried.items() if self.dated.key(call) is not None]
            for index in known:
                del unqueried[index]
            waiting += known
        for index in waiting:
            self._status[index] = _IDLE
        self._demand(sorted(waiting))
        if looks_up:
            look_up([self])

    def _sign_downstream(self, sources: list[int]) -> list[int]:
        """Sign the steps that depend on some steps, as far as possible; return those whose look-up waited for that."""
        waiting: list[int] = []
        stack = sources
        seen: set[int] = set()
        while stack:
            for consumer in self.plan.consumers[stack.pop()]:
                if consumer in seen:
                    continue
                downstream = self.plan.steps[consumer]
                has_final_signature = self.identities.sign(downstream) or not self.identities.can_be_identified(
                    downstream
                )
                if has_final_signature:
                    seen.add(consumer)
                    if self._status[consumer] == _DEFERRED:
                        waiting.append(consumer)
                    if self.identities.can_be_identified(downstream):
                        stack.append(consumer)
        return waiting

    # --- steps that may be skipped --------------------------------------------------------------------------------

    def _decide(self) -> list[int]:
        """Determine which steps run, and skip the others, as far as that is known now; return those decided on."""
        assert self.decisions is not None
        decided: list[int] = []
        try:
            for step, runs in self.decisions.decide():
                decided.append(step.index)
                if not runs:
                    self._skip(step)
                    continue
                self.identities.undecided.discard(step.index)
                self.identities.sign(step)
                rival = self.decisions.rival(step)
                if rival is not None:
                    self._refuse(step, both_run(step, rival))
                    break
        except ExecutionError as error:
            self._refuse(self.plan.steps[self._first_undecided()], error)
        return decided

    def _first_undecided(self) -> int:
        assert self.decisions is not None
        return next(index for index in self.plan.guarded if self.decisions.of(index) is None)

    def _refuse(self, step: Step, error: ExecutionError) -> None:
        """Run no further step."""
        self.refusal, self._ready = Refusal(step, error), []

    def _skip(self, step: Step) -> None:
        """Record that a step does not run: its results are `SKIPPED`, unless another step makes them."""
        assert self.decisions is not None
        self._status[step.index] = _SKIPPED
        for slot in step.outputs:
            if slot is not None and self.decisions.is_never_made(slot):
                self.values[slot] = SKIPPED
                self.signatures[slot] = skipped_signature()
        self._release_consumers(step)

    def _decide_again(self) -> None:
        """Determine which steps run now that another result is known, and demand what waited for that."""
        self._sign_downstream(self._decide())
        if self.refusal is not None:
            return
        self._traced = set()
        waiting = [index for index, status in enumerate(self._status) if status in (_DEFERRED, _UNDECIDED)]
        for index in waiting:
            self._status[index] = _IDLE
        self._demand(waiting)

    def _identify(self, slot: int) -> None:
        """Sign a value that exists by its content; a list of which items failed by the signatures of its elements.

        Whether elements have signatures depends on what else is computed from them, so other lists are not signed by
        theirs: they would be called one thing in one run and another in the next.
        """
        if self.signatures[slot] is not UNKNOWN or self.values[slot] is UNSET:
            return
        known = self.elements.get(slot) if self._is_from_unverified(slot) else None
        if known is None:
            self.signatures[slot] = self.identities.identify(slot)
            return
        for position, own in enumerate(known):
            if not own:
                known[position] = self.identities.identify_element(slot, position)
        self.signatures[slot] = signature.combine(b"items", known) if all(known) else NEVER

    def _is_from_unverified(self, slot: int) -> bool:
        return not self._unverified.isdisjoint(self.plan.makers(slot))

    def signatures_of(self, slots: Sequence[int]) -> list[bytes]:
        for slot in slots:
            if slot in self.elements and self._is_from_unverified(slot):
                self._identify(slot)
        return super().signatures_of(slots)

    # --- events ---------------------------------------------------------------------------------------------------

    def begin_item(self) -> None:
        if self._started_at is None:
            super().begin_item()
            report_hits(self)

    def leave(self, step: Step) -> None:
        super().leave(step)
        if self.hits and (self._started_at is not None or self.item_index is None):
            report_hits(self)

    def _close_untouched(self, item_index: int) -> None:
        listeners = self.listeners[0]
        if self.plan.open_scopes is not None:
            report_hits(self)
        elif listeners.on_map_item_cached:
            own = self.identities.of_outputs()
            listeners.notify(listeners.on_map_item_cached, item_index, own, self.context(0))


def start_together(frames: Sequence[DemandFrame]) -> None:
    """Look up the results of several executions together; their `start` then uses the answers."""
    for frame in frames:
        frame.begin_lookup()
    look_up(frames)


def look_up(frames: Sequence[DemandFrame]) -> None:
    """Answer the cache queries of frames, those of all frames together, until there are no new ones."""
    waiting = [frame for frame in frames if frame.queries]
    while waiting:
        requested: dict[int, tuple[Cache, list[str]]] = {}
        for frame in waiting:
            for query in frame.queries:
                requested.setdefault(id(query.cache), (query.cache, []))[1].extend(query.keys)
        store = waiting[0].run.store
        found = {identity: CacheReplies(store, cache, keys) for identity, (cache, keys) in requested.items()}
        for frame in waiting:
            frame.take_replies(found)
        waiting = [frame for frame in waiting if frame.queries]
    for frame in frames:
        frame.expect()
