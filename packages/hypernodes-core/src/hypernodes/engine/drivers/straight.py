"""Executes the steps of a plan one after the other in the calling thread: two loops, unrolled for speed.

`run_silent` is for plans without cache and observing callbacks, `run_observed` for those without a cache. Both are
declared copies of `step.call` and of the accounting in `Frame` (`begin`, `complete`, `fail`), written out because a
method call for each step costs more than a trivial step. The tests run every scenario on these loops and on frames.

Information that only an error needs (contexts, item indexes) is computed after the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from hypernodes.callbacks import CallbackContext
from hypernodes.conditions import Skipped
from hypernodes.engine.awaitables import PLAIN, Unawaited, needs_await
from hypernodes.engine.drivers.waiting import Waiter
from hypernodes.engine.frames.columns import has_stand_in, nested_columns, stand_in_for_item
from hypernodes.engine.step import call, context_of, locate, split
from hypernodes.failure import Failure
from hypernodes.plan import UNSET, CallStep, NestedStep, OnError, Plan, Release
from hypernodes.read_once import held_iterator
from hypernodes.request import rows_of

if TYPE_CHECKING:
    from hypernodes.engine.frames.frame import Frame
    from hypernodes.engine.workers.calling_thread import CallingThread


class _EnclosingMap(NamedTuple):
    """A mapped pipeline, itself a step of another plan, whose items are being executed.

    Attributes:
        plan: The plan that contains the map.
        step: The step of that plan.
        row: Item index of the execution of `plan`; None when `plan` is not executed as a map item.
        ctx: Context of the outermost run; None when that run is not part of another one.
        outer: The map whose items are executions of `plan`; None when `plan` is the outermost.
    """

    plan: Plan
    step: NestedStep
    row: int | None
    ctx: CallbackContext | None
    outer: _EnclosingMap | None


class Trace:
    """Records where an error was raised.

    Attributes:
        failed_at: The names of the pipelines that contain the node, outermost first, followed by the node's name.
    """

    __slots__ = ("failed_at",)

    def __init__(self) -> None:
        self.failed_at: tuple[str, ...] = ()


class _FailedInputError(Exception):
    """Ends a run at an item that has a `Failure` from an upstream step among its inputs."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def run_silent(
    plan: Plan,
    rows: Iterable[Iterable[Any]],
    rest: Sequence[Any],
    results: list[Any] | None,
    ctx: CallbackContext | None,
    backend_name: str,
    on_error: OnError = "raise",
    thread: CallingThread | None = None,
    indexes: Sequence[int] | None = None,
    trace: Trace | CallingThread | None = None,
    enclosing: _EnclosingMap | None = None,
    wait_for: Callable[[Any], Any] | None = None,
    part: Sequence[tuple[Any, ...]] | None = None,
) -> list[Any]:
    """Execute a plan once for each row.

    Args:
        plan: A plan without a cache and without observing callbacks, no part of which is delegated to another backend.
        rows: For each execution, the values of the first slots.
        rest: The initial values of all other slots.
        results: Receives the requested outputs, row after row, when the rows are the items of a map; None for a
            single row.
        ctx: Context of the run that this one is part of; None when there is none.
        backend_name: Name of the backend, for messages.
        on_error: "raise" ends the map with the first failing row; "collect" replaces its outputs by a `Failure`.
        thread: Makes calls that have retries or a time limit, or are awaited, and knows whether the run was cancelled;
            None for plans that need only calls and cannot be cancelled.
        indexes: Item index of each row; None when they are counted from 0.
        trace: Receives where the error that ends the map was raised.
        enclosing: The mapped pipeline that the rows are the items of, when that is a step of another plan.
        wait_for: Returns the value of a coroutine that a function returned; None for an event loop made for that.
        part: The part of `plan.releasing_program` to execute; `results` then receives the values of all slots, a list
            for each row. None for all of it.

    Returns:
        The value of every slot after the last row.

    Raises:
        Exception: The error of a node, with a note that says where it was raised.
    """
    program: Iterable[tuple[Any, ...]] = plan.releasing_program if part is None else part
    if thread is not None:
        program = thread.checked(program)
    append, pick, width = None, plan.pick, 1
    if part is not None and results is not None:
        append, pick = results.append, _as_they_are
    elif results is not None:
        width = len(plan.outputs)
        append = results.append if width == 1 else results.extend
    values: list[Any] = []
    result: Any = None
    count: int = 0
    function: Any = None
    out: int = 0
    waiter: Waiter | None = None
    if thread is not None:
        wait_for = thread.wait_for
    rows = iter(rows)
    while True:
        try:
            for row in rows:
                values = [*row, *rest]
                for count, function, first, second, third, out in program:
                    if count == 1:
                        values[out] = function(values[first])
                    elif count == 2:
                        values[out] = function(values[first], values[second])
                    elif count == 3:
                        values[out] = function(values[first], values[second], values[third])
                    elif count == 0:
                        values[out] = function()
                    elif count > 0:  # the same, for what may have to be awaited
                        if count == 5:
                            result = function(values[first])
                        elif count == 6:
                            result = function(values[first], values[second])
                        elif count == 7:
                            result = function(values[first], values[second], values[third])
                        else:
                            result = function()
                        if (kind := result.__class__) is CoroutineType or kind is AsyncGeneratorType:
                            if wait_for is None:
                                waiter = Waiter()
                                wait_for = waiter.wait_for
                            maker: Any = plan.steps[plan.producers[out]]
                            result = wait_for(Unawaited(maker.node, result))
                        values[out] = result
                    elif isinstance(function, CallStep):
                        if wait_for is None:
                            waiter = Waiter()
                            wait_for = waiter.wait_for
                        outputs = (
                            thread.call(function, values)
                            if thread is not None and function.is_special
                            else call(function, values, wait_for)
                        )
                        for slot, value in zip(function.outputs, outputs, strict=True):
                            if slot is not None:
                                values[slot] = value
                        outputs = ()  # so that they are held only where they are read
                    elif isinstance(function, Release):
                        for out in function.slots:
                            values[out] = UNSET
                        result = None
                    else:
                        number = len(results) // width if results is not None else None
                        if number is not None and indexes is not None:
                            number = indexes[number]
                        if trace is None:
                            trace = Trace()
                        _run_items(
                            _EnclosingMap(plan, function, number, ctx, enclosing),
                            values,
                            backend_name,
                            thread,
                            trace,
                            wait_for,
                        )
                if append is not None:
                    append(pick(values))
        except _FailedInputError as failed:
            if on_error == "raise" or results is None:
                if enclosing is not None:
                    raise
                upstream = failed.failure.error
                if trace is not None:
                    trace.failed_at = failed.failure.node_path
                break
            number = len(results) // width
            error: BaseException = failed.failure.error
            path = failed.failure.node_path
        except BaseException as raised:
            if function is None or isinstance(function, Release) or (thread is not None and thread.is_cancelled):
                raise
            error = raised
            number = len(results) // width if results is not None else 0
            if isinstance(function, NestedStep) and trace is not None:
                path = trace.failed_at  # set by the innermost plan
            else:
                step = function if count < 0 else plan.steps[plan.producers[out]]
                index = None if results is None else number if indexes is None else indexes[number]
                path = locate(error, plan, step, _base(plan, ctx, enclosing), backend_name, index, values)
            if on_error == "raise" or results is None or not isinstance(error, Exception):
                if trace is not None:
                    trace.failed_at = path
                raise
        else:
            return values
        finally:
            if waiter is not None:
                waiter.close()
                waiter = wait_for = None
        index = number if indexes is None else indexes[number]
        results.extend([Failure.of(error, index, path)] * width)
    raise upstream


def _as_they_are(values: Sequence[Any]) -> Sequence[Any]:
    return values


def columns_of(plan: Plan, results: list[Any]) -> list[list[Any]]:
    """Return one list for each requested output from the results of `run_silent`."""
    width = len(plan.outputs)
    return [results[position::width] for position in range(width)]


def _run_items(
    enclosing: _EnclosingMap,
    values: list[Any],
    backend_name: str,
    thread: CallingThread | None,
    trace: Trace | CallingThread,
    wait_for: Callable[[Any], Any] | None,
) -> None:
    """Execute the items of a mapped pipeline that is a step."""
    step = enclosing.step
    try:
        columns = nested_columns(step, values)
    except Exception as error:
        base = _base(enclosing.plan, enclosing.ctx, enclosing.outer)
        trace.failed_at = locate(error, enclosing.plan, step, base, backend_name, enclosing.row)
        raise
    shared = [values[slot] for slot in step.arguments[len(columns) :]]
    results: list[Any] = []
    run_rows(
        step.inner,
        rows_of(columns, step.node.map_mode),
        (*shared, *step.inner.rest),
        results,
        None,
        backend_name,
        step.node.on_error,
        thread,
        may_stand_in=any(has_stand_in(column) for column in columns),
        trace=trace,
        enclosing=enclosing,
        wait_for=wait_for,
    )
    for slot, made in zip(step.outputs, columns_of(step.inner, results), strict=True):
        if slot is not None:
            values[slot] = made


def run_rows(
    plan: Plan,
    rows: Iterable[tuple[Any, ...]],
    rest: Sequence[Any],
    results: list[Any],
    ctx: CallbackContext | None,
    backend_name: str,
    on_error: OnError,
    thread: CallingThread | None,
    may_stand_in: bool,
    indexes: Sequence[int] | None = None,
    trace: Trace | CallingThread | None = None,
    enclosing: _EnclosingMap | None = None,
    wait_for: Callable[[Any], Any] | None = None,
) -> None:
    """Execute a plan once for each item of a map; some inputs may stand for what upstream steps did not make.

    Args:
        plan: The plan; see `run_silent` for this and the other arguments.
        rows: The items.
        rest: The values of all other slots.
        results: Receives the requested outputs.
        ctx: Context of the run that this one is part of.
        backend_name: Name of the backend.
        on_error: "raise" or "collect".
        thread: Makes special calls.
        may_stand_in: Whether a `Failure` or `SKIPPED` may be among the values in `rows`; such an item is not executed.
        indexes: Index of each item.
        trace: Receives where the error that ends the map was raised.
        enclosing: The mapped pipeline that the rows are the items of.
        wait_for: Returns the value of a coroutine.
    """
    if plan.batched_calls:
        from hypernodes.engine.drivers.batched_rows import RowsInBatches

        assert trace is not None
        assert not isinstance(trace, Trace)  # such plans are not silent

        def execute(
            rows: Iterable[Iterable[Any]], part: Sequence[Any], own: list[Any], own_indexes: Sequence[int]
        ) -> None:
            run_silent(
                plan, rows, (), own, ctx, backend_name, on_error, thread, own_indexes, trace, enclosing, wait_for, part
            )

        def note(error: Exception, step: CallStep, index: int, values: Sequence[Any]) -> tuple[str, ...]:
            return locate(error, plan, step, _base(plan, ctx, enclosing), backend_name, index, values)

        rows_in_batches = RowsInBatches(plan, rest, results, on_error, trace, execute, note)
        failed = rows_in_batches.run(rows, may_stand_in, indexes)
        if failed is not None:
            _refuse(failed, enclosing, trace)
        return
    if not may_stand_in:
        run_silent(plan, rows, rest, results, ctx, backend_name, on_error, thread, indexes, trace, enclosing, wait_for)
        return
    width = len(plan.outputs)
    for number, row in enumerate(rows):
        stand_in = stand_in_for_item(row)
        if stand_in is None:
            index = number if indexes is None else indexes[number]
            own: list[Any] = []
            run_silent(
                plan, (row,), rest, own, ctx, backend_name, on_error, thread, (index,), trace, enclosing, wait_for
            )
            results.extend(own)
        elif on_error == "collect" or isinstance(stand_in, Skipped):
            results.extend([stand_in] * width)
        else:
            _refuse(stand_in, enclosing, trace)


def _refuse(failed: Failure, enclosing: _EnclosingMap | None, trace: Trace | CallingThread | None) -> NoReturn:
    """End a map at an item with a failure among its inputs."""
    if enclosing is not None:
        raise _FailedInputError(failed)
    if trace is not None:
        trace.failed_at = failed.node_path
    raise failed.error


def _base(plan: Plan, ctx: CallbackContext | None, enclosing: _EnclosingMap | None) -> CallbackContext:
    """Return the context of a plan, or of the map that its rows are the items of."""
    if enclosing is None:
        return ctx or CallbackContext((plan.scopes[0].pipeline_id,))
    outer = _base(enclosing.plan, enclosing.ctx, enclosing.outer)
    context = context_of(enclosing.plan, enclosing.step.scope, outer, enclosing.row)
    return context.child(enclosing.step.inner.scopes[0].pipeline_id, enclosing.step.node.name)


def run_observed(
    frame: Frame, run_map: Callable[[Frame, NestedStep, CallingThread], object], thread: CallingThread
) -> None:
    """Execute a frame without a cache whose events are all reported in this thread.

    Args:
        frame: The frame.
        run_map: Executes a mapped pipeline that is a step.
        thread: Makes calls that have retries or a time limit, or are awaited.

    Raises:
        Exception: The error of a node, with a note that says where it was raised.
    """
    frame.expect_all()
    plan, values = frame.plan, frame.values
    has_scopes = len(plan.scopes) > 1
    context: CallbackContext | None = None
    listeners = frame.listeners[0]
    on_start, on_end = listeners.on_node_start, listeners.on_node_end
    failed, released = listeners.failed, plan.released
    step: Any  # `count` tells the kind of step; a type check for each step would be slower
    try:
        for step, (count, function, first, second, _, out) in zip(plan.steps, plan.program, strict=True):
            if has_scopes or context is None:
                frame.enter(step)
                context = frame.context(step.scope)
                listeners = frame.listeners[step.scope]
                on_start, on_end = listeners.on_node_start, listeners.on_node_end
            if count < 0 and isinstance(step, NestedStep):
                run_map(frame, step, thread)  # which also releases what is no longer needed
                continue
            node = step.node
            if on_start:
                given = {name: values[slot] for name, slot in step.named}
                for hook in on_start:  # a copy of `Listeners.notify`, without a call for each node
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
                elif step.is_special:
                    outputs = thread.call(
                        step,
                        values,
                        lambda *failed, step=step: frame.retry(step, *failed),
                        partial(frame.report_limited, step),
                    )
                else:
                    outputs = call(step, values, thread.wait_for)
                if 0 < count < 3 and (
                    (kind := type(result)) not in PLAIN
                    or (kind is dict and step.read_often and held_iterator(result) is not None)
                ):
                    if needs_await(node, result):
                        result = thread.wait_for(Unawaited(node, result))
                    if step.read_often:
                        split(step, result)
            except BaseException as error:
                thread.failed_at = frame.fail(step, error)
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
            if released and step.index in released:
                result, outputs, named, given = None, (), {}, {}
                for slot in released[step.index].slots:
                    values[slot] = UNSET
    finally:
        frame.close()
