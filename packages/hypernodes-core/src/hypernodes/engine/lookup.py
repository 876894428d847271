"""One execution of a plan with a cache: what is asked for is looked up first, and only what is missing runs.

Demand goes upstream from the requested outputs. A step whose signature is known is looked up; only when its result is
not there are its own inputs demanded. Signatures come from code, inputs and upstream signatures, so they are known
before anything runs - except after a result that is identified by its actual value (a `cache=False` node): such steps
are looked up as soon as that value exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import heappush
from typing import Any

from hypernodes import signature
from hypernodes.cache.base import MISS, Cache
from hypernodes.callbacks import CallbackContext
from hypernodes.engine.announce import announce_cached_map
from hypernodes.engine.frame import Frame
from hypernodes.engine.plan_code import code_of, sign_map, sign_outputs
from hypernodes.engine.run_state import RunState
from hypernodes.plan import UNSET, CallStep, NestedStep, Plan, Step

_IDLE, _DEFERRED, _WANTED, _DONE = range(4)
_UNKNOWN = None
_NEVER = b""  # the signature of what cannot be identified at all


class CachedFrame(Frame):
    """One execution of a plan in which some results may come from a cache.

    Attributes:
        signatures: Signature of the value in every slot; None while unknown, empty when there can be none.
        elements: Signatures of the single elements of lists that a mapped pipeline made, by slot.
        is_spoiled: Whether a failure stands somewhere in its results.
    """

    __slots__ = ("_code", "_hits", "_status", "elements", "is_spoiled", "signatures")

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
        self.signatures: list[bytes | None] = [_UNKNOWN] * len(values)
        self.elements: dict[int, list[bytes]] = {}
        self.is_spoiled = False
        self._hits: list[Step] = []  # found, but not announced yet
        for slot, known in (signatures or {}).items():
            self.signatures[slot] = known

    # --- demand ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look up what is asked for."""
        self._waiting = [0] * len(self.plan.steps)
        producers = self.plan.producers
        for step in self.plan.steps:
            self._sign(step)
        self._demand([producers[slot] for slot in self.plan.outputs.values() if producers[slot] >= 0])
        if self._scopes is not None:
            todo = [step for step in self.plan.steps if self._status[step.index] in (_WANTED, _DEFERRED)]
            self._scopes.expect([*todo, *self._hits], is_held=_DEFERRED in self._status)
        if self.item_index is None:
            self._announce_hits()

    def remaining_calls(self) -> list[CallStep] | None:
        if _DEFERRED in self._status:
            return None
        wanted = [step for step in self.plan.steps if self._status[step.index] == _WANTED]
        calls = [step for step in wanted if isinstance(step, CallStep)]
        return calls if calls and len(calls) == len(wanted) else None

    @property
    def is_done(self) -> bool:
        """Whether everything that is asked for is there."""
        return _WANTED not in self._status and _DEFERRED not in self._status

    def identify_inputs(self, except_slots: Iterable[int]) -> dict[int, bytes]:
        """Return the signatures of the inputs and defaults that cached steps take, other than of `except_slots`."""
        varying = set(except_slots)
        for step in self.plan.steps:
            is_identified = (self._code.calls, self._code.mapped)[isinstance(step, NestedStep)][step.index] is not None
            for slot in self._code.signed[step.index] if is_identified else ():
                if slot not in varying:
                    self._signature(slot)
        return {slot: own for slot, own in enumerate(self.signatures) if own is not _UNKNOWN}

    def begin(self) -> None:
        super().begin()
        self._announce_hits()

    def _close_untouched(self, item_index: int) -> None:
        listeners = self.listeners[0]
        if listeners.on_map_item_cached:
            listeners.tell(listeners.on_map_item_cached, item_index, self.signature(), self.context(0))

    def _announce_hits(self) -> None:
        hits, self._hits = self._hits, []
        for step in sorted(hits, key=lambda step: step.index):
            self._announce_hit(step)

    def signature(self) -> str:
        """Return one signature for everything that is asked for."""
        known = [self.signatures[slot] or b"" for slot in self.plan.outputs.values()]
        return (known[0] if len(known) == 1 else signature.combine(b"item", known)).hex()

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
                    self._hits.append(step)
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
            for slot in self._code.signed[stack.pop().index]:
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
        return is_known and all(self._signature(slot) != _NEVER for slot in self._code.signed[step.index])

    def _is_signed(self, step: Step) -> bool:
        return all(self._signature(slot) is not _UNKNOWN for slot in self._code.signed[step.index])

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
            return signature.digest(value, self.run.memo)
        except Exception as error:  # of a __cache_key__, a __reduce__, a property: it must not end the run
            names = [name for name, own in self.plan.inputs.items() if own == slot]
            users = [step for step in self.plan.steps if slot in self._code.signed[step.index]]
            if not names:
                names = [name for step in users for name, own in _named_arguments(step) if own == slot]
            name = names[0] if names else "a result"
            is_ours = isinstance(error, signature.UnhashableValueError)
            what = f"{name}{error}" if is_ours else f"{name} cannot be identified: {error!r}"
            self.run.warn(
                name,
                "value",
                f"{', '.join(repr(step.node.name) for step in users)}: runs uncached, because {what}. "
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
            known = [self.signatures[slot] or b"" for slot in self._code.signed[step.index]]
            outputs = sign_outputs(step, signature.combine(b"call", [code, *known]))
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
        found = self._get_many(cache, keys)
        if any(key not in found for key in keys):
            return False
        for slot, key in zip(slots, keys, strict=True):
            self.values[slot] = found[key]
        return True

    def _look_up_items(self, cache: Cache, slots: list[int], keys: list[str]) -> bool:
        """Read the results of a mapped pipeline: a manifest names the entry of every item."""
        manifests = [_read_manifest(self._get(cache, manifest_key(key))) for key in keys]
        found: list[list[Any]] = []
        for elements in manifests:
            values = None if elements is None else self._read_elements(cache, elements)
            if values is None:
                return False
            found.append(values)
        for slot, elements, values in zip(slots, manifests, found, strict=True):
            self.values[slot] = values
            self.elements[slot] = elements or []
        return True

    def _read_elements(self, cache: Cache, elements: list[bytes]) -> list[Any] | None:
        """Return the values of list elements, which may be made by mapped pipelines themselves; None if any is gone."""
        names = [element.hex() for element in elements]
        found = dict(self._get_many(cache, names))
        for name in names:
            if name not in found:
                nested = _read_manifest(self._get(cache, manifest_key(name)))
                values = None if nested is None else self._read_elements(cache, nested)
                if values is None:
                    return None
                found[name] = values
        return [found[name] for name in names]

    def _get(self, cache: Cache, key: str) -> Any:
        return self._get_many(cache, [key]).get(key, MISS)

    def _get_many(self, cache: Cache, keys: list[str]) -> Mapping[str, Any]:
        try:
            return cache.get_many(keys) if len(keys) != 1 else _one(keys[0], cache.get(keys[0]))
        except Exception as error:
            message = (
                f"nothing can be read from {cache!r}: {type(error).__name__}: {error}; the run goes on without it."
            )
            self.run.warn(repr(cache), "get", message)
            return {}

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
        if any(isinstance(value, Iterator) for value in entries.values()):
            reason = "it is an iterator, which can be read only once. Return a list"
            self.run.warn(node_name, "put", f"the result of node {node_name!r} is not cached: {reason}.")
            return
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

    def recall(self, step: CallStep) -> bool:
        """Take the result of a step that was not in the cache before, if it is there now; return whether it was."""
        if not self._can_be_identified(step) or not self._look_up(step):
            return False
        self._hits.append(step)
        self._done(step)
        if self._started_at is not None or self.item_index is None:
            self._announce_hits()
        return True

    def key_of(self, step: CallStep) -> bytes | None:
        """Return the signature of what a step is about to compute; None when it has none."""
        if not self._can_be_identified(step):
            return None
        return next((self.signatures[slot] for slot in step.outputs if slot is not None), None) or None

    def finish(self, step: Step, outputs: Iterable[Any]) -> None:
        for slot, value in zip(step.outputs, outputs, strict=True):
            if slot is not None:
                self.values[slot] = value
        is_identified = self._can_be_identified(step)
        if isinstance(step, CallStep) and is_identified:
            self._put(step)
        self._done(step)
        if not is_identified:
            self._identify_results(step)

    def spoil(self, step: Step) -> None:
        """Forget the signatures of a step's results and of all that depends on them: some items failed."""
        self.is_spoiled = True
        stack = [step]
        seen = {step.index}
        while stack:
            current = stack.pop()
            for slot in current.outputs:
                if slot is not None:
                    self.signatures[slot] = _NEVER
                    self.elements.pop(slot, None)
            fresh = [index for index in self.plan.consumers[current.index] if index not in seen]
            seen.update(fresh)
            stack += [self.plan.steps[index] for index in fresh]

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
        self._demand(sorted(waiting))

    def leave(self, step: Step) -> None:
        super().leave(step)
        if self._hits and (self._started_at is not None or self.item_index is None):
            self._announce_hits()

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


def _named_arguments(step: Step) -> list[tuple[str, int]]:
    names = step.node.inputs if isinstance(step, CallStep) else step.inner_inputs
    return list(zip(names, step.arguments, strict=True))


def _one(key: str, value: Any) -> dict[str, Any]:
    return {} if value is MISS else {key: value}


def _read_manifest(manifest: Any) -> list[bytes] | None:
    size = signature.DIGEST_SIZE
    if not isinstance(manifest, bytes) or len(manifest) % size:
        return None
    return [manifest[i : i + size] for i in range(0, len(manifest), size)]


def manifest_key(signature_hex: str) -> str:
    """Return the key under which the items of a mapped result are listed."""
    return f"{signature_hex}-items"
