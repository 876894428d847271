"""Records of computed results, one for each node and run; `explain` compares them to report what changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from hypernodes import signature
from hypernodes.cache.base import Cache
from hypernodes.cache.record import FORMAT, RECORD_PREFIX, without_values
from hypernodes.engine.identity.plan_code import PlanCodes
from hypernodes.engine.identity.secrecy import looks_secret
from hypernodes.engine.store.run_store import RunStore
from hypernodes.nodes import Node
from hypernodes.plan import CallStep, Plan

_LONGEST_SHOWN = 60
_SHOWN = frozenset({bool, float, int, str, type(None)})

# The components of each node's code, with the digest that they belong to.
_components: WeakKeyDictionary[Node[..., Any], tuple[bytes, Mapping[str, bytes]]] = WeakKeyDictionary()
# The digest with which each node was called first, after which it was checked whether it is still the same.
_checked: WeakKeyDictionary[Node[..., Any], bytes] = WeakKeyDictionary()


class Outline:
    """The part that all records of a plan and of the mapped pipelines in it have in common.

    Attributes:
        keys: The key of each node's record. Nodes with the same name and outputs are distinguished by their order.
        varying: For each plan, the slots whose values differ from item to item.
    """

    def __init__(self, plan: Plan, varying: Iterable[str]) -> None:
        self.keys: dict[CallStep, str] = {}
        self.varying: dict[Plan, frozenset[int]] = {}
        self._counts: dict[tuple[str, ...], int] = {}
        self._walk(plan, {plan.inputs[name] for name in varying})

    def _walk(self, plan: Plan, varying: set[int]) -> None:
        for step in plan.steps:
            varies = not varying.isdisjoint(step.arguments)
            if varies:
                varying.update(slot for slot in step.outputs if slot is not None)
            if isinstance(step, CallStep):
                self.keys[step] = self._key(step.node)
                continue
            pairs = zip(step.inner_inputs, step.arguments, strict=True)
            inside = {name for name, slot in pairs if name in step.mapped or slot in varying}
            self._walk(step.inner, {step.inner.inputs[name] for name in inside if name in step.inner.inputs})
        self.varying[plan] = frozenset(varying)

    def _key(self, node: Node[..., Any]) -> str:
        identity = (node.name, *node.outputs)
        number = self._counts[identity] = self._counts.get(identity, 0) + 1
        return f"{RECORD_PREFIX}{signature.atom(repr((number, identity)).encode()).hex()}"


class Computed(NamedTuple):
    """An execution of a plan in which a result was computed, or would be.

    Attributes:
        plan: The plan.
        values: Value of every slot so far.
        signatures: Signature of the value in every slot.
        failed_before: For each step that depends on failed items, the mapped pipeline that they are of.
        is_known: Whether the result has a signature.
    """

    plan: Plan
    values: Sequence[Any]
    signatures: Sequence[bytes | None]
    failed_before: Mapping[int, str] = MappingProxyType({})
    is_known: bool = True


class RunRecords:
    """The records that one run writes about its nodes.

    Args:
        codes: Signatures of code in this run.
        store: The store that writes records.

    Attributes:
        recorded: Steps that already have a record; callers check it before `add`.
    """

    def __init__(self, codes: PlanCodes, store: RunStore) -> None:
        self._codes = codes
        self._store = store
        self.recorded: set[CallStep] = set()
        self._plan: Plan | None = None
        self._varying: tuple[str, ...] = ()
        self._known_outline: Outline | None = None

    def begin(self, plan: Plan, varying: Iterable[str]) -> None:
        """Set the plan that is about to run.

        Args:
            plan: The outermost plan.
            varying: Those of its inputs that vary from item to item.
        """
        self._plan = plan
        self._varying = tuple(varying)

    @property
    def _outline(self) -> Outline | None:
        if self._known_outline is None and self._plan is not None:
            self._known_outline = Outline(self._plan, self._varying)
        return self._known_outline

    def add(self, frame: Computed, step: CallStep, duration_s: float) -> None:
        """Write a record of a node that has just been computed, next to its results.

        Args:
            frame: The execution.
            step: The node's step.
            duration_s: How long the call took, in seconds; of a batch, the share of one item.
        """
        self.recorded.add(step)
        cache = frame.plan.scopes[step.scope].cache
        digest = self._codes.of(frame.plan).calls[step.index]
        if self._outline is None or step not in self._outline.keys or cache is None or digest is None:
            return
        components = components_of(step.node, digest)
        if components and _checked.get(step.node) != digest:
            _checked[step.node] = digest
            components = self._as_it_was(step.node, digest, components)
        record: dict[str, Any] = {"format": FORMAT, "node": step.node.name}
        if step.node.version is not None:
            record["version"] = repr(step.node.version)[:_LONGEST_SHOWN]
        record |= {
            "computed_at": time.time(),
            "duration_s": duration_s,
            "code_digest": digest,
            "code": dict(components),
            "inputs": inputs_of(frame, step, self._outline.varying[frame.plan]),
        }
        if not cache.shows_inputs:
            record = without_values(record)
        if step.index in frame.failed_before:
            record["after_failures"] = frame.failed_before[step.index]
            record["is_uncached"] = not frame.is_known
        self._store.put(cache, {self._outline.keys[step]: record}, step.node.name)

    def _as_it_was(self, node: Node[..., Any], digest: bytes, components: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Return the components of a node's code as they were before its first call, and warn of what that changed.

        A call that changes something that the node refers to (`seen.append(x)`) makes it another node for later runs.
        """
        try:
            changed = signature.changed_parts(node, digest)
        except Exception:  # e.g. another thread is changing it at this moment
            return components
        if not changed:
            return components
        names = [name.partition(" ")[2] for name in changed if " " in name] or list(changed)
        self._codes.warn(
            node.name,
            "changed",
            f"{', '.join(f'`{name}`' for name in names)}, which node {node.name!r} is known by, changed while the node "
            "ran: later runs in this process compute it again. Return the value or pass it as an input instead of "
            "changing it, or mark the node @node(cache=False).",
        )
        before = {name: own or b"unknown" for name, own in changed.items() if name in components}
        _components[node] = (digest, {**components, **before})
        return _components[node][1]

    def has_key(self, key: str) -> bool:
        """Whether a key is that of the record of a node in the plan."""
        return self._outline is not None and key in self._outline.keys.values()

    def completed(self, cache: Cache, key: str, record: Any) -> Any:
        """Return a record from a remote worker, completed with the components of the code, which the caller has.

        Args:
            cache: Where it is to be stored.
            key: Its key.
            record: The record.
        """
        if not cache.shows_inputs:
            record = without_values(record)
        if self._outline is None or not isinstance(record, dict) or record.get("code"):
            return record
        for step, own in self._outline.keys.items():
            if own == key:
                return {**record, "code": dict(components_of(step.node, record.get("code_digest", b"")))}
        return record


def components_of(node: Node[..., Any], digest: bytes) -> Mapping[str, bytes]:
    """Return the components of a node's code with their digests; none where the code cannot be inspected.

    Args:
        node: The node.
        digest: The digest of its whole code; the components change only with it.
    """
    if node.code_signature is not None:  # the node was sent to this worker without its source
        return {}
    known = _components.get(node)
    if known is not None and known[0] == digest:
        return known[1]
    try:
        found = signature.code_components(node)
    except Exception:  # never fail a run for this: `explain` then cannot name what changed
        return {}
    _components[node] = (digest, found)
    return found


def inputs_of(frame: Computed, step: CallStep, varying: frozenset[int]) -> dict[str, dict[str, Any]]:
    """Return the recorded facts about the arguments of a call, by parameter name.

    Args:
        frame: The execution.
        step: The call.
        varying: Slots whose values differ from item to item.
    """
    return {name: dict(_facts(frame, name, slot, varying)) for name, slot in step.named if _counts(step, name)}


def _counts(step: CallStep, name: str) -> bool:
    return name not in step.node.cache_ignore


def _facts(frame: Computed, name: str, slot: int, varying: frozenset[int]) -> Iterator[tuple[str, Any]]:
    producer = frame.plan.producers[slot]
    if producer >= 0:
        yield "from", frame.plan.steps[producer].node.name
    if slot in varying:
        return
    own = frame.signatures[slot]
    if own:
        yield "digest", own
    value = frame.values[slot]
    if producer < 0 and type(value) in _SHOWN:
        shown = repr(value)
        if len(shown) <= _LONGEST_SHOWN and not looks_secret(name, shown):
            yield "shown", shown
