"""The driver of sequential runs: executes steps and items one after the other in the calling thread.

It drives frames of every kind: calls with retries, time limits and `async def` functions, mapped pipelines, and nested
pipelines with a backend of their own. Plans that need only calls are executed by the loops in `straight`.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import Any, Protocol

from hypernodes.callbacks import CallbackContext
from hypernodes.conditions import Skipped
from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.choice import Driver, Frames, choose
from hypernodes.engine.drivers.batched_items import BatchedItems
from hypernodes.engine.drivers.elements import YieldedElements
from hypernodes.engine.drivers.straight import columns_of, run_observed, run_rows
from hypernodes.engine.frames.columns import MapInputs, has_failure, has_stand_in
from hypernodes.engine.frames.delegated import delegate
from hypernodes.engine.frames.events import end_map, start_map
from hypernodes.engine.frames.frame import Frame, MapResults
from hypernodes.engine.frames.items import ItemFrames, checked_rows
from hypernodes.engine.state import RunState
from hypernodes.engine.step import call
from hypernodes.engine.store.manifests import skipped_signature
from hypernodes.engine.workers.calling_thread import CallingThread
from hypernodes.failure import Failure
from hypernodes.plan import CallStep, NestedStep, OnError, Plan, Step


class DeliverSeveral(Protocol):
    """Receives the results of items one by one, or several at a time."""

    is_full: bool

    def __call__(self, index: int, outputs: tuple[Any, ...]) -> None: ...

    def extend(self, indexes: Sequence[int], rows: Sequence[tuple[Any, ...]]) -> None: ...


_SHORT_S, _LONG_S = 0.03, 0.2  # between two deliveries of results
_MOST_TOGETHER = 8192


def run_in_order(frame: Frame, driver: Driver, thread: CallingThread) -> None:
    """Execute a frame.

    Args:
        frame: The frame.
        driver: Whether the unrolled loop may run it.
        thread: Makes special calls, and knows whether the run was cancelled.

    Raises:
        CancelledError: The run was cancelled.
        Exception: The error of a node, with a note that says where it was raised.
    """
    if driver is Driver.STRAIGHT:
        run_observed(frame, _run_map, thread)
        return
    frame.start()
    _run_started(frame, thread)


def _run_started(frame: Frame, thread: CallingThread) -> None:
    try:
        while (step := frame.next_step()) is not None:
            if thread.is_cancelled:
                thread.check()
            if isinstance(step, CallStep):
                _call(frame, step, thread)
            else:
                _run_step(frame, step, thread)
        refusal = frame.refusal
        if refusal is not None:
            thread.failed_at = frame.refuse(refusal)
            raise refusal.error
    finally:
        frame.close()


def _run_step(frame: Frame, step: Step, thread: CallingThread) -> None:
    if isinstance(step, CallStep):
        _call(frame, step, thread)
    elif step.is_delegated:
        _delegate(frame, step, thread)
    else:
        _run_map(frame, step, thread)


def _call(frame: Frame, step: CallStep, thread: CallingThread) -> None:
    if frame.recall(step):
        return
    if step.node.each and (consumers := frame.streaming_consumers(step)):
        _run_streaming(frame, step, consumers[0], thread)
        return
    frame.begin(step)
    started_at = perf_counter()
    try:
        if step.is_special:
            outputs = thread.call(
                step,
                frame.values,
                lambda *failed: _retry(frame, step, *failed),
                lambda names: _report_limited(frame, step, names),
            )
        else:
            outputs = call(step, frame.values, thread.wait_for)
    except BaseException as error:
        thread.failed_at = frame.fail(step, error)
        raise
    frame.complete(step, outputs, perf_counter() - started_at)


def _retry(frame: Frame, step: CallStep, attempt: int, error: BaseException, delay_s: float) -> None:
    frame.retry(step, attempt, error, delay_s)
    frame.run.flush_store()  # the next attempt may be a long time away


def _report_limited(frame: Frame, step: CallStep, names: tuple[str, ...]) -> None:
    frame.report_limited(step, names)
    frame.run.flush_store()  # it may wait for a long time


def _run_map(frame: Frame, step: NestedStep, thread: CallingThread) -> None:
    """Execute the items of a mapped pipeline that is a step."""
    context = frame.begin_nested(step)
    started_at = perf_counter()
    try:
        inputs = frame.map_inputs(step)
    except Exception as error:
        thread.failed_at = frame.fail_nested(step, error, perf_counter() - started_at)
        raise
    try:
        frame.complete_map(step, map_in_order(step.inner, frame.run, context, inputs, step.node.on_error, thread))
    finally:
        frame.end_nested(step, perf_counter() - started_at)


def _run_streaming(frame: Frame, step: CallStep, consumer: NestedStep, thread: CallingThread) -> None:
    """Execute the items of a mapped pipeline while a step yields what it maps over; others read the whole list."""
    frame.begin(step)
    elements = YieldedElements(frame, step, thread)
    if not elements.has_first():
        return  # then the pipeline maps over an empty list, as usual
    frame.take_early(consumer)
    context = frame.begin_nested(consumer)
    started_at = perf_counter()
    try:
        inputs = frame.map_inputs(consumer, elements)
        results = map_in_order(consumer.inner, frame.run, context, inputs, consumer.node.on_error, thread)
        frame.complete_map(consumer, results)
    finally:
        elements.close()
        frame.end_nested(consumer, perf_counter() - started_at)


def _delegate(frame: Frame, step: NestedStep, thread: CallingThread) -> None:
    """Run a nested pipeline on its own backend."""
    delegated = delegate(frame, step)
    try:
        run = delegated.begin()
    except Exception as error:
        thread.failed_at = delegated.refuse(error)
        raise
    call_context = contextvars.copy_context()
    call_context.run(current_registry.set, thread.registry)
    try:
        delegated.complete(call_context.run(run))
    except BaseException as error:
        thread.failed_at = delegated.failed_path(error)
        raise
    finally:
        delegated.end()


def map_in_order(
    plan: Plan,
    run: RunState,
    base: CallbackContext,
    inputs: MapInputs,
    on_error: OnError,
    thread: CallingThread,
) -> MapResults:
    """Execute a plan once per item.

    Args:
        plan: The plan of one item.
        run: The run.
        base: Context of the map.
        inputs: The inputs of the items.
        on_error: "raise" ends the map with the first failing item; "collect" replaces its outputs by a `Failure`.
        thread: Makes special calls, and knows whether the run was cancelled.

    Raises:
        Exception: The error of a node, with a note that says where it was raised; or that of a failed input.
    """
    driver, frames = choose(plan, run, is_sequential=True, is_map=True)
    started_at = perf_counter()
    start_map(plan, run, base, inputs.total())
    try:
        if frames is Frames.NONE:
            return _map_silent(plan, run, base, inputs, on_error, thread)
        return _map_frames(ItemFrames(plan, run, base, inputs), on_error, driver, thread)
    finally:
        end_map(plan, run, base, perf_counter() - started_at)


def part_in_order(
    plan: Plan,
    run: RunState,
    base: CallbackContext,
    inputs: MapInputs,
    on_error: OnError,
    thread: CallingThread,
    deliver: DeliverSeveral,
) -> None:
    """Execute a plan for some items of a map, whose start and end the caller reports; see `map_in_order`.

    Args:
        plan: The plan of one item.
        run: The run.
        base: Context of the map.
        inputs: The inputs of the items.
        on_error: "raise" or "collect".
        thread: Makes special calls, and knows whether the run was cancelled.
        deliver: Gets the index and the outputs of each item, soon after it is done.
    """
    driver, frames = choose(plan, run, is_sequential=True, is_map=True)
    if frames is Frames.NONE:
        _deliver_silent(plan, run, base, inputs, on_error, thread, deliver)
        return
    slots = tuple(plan.outputs.values())
    for frame, stand_in in _executed(ItemFrames(plan, run, base, inputs), on_error, driver, thread):
        assert frame.item_index is not None
        deliver(frame.item_index, tuple([frame.values[slot] if stand_in is None else stand_in for slot in slots]))


def _deliver_silent(
    plan: Plan,
    run: RunState,
    base: CallbackContext,
    inputs: MapInputs,
    on_error: OnError,
    thread: CallingThread,
    deliver: DeliverSeveral,
) -> None:
    """Execute items in the silent loop, as many at a time as take a short while."""
    assert inputs.indexes is not None
    rest, needed = inputs.rest(plan), thread if thread.is_needed_for(plan) else None
    rows, begun, width = inputs.rows(), 0, len(plan.outputs)
    may_stand_in = any(map(has_stand_in, inputs.columns.values()))
    together = size = max((batching.most_items for batching in plan.batchings), default=1)
    while window := list(islice(rows, size)):
        outputs: list[Any] = []
        indexes = inputs.indexes[begun : begun + len(window)]
        begun += len(window)
        started_at = perf_counter()
        try:
            run_rows(
                plan, window, rest, outputs, base, run.backend_name, on_error, needed, may_stand_in, indexes, thread
            )
        finally:
            done = list(zip(*[iter(outputs)] * width, strict=False)) if width else [()] * len(window)
            deliver.extend(indexes[: len(done)], done)
        seconds = perf_counter() - started_at
        if seconds < _SHORT_S:
            size = min(2 * size, max(together, _MOST_TOGETHER))
        elif seconds > _LONG_S:
            size = max(size // 2, together)


def _map_silent(
    plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs, on_error: OnError, thread: CallingThread
) -> MapResults:
    outputs: list[Any] = []
    run_rows(
        plan,
        inputs.rows(),
        inputs.rest(plan),
        outputs,
        base,
        run.backend_name,
        on_error,
        thread if thread.is_needed_for(plan) else None,
        may_stand_in=any(not isinstance(c, Sequence) or has_stand_in(c) for c in inputs.columns.values()),
        indexes=inputs.indexes,
        trace=thread,
    )
    results = columns_of(plan, outputs)
    return MapResults(results, [[] for _ in results], on_error == "collect" and any(map(has_failure, results)))


def _map_frames(items: ItemFrames, on_error: OnError, driver: Driver, thread: CallingThread) -> MapResults:
    slots = tuple(items.plan.outputs.values())
    columns: list[list[Any]] = [[] for _ in slots]
    elements: list[list[bytes]] = [[] for _ in slots]
    has_failures = is_unverified = False
    for frame, stand_in in _executed(items, on_error, driver, thread):
        values = frame.values
        if stand_in is None:
            signatures = frame.signatures_of(slots)
        else:
            signatures = [b"" if isinstance(stand_in, Failure) else skipped_signature()] * len(slots)
        for column, signed, slot, own in zip(columns, elements, slots, signatures, strict=True):
            column.append(values[slot] if stand_in is None else stand_in)
            signed.append(own)
        has_failures = has_failures or isinstance(stand_in, Failure)
        is_unverified = is_unverified or frame.is_unverified
    return MapResults(columns, elements, has_failures, is_unverified)


def stream_in_order(
    plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs, on_error: OnError, thread: CallingThread
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Execute a plan once per item; yield the index and the outputs of each; see `map_in_order`."""
    driver, frames = choose(plan, run, is_sequential=True, is_map=True)
    started_at = perf_counter()
    start_map(plan, run, base, inputs.total())
    slots = tuple(plan.outputs.values())
    try:
        if frames is Frames.NONE:
            yield from _stream_silent(plan, run, base, inputs, on_error, thread)
            return
        for frame, stand_in in _executed(ItemFrames(plan, run, base, inputs), on_error, driver, thread):
            assert frame.item_index is not None
            run.flush_store()  # the caller may pause here for any length of time
            yield frame.item_index, tuple([frame.values[slot] if stand_in is None else stand_in for slot in slots])
    finally:
        end_map(plan, run, base, perf_counter() - started_at)


def _stream_silent(
    plan: Plan, run: RunState, base: CallbackContext, inputs: MapInputs, on_error: OnError, thread: CallingThread
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    rest = inputs.rest(plan)
    needed = thread if thread.is_needed_for(plan) else None
    rows, count, width = checked_rows(plan, inputs), 0, len(plan.outputs)
    together = max((batching.most_items for batching in plan.batchings), default=1)
    while window := list(islice(rows, together)):
        outputs: list[Any] = []
        indexes = range(count, count + len(window))
        count += len(window)
        may_stand_in = any(map(has_stand_in, window))
        run_rows(plan, window, rest, outputs, base, run.backend_name, on_error, needed, may_stand_in, indexes, thread)
        for number, index in enumerate(indexes):
            yield index, tuple(outputs[number * width : (number + 1) * width])


def _executed(
    items: ItemFrames, on_error: OnError, driver: Driver, thread: CallingThread
) -> Iterator[tuple[Frame, Failure | Skipped | None]]:
    """Execute items; yield the frame of each, and what stands for its outputs if it failed or was skipped."""
    if items.plan.batched_calls:
        yield from BatchedItems(items, on_error, thread, _run_step).executed()
        return
    while (frame := items.next_item()) is not None:
        stand_in = frame.stand_in
        if stand_in is not None:
            frame.skip()
            if on_error == "raise" and isinstance(stand_in, Failure):
                thread.failed_at = stand_in.node_path
                raise stand_in.error
            yield frame, stand_in
            continue
        if thread.is_cancelled:
            thread.check()
        try:
            if driver is Driver.STRAIGHT:
                run_observed(frame, _run_map, thread)
            else:
                frame.start()
                if frame.is_done:
                    frame.close()
                else:
                    _run_started(frame, thread)
        except Exception as error:
            if on_error == "raise" or thread.is_cancelled:
                raise
            assert frame.item_index is not None
            stand_in = Failure.of(error, frame.item_index, thread.failed_at)
        yield frame, stand_in
