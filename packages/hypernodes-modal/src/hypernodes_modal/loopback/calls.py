"""Function calls: the inputs that belong together, and their outputs in the order in which they came."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modal_proto import api_pb2

from hypernodes_modal.loopback.inputs import Input
from hypernodes_modal.loopback.notifications import ChangeNotifier

if TYPE_CHECKING:
    from hypernodes_modal.loopback.functions import Function

_ASYNC = (
    api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
    api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC_LEGACY,
)


@dataclass(eq=False)
class FunctionCall:
    """One call of a function: `.remote()` and `.spawn()` have one input, `.map()` one per item.

    Attributes:
        id: Its identifier.
        function: What is called.
        invocation_type: Whether the client waits for it; it decides who retries.
        is_map: Whether it is a map.
        inputs: By position.
        unfinished: How many inputs have no final output yet.
        chunks: What a generator yielded, by position from 1.
        changed: Notified on every new output and chunk.
    """

    id: str
    function: Function
    invocation_type: api_pb2.FunctionCallInvocationType.ValueType
    is_map: bool
    inputs: dict[int, Input] = field(default_factory=dict)
    unfinished: int = 0
    chunks: list[api_pb2.DataChunk] = field(default_factory=list)
    changed: ChangeNotifier = field(default_factory=ChangeNotifier)
    created_at: float = field(default_factory=time.time)
    _outputs: list[Input | None] = field(default_factory=list)

    @property
    def is_async(self) -> bool:
        """Whether it was spawned: then the control plane retries, otherwise the client."""
        return self.invocation_type in _ASYNC

    def add_input(self, given: Input) -> None:
        """The call has another input."""
        self.inputs[given.idx] = given
        self.unfinished += 1

    def add_output(self, finished: Input) -> None:
        """An input has its output."""
        self._outputs.append(finished)
        self.unfinished -= 1
        self.changed.notify()

    def forget_output(self, finished: Input) -> None:
        """Take an output out of those to be handed over."""
        self._outputs = [None if entry is finished else entry for entry in self._outputs]

    def outputs_after(
        self, entry: int, first_idx: int | None, last_idx: int | None, limit: int
    ) -> list[tuple[int, Input]]:
        """Outputs that came after some entry, with the number of the entry of each.

        Args:
            entry: Number of the last entry the client has; 0 for none.
            first_idx: Only inputs from this position on.
            last_idx: Only inputs up to this position, included.
            limit: At most so many.
        """
        found = [
            (number, given)
            for number, given in enumerate(self._outputs[entry:], entry + 1)
            if given is not None
            and given.output is not None
            and (first_idx is None or given.idx >= first_idx)
            and (last_idx is None or given.idx <= last_idx)
        ]
        return found[:limit]

    def add_chunks(self, chunks: Iterable[api_pb2.DataChunk]) -> None:
        """Keep what a generator yielded; what is sent a second time is ignored."""
        for chunk in chunks:
            if chunk.index == len(self.chunks) + 1:
                self.chunks.append(chunk)
        self.changed.notify()
