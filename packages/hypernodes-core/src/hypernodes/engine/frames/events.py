"""Reports the events of nested pipelines and of maps to the right callbacks, in the right context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any, Protocol

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.state import RunState
from hypernodes.plan import NestedStep, Plan, Step


class ReportingFrame(Protocol):
    """The part of a frame that event reporting needs."""

    @property
    def plan(self) -> Plan: ...

    @property
    def run(self) -> RunState: ...

    def context(self, scope: int) -> CallbackContext:
        """Return the context of the events of a scope."""


class ScopeEvents:
    """Reports nested pipelines that were inlined: a start before the first of their steps, an end after the last."""

    __slots__ = ("_frame", "_is_held", "_open", "_remaining", "_started_at")

    def __init__(self, frame: ReportingFrame) -> None:
        self._frame = frame
        self._open = frame.plan.open_scopes or ()
        self._remaining = [0] * len(frame.plan.scopes)
        self._started_at: dict[int, float] = {}
        self._is_held = False

    def expect(self, steps: Iterable[Step], is_held: bool = False) -> None:
        """Count the remaining steps; while held, no scope ends, because more of its steps may turn out to be needed."""
        self._is_held = is_held
        scopes = self._frame.plan.scopes
        for step in steps:
            scope = step.scope
            while scope > 0 and scope not in self._open:
                self._remaining[scope] += 1
                scope = scopes[scope].parent

    def enter(self, scope: int) -> None:
        unreported: list[int] = []
        while scope > 0 and scope not in self._started_at and scope not in self._open:
            unreported.append(scope)
            scope = self._frame.plan.scopes[scope].parent
        for inner in reversed(unreported):
            self._notify("on_nested_pipeline_start", inner)
            self._started_at[inner] = perf_counter()

    def leave(self, scope: int) -> None:
        scopes = self._frame.plan.scopes
        while scope > 0 and scope not in self._open:
            self._remaining[scope] -= 1
            if self._remaining[scope] == 0 and not self._is_held:
                self._end(scope)
            scope = scopes[scope].parent

    def shared_by(self, steps: Sequence[Step]) -> list[int]:
        """Return the scopes of some steps that contain others too, or that were entered already."""
        own: Counter[int] = Counter()
        scopes = self._frame.plan.scopes
        for step in steps:
            scope = step.scope
            while scope > 0 and scope not in self._open:
                own[scope] += 1
                scope = scopes[scope].parent
        shared = [
            scope
            for scope in sorted(own)
            if self._is_held or scope in self._started_at or self._remaining[scope] > own[scope]
        ]
        return [*shared, *self._open]

    def close_all(self) -> None:
        for scope in sorted(self._started_at, reverse=True):  # inner scopes have higher numbers
            self._end(scope)

    def _end(self, scope: int) -> None:
        started_at = self._started_at.pop(scope, None)
        if started_at is not None:
            self._notify("on_nested_pipeline_end", scope, perf_counter() - started_at)

    def _notify(self, hook: str, scope: int, *arguments: float) -> None:
        frame = self._frame
        scopes = frame.plan.scopes
        parent = scopes[scope].parent
        notify_nested(
            frame.run,
            hook,
            (scopes[parent].callbacks, scopes[scope].callbacks),
            scopes[parent].pipeline_id,
            scopes[scope].pipeline_id,
            *arguments,
            frame.context(parent),
        )


def notify_nested(
    run: RunState, hook: str, audiences: tuple[tuple[Any, ...], tuple[Any, ...]], *arguments: Any
) -> None:
    """Report a nested pipeline to the callbacks of the enclosing pipeline, and to its own where they differ."""
    outer, own = audiences
    callbacks = outer + tuple(callback for callback in own if all(callback is not other for other in outer))
    listeners = run.listeners_for(callbacks)
    listeners.notify(getattr(listeners, hook), *arguments)


def start_nested(frame: ReportingFrame, step: NestedStep) -> CallbackContext:
    """Report the start of a nested pipeline that is a step; return its context."""
    outer = frame.context(step.scope)
    inner = step.inner.scopes[0]
    _notify_about(frame, "on_nested_pipeline_start", step, outer)
    return outer.child(inner.pipeline_id, step.node.name)


def end_nested(frame: ReportingFrame, step: NestedStep, duration_s: float) -> None:
    """Report the end of a nested pipeline that is a step."""
    _notify_about(frame, "on_nested_pipeline_end", step, duration_s, frame.context(step.scope))


def _notify_about(frame: ReportingFrame, hook: str, step: NestedStep, *arguments: Any) -> None:
    outer, inner = frame.plan.scopes[step.scope], step.inner.scopes[0]
    audiences = (outer.callbacks, inner.callbacks)
    notify_nested(frame.run, hook, audiences, outer.pipeline_id, inner.pipeline_id, *arguments)


def start_map(plan: Plan, run: RunState, base: CallbackContext, total: int | None) -> None:
    """Report the start of a map over `total` items; not of some items, which are part of a map that is reported."""
    if plan.open_scopes is not None:
        return
    listeners = run.listeners(plan)[0]
    listeners.notify(listeners.on_map_start, -1 if total is None else total, base)


def end_map(plan: Plan, run: RunState, base: CallbackContext, duration_s: float) -> None:
    """Report the end of a map; see `start_map`."""
    if plan.open_scopes is not None:
        return
    listeners = run.listeners(plan)[0]
    listeners.notify(listeners.on_map_end, duration_s, base)
