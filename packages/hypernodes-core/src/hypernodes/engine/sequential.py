"""The sequential strategy: one step after the other, one item after the other, in the thread that called."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.announce import map_events, nested_events
from hypernodes.engine.frame import Frame
from hypernodes.engine.lookup import CachedFrame, manifest_key
from hypernodes.engine.mapping import ItemFrames, MapInputs, MapResults, nested_map_inputs
from hypernodes.engine.run_state import RunState
from hypernodes.engine.step import add_note, call, run_bare, split
from hypernodes.plan import CallStep, NestedStep, Plan


def run_frame(frame: Frame) -> None:
    """Do everything that is left to do in a frame that has been started."""
    try:
        while (step := frame.next_step()) is not None:
            if isinstance(step, CallStep):
                run_call(frame, step)
            else:
                frame.enter(step)
                frame.finish(step, run_nested(frame, step))
                frame.leave(step)
    finally:
        frame.close()


def run_call(frame: Frame, step: CallStep) -> None:
    """Call one node with its events; keep the result."""
    frame.call_events(step)
    started_at = perf_counter()
    try:
        result = call(step, frame.values, frame.run.coroutines.run)
        outputs = split(step, result)
    except Exception as error:
        add_note(error, frame.plan, step, frame.base, frame.run.place, frame.item_index)
        listeners = frame.listeners[step.scope]
        listeners.tell(listeners.on_error, step.node.name, error, frame.context(step.scope))
        raise
    duration = perf_counter() - started_at
    frame.finish(step, outputs)
    frame.end_events(step, result, duration)


def run_items(plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs) -> MapResults:
    """Execute a plan once per item, one after the other, announcing the map to the plan's callbacks."""
    slots = [plan.inputs[name] for name in inputs.columns]
    template = list(plan.template)
    for name, value in inputs.shared.items():
        template[plan.inputs[name]] = value
    outputs = tuple(plan.outputs.values())
    results: list[list[Any]] = [[] for _ in outputs]
    if plan.is_plain and not plan.is_cached and not plan.is_heard:
        for index, row in enumerate(inputs.rows(inputs.columns.values())):
            values = template.copy()
            for slot, value in zip(slots, row, strict=True):
                values[slot] = value
            run_bare(plan, values, base, run.place, index)
            for column, slot in zip(results, outputs, strict=True):
                column.append(values[slot])
        return MapResults(results, [None] * len(outputs))
    frames = ItemFrames(plan, run, base, template, inputs, slots)
    elements: list[list[bytes]] = [[] for _ in outputs]
    with map_events(plan, run, base, len(inputs)):
        for index, row in enumerate(inputs.rows(inputs.columns.values())):
            values = template.copy()
            for slot, value in zip(slots, row, strict=True):
                values[slot] = value
            frame = frames.frame(values, index)
            run_item(frame)
            for position, slot in enumerate(outputs):
                results[position].append(values[slot])
                if isinstance(frame, CachedFrame):
                    elements[position].append(frame.signatures[slot] or b"")
    is_complete = [plan.is_cached and all(column) for column in elements]
    return MapResults(results, [c if ok else None for c, ok in zip(elements, is_complete, strict=True)])


def run_item(frame: Frame) -> None:
    """Execute one item with its events."""
    index = frame.item_index
    has_work = frame.start()
    listeners = frame.listeners[0]
    if not has_work:
        if isinstance(frame, CachedFrame) and listeners.on_map_item_cached:
            listeners.tell(listeners.on_map_item_cached, index, frame.signature(), frame.context(0))
        return
    if listeners.is_silent and not frame.plan.is_heard:
        run_frame(frame)
        return
    context = frame.context(0)
    listeners.tell(listeners.on_map_item_start, index, context)
    started_at = perf_counter()
    if isinstance(frame, CachedFrame):
        frame.announce_hits()
    try:
        run_frame(frame)
    finally:
        listeners.tell(listeners.on_map_item_end, index, perf_counter() - started_at, context)


def run_nested(frame: Frame, step: NestedStep) -> list[Any]:
    """Run a nested pipeline that is a step of its own; return its outputs in the order of the step's."""
    with nested_events(frame, step) as context:
        if step.node.pipeline.has_own_backend:
            return _run_elsewhere(frame, step, context)
        results = run_items(step.inner, frame.run, context, nested_map_inputs(frame, step))
        _keep_manifests(frame, step, results)
        return list(results.columns)


def _keep_manifests(frame: Frame, step: NestedStep, results: MapResults) -> None:
    if not isinstance(frame, CachedFrame):
        return
    cache = step.inner.scopes[0].cache
    for slot, elements in zip(step.outputs, results.elements, strict=True):
        if slot is None or elements is None:
            continue
        frame.elements[slot] = elements
        own = frame.signatures[slot]
        if cache is not None and own:
            frame.keep(cache, {manifest_key(own.hex()): b"".join(elements)}, step.node.name)


def _run_elsewhere(frame: Frame, step: NestedStep, context: CallbackContext) -> list[Any]:
    """Hand a nested pipeline to its own backend, with the settings that it inherits here."""
    scope = step.inner.scopes[0]
    pipeline: Any = step.node.pipeline
    pipeline = pipeline.with_settings(scope.settings)
    names = list(step.inner.outputs)
    given = {name: frame.values[slot] for name, slot in zip(step.inner_inputs, step.arguments, strict=True)}
    if not step.mapped:
        found = pipeline.effective_backend.run(pipeline, given, context, names)
        return [found[name] for name in names]
    inputs = nested_map_inputs(frame, step)
    items = [dict(zip(inputs.columns, row, strict=True)) for row in inputs.rows(inputs.columns.values())]
    shared = {name: value for name, value in given.items() if name not in inputs.columns}
    rows = pipeline.effective_backend.map(pipeline, items, shared, context, names)
    return [[row[name] for row in rows] for name in names]
