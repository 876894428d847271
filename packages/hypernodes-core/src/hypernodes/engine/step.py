"""Executes a step: the only module that calls a node's function, and the notes added to errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.errors import ExecutionError, NodeTimeoutError, OutputCountError
from hypernodes.nodes import Node
from hypernodes.plan import CallStep, Plan, Step
from hypernodes.read_once import is_read_once, kind_of, listing, remedy


class NotTransferred:
    """Replaces a result that cannot be sent from the worker process that made it, and that no other process needs.

    Callbacks receive it instead of the value. It cannot be stored in a cache.

    Attributes:
        type_name: Type of the value.
        reason: Why it cannot be sent.
    """

    def __init__(self, type_name: str, reason: str) -> None:
        self.type_name = type_name
        self.reason = reason

    def __cache_key__(self) -> str:
        raise TypeError(f"it stayed in a worker process: {self.reason}")

    def __repr__(self) -> str:
        return f"<{self.type_name} that stayed in the worker process: {self.reason}>"


class Call(NamedTuple):
    """A call of a node's function that is about to be made.

    Attributes:
        step: The step.
        arguments: Values passed by position.
        by_keyword: Values passed by name.
    """

    step: CallStep
    arguments: Sequence[Any]
    by_keyword: dict[str, Any]


class Returned(NamedTuple):
    """The results of a call.

    Attributes:
        outputs: One value for each output of the node.
        duration_s: How long the call took.
    """

    outputs: tuple[Any, ...]
    duration_s: float


def prepare(step: CallStep, values: Sequence[Any]) -> Call:
    """Collect the arguments of a call."""
    by_keyword = {name: values[slot] for name, slot in step.by_keyword} if step.by_keyword else {}
    return Call(step, [values[slot] for slot in step.positional], by_keyword)


def make(call: Call, wait_for: Callable[[Any], Any]) -> Returned:
    """Call a node's function; `wait_for` awaits the result of an `async def` function.

    Raises:
        OutputCountError: The node has several outputs and the function did not return one value for each.
        Exception: The error of the function.
    """
    node = call.step.node
    started_at = perf_counter()
    result = node.func(*call.arguments, **call.by_keyword)
    if node.is_async:
        result = wait_for(result)
    return Returned(split(call.step, result), perf_counter() - started_at)


async def make_async(call: Call) -> Returned:
    """Call an `async def` function in a running event loop."""
    started_at = perf_counter()
    result: Any = await call.step.node.func(*call.arguments, **call.by_keyword)
    return Returned(split(call.step, result), perf_counter() - started_at)


async def make_within(call: Call, limit_s: float | None) -> Returned:
    """Call an `async def` function in a running event loop, with a time limit in seconds; None for no limit.

    Raises:
        NodeTimeoutError: The call took longer.
    """
    if limit_s is None:
        return await make_async(call)
    import asyncio

    timer = asyncio.timeout(limit_s)
    try:
        async with timer:
            return await make_async(call)
    except TimeoutError as error:
        if timer.expired():
            raise timeout_error(call.step.node) from error
        raise


def timeout_error(node: Node[..., Any]) -> NodeTimeoutError:
    """Return the error of a call that took too long."""
    return NodeTimeoutError(
        f"node {node.name!r} took longer than its timeout of {node.timeout} s",
        node_name=node.name,
        timeout_s=node.timeout,
    )


def call(step: CallStep, values: Sequence[Any]) -> tuple[Any, ...]:
    """Call an ordinary function with the values of a plan's slots; return one value for each output of the node.

    Raises:
        OutputCountError: The node has several outputs and the function did not return one value for each.
        ExecutionError: It returned an iterator that several steps read.
        Exception: The error of the function.
    """
    if step.by_keyword:
        made = prepare(step, values)
        return split(step, step.node.func(*made.arguments, **made.by_keyword))
    result = step.node.func(*[values[slot] for slot in step.positional])
    if len(step.outputs) == 1 and not (step.read_often and hasattr(type(result), "__next__")):
        return (result,)
    return split(step, result)


def split(step: CallStep, result: Any) -> tuple[Any, ...]:
    """Return the result of a function as one value for each output.

    Raises:
        OutputCountError: There is not one value for each.
        ExecutionError: A value can be read only once, and several steps read it.
    """
    names = step.node.outputs
    outputs: tuple[Any, ...] | None = None
    if len(names) == 1:
        outputs = (result,)
    elif isinstance(result, (tuple, list)) and len(result) == len(names):
        outputs = tuple(result)
    if outputs is not None:
        for position, readers in step.read_often:
            error = read_once_error(step, position, readers, outputs[position])
            if error is not None:
                raise error
        return outputs
    got = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
    raise OutputCountError(
        f"node {step.node.name!r} must return a tuple of {len(names)} values ({', '.join(names)}); it returned {got}",
        node_name=step.node.name,
        expected=names,
    )


def read_once_error(step: CallStep, position: int, readers: tuple[str, ...], value: Any) -> ExecutionError | None:
    """Return the error of a result that can be read only once and is read more often; None for any other.

    Args:
        step: The call.
        position: Position of the output.
        readers: The names of its readers.
        value: The result.
    """
    if not is_read_once(value):
        return None
    name = step.node.outputs[position]
    return ExecutionError(
        f"node {step.node.name!r} returned {kind_of(value)} for {name!r}, which can be read only once, but "
        f"{listing(readers)}. Return {remedy(value, '...')}",
        node_name=step.node.name,
        readers=readers,
    )


def add_note(
    error: BaseException,
    plan: Plan,
    step: Step,
    base: CallbackContext,
    backend_name: str,
    item_index: int | None = None,
) -> None:
    """Add a note to `error` that says where it was raised: pipeline path, node, map items, input names and backend.

    Args:
        error: The error.
        plan: The plan that was running.
        step: The step that raised.
        base: Context of the plan's outermost scope.
        backend_name: Name of the backend.
        item_index: Index of the map item; None when the plan is not executed as a map item.
    """
    location = f" ({step.node.location})" if step.node.location else ""
    item_path = base.item_path if item_index is None else (*base.item_path, item_index)
    items = f", map item {' → '.join(map(str, item_path))}" if item_path else ""
    error.add_note(
        f"in node {step.node.name!r}{location} of pipeline {' → '.join(path_of(plan, step, base))}{items}; "
        f"its inputs: {', '.join(step.node.inputs) or 'none'}; backend: {backend_name}"
    )


def path_of(plan: Plan, step: Step, base: CallbackContext) -> tuple[str, ...]:
    """Return the names of the pipelines that contain a step, outermost first."""
    inner: list[str] = []
    scope = plan.scopes[step.scope]
    while scope.parent >= 0:
        inner.append(scope.node_name)
        scope = plan.scopes[scope.parent]
    return (*base.node_path, *reversed(inner))


def context_of(plan: Plan, scope: int, base: CallbackContext, item_index: int | None = None) -> CallbackContext:
    """Return the context of the events of a scope.

    Args:
        plan: The plan.
        scope: Position of the scope.
        base: Context of the plan's outermost scope, or of the map.
        item_index: Index of the map item; None when the plan does not run as one.
    """
    inner: list[int] = []
    while scope > 0:
        inner.append(scope)
        scope = plan.scopes[scope].parent
    context = base if item_index is None else base.item(item_index)
    for position in reversed(inner):
        entry = plan.scopes[position]
        context = context.child(entry.pipeline_id, entry.node_name)
    return context
