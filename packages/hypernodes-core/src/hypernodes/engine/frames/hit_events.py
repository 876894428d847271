"""Reports steps whose results were found in a cache, with everything inside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol, Self

from hypernodes.callbacks import CallbackContext, Listeners
from hypernodes.engine.frames.events import ReportingFrame, end_map, end_nested, start_map, start_nested
from hypernodes.plan import CallStep, NestedStep, Step


class FrameWithHits(ReportingFrame, Protocol):
    """The part of a frame that reporting its hits needs.

    Attributes:
        hits: The steps that have not been reported yet.
    """

    hits: list[Step]

    @property
    def listeners(self) -> Sequence[Listeners]: ...

    @property
    def signatures(self) -> list[bytes | None]: ...

    @property
    def elements(self) -> Mapping[int, list[bytes]]: ...

    @property
    def inside(self) -> Mapping[int, Self]: ...

    def enter(self, step: Step) -> None: ...

    def leave(self, step: Step) -> None: ...

    def begin_nested(self, step: NestedStep) -> CallbackContext: ...

    def end_nested(self, step: NestedStep, duration_s: float) -> None: ...


def report_hits(frame: FrameWithHits) -> None:
    """Let callbacks observe the hits of a frame, in the order of the plan."""
    hits, frame.hits = frame.hits, []
    if not frame.run.observes(frame.plan):
        return
    for step in sorted(hits, key=lambda step: step.index):
        if isinstance(step, CallStep):
            _report_call(frame, step)
        elif step.mapped:
            _report_map(frame, step)
        else:
            _report_inside(frame, step)


def _report_call(frame: FrameWithHits, step: CallStep) -> None:
    frame.enter(step)
    listeners = frame.listeners[step.scope]
    if listeners.on_node_cached:
        own = next((frame.signatures[slot] for slot in step.outputs if slot is not None), None) or b""
        listeners.notify(listeners.on_node_cached, step.node.name, own.hex(), frame.context(step.scope))
    frame.leave(step)


def _report_map(frame: FrameWithHits, step: NestedStep) -> None:
    """Report a mapped pipeline whose items all came from the cache."""
    elements = frame.elements[next(slot for slot in step.outputs if slot is not None)]
    listeners: Any = frame.run.listeners(step.inner)[0]
    started_at = perf_counter()
    context = frame.begin_nested(step)
    start_map(step.inner, frame.run, context, len(elements))
    if listeners.on_map_item_cached:
        for index, own in enumerate(elements):
            listeners.notify(listeners.on_map_item_cached, index, own.hex(), context.item(index))
    end_map(step.inner, frame.run, context, perf_counter() - started_at)
    frame.end_nested(step, perf_counter() - started_at)


def _report_inside(frame: FrameWithHits, step: NestedStep) -> None:
    inside = frame.inside[step.index]
    frame.enter(step)
    started_at = perf_counter()
    start_nested(frame, step)
    report_hits(inside)
    end_nested(frame, step, perf_counter() - started_at)
    frame.leave(step)
