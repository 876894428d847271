"""Records of what was computed, one for each node and run, so that `explain` can say what changed since."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from hypernodes import signature
from hypernodes.cache.record import FORMAT, RECORD_PREFIX
from hypernodes.engine.identity.plan_code import PlanCodes
from hypernodes.engine.store.run_store import RunStore
from hypernodes.nodes import Node
from hypernodes.plan import CallStep, Plan

_LONGEST_SHOWN = 60
_SHOWN = frozenset({bool, float, int, str, type(None)})
# A value is not written down in words where the name of its parameter says that nobody should read it.
_SECRETS = ("auth", "credential", "key", "passphrase", "password", "passwd", "secret", "token")

# The pieces of a node's code while its digest stays the same.
_components: WeakKeyDictionary[Node[..., Any], tuple[bytes, Mapping[str, bytes]]] = WeakKeyDictionary()


class Outline:
    """What is the same for all records of a plan and the mapped pipelines in it.

    Attributes:
        keys: Under what key each node is written about. Nodes that have name and outputs in common are told apart by
            their order.
        varying: For each plan, the slots whose contents differ from item to item.
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
        place = (node.name, *node.outputs)
        number = self._counts[place] = self._counts.get(place, 0) + 1
        return f"{RECORD_PREFIX}{signature.atom(repr((number, place)).encode()).hex()}"


class Computed(NamedTuple):
    """An execution of a plan in which something was computed, or would be.

    Attributes:
        plan: The plan.
        values: Value of every slot so far.
        signatures: Signature of what is in every slot.
    """

    plan: Plan
    values: Sequence[Any]
    signatures: Sequence[bytes | None]


class RunRecords:
    """The records that one run writes about its nodes.

    Args:
        codes: Signatures of code in this run.
        store: Where records are written.

    Attributes:
        recorded: Steps that have a record already; whoever stores a result looks here first.
    """

    def __init__(self, codes: PlanCodes, store: RunStore) -> None:
        self._codes = codes
        self._store = store
        self.recorded: set[CallStep] = set()
        self._plan: Plan | None = None
        self._varying: tuple[str, ...] = ()
        self._known_outline: Outline | None = None

    def begin(self, plan: Plan, varying: Iterable[str]) -> None:
        """Say what is about to run.

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

    def add(self, frame: Computed, step: CallStep) -> None:
        """Write a record of a node that has just been computed, beside its results."""
        self.recorded.add(step)
        cache = frame.plan.scopes[step.scope].cache
        digest = self._codes.of(frame.plan).calls[step.index]
        if self._outline is None or step not in self._outline.keys or cache is None or digest is None:
            return
        record: dict[str, Any] = {"format": FORMAT, "node": step.node.name}
        if step.node.version is not None:
            record["version"] = repr(step.node.version)[:_LONGEST_SHOWN]
        record |= {
            "computed_at": time.time(),
            "code_digest": digest,
            "code": dict(components_of(step.node, digest)),
            "inputs": inputs_of(frame, step, self._outline.varying[frame.plan]),
        }
        self._store.put(cache, {self._outline.keys[step]: record}, step.node.name)

    def completed(self, key: str, record: Any) -> Any:
        """Return a record from a remote place, with what only can be seen here: what the code consists of."""
        if self._outline is None or not isinstance(record, dict) or record.get("code"):
            return record
        for step, own in self._outline.keys.items():
            if own == key:
                return {**record, "code": dict(components_of(step.node, record.get("code_digest", b"")))}
        return record


def components_of(node: Node[..., Any], digest: bytes) -> Mapping[str, bytes]:
    """Return the pieces of a node's code with their digests; nothing where one cannot look into it.

    Args:
        node: The node.
        digest: What identifies its code as a whole: while that stays, so do the pieces.
    """
    if node.code_signature is not None:  # it came from elsewhere, and its source did not
        return {}
    known = _components.get(node)
    if known is not None and known[0] == digest:
        return known[1]
    try:
        found = signature.code_components(node)
    except Exception:  # nothing in here is worth a run: then one cannot tell what changed
        return {}
    _components[node] = (digest, found)
    return found


def inputs_of(frame: Computed, step: CallStep, varying: frozenset[int]) -> dict[str, dict[str, Any]]:
    """Return what is known of the arguments of a call, by the names of the parameters.

    Args:
        frame: The execution.
        step: The call.
        varying: Slots whose contents differ from item to item.
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
    if producer < 0 and type(value) in _SHOWN and not any(secret in name.lower() for secret in _SECRETS):
        shown = repr(value)
        if len(shown) <= _LONGEST_SHOWN:
            yield "shown", shown
