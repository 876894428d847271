"""Running a plan that needs nothing but calls: one step after the other, one item after the other, without a scheduler.

This is `step.call` unrolled for speed, for plans without cache, callbacks, retries, time limits and `async def`
functions. What only an error needs to know (contexts, item indexes) is put together after the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.mapping import nested_columns, rows_of
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


def run_bare(
    plan: Plan,
    rows: Iterable[Iterable[Any]],
    rest: Sequence[Any],
    found: list[Any] | None,
    ctx: CallbackContext | None,
    place: str,
) -> list[Any]:
    """Run a bare plan once for each row.

    Args:
        plan: A plan that `is_bare`.
        rows: For each time, the values of the first slots.
        rest: The values of all other slots at the beginning.
        found: Takes the requested outputs, first those of the first row, when the rows are the items of a map; None for
            a single row.
        ctx: Context of the run that this one is part of; None when it is none.
        place: Name of the backend, for messages.

    Returns:
        The value of every slot after the last row.

    Raises:
        Exception: What a node raised, with a note saying where.
    """
    trail: list[_Mark] = []
    try:
        return _run_rows(plan, rows, rest, found, trail)
    except _FailedInputError as failed:
        upstream = failed.failure.error
    except Exception as error:
        _explain(error, trail, ctx or CallbackContext((plan.scopes[0].pipeline_id,)), place, found is not None)
        raise
    raise upstream


def columns_of(plan: Plan, found: list[Any]) -> list[list[Any]]:
    """Return one list for each requested output from what `run_bare` found."""
    width = len(plan.outputs)
    return [found[position::width] for position in range(width)]


def _run_rows(
    plan: Plan, rows: Iterable[Iterable[Any]], rest: Sequence[Any], found: list[Any] | None, trail: list[_Mark]
) -> list[Any]:
    program, pick = plan.program, plan.pick
    keep = None if found is None else found.append if len(plan.outputs) == 1 else found.extend
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
                    _run_items(function, values, trail)
            if keep is not None:
                keep(pick(values))
    except _FailedInputError:
        raise
    except Exception:
        step = function if count < 0 else plan.steps[plan.producers[out]]
        trail.append(_Mark(plan, step, len(found) // len(plan.outputs) if found else 0))
        raise
    return values


def _run_items(step: NestedStep, values: list[Any], trail: list[_Mark]) -> None:
    """Run a mapped pipeline that is a step of its own."""
    columns = nested_columns(step, values)
    rows = rows_of(columns, step.node.map_mode)
    if any(has_failure(column) for column in columns):
        rows = _until_failure(rows)
    shared = [values[slot] for slot in step.arguments[len(columns) :]]
    found: list[Any] = []
    _run_rows(step.inner, rows, (*shared, *step.inner.rest), found, trail)
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


def _explain(error: Exception, trail: list[_Mark], base: CallbackContext, place: str, is_map: bool) -> None:
    """Attach to `error` where it happened; the trail begins at the innermost plan."""
    is_item = is_map
    for plan, step, row in reversed(trail[1:]):
        assert isinstance(step, NestedStep)
        around = context_of(plan, step.scope, base, row if is_item else None)
        base = around.child(step.inner.scopes[0].pipeline_id, step.node.name)
        is_item = True
    plan, step, row = trail[0]
    add_note(error, plan, step, base, place, row if is_item else None)
