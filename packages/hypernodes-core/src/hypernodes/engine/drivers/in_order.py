"""Running a plan one step after the other, one item after the other, with events and caches.

For plans without retries, time limits and `async def` functions in sequential mode, where the order is known and
nothing is ever waited for. Events and look-ups are those of the scheduler.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.cached import CachedFrame
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.events import end_map, end_nested, start_map, start_nested
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.identified import map_identified
from hypernodes.engine.frames.items import ItemFrames, ItemResults, nested_map_inputs
from hypernodes.engine.identity.plan_code import code_of
from hypernodes.engine.state import RunState
from hypernodes.engine.step import add_note, call
from hypernodes.failures import Failure
from hypernodes.plan import CallStep, NestedStep, Plan


def run_in_order(frame: Frame) -> None:
    """Execute a frame.

    Raises:
        Exception: What a node raised, with a note saying where.
    """
    if isinstance(frame, CachedFrame):
        _run_cached(frame)
    else:
        _run_all(frame)


def _run_all(frame: Frame) -> None:
    """Execute a frame without a cache: every step of the plan."""
    frame.expect_all()
    plan, values = frame.plan, frame.values
    has_scopes = len(plan.scopes) > 1
    context: CallbackContext | None = None
    listeners = frame.listeners[0]
    on_start, on_end = listeners.on_node_start, listeners.on_node_end
    failed = listeners.failed
    step: Any  # what kind of step it is says `count`, since asking for the type of each takes a while
    try:
        for step, (count, function, first, second, _, out) in zip(plan.steps, plan.program, strict=True):
            if has_scopes or context is None:
                frame.enter(step)
                context = frame.context(step.scope)
                listeners = frame.listeners[step.scope]
                on_start, on_end = listeners.on_node_start, listeners.on_node_end
            if count < 0 and isinstance(step, NestedStep):
                _run_nested(frame, step)
                continue
            node = step.node
            if on_start:
                given = {name: values[slot] for name, slot in step.named}
                for hook in on_start:  # what `Listeners.tell` does, without a call for each node
                    try:
                        if not failed or listeners.is_enabled(hook):
                            hook(node.name, given, context)
                    except Exception:
                        listeners.switch_off(hook)
            started_at = perf_counter()
            try:
                if count == 1:
                    result = function(values[first])
                elif count == 2:
                    result = function(values[first], values[second])
                else:
                    outputs = call(step, values)
            except Exception as error:
                add_note(error, plan, step, frame.base, frame.run.backend_name, frame.item_index)
                frame.announce_error(step, error)
                raise
            duration_s = perf_counter() - started_at
            if 0 < count < 3:
                values[out] = result
                named = {node.outputs[0]: result}
            else:
                for slot, value in zip(step.outputs, outputs, strict=True):
                    if slot is not None:
                        values[slot] = value
                named = dict(zip(node.outputs, outputs, strict=True))
            for hook in on_end:
                try:
                    if not failed or listeners.is_enabled(hook):
                        hook(node.name, named, duration_s, context)
                except Exception:
                    listeners.switch_off(hook)
            if has_scopes:
                frame.leave(step)
    finally:
        frame.close()


def _run_cached(frame: CachedFrame) -> None:
    """Execute a frame with a cache: what is asked for and not found."""
    run = frame.run
    frame.start()
    try:
        while (step := frame.next_step()) is not None:
            if isinstance(step, NestedStep):
                _run_nested(frame, step)
                continue
            key = frame.key_of(step)
            if key is not None and frame.was_computed(key) and frame.recall(step):
                continue
            _call_cached(frame, step)
            if key is not None:
                run.remember(key)
    finally:
        frame.close()


def _call_cached(frame: CachedFrame, step: CallStep) -> None:
    frame.announce_call(step)
    started_at = perf_counter()
    try:
        outputs = call(step, frame.values)
    except Exception as error:
        add_note(error, frame.plan, step, frame.base, frame.run.backend_name, frame.item_index)
        frame.announce_error(step, error)
        raise
    duration_s = perf_counter() - started_at
    frame.finish(step, outputs)
    frame.announce_result(step, outputs, duration_s)


def map_in_order(plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs) -> ItemResults:
    """Execute a plan once per item.

    Raises:
        Exception: What a node raised, with a note saying where; or what stands in the place of an input that failed.
    """
    has_one_scope = len(plan.scopes) == 1
    calls = code_of(plan, run).identified if plan.is_cached and (has_one_scope or not plan.is_observed) else None
    started_at = perf_counter()
    start_map(plan, run, base, inputs.total())
    try:
        if calls is not None:
            return map_identified(plan, run, base, calls, inputs, run_in_order)
        return _map_frames(plan, run, base, inputs)
    finally:
        end_map(plan, run, base, perf_counter() - started_at)


def _map_frames(plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs) -> ItemResults:
    items = ItemFrames(plan, run, base, inputs)
    slots = tuple(plan.outputs.values())
    columns: list[list[Any]] = [[] for _ in slots]
    elements: list[list[bytes]] = [[] for _ in slots]
    while (found := items.next_item()) is not None:
        values, frame = found
        for slot in items.mapped_slots:
            if isinstance(failure := values[slot], Failure):
                frame.skip()
                raise failure.error
        if isinstance(frame, CachedFrame):
            _run_cached(frame)
        else:
            _run_all(frame)
        for column, signed, slot in zip(columns, elements, slots, strict=True):
            column.append(values[slot])
            signed.append((frame.signatures[slot] or b"") if isinstance(frame, CachedFrame) else b"")
    return ItemResults(columns, elements)


def _run_nested(frame: Frame, step: NestedStep) -> None:
    frame.enter(step)
    context = start_nested(frame, step)
    started_at = perf_counter()
    try:
        inputs = nested_map_inputs(frame, step)
    except Exception as error:
        end_nested(frame, step, perf_counter() - started_at)
        add_note(error, frame.plan, step, frame.base, frame.run.backend_name, frame.item_index)
        frame.announce_error(step, error)
        raise
    try:
        found = map_in_order(step.inner, frame.run, context, inputs)
        if isinstance(frame, CachedFrame):
            for slot, elements in zip(step.outputs, found.elements, strict=True):
                if slot is not None and all(elements):
                    frame.put_manifest(step, slot, elements)
            frame.finish(step, found.columns)
        else:
            frame.put(step, found.columns)
    finally:
        end_nested(frame, step, perf_counter() - started_at)
    frame.leave(step)
