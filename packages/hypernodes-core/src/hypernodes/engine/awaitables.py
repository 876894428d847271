"""Tells values from what has to be awaited first, whatever kind of function returned it."""

from __future__ import annotations

from collections.abc import Generator
from types import AsyncGeneratorType, CoroutineType, NoneType
from typing import Any, Protocol

from hypernodes.errors import ExecutionError, add_note
from hypernodes.nodes import Node

PLAIN = frozenset({NoneType, bool, int, float, complex, str, bytes, dict, set, frozenset})
"""Frequent types of values, told from others without a call."""


def needs_await(node: Node[..., Any], result: Any) -> bool:
    """Whether what a function returned is not its result yet: a coroutine, a future of asyncio, or one among several.

    Other objects with `__await__` are values, such as the references of Ray and Dask. The loops of `straight` look for
    coroutines only: their functions run outside of event loops, and make no futures.

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
        return hasattr(result, "_asyncio_future_blocking")
    return kind in (tuple, list) and len(node.outputs) > 1 and any(needs_await(node, part) for part in result)


class Permit(Protocol):
    """Allows a call to be made."""

    def release(self) -> None:
        """Record that the call is over."""


class ToAwait(Protocol):
    """What is awaited for a run; one that is not begun is closed, so that Python does not warn of it."""

    def __await__(self) -> Generator[Any, Any, Any]: ...

    def close(self) -> None: ...


class Unawaited:
    """What a function returned that has to be awaited, e.g. a coroutine; awaiting it gives the value of that.

    Args:
        node: The node whose function returned it.
        result: What it returned.
        duration_s: How long the call took.

    Attributes:
        node: The node whose function returned it.
        duration_s: How long the call took.
        permit: What allows the call, where those of the node are limited; it is released when this is closed.
    """

    __slots__ = ("_result", "duration_s", "node", "permit")

    def __init__(self, node: Node[..., Any], result: Any, duration_s: float = 0.0) -> None:
        self.node = node
        self._result = result
        self.duration_s = duration_s
        self.permit: Permit | None = None

    def take(self) -> Any:
        """Return what is to be awaited, which is then the caller's."""
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        """Close the coroutines that nobody will await, without a warning of Python's."""
        if self.permit is not None and self._result is not None:
            self.permit.release()
        result = self.take()
        for part in result if isinstance(result, (tuple, list)) and len(self.node.outputs) > 1 else (result,):
            if part is not None and needs_await(self.node, part) and hasattr(part, "close"):
                part.close()

    def __del__(self) -> None:
        self.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return _value_of(self.node, self.take()).__await__()


async def _value_of(node: Node[..., Any], result: Any) -> Any:
    while needs_await(node, result):
        if isinstance(result, (tuple, list)):
            result = tuple([await part if needs_await(node, part) else part for part in result])
        else:
            result = await result
    return result


_LOOP_HINT = (
    "a run has an event loop of its own, and locks, clients and the like work in one loop only: create them in a node "
    "and pass them on as its result, or await several `pipeline.arun(...)` in one loop of your own"
)
_LOOP_ERRORS = ("different event loop", "different loop", "Event loop is closed")


def hint_at_event_loops(error: BaseException) -> None:
    """Add a note to an error of asyncio about an object, such as a lock or a client, from another event loop."""
    has_hint = _LOOP_HINT in getattr(error, "__notes__", ())  # from a run inside of this one
    if isinstance(error, RuntimeError) and not has_hint and any(text in str(error) for text in _LOOP_ERRORS):
        add_note(error, _LOOP_HINT)
