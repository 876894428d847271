"""Finds the reasons why a node would run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypernodes.cache.base import MISS, Cache
from hypernodes.cache.record import checked_record
from hypernodes.engine.frames.demand import DemandFrame
from hypernodes.engine.identity.records import Computed, Outline, components_of, inputs_of
from hypernodes.engine.identity.slot_signatures import NEVER
from hypernodes.engine.state import RunState
from hypernodes.explain.changes import changes
from hypernodes.explain.probing import ProbingStore
from hypernodes.plan import CallStep, Plan


class Reasons:
    """Finds the reasons why nodes would run.

    Args:
        store: Reads the records.
        outline: Holds the keys of the records.
        warnings: The warnings shown so far, by subject and kind of problem.
        state: State of the dry run.
    """

    def __init__(
        self, store: ProbingStore, outline: Outline, warnings: Mapping[tuple[str, str], str], state: RunState
    ) -> None:
        self._store = store
        self._outline = outline
        self._warnings = warnings
        self._state = state
        self._records: dict[CallStep, Any] = {}  # that were read

    def of(self, plan: Plan, step: CallStep, frame: DemandFrame | None, has_hits: bool) -> list[str]:
        """Return why a node would run, at least one reason.

        Args:
            plan: The plan it is a step of.
            step: The node's step.
            frame: An execution in which it would run; None when nothing in that plan is cached.
            has_hits: Whether some of its results are in the cache.
        """
        cache = plan.scopes[step.scope].cache
        if not step.node.cache:
            return ["never cached (cache=False)"]
        if cache is None or frame is None:
            return ["no cache"]
        if self._state.codes.of(plan).dated[step.index] is not None:
            return [_too_old(step, None if frame.dated is None else frame.dated.outdated.get(step.index))]
        digest = self._state.codes.of(plan).calls[step.index]
        if digest is None:
            return ["its code cannot be identified (see the warning)"]
        if not frame.identities.can_be_identified(step):
            return [self._unidentified(frame, step)]
        seen = Computed(plan, frame.values, frame.signatures)
        varying = self._outline.varying[plan]
        now: dict[str, Any] = {"code_digest": digest, "code": {}, "inputs": inputs_of(seen, step, varying)}
        if has_hits:
            return [_new_items(now["inputs"], {})]
        stored = self._record(cache, step)
        if stored is MISS:
            return ["never computed"]
        then = checked_record(stored)
        if then is not None and then.get("is_uncached"):
            source = then["after_failures"]
            return [f"runs uncached after failed items of `{source}`, since their errors cannot be identified"]
        if then is None:
            return ["cannot tell what changed since the last entry: its record cannot be read"]
        if then["code_digest"] != digest:
            now["code"] = components_of(step.node, digest)
        if step.node.version is not None:
            now["version"] = repr(step.node.version)
        return changes(step.node, then, now) or [_new_items(now["inputs"], then["inputs"])]

    def seconds_of(self, plan: Plan, step: CallStep) -> float | None:
        """Return how long a node took when it was computed last, in seconds; None when that is not known."""
        cache = plan.scopes[step.scope].cache
        if cache is None or not step.node.cache:
            return None
        then = checked_record(self._record(cache, step))
        return None if then is None else then.get("duration_s")

    def _record(self, cache: Cache, step: CallStep) -> Any:
        if step not in self._records:
            self._records[step] = self._store.record(cache, self._outline.keys[step])
        return self._records[step]

    def failed_before(self, plan: Plan, step: CallStep, frame: DemandFrame | None) -> str | None:
        """Return the mapped pipeline whose failed items a node's result was last computed from, or None.

        If they fail again in the same way, the result is found: its code and the other inputs are the same.
        """
        cache = plan.scopes[step.scope].cache
        digest = self._state.codes.of(plan).calls[step.index]
        if frame is None or cache is None or digest is None or not frame.identities.can_be_identified(step):
            return None
        then = checked_record(self._record(cache, step))
        if then is None or then["code_digest"] != digest or then.get("is_uncached"):
            return None
        seen = Computed(plan, frame.values, frame.signatures)
        now = inputs_of(seen, step, self._outline.varying[plan])
        given = {name: known for name, known in now.items() if "from" not in known}
        if any(then["inputs"].get(name, {}).get("digest") != known.get("digest") for name, known in given.items()):
            return None
        source = then.get("after_failures")
        return source if isinstance(source, str) else None

    def _unidentified(self, frame: DemandFrame, step: CallStep) -> str:
        for name, slot in step.named:
            if name not in step.node.cache_ignore and frame.identities.of(slot) == NEVER:
                producer = frame.plan.producers[slot]
                if producer >= 0:
                    source = frame.plan.steps[producer].node.name
                    return f"runs uncached: it depends on a result of `{source}` that cannot be identified"
                return f"runs uncached: input `{name}` cannot be identified (see the warning)"
        return "runs uncached"  # pragma: no cover


def _too_old(step: CallStep, age_s: float | None) -> str:
    """Return why a node runs whose results count for some time only."""
    limit = f"cache_for={step.node.cache_for:g}"
    if age_s is None:
        return f"not computed yet for these inputs, or not kept (its results count for some time only: {limit} s)"
    if age_s < 0:
        return f"its result is from {-age_s:.0f} s in the future, so it is not known how old it is ({limit} s)"
    return f"its result is {age_s:.0f} s old, and counts for {step.node.cache_for:g} s"


def _new_items(now: Mapping[str, Mapping[str, Any]], then: Mapping[str, Mapping[str, Any]]) -> str:
    """Return why the result of a node is missing although no recorded fact has changed."""
    varying = [name for name, known in now.items() if "digest" not in known]
    if varying:
        return f"not computed yet for these values of {', '.join(f'`{name}`' for name in varying)}"
    other = [name for name, known in now.items() if "digest" not in then.get(name, {}) and name in then]
    if other:
        return f"not computed yet for this value of {', '.join(f'`{name}`' for name in other)}"
    return "its result is no longer in the cache, or could not be stored"
