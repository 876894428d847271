"""One execution of a plan with a cache: what is asked for is looked up first, and only what is missing runs.

Demand goes upstream from the requested outputs. A step whose signature is known is looked up; only when its result is
not there are its own inputs demanded. Signatures come from code, inputs and upstream signatures, so they are known
before anything runs - except after a result that is identified by its actual value (a `cache=False` node): such steps
are looked up as soon as that value exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import Any

from hypernodes import signature
from hypernodes.cache.base import MISS, Cache
from hypernodes.callbacks import CallbackContext
from hypernodes.engine.announce import announce_cached_map
from hypernodes.engine.frame import Frame
from hypernodes.engine.plan_code import code_of, sign_map, sign_outputs
from hypernodes.engine.run_state import RunState
from hypernodes.plan import UNSET, CallStep, NestedStep, Plan, Step
from hypernodes.signature import UnhashableValueError, combine

_IDLE, _DEFERRED, _WANTED, _DONE = range(4)
_UNKNOWN = None
_NEVER = b""  # the signature of what cannot be identified at all


class CachedFrame(Frame):
    """One execution of a plan in which some results may come from a cache.

    Attributes:
        signatures: Signature of the value in every slot; None while unknown, empty when there can be none.
        elements: Signatures of the single elements of lists that a mapped pipeline made, by slot.
        hits: Steps whose results came from the cache, in the order found.
    """

    __slots__ = ("_code", "_ready", "_status", "_waiting", "elements", "hits", "signatures")

    def __init__(
        self,
        plan: Plan,
        run: RunState,
        values: list[Any],
        base: CallbackContext,
        item_index: int | None = None,
        signatures: Mapping[int, bytes] | None = None,
    ) -> None:
        super().__init__(plan, run, values, base, item_index)
        self._code = code_of(plan, run)
        self._status = bytearray(len(plan.steps))
        self._waiting = [0] * len(plan.steps)
        self._ready: list[int] = []
        self.signatures: list[bytes | None] = [_UNKNOWN] * len(values)
        self.elements: dict[int, list[bytes]] = {}
        self.hits: list[Step] = []
        for slot, known in (signatures or {}).items():
            self.signatures[slot] = known

    # --- demand ---------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Look up what is asked for; return whether anything has to run."""
        producers = self.plan.producers
        for step in self.plan.steps:
            self._sign(step)
        self._demand([producers[slot] for slot in self.plan.outputs.values() if producers[slot] >= 0])
        todo = [step for step in self.plan.steps if self._status[step.index] in (_WANTED, _DEFERRED)]
        if self._scopes is not None:
            is_held = any(status == _DEFERRED for status in self._status)
            self._scopes.expect([*todo, *self.hits], is_held)
        return bool(todo)

    def identify_inputs(self, except_slots: Iterable[int]) -> dict[int, bytes]:
        """Return the signatures of the inputs and defaults that cached steps take, other than of `except_slots`."""
        varying = set(except_slots)
        for step in self.plan.steps:
            is_identified = (self._code.calls, self._code.mapped)[isinstance(step, NestedStep)][step.index] is not None
            for slot in step.arguments if is_identified else ():
                if slot not in varying:
                    self._signature(slot)
        return {slot: own for slot, own in enumerate(self.signatures) if own is not _UNKNOWN}

    def announce_hits(self) -> None:
        """Send the events of what came from the cache so far."""
        for step in sorted(self.hits, key=lambda step: step.index):
            self._announce_hit(step)
        self.hits.clear()

    def signature(self) -> str:
        """Return one signature for everything that is asked for."""
        known = [self.signatures[slot] or b"" for slot in self.plan.outputs.values()]
        return (known[0] if len(known) == 1 else combine(b"item", known)).hex()

    def _demand(self, indexes: Iterable[int]) -> None:
        stack = list(indexes)
        while stack:
            index = stack.pop()
            if self._status[index] != _IDLE:
                continue
            step = self.plan.steps[index]
            if self._can_be_identified(step):
                if not self._is_signed(step):
                    self._status[index] = _DEFERRED
                    stack += self._unidentified_sources(step)
                    continue
                if self._look_up(step):
                    self.hits.append(step)
                    self._done(step)
                    continue
            self._status[index] = _WANTED
            self._waiting[index] = sum(self._status[source] != _DONE for source in step.needs)
            if self._waiting[index] == 0:
                heappush(self._ready, index)
            stack += step.needs

    def _unidentified_sources(self, step: Step) -> list[int]:
        """The steps upstream that have to run before the signature of `step` can be known."""
        found: list[int] = []
        seen = {step.index}
        stack: list[Step] = [step]
        while stack:
            for slot in stack.pop().arguments:
                source = self.plan.producers[slot]
                if self._signature(slot) is not _UNKNOWN or source in seen:
                    continue
                seen.add(source)
                upstream = self.plan.steps[source]
                if self._can_be_identified(upstream):
                    stack.append(upstream)
                else:
                    found.append(source)
        return found

    # --- signatures -----------------------------------------------------------------------------------------------

    def _can_be_identified(self, step: Step) -> bool:
        """Whether the results of a step are known by what goes in, rather than by their values."""
        if isinstance(step, CallStep):
            is_known = self._code.calls[step.index] is not None
        else:
            outputs = self._code.mapped[step.index]
            is_known = outputs is not None and None not in outputs and step.inner.scopes[0].cache is not None
        return is_known and all(self._signature(slot) != _NEVER for slot in step.arguments)

    def _is_signed(self, step: Step) -> bool:
        return all(self._signature(slot) is not _UNKNOWN for slot in step.arguments)

    def _signature(self, slot: int) -> bytes | None:
        """The signature of what is in a slot; inputs and defaults are identified when first asked for."""
        known = self.signatures[slot]
        if known is _UNKNOWN and self.plan.producers[slot] < 0:
            known = self.signatures[slot] = self._identify(slot)
        return known

    def _identify(self, slot: int) -> bytes:
        value = self.values[slot]
        if value is UNSET:
            return _NEVER
        try:
            return signature.digest(value)
        except UnhashableValueError as error:
            names = [name for name, own in self.plan.inputs.items() if own == slot]
            users = [step for step in self.plan.steps if slot in step.arguments and step.scope >= 0]
            if not names:
                names = [n for s in users for n, a in zip(s.node.inputs, s.arguments, strict=True) if a == slot][:1]
            name = names[0] if names else "a result"
            self.run.warn(
                name,
                "value",
                f"{', '.join(repr(step.node.name) for step in users)}: runs uncached, because {name}{error}. "
                "Give its class __cache_key__(), or name attributes that do not matter in __cache_ignore__.",
            )
            return _NEVER

    def _sign(self, step: Step) -> bool:
        """Compute the signatures of a step's outputs if those of its inputs are known; return whether they are now."""
        if not self._can_be_identified(step) or not self._is_signed(step):
            return False
        if isinstance(step, CallStep):
            code = self._code.calls[step.index]
            assert code is not None
            known = [self.signatures[slot] or b"" for slot in step.arguments]
            outputs = sign_outputs(step, combine(b"call", [code, *known]))
        else:
            outputs = self._sign_map(step)
        for slot, own in zip(step.outputs, outputs, strict=True):
            if slot is not None:
                self.signatures[slot] = own
        return True

    def _sign_map(self, step: NestedStep) -> tuple[bytes, ...]:
        outputs = self._code.mapped[step.index]
        assert outputs is not None
        signed = []
        for output in outputs:
            assert output is not None
            used = output.inputs.union(step.mapped)
            pairs = zip(step.inner_inputs, step.arguments, strict=True)
            signed.append(
                sign_map(step, output, [self.signatures[slot] or b"" for name, slot in pairs if name in used])
            )
        return tuple(signed)

    # --- the cache ------------------------------------------------------------------------------------------------

    def cache_of(self, step: Step) -> Cache | None:
        """Where the results of a step are kept."""
        scope = self.plan.scopes[step.scope] if isinstance(step, CallStep) else step.inner.scopes[0]
        return scope.cache

    def _look_up(self, step: Step) -> bool:
        cache = self.cache_of(step)
        assert cache is not None
        slots = [slot for slot in step.outputs if slot is not None]
        keys = [(self.signatures[slot] or b"").hex() for slot in slots]
        if isinstance(step, NestedStep):
            return self._look_up_items(cache, slots, keys)
        found = [cache.get(key) for key in keys]
        if any(value is MISS for value in found):
            return False
        for slot, value in zip(slots, found, strict=True):
            self.values[slot] = value
        return True

    def _look_up_items(self, cache: Cache, slots: list[int], keys: list[str]) -> bool:
        """Read the results of a mapped pipeline: a manifest names the entry of every item."""
        manifests = [cache.get(manifest_key(key)) for key in keys]
        if any(not isinstance(manifest, bytes) for manifest in manifests):
            return False
        size = signature.DIGEST_SIZE
        for slot, manifest in zip(slots, manifests, strict=True):
            elements = [manifest[i : i + size] for i in range(0, len(manifest), size)]
            names = [element.hex() for element in elements]
            found = cache.get_many(names)
            if any(name not in found for name in names):
                return False
            self.values[slot] = [found[name] for name in names]
            self.elements[slot] = elements
        return True

    def _put(self, step: CallStep) -> None:
        cache = self.cache_of(step)
        if cache is None:
            return
        entries = {}
        for slot in step.outputs:
            own = self.signatures[slot] if slot is not None else None
            if slot is not None and own:
                entries[own.hex()] = self.values[slot]
        self.keep(cache, entries, step.node.name)

    def keep(self, cache: Cache, entries: Mapping[str, Any], node_name: str) -> None:
        """Store results; a value that cannot be stored is said once and costs nothing else."""
        try:
            if len(entries) == 1:
                ((key, value),) = entries.items()
                cache.put(key, value)
            elif entries:
                cache.put_many(entries)
        except Exception as error:
            self.run.warn(
                node_name,
                "put",
                f"the result of node {node_name!r} is not cached: {type(error).__name__}: {error}. "
                "Return something that pickle can take, or mark the node @node(cache=False).",
            )

    # --- progress -------------------------------------------------------------------------------------------------

    def next_step(self) -> Step | None:
        while self._ready:
            step = self.plan.steps[heappop(self._ready)]
            if self._status[step.index] == _WANTED:
                return step
        return None

    def finish(self, step: Step, outputs: Iterable[Any]) -> None:
        super().finish(step, outputs)
        if isinstance(step, CallStep) and self._can_be_identified(step):
            self._put(step)
        self._done(step)
        if not self._can_be_identified(step):
            self._identify_results(step)

    def _done(self, step: Step) -> None:
        self._status[step.index] = _DONE
        for consumer in self.plan.consumers[step.index]:
            if self._status[consumer] == _WANTED:
                self._waiting[consumer] -= 1
                if self._waiting[consumer] == 0:
                    heappush(self._ready, consumer)

    def _identify_results(self, step: Step) -> None:
        """Now that the values exist, sign what depends on them and look up what waited for that."""
        if _DEFERRED not in self._status:
            return
        for slot in step.outputs:
            if slot is not None and self.signatures[slot] is _UNKNOWN:
                self.signatures[slot] = self._identify(slot)
        waiting: list[int] = []
        stack = [step.index]
        seen: set[int] = set()
        while stack:
            for consumer in self.plan.consumers[stack.pop()]:
                if consumer in seen:
                    continue
                downstream = self.plan.steps[consumer]
                is_settled = self._sign(downstream) or not self._can_be_identified(downstream)
                if is_settled:
                    seen.add(consumer)
                    if self._status[consumer] == _DEFERRED:
                        waiting.append(consumer)
                    if self._can_be_identified(downstream):
                        stack.append(consumer)
        for index in waiting:
            self._status[index] = _IDLE
        already = len(self.hits)
        self._demand(sorted(waiting))
        for hit in self.hits[already:]:
            self._announce_hit(hit)
        del self.hits[already:]

    def _announce_hit(self, step: Step) -> None:
        if not self.plan.is_heard:
            return
        if isinstance(step, NestedStep):
            announce_cached_map(self, step)
            return
        self.enter(step)
        listeners = self.listeners[step.scope]
        if listeners.on_node_cached:
            own = next((self.signatures[slot] for slot in step.outputs if slot is not None), None) or b""
            listeners.tell(listeners.on_node_cached, step.node.name, own.hex(), self.context(step.scope))
        self.leave(step)


def manifest_key(signature_hex: str) -> str:
    """Return the key under which the items of a mapped result are listed."""
    return f"{signature_hex}-items"
