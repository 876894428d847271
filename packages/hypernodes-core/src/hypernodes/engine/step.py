"""What running a step means: the one place where a node's function is called, and what is said when it fails."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, cast

from hypernodes.callbacks import CallbackContext
from hypernodes.errors import OutputCountError
from hypernodes.plan import CallStep, Plan, Step

Await = Callable[[Coroutine[Any, Any, Any]], Any]


def call(step: CallStep, values: list[Any], await_now: Await) -> Any:
    """Call the step's function with its arguments, waiting for an `async def` function; return what it returned."""
    arguments = [values[slot] for slot in step.positional]
    if step.by_keyword:
        result = step.node.func(*arguments, **{name: values[slot] for name, slot in step.by_keyword})
    else:
        result = step.node.func(*arguments)
    return await_now(result) if step.node.is_async else result


def store(step: CallStep, values: list[Any], result: Any) -> None:
    """Put what the function returned into the slots of the step's outputs.

    Raises:
        OutputCountError: The node has several outputs and the result is not one value for each.
    """
    if len(step.outputs) == 1:
        slot = step.outputs[0]
        if slot is not None:
            values[slot] = result
        return
    for slot, value in zip(step.outputs, split(step, result), strict=True):
        if slot is not None:
            values[slot] = value


def split(step: CallStep, result: Any) -> tuple[Any, ...]:
    """Return what the function returned as one value for each output."""
    names = step.node.outputs
    if len(names) == 1:
        return (result,)
    if isinstance(result, (tuple, list)) and len(result) == len(names):
        return tuple(result)
    what = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
    raise OutputCountError(
        f"node {step.node.name!r} must return a tuple of {len(names)} values ({', '.join(names)}); it returned {what}",
        node_name=step.node.name,
        expected=names,
    )


def run_bare(plan: Plan, values: list[Any], base: CallbackContext, place: str, item_index: int | None = None) -> None:
    """Run a plain plan without cache or callbacks: `call` and `store` for every step, unrolled for speed."""
    count, function, out = 0, cast(Any, None), 0
    try:
        for count, function, first, second, third, out in plan.program:
            if count == 1:
                values[out] = function(values[first])
            elif count == 2:
                values[out] = function(values[first], values[second])
            elif count == 3:
                values[out] = function(values[first], values[second], values[third])
            elif count == 0:
                values[out] = function()
            else:
                store(function, values, call(function, values, _never))
    except Exception as error:
        step = function if count < 0 else plan.steps[plan.producers[out]]
        add_note(error, plan, step, base, place, item_index)
        raise


def _never(coroutine: Coroutine[Any, Any, Any]) -> Any:
    raise AssertionError("a plain plan has no async nodes")  # pragma: no cover


def add_note(
    error: BaseException, plan: Plan, step: Step, base: CallbackContext, place: str, item_index: int | None = None
) -> None:
    """Attach to `error` where it happened: pipeline path, node, map items, names of the inputs, and backend.

    Args:
        error: What was raised.
        plan: The plan that was running.
        step: The step that raised.
        base: Context of the plan's outermost scope.
        place: Name of the backend.
        item_index: Index of the map item; None when the plan did not run as one.
    """
    inner: list[str] = []
    scope = plan.scopes[step.scope]
    while scope.parent >= 0:
        inner.append(scope.node_name)
        scope = plan.scopes[scope.parent]
    path = " → ".join([*base.node_path, *reversed(inner)])
    location = f" ({step.node.location})" if step.node.location else ""
    item_path = base.item_path if item_index is None else (*base.item_path, item_index)
    items = f", map item {' → '.join(map(str, item_path))}" if item_path else ""
    error.add_note(
        f"in node {step.node.name!r}{location} of pipeline {path}{items}; "
        f"its inputs: {', '.join(step.node.inputs) or 'none'}; backend: {place}"
    )
