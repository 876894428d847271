"""Tells values from what has to be awaited first, whatever kind of function returned it."""

from __future__ import annotations

from collections.abc import Sequence
from types import AsyncGeneratorType, CoroutineType, NoneType
from typing import Any

from hypernodes.errors import ExecutionError
from hypernodes.nodes import Node
from hypernodes.plan import Plan

PLAIN = frozenset({NoneType, bool, int, float, complex, str, bytes, dict, set, frozenset})
"""Frequent types of values, told from others without a call."""


def needs_await(node: Node[..., Any], result: Any) -> bool:
    """Whether what a function returned is not its result yet: a coroutine, a future of asyncio, or one among several.

    Other objects with `__await__` are values, such as the references of Ray and Dask.

    Raises:
        ExecutionError: It is an async generator.
    """
    kind = type(result)
    if kind is CoroutineType:
        return True
    if kind is AsyncGeneratorType:
        raise ExecutionError(
            f"node {node.name!r} returned an async generator, which is no result: return a list, e.g. "
            "`return [x async for x in ...]` in an `async def` function"
        )
    if hasattr(kind, "__await__"):
        return hasattr(kind, "send") or hasattr(result, "_asyncio_future_blocking")
    return kind in (tuple, list) and len(node.outputs) > 1 and any(needs_await(node, part) for part in result)


async def awaited(node: Node[..., Any], result: Any) -> Any:
    """Return the value of what `needs_await`."""
    while needs_await(node, result):
        if isinstance(result, (tuple, list)):
            result = tuple([await part if needs_await(node, part) else part for part in result])
        else:
            result = await result
    return result


def check_values(plan: Plan, results: Sequence[Any]) -> None:
    """Refuse coroutines among the last results of functions that returned values before.

    Others, of functions that return now this and now that, cause Python's warning that they were never awaited; to look
    at each result would take as long as a trivial function.

    Raises:
        ExecutionError: There is one.
    """
    for result in results:
        if type(result) is CoroutineType:
            plan.result_kinds.are_values, plan.result_kinds.vary = False, True
            result.close()
            raise ExecutionError(
                f"a node of pipeline {plan.scopes[0].pipeline_id!r} returned a coroutine ({result.__qualname__}) after "
                "calls that returned values: make it an `async def` function that awaits it"
            )


_LOOP_ERRORS = ("different event loop", "different loop", "Event loop is closed")


def hint_at_event_loops(error: BaseException) -> None:
    """Add a note to an error of asyncio about an object, such as a lock or a client, from another event loop."""
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _LOOP_ERRORS):
        error.add_note(
            "a run has an event loop of its own, and locks, clients and the like work in one loop only: create them in "
            "a node and pass them on as its result, or await several `pipeline.arun(...)` in one loop of your own"
        )
