"""Plans whose steps are executed one after the other with nothing in between: two loops, unrolled for speed.

`run_silent` is for plans without cache and observing callbacks, `run_observed` for those without a cache. Both are
declared copies of `step.call` and of the accounting in `Frame` (`begin`, `complete`, `fail`), written out because a
method call for each step costs more than a trivial step. The tests run every scenario on these loops and on frames.

What only an error needs to know (contexts, item indexes) is put together after the error.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.columns import has_failure, nested_columns
from hypernodes.engine.step import add_note, call, context_of, path_of
from hypernodes.failure import Failure
from hypernodes.plan import CallStep, NestedStep, OnError, Plan, Step
from hypernodes.request import rows_of

if TYPE_CHECKING:
    from hypernodes.engine.frames.frame import Frame
    from hypernodes.engine.workers.calling_thread import CallingThread


class _Around(NamedTuple):
    """Where a mapped pipeline stands whose items are being executed.

    Attributes:
        plan: The plan around it.
        step: Its step in there.
        row: Index of the item of the plan around; None when that is no item.
        ctx: Context of the outermost run; None when it is no part of another one.
        outer: The same of the plan around; None when that is the outermost.
    """

    plan: Plan
    step: NestedStep
    row: int | None
    ctx: CallbackContext | None
    outer: _Around | None


class Trace:
    """Takes where an error was raised.

    Attributes:
        failed_at: The names of the pipelines around the node, outermost first, and its own.
    """

    __slots__ = ("failed_at",)

    def __init__(self) -> None:
        self.failed_at: tuple[str, ...] = ()


class _FailedInputError(Exception):
    """Ends a run at an item one of whose inputs stands for a failure upstream."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def run_silent(
    plan: Plan,
    rows: Iterable[Iterable[Any]],
    rest: Sequence[Any],
    found: list[Any] | None,
    ctx: CallbackContext | None,
    backend_name: str,
    on_error: OnError = "raise",
    thread: CallingThread | None = None,
    indexes: Sequence[int] | None = None,
    trace: Trace | CallingThread | None = None,
    around: _Around | None = None,
) -> list[Any]:
    """Execute a plan once for each row.

    Args:
        plan: A plan without cache and observing callbacks, all of which is executed here.
        rows: For each time, the values of the first slots.
        rest: The values of all other slots at the beginning.
        found: Takes the requested outputs, first those of the first row, when the rows are the items of a map; None for
            a single row.
        ctx: Context of the run that this one is part of; None when it is none.
        backend_name: Name of the backend, for messages.
        on_error: "raise" ends the map with the first failing row; "collect" puts a `Failure` in its place.
        thread: Makes calls that have retries or a time limit, or are awaited, and knows whether the run was cancelled;
            None for plans that need only calls and that nobody can cancel.
        indexes: Index of the item that each row is; None when they are counted from 0.
        trace: Takes where an error was raised that ends the map.
        around: The mapped pipeline that the rows are the items of, when that is a step of another plan.

    Returns:
        The value of every slot after the last row.

    Raises:
        Exception: What a node raised, with a note saying where.
    """
    program: Iterable[tuple[Any, ...]] = plan.program
    width = len(plan.outputs)
    keep = None if found is None else found.append if width == 1 else found.extend
    values: list[Any] = []
    count: int = 0
    function: Any = None
    out: int = 0
    rows = iter(rows)
    while True:
        try:
            for row in rows:
                values = [*row, *rest]
                for count, function, first, second, third, out in (
                    program if thread is None else thread.checked(program)
                ):
                    if count == 1:
                        values[out] = function(values[first])
                    elif count == 2:
                        values[out] = function(values[first], values[second])
                    elif count == 3:
                        values[out] = function(values[first], values[second], values[third])
                    elif count == 0:
                        values[out] = function()
                    elif isinstance(function, CallStep):
                        outputs = (
                            thread.call(function, values)
                            if thread is not None and function.is_special
                            else call(function, values)
                        )
                        for slot, value in zip(function.outputs, outputs, strict=True):
                            if slot is not None:
                                values[slot] = value
                    else:
                        number = len(found) // width if found is not None else None
                        if number is not None and indexes is not None:
                            number = indexes[number]
                        if trace is None:
                            trace = Trace()
                        _run_items(_Around(plan, function, number, ctx, around), values, backend_name, thread, trace)
                if keep is not None:
                    keep(plan.pick(values))
        except _FailedInputError as failed:
            if on_error == "raise" or found is None:
                if around is not None:
                    raise
                upstream = failed.failure.error
                if trace is not None:
                    trace.failed_at = failed.failure.node_path
                break
            number = len(found) // width
            error: BaseException = failed.failure.error
            path = failed.failure.node_path
        except Exception as raised:
            if thread is not None and thread.is_cancelled:
                raise
            error = raised
            number = len(found) // width if found is not None else 0
            if isinstance(function, NestedStep) and trace is not None:
                path = trace.failed_at  # the innermost plan has said where
            else:
                step = function if count < 0 else plan.steps[plan.producers[out]]
                index = None if found is None else number if indexes is None else indexes[number]
                path = _explain(error, plan, step, index, _base(plan, ctx, around), backend_name)
            if on_error == "raise" or found is None:
                if trace is not None:
                    trace.failed_at = path
                raise
        else:
            return values
        text = "".join(traceback.format_exception(error))
        index = number if indexes is None else indexes[number]
        found.extend([Failure(error, text, index, path)] * width)
    raise upstream


def columns_of(plan: Plan, found: list[Any]) -> list[list[Any]]:
    """Return one list for each requested output from what `run_silent` found."""
    width = len(plan.outputs)
    return [found[position::width] for position in range(width)]


def _run_items(
    around: _Around, values: list[Any], backend_name: str, thread: CallingThread | None, trace: Trace | CallingThread
) -> None:
    """Execute the items of a mapped pipeline that is a step."""
    step = around.step
    try:
        columns = nested_columns(step, values)
    except Exception as error:
        base = _base(around.plan, around.ctx, around.outer)
        trace.failed_at = _explain(error, around.plan, step, around.row, base, backend_name)
        raise
    shared = [values[slot] for slot in step.arguments[len(columns) :]]
    found: list[Any] = []
    run_rows(
        step.inner,
        rows_of(columns, step.node.map_mode),
        (*shared, *step.inner.rest),
        found,
        None,
        backend_name,
        step.node.on_error,
        thread,
        has_failures=any(has_failure(column) for column in columns),
        trace=trace,
        around=around,
    )
    for slot, made in zip(step.outputs, columns_of(step.inner, found), strict=True):
        if slot is not None:
            values[slot] = made


def run_rows(
    plan: Plan,
    rows: Iterable[tuple[Any, ...]],
    rest: Sequence[Any],
    found: list[Any],
    ctx: CallbackContext | None,
    backend_name: str,
    on_error: OnError,
    thread: CallingThread | None,
    has_failures: bool,
    indexes: Sequence[int] | None = None,
    trace: Trace | CallingThread | None = None,
    around: _Around | None = None,
) -> None:
    """Execute a plan once for each item of a map, some of whose inputs may stand for failures upstream.

    Args:
        plan: See `run_silent`, as for the other arguments.
        rows: The items.
        rest: The values of all other slots.
        found: Takes the requested outputs.
        ctx: Context of the run that this one is part of.
        backend_name: Name of the backend.
        on_error: "raise" or "collect".
        thread: Makes special calls.
        has_failures: Whether a `Failure` may be among the values in `rows`; such an item fails without being executed.
        indexes: Index of each item.
        trace: Takes where an error was raised that ends the map.
        around: The mapped pipeline that the rows are the items of.
    """
    if not has_failures:
        run_silent(plan, rows, rest, found, ctx, backend_name, on_error, thread, indexes, trace, around)
        return
    width = len(plan.outputs)
    for number, row in enumerate(rows):
        failure = next((value for value in row if isinstance(value, Failure)), None)
        if failure is None:
            index = number if indexes is None else indexes[number]
            own: list[Any] = []
            run_silent(plan, (row,), rest, own, ctx, backend_name, on_error, thread, (index,), trace, around)
            found.extend(own)
        elif on_error == "collect":
            found.extend([failure] * width)
        elif around is not None:
            raise _FailedInputError(failure)
        else:
            if trace is not None:
                trace.failed_at = failure.node_path
            raise failure.error


def _base(plan: Plan, ctx: CallbackContext | None, around: _Around | None) -> CallbackContext:
    """Return the context of a plan, or of the map that its rows are the items of."""
    if around is None:
        return ctx or CallbackContext((plan.scopes[0].pipeline_id,))
    outer = _base(around.plan, around.ctx, around.outer)
    context = context_of(around.plan, around.step.scope, outer, around.row)
    return context.child(around.step.inner.scopes[0].pipeline_id, around.step.node.name)


def _explain(
    error: BaseException, plan: Plan, step: Step, index: int | None, base: CallbackContext, backend_name: str
) -> tuple[str, ...]:
    """Attach to `error` where it happened; return the names of the pipelines around the step, and its own."""
    add_note(error, plan, step, base, backend_name, index)
    return (*path_of(plan, step, base), step.node.name)


def run_observed(
    frame: Frame, run_map: Callable[[Frame, NestedStep, CallingThread], object], thread: CallingThread
) -> None:
    """Execute a frame without a cache all of whose events happen in this thread.

    Args:
        frame: The frame.
        run_map: Executes a mapped pipeline that is a step.
        thread: Makes calls that have retries or a time limit, or are awaited.

    Raises:
        Exception: What a node raised, with a note saying where.
    """
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
                run_map(frame, step, thread)
                continue
            node = step.node
            if on_start:
                given = {name: values[slot] for name, slot in step.named}
                for hook in on_start:  # what `Listeners.notify` does, without a call for each node
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
                    outputs = thread.call(step, values, lambda *failed, step=step: frame.retry(step, *failed))
                else:
                    outputs = call(step, values)
            except Exception as error:
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
    finally:
        frame.close()
