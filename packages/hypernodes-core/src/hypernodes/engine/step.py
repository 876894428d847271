"""Executes a step: calls a node's function, and notes in an error where it was raised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from time import perf_counter
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hypernodes.callbacks import CallbackContext
from hypernodes.caller import warn_at_function
from hypernodes.engine.awaitables import PLAIN, Unawaited, hint_at_event_loops, needs_await
from hypernodes.engine.failed_calls import FailedCall, Interrupted
from hypernodes.engine.failed_items import hint_at_failures, without_failures
from hypernodes.engine.limit_reports import LimitReport
from hypernodes.engine.timing import now
from hypernodes.errors import ExecutionError, HyperNodesWarning, NodeTimeoutError, OutputCountError, add_note
from hypernodes.failure import FAILED_CALL, REPLAY_NOTE
from hypernodes.nodes import Node
from hypernodes.plan import UNSET, CallStep, Plan, Step
from hypernodes.read_once import held_iterator, holding, is_read_once, kind_of, listing, remedy
from hypernodes.resources import Resource, use

if TYPE_CHECKING:
    from concurrent.futures import Future

    from hypernodes.engine.limits import Permit

_T = TypeVar("_T")


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
        items: Number of items of a batch; None if the node is not batched.
        permit: What allows it to be made, where the calls of the node are limited; released when it is over.
    """

    step: CallStep
    arguments: Sequence[Any]
    by_keyword: dict[str, Any]
    items: int | None = None
    permit: Permit | None = None

    def by_name(self) -> dict[str, Any]:
        """Return the arguments by name."""
        names = [name for name, _ in self.step.named if name not in self.by_keyword]
        return {**dict(zip(names, self.arguments, strict=True)), **self.by_keyword}


class Returned(NamedTuple):
    """The results of a call.

    Attributes:
        outputs: One value for each output of the node; of a batch, such a tuple for each item.
        duration_s: How long the call took.
    """

    outputs: tuple[Any, ...]
    duration_s: float


def close_unwanted(future: Future[Any]) -> None:
    """Close what a call returned that nobody waits for any more, e.g. because it took too long."""
    if not future.cancelled() and future.exception() is None and isinstance(future.result(), Unawaited):
        future.result().close()


def _as_given(step: CallStep, values: Sequence[Any]) -> Any:
    """Return the values of slots as the function of a call gets them."""
    return without_failures(step, values) if step.node.skip_failures else values


def prepare(step: CallStep, values: Sequence[Any]) -> Call:
    """Collect the arguments of a call; a batched node gets a batch of one item."""
    if not step.is_prepared:
        return Call(step, [values[slot] for slot in step.positional], {})
    if step.node.batching is not None:
        return prepare_batch(step, [values])
    values = _as_given(step, values)
    by_keyword = {name: values[slot] for name, slot in step.by_keyword}
    return Call(step, [values[slot] for slot in step.positional], by_keyword)


def prepare_batch(step: CallStep, items: Sequence[Sequence[Any]], steps: Sequence[CallStep] | None = None) -> Call:
    """Collect the arguments of a call for several items that share all arguments but those in lists.

    Args:
        step: The call of a batched node.
        items: For each item, the value of every slot.
        steps: The calls of the items, if they are not all in the same plan; see `CallStep.batch_kind`.
    """
    batching = step.node.batching
    assert batching is not None
    first = _as_given(step, items[0])
    given: dict[str, Any] = {}
    for position, (name, slot) in enumerate(step.named):
        if name not in batching.over:
            given[name] = first[slot]
        elif steps is None:
            given[name] = [values[slot] for values in items]
        else:
            given[name] = [values[own.arguments[position]] for own, values in zip(steps, items, strict=True)]
    by_keyword = {name: given.pop(name) for name, _ in step.by_keyword}
    return Call(step, [*given.values()], by_keyword, len(items))


def with_resources(call: Call) -> Call:
    """Return a call with the objects of this process in place of resources; makes them if need be."""
    used = {name: _used(call, name, value) for name, value in call.by_name().items()}
    by_keyword = {name: used.pop(name) for name in call.by_keyword}
    return call._replace(arguments=[*used.values()], by_keyword=by_keyword)


def _used(call: Call, name: str, value: Any) -> Any:
    """Return the value of a parameter with the objects of resources in their places, also those of single items."""
    batching = call.step.node.batching
    return use(value) if batching is not None and name in batching.over else use([value])[0]


async def _with_resources_of_loop(call: Call) -> Call:
    """Do the same without holding up the event loop while they are made."""
    for value in (*call.arguments, *call.by_keyword.values()):
        for part in value if call.items is not None and isinstance(value, list) else [value]:
            if isinstance(part, Resource) and part.factory.per == "process" and not part.is_made:
                import asyncio

                await asyncio.to_thread(part.get)
    return with_resources(call)


def make(call: Call, wait_for: Callable[[Any], Any] | None) -> Returned | Unawaited:
    """Call a node's function.

    Args:
        call: The call.
        wait_for: Returns the value of a coroutine; None if the caller awaits the result.

    Raises:
        NodeTimeoutError: The call took longer than the node allows.
        OutputCountError: The node has several outputs and the function did not return one value for each.
        Exception: The error of the function.
    """
    if call.permit is not None:
        return _make_limited(call, wait_for)
    node = call.step.node
    started_at, end = perf_counter(), None if node.timeout is None else now() + node.timeout
    try:
        if call.step.resources:
            call = with_resources(call)
        result = node.func(*call.arguments, **call.by_keyword)
        if type(result) is GeneratorType and node.is_generator:
            result = list(result)
        elif type(result) not in PLAIN and needs_await(node, result):
            if wait_for is None:
                return Unawaited(node, result, perf_counter() - started_at)
            result = wait_for(Unawaited(node, result))
    except Exception as error:
        if end is not None and now() > end:
            raise timeout_error(node) from error
        raise
    if end is not None and now() > end:  # it could not be stopped
        raise timeout_error(node)
    return Returned(outputs_of(call, result), perf_counter() - started_at)


def _make_limited(call: Call, wait_for: Callable[[Any], Any] | None) -> Returned | Unawaited:
    """Make a call that has a permit; what still has to be awaited keeps it."""
    permit = call.permit
    assert permit is not None
    returned: Returned | Unawaited | None = None
    try:
        if call.step.resources:
            call = with_resources(call)  # which may take long
        with permit:
            returned = make(call._replace(permit=None), wait_for)
    finally:
        if isinstance(returned, Unawaited):
            returned.permit = permit
        else:
            permit.release()
    return returned


async def make_async(call: Call) -> Returned:
    """Call an `async def` function in a running event loop."""
    if call.permit is not None:
        try:
            if call.step.resources:
                call = await _with_resources_of_loop(call)
            assert call.permit is not None
            with call.permit:
                return await make_async(call._replace(permit=None))
        finally:
            if call.permit is not None:
                call.permit.release()
    started_at = perf_counter()
    node = call.step.node
    if call.step.resources:
        call = await _with_resources_of_loop(call)
    result: Any = await node.func(*call.arguments, **call.by_keyword)
    if type(result) not in PLAIN and needs_await(node, result):
        result = await Unawaited(node, result)
    return Returned(outputs_of(call, result), perf_counter() - started_at)


async def make_within(call: Call, limit_s: float | None) -> Returned:
    """Call an `async def` function in a running event loop, with a time limit in seconds; None for no limit.

    Raises:
        NodeTimeoutError: The call took longer.
    """
    return await within(make_async(call), call.step.node, limit_s)


class FinishedWithin:
    """Awaits what an ordinary function returned; the time that the call took counts; see `make_within`.

    Args:
        call: The call.
        unawaited: What the function returned.
        limit_s: The time limit in seconds; None for no limit.
    """

    __slots__ = ("_call", "_limit_s", "_unawaited")

    def __init__(self, call: Call, unawaited: Unawaited, limit_s: float | None) -> None:
        self._call = call
        self._unawaited = unawaited
        self._limit_s = limit_s

    def __await__(self) -> Generator[Any, Any, Returned]:
        return self._finish().__await__()

    def close(self) -> None:
        """Close what nobody will await."""
        self._unawaited.close()

    async def _finish(self) -> Returned:
        unawaited = self._unawaited
        started_at = perf_counter() - unawaited.duration_s
        left_s = None if self._limit_s is None else self._limit_s - unawaited.duration_s
        try:
            result = await within(unawaited, self._call.step.node, left_s)
        finally:
            if self._call.permit is not None:
                self._call.permit.release()
        return Returned(outputs_of(self._call, result), perf_counter() - started_at)


async def within(coroutine: Awaitable[_T], node: Node[..., Any], limit_s: float | None) -> _T:
    """Await a coroutine of a node, with a time limit in seconds; None for no limit.

    Raises:
        NodeTimeoutError: It took longer.
    """
    if limit_s is None:
        return await coroutine
    import asyncio

    end, timer, report = now() + limit_s, asyncio.timeout(limit_s), LimitReport(node)
    report.begin()
    try:
        async with timer:
            result = await coroutine
    except Exception as error:
        if timer.expired() or now() > end:
            raise timeout_error(node) from error
        raise
    finally:
        report.end()
    if now() > end:  # it blocked the event loop, so that it could not be stopped
        raise timeout_error(node)
    return result


def timeout_error(node: Node[..., Any]) -> NodeTimeoutError:
    """Return the error of a call that took too long."""
    return NodeTimeoutError(
        f"node {node.name!r} took longer than its timeout of {node.timeout} s",
        node_name=node.name,
        timeout_s=node.timeout,
    )


def call(step: CallStep, values: Sequence[Any], wait_for: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Call an ordinary function with the values of a plan's slots; return one value for each output of the node.

    Args:
        step: The step.
        values: Value of every slot.
        wait_for: Returns the value of a coroutine.

    Raises:
        OutputCountError: The node has several outputs and the function did not return one value for each.
        ExecutionError: It returned an iterator that several steps read.
        Exception: The error of the function.
    """
    node = step.node
    if step.is_prepared:
        made = prepare(step, values)
        if made.items is not None:
            returned = make(made, wait_for)
            assert isinstance(returned, Returned)
            (outputs,) = returned.outputs
            return outputs  # type: ignore[no-any-return]
        if step.resources:
            made = with_resources(made)
        result: Any = node.func(*made.arguments, **made.by_keyword)
    else:
        result = node.func(*[values[slot] for slot in step.positional])
    kind = type(result)
    if kind not in PLAIN or (kind is dict and step.read_often and held_iterator(result) is not None):
        if kind is GeneratorType and node.is_generator:
            result = list(result)
        elif needs_await(node, result):
            result = wait_for(Unawaited(node, result))
        if step.read_often:
            return split(step, result)
    return (result,) if len(step.outputs) == 1 else split(step, result)


async def call_async(step: CallStep, values: Sequence[Any]) -> tuple[Any, ...]:
    """Call an `async def` function in a running event loop; see `call`."""
    node = step.node
    if step.is_prepared:
        made = prepare(step, values)
        if made.items is not None:
            (outputs,) = (await make_async(made)).outputs
            return outputs  # type: ignore[no-any-return]
        if step.resources:
            made = await _with_resources_of_loop(made)
        result: Any = await node.func(*made.arguments, **made.by_keyword)
    else:
        result = await node.func(*[values[slot] for slot in step.positional])
    if type(result) not in PLAIN and needs_await(node, result):
        result = await Unawaited(node, result)
    if len(step.outputs) == 1 and not step.read_often:
        return (result,)
    return split(step, result)


def outputs_of(call: Call, result: Any) -> tuple[Any, ...]:
    """Return what the function of a call returned as `Returned.outputs`; see `split`.

    Raises:
        BatchResultError: A batched node did not return one result per item.
    """
    if call.items is None:
        return split(call.step, result)
    from hypernodes.engine.batch_results import results_of_items  # only batched nodes need it

    step = call.step
    found = results_of_items(step.node, result, call.items)
    if step.read_often:
        for outputs in found:
            _check_each_read_once(step, outputs)
    return tuple(found)


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
        if step.read_often:
            _check_each_read_once(step, outputs)
        return outputs
    got = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
    raise OutputCountError(
        f"node {step.node.name!r} must return a tuple of {len(names)} values ({', '.join(names)}); it returned {got}",
        node_name=step.node.name,
        expected=names,
    )


def _check_each_read_once(step: CallStep, outputs: Sequence[Any]) -> None:
    for position, _ in step.read_often:
        slot = step.outputs[position]
        assert slot is not None  # it is read
        check_read_once(step, slot, outputs[position])


def check_read_once(step: Step, slot: int, value: Any) -> None:
    """Refuse a result that can be read only once, where it is read more often; warn of one that holds such a thing.

    Args:
        step: The step that made it.
        slot: Its slot.
        value: The result.

    Raises:
        ExecutionError: It can be read only once.
    """
    if not isinstance(step, CallStep):
        return
    held = held_iterator(value)
    if held is not None:
        position = step.outputs.index(slot)
        name, readers = step.node.outputs[position], dict(step.read_often)[position]
        warn_at_function(
            step.node.func,
            f"node {step.node.name!r} returned {holding(value, held, name)}, which can be read only once, and "
            f"{listing(readers, 'gets it', 'get it')}: all but the first find nothing. Return a list there",
            HyperNodesWarning,
        )
    elif is_read_once(value):
        position = step.outputs.index(slot)
        name, readers = step.node.outputs[position], dict(step.read_often)[position]
        raise ExecutionError(
            f"node {step.node.name!r} returned {kind_of(value)} for {name!r}, which can be read only once, but "
            f"{listing(readers)}. Return {remedy(value, '...')}",
            node_name=step.node.name,
            readers=readers,
        )


def locate(
    error: BaseException,
    plan: Plan,
    step: Step,
    base: CallbackContext,
    backend_name: str,
    item_index: int | None = None,
    values: Sequence[Any] = (),
) -> tuple[str, ...]:
    """Add a note to `error` that says where it was raised: pipeline path, node, map items, input names and backend.

    Another note says if the node got failed items that it may not have known what to do with.

    Args:
        error: The error.
        plan: The plan that was running.
        step: The step that raised.
        base: Context of the plan's outermost scope.
        backend_name: Name of the backend.
        item_index: Index of the map item; None when the plan is not executed as a map item.
        values: Value of every slot, as far as they are known here.

    Returns:
        The names of the pipelines that contain the step, outermost first, followed by the name of its node.
    """
    path = path_of(plan, step, base)
    location = f" ({step.node.location})" if step.node.location else ""
    item_path = base.item_path if item_index is None else (*base.item_path, item_index)
    items = f", map item {' → '.join(map(str, item_path))}" if item_path else ""
    add_note(
        error,
        f"in node {step.node.name!r}{location} of pipeline {' → '.join(path)}{items}; "
        f"its inputs: {', '.join(step.node.inputs) or 'none'}; backend: {backend_name}",
    )
    hint_at_event_loops(error)
    if values and isinstance(step, CallStep):
        hint_at_failures(error, step, values)
        is_recorded = _record_call(error, plan, step, values)
        if is_recorded and not item_path and isinstance(error, Exception):
            _add_replay_note(error)
    return (*path, step.node.name)


def _record_call(error: BaseException, plan: Plan, step: CallStep, values: Sequence[Any]) -> bool:
    """Record in an error which call raised it; return whether that was possible."""
    known = [UNSET if isinstance(value, NotTransferred) else value for value in values]
    is_missing = any(known[slot] is UNSET for slot in step.arguments)
    try:
        given = known if is_missing else _as_given(step, known)
        inputs = {name: given[slot] for name, slot in step.named if given[slot] is not UNSET}
        interrupted = Interrupted(plan, step, known) if is_missing else None
        object.__setattr__(error, FAILED_CALL, FailedCall(step.node, inputs, interrupted))
    except Exception:  # an exception without attributes, or lists that do not go together
        return False
    return True


def _add_replay_note(error: BaseException) -> None:
    if REPLAY_NOTE not in getattr(error, "__notes__", ()):
        add_note(error, REPLAY_NOTE)


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
