"""Calls that failed, which errors refer to, so that they can be made again (`hypernodes.replay`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hypernodes.nodes import Node
from hypernodes.plan import CallStep, Plan

_LARGEST_SENT_BYTES = 1_000_000


class NotSent:
    """Stands for an input that did not come back with an error from another process.

    Args:
        text: What it is.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"<{self._text}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return NotSent, (self._text,)


class Interrupted(NamedTuple):
    """What is known of an execution of a plan in which a call failed.

    Attributes:
        plan: The plan.
        step: The call.
        values: Value of every slot, as far as they are known.
    """

    plan: Plan
    step: CallStep
    values: Sequence[Any]


class FailedCall:
    """A call that failed.

    Pickled by anything but a remote job it becomes None, since an error has to arrive wherever its inputs can.

    Attributes:
        node: The node.
        inputs: What its function got, by the names of its parameters; without what is not known in this process.
        interrupted: What the other inputs can be computed from; None if all are known.
    """

    __slots__ = ("inputs", "interrupted", "node")

    def __init__(self, node: Node[..., Any], inputs: Mapping[str, Any], interrupted: Interrupted | None = None) -> None:
        self.node = node
        self.inputs = dict(inputs)
        self.interrupted = interrupted

    def reduce_to_send(self, can_be_sent: Callable[[Any], bool]) -> tuple[Any, ...]:
        """Reduce it, for pickle, to the node and to those inputs that can be sent and are not large."""
        from hypernodes.cache.size import estimate_size_bytes

        sent: dict[str, Any] = {}
        for name in self.node.inputs:
            if name not in self.inputs:
                sent[name] = NotSent("a value that only a worker process there knew")
                continue
            value = sent[name] = self.inputs[name]
            size = estimate_size_bytes(value)
            if size > _LARGEST_SENT_BYTES or not can_be_sent(value):
                sent[name] = NotSent(f"{type(value).__name__} of about {size:,} bytes, which was not sent back")
        return FailedCall, (self.node, sent)

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


def _nothing() -> None:
    return None
