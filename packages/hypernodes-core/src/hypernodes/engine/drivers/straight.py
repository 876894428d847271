"""Running a plan that needs nothing but calls: one step after the other, one item after the other, without a scheduler.

This is `step.call` unrolled for speed, for plans without cache, callbacks, retries, time limits and `async def`
functions. What only an error needs to know (contexts, item indexes) is put together after the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.columns import nested_columns, rows_of
from hypernodes.engine.step import add_note, call, context_of
from hypernodes.failures import Failure
from hypernodes.plan import CallStep, NestedStep, Plan, Step


class _Mark(NamedTuple):
    """Where an error came by on its way up: a step of a plan, and the position of the row."""

    plan: Plan
    step: Step
    row: int


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
    around: list[_Mark] | None = None,
) -> list[Any]:
    """Run a bare plan once for each row.

    Args:
        plan: A plan that `is_bare`.
        rows: For each time, the values of the first slots.
        rest: The values of all other slots at the beginning.
        found: Takes the requested outputs, first those of the first row, when the rows are the items of a map; None for
            a single row.
        ctx: Context of the run that this one is part of; None when it is none.
        backend_name: Name of the backend, for messages.
        around: Takes the trail of an error, which the bare plan around will explain; None when there is none around.

    Returns:
        The value of every slot after the last row.

    Raises:
        Exception: What a node raised, with a note saying where.
    """
    program = plan.program
    keep = None if found is None else found.append if len(plan.outputs) == 1 else found.extend
    trail = around
    values: list[Any] = []
    count: int = 0
    function: Any = None
    out: int = 0
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
                elif isinstance(function, CallStep):
                    for slot, value in zip(function.outputs, call(function, values), strict=True):
                        if slot is not None:
                            values[slot] = value
                else:
                    if trail is None:
                        trail = []
                    _run_items(function, values, backend_name, trail)
            if keep is not None:
                keep(plan.pick(values))
    except _FailedInputError as failed:
        if around is not None:
            raise
        upstream = failed.failure.error
    except Exception as error:
        step = function if count < 0 else plan.steps[plan.producers[out]]
        mark = _Mark(plan, step, len(found) // len(plan.outputs) if found else 0)
        if around is not None:
            around.append(mark)
        else:
            root = ctx or CallbackContext((plan.scopes[0].pipeline_id,))
            _explain(error, [*(trail or ()), mark], root, backend_name, found is not None)
        raise
    else:
        return values
    raise upstream


def columns_of(plan: Plan, found: list[Any]) -> list[list[Any]]:
    """Return one list for each requested output from what `run_silent` found."""
    width = len(plan.outputs)
    return [found[position::width] for position in range(width)]


def _run_items(step: NestedStep, values: list[Any], backend_name: str, trail: list[_Mark]) -> None:
    """Run a mapped pipeline that is a step of its own."""
    columns = nested_columns(step, values)
    rows = rows_of(columns, step.node.map_mode)
    if any(has_failure(column) for column in columns):
        rows = _until_failure(rows)
    shared = [values[slot] for slot in step.arguments[len(columns) :]]
    found: list[Any] = []
    run_silent(step.inner, rows, (*shared, *step.inner.rest), found, None, backend_name, trail)
    for slot, made in zip(step.outputs, columns_of(step.inner, found), strict=True):
        if slot is not None:
            values[slot] = made


def has_failure(column: Iterable[Any]) -> bool:
    """Whether any of these values stands for a failure upstream, so that its item cannot be run."""
    return Failure in map(type, column)


def _until_failure(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        for value in row:
            if isinstance(value, Failure):
                raise _FailedInputError(value)
        yield row


def _explain(error: Exception, trail: list[_Mark], base: CallbackContext, backend_name: str, is_map: bool) -> None:
    """Attach to `error` where it happened; the trail begins at the innermost plan."""
    is_item = is_map
    for plan, step, row in reversed(trail[1:]):
        assert isinstance(step, NestedStep)
        around = context_of(plan, step.scope, base, row if is_item else None)
        base = around.child(step.inner.scopes[0].pipeline_id, step.node.name)
        is_item = True
    plan, step, row = trail[0]
    add_note(error, plan, step, base, backend_name, row if is_item else None)
