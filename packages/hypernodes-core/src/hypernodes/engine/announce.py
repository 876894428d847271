"""The events of nested pipelines and of maps: who is told, and in which context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.run_state import RunState
from hypernodes.plan import NestedStep, Plan, Step

if TYPE_CHECKING:
    from hypernodes.engine.frame import Frame
    from hypernodes.engine.lookup import CachedFrame


class ScopeEvents:
    """Announces nested pipelines that were inlined: a start before the first of their steps, an end after the last."""

    __slots__ = ("_frame", "_is_held", "_remaining", "_started_at")

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._remaining = [0] * len(frame.plan.scopes)
        self._started_at: dict[int, float] = {}
        self._is_held = False

    def expect(self, steps: Iterable[Step], is_held: bool = False) -> None:
        """Count steps to come; while held, no scope ends because more of its steps may be found to be needed."""
        self._is_held = is_held
        scopes = self._frame.plan.scopes
        for step in steps:
            scope = step.scope
            while scope > 0:
                self._remaining[scope] += 1
                scope = scopes[scope].parent

    def enter(self, scope: int) -> None:
        if scope <= 0 or scope in self._started_at:
            return
        parent = self._frame.plan.scopes[scope].parent
        self.enter(parent)
        self._tell("on_nested_pipeline_start", scope)
        self._started_at[scope] = perf_counter()

    def leave(self, scope: int) -> None:
        scopes = self._frame.plan.scopes
        while scope > 0:
            self._remaining[scope] -= 1
            if self._remaining[scope] == 0 and not self._is_held:
                self._end(scope)
            scope = scopes[scope].parent

    def close_all(self) -> None:
        for scope in sorted(self._started_at, reverse=True):  # inner scopes have higher numbers
            self._end(scope)

    def _end(self, scope: int) -> None:
        started_at = self._started_at.pop(scope, None)
        if started_at is not None:
            self._tell("on_nested_pipeline_end", scope, perf_counter() - started_at)

    def _tell(self, hook: str, scope: int, *arguments: float) -> None:
        frame = self._frame
        scopes = frame.plan.scopes
        parent = scopes[scope].parent
        tell_nested(
            frame.run,
            hook,
            (scopes[parent].callbacks, scopes[scope].callbacks),
            scopes[parent].pipeline_id,
            scopes[scope].pipeline_id,
            *arguments,
            frame.context(parent),
        )


def tell_nested(run: RunState, hook: str, audiences: tuple[tuple[Any, ...], tuple[Any, ...]], *arguments: Any) -> None:
    """Announce a nested pipeline to the callbacks of the pipeline around it, and to its own where they differ."""
    around, own = audiences
    everybody = around + tuple(callback for callback in own if all(callback is not other for other in around))
    listeners = run.listeners_for(everybody)
    listeners.tell(getattr(listeners, hook), *arguments)


@contextmanager
def nested_events(frame: Frame, step: NestedStep) -> Iterator[CallbackContext]:
    """Announce a nested pipeline; yield its context."""
    outer, inner = frame.plan.scopes[step.scope], step.inner.scopes[0]
    around = frame.context(step.scope)
    audiences = (outer.callbacks, inner.callbacks)
    ids = (outer.pipeline_id, inner.pipeline_id)
    tell_nested(frame.run, "on_nested_pipeline_start", audiences, *ids, around)
    started_at = perf_counter()
    try:
        yield around.child(inner.pipeline_id, step.node.name)
    finally:
        tell_nested(frame.run, "on_nested_pipeline_end", audiences, *ids, perf_counter() - started_at, around)


@contextmanager
def map_events(plan: Plan, run: RunState, base: CallbackContext, total: int) -> Iterator[None]:
    """Announce the start and the end of a map."""
    listeners = run.listeners(plan)[0]
    listeners.tell(listeners.on_map_start, total, base)
    started_at = perf_counter()
    try:
        yield
    finally:
        listeners.tell(listeners.on_map_end, perf_counter() - started_at, base)


def announce_cached_map(frame: CachedFrame, step: NestedStep) -> None:
    """Send the events of a mapped pipeline whose items all came from the cache."""
    listeners = frame.run.listeners(step.inner)[0]
    slots = [slot for slot in step.outputs if slot is not None]
    frame.enter(step)
    with nested_events(frame, step) as context:
        total = len(frame.elements[slots[0]])
        with map_events(step.inner, frame.run, context, total):
            if listeners.on_map_item_cached:
                for index in range(total):
                    own = frame.elements[slots[0]][index]
                    listeners.tell(listeners.on_map_item_cached, index, own.hex(), context.item(index))
    frame.leave(step)
