"""Calls of nodes that failed, made again here with the same inputs."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from hypernodes.checks import shown
from hypernodes.engine.awaitables import Unawaited, needs_await
from hypernodes.engine.batch_results import results_of_items
from hypernodes.engine.drivers.waiting import Waiter
from hypernodes.engine.failed_calls import FailedCall, Interrupted, NotSent
from hypernodes.engine.step import call as call_step
from hypernodes.engine.step import prepare
from hypernodes.errors import ConfigurationError, ExecutionError
from hypernodes.failure import FAILED_CALL, Failure
from hypernodes.plan import UNSET, CallStep
from hypernodes.resources import use


def replay(failed: Failure | BaseException, *, debugger: bool = False) -> Any:
    """Call the function of a node that failed once more, in this process and thread, with the same inputs.

    Inputs that only a worker process knew are computed again first. Retries, time limits, callbacks and caches play no
    part.

    Args:
        failed: A failed item, or the error that a run raised.
        debugger: Whether to open Python's debugger where the function raises.

    Returns:
        What the function returns, if it does not fail again.

    Raises:
        ExecutionError: It is not known what the function got: the error was raised elsewhere, or came from another
            process without its inputs, because they are large or cannot be sent.
        Exception: The error of the function.

    Example:
        >>> from hypernodes import Pipeline, failures, node, replay
        >>> @node(output_name="inverse")
        ... def invert(x):
        ...     return 1 / x
        >>> found = Pipeline(nodes=[invert]).map(inputs={"x": [1, 0]}, map_over="x", on_error="collect")
        >>> failure = failures(found)[0]
        >>> failure.inputs
        {'x': 0}
        >>> replay(failure)
        Traceback (most recent call last):
        ...
        ZeroDivisionError: division by zero
    """
    error = failed.error if isinstance(failed, Failure) else failed
    if not isinstance(error, BaseException):
        raise ConfigurationError(f"replay takes a Failure or the error of a run; got {shown(failed)}")
    known: FailedCall | None = getattr(error, FAILED_CALL, None)
    if known is None:
        raise ExecutionError(
            f"it is not known which call raised {type(error).__name__}: no node did, or it came from another process "
            "that could not send the inputs with it"
        )
    arguments = _complete(known)
    lacking = {name: value for name, value in arguments.items() if isinstance(value, NotSent)}
    if lacking:
        listing = ", ".join(f"{name!r} is {value!r}" for name, value in lacking.items())
        raise ExecutionError(
            f"node {known.node.name!r} cannot be called again with the same inputs: {listing}. Run the item here, e.g. "
            "with the pipeline on LocalBackend()",
            node_name=known.node.name,
        )
    return _called(known, arguments, debugger)


def _complete(known: FailedCall) -> Mapping[str, Any]:
    """Return all inputs of a call; those that are not known here are computed."""
    if known.interrupted is None:
        return known.inputs
    plan, step, values = known.interrupted
    values = list(values)
    waiter = Waiter()
    try:
        for index in sorted(_needed(known.interrupted)):
            upstream = plan.steps[index]
            if not isinstance(upstream, CallStep):
                raise ExecutionError(
                    f"the inputs of node {step.node.name!r} are not known here, and depend on {upstream.node.name!r}",
                    node_name=step.node.name,
                )
            outputs = call_step(upstream, values, waiter.wait_for)
            for slot, value in zip(upstream.outputs, outputs, strict=True):
                if slot is not None and values[slot] is UNSET:
                    values[slot] = value
    finally:
        waiter.close()
    if step.node.batching is not None:
        return {name: values[slot] for name, slot in step.named}
    made = prepare(step, values)
    positional = [name for name in step.node.inputs if name not in step.node.keyword_only]
    return {**dict(zip(positional, made.arguments, strict=True)), **made.by_keyword}


def _needed(interrupted: Interrupted) -> set[int]:
    """Return the positions of the steps that make what is not known."""
    found: set[int] = set()
    stack: list[Sequence[int]] = [interrupted.step.arguments]
    while stack:
        for slot in stack.pop():
            for maker in interrupted.plan.makers(slot) if interrupted.values[slot] is UNSET else ():
                if maker not in found:
                    found.add(maker)
                    stack.append(interrupted.plan.steps[maker].arguments)
    return found


def _called(known: FailedCall, arguments: Mapping[str, Any], debugger: bool) -> Any:
    node = known.node
    names = [name for name in node.inputs if name in arguments]
    values = dict(zip(names, use([arguments[name] for name in names]), strict=True))
    if node.batching is not None:
        values |= {name: [values[name]] for name in node.batching.over}
    positional = [values[name] for name in names if name not in node.keyword_only]
    by_keyword = {name: values[name] for name in names if name in node.keyword_only}
    try:
        result = node.func(*positional, **by_keyword)
        if node.is_generator and isinstance(result, Generator):
            return list(result)
        if needs_await(node, result):
            waiter = Waiter()
            try:
                result = waiter.wait_for(Unawaited(node, result))
            finally:
                waiter.close()
        if node.batching is not None:
            (outputs,) = results_of_items(node, result, 1)
            return outputs[0] if len(outputs) == 1 else outputs
        return result
    except BaseException as error:
        if debugger:
            import pdb

            pdb.post_mortem(error.__traceback__)
        raise
