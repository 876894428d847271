"""One input of a function call, from when it is sent until its output is final: a small state machine."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modal_proto import api_pb2

if TYPE_CHECKING:
    from hypernodes_modal.loopback.calls import FunctionCall
    from hypernodes_modal.loopback.containers import Container

Result = api_pb2.GenericResult


class InputState(enum.Enum):
    """Where an input is. See `_NEXT` for what can follow what."""

    PENDING = "pending"  # waits for a container
    RUNNING = "running"  # a container has it
    DELAYED = "delayed"  # failed, and will be tried again after a while
    FINISHED = "finished"  # has an output: a value, an exception, a time-out or a lost container
    CANCELLED = "cancelled"  # has an output that says so


_NEXT = {
    InputState.PENDING: {InputState.RUNNING, InputState.FINISHED, InputState.CANCELLED},
    InputState.RUNNING: {InputState.PENDING, InputState.DELAYED, InputState.FINISHED, InputState.CANCELLED},
    InputState.DELAYED: {InputState.PENDING, InputState.CANCELLED},
    InputState.FINISHED: {InputState.PENDING},  # only by a retry that the client asks for
    InputState.CANCELLED: set(),
}


@dataclass(eq=False)
class Input:
    """One input.

    Attributes:
        id: Its identifier.
        call: The function call it belongs to.
        idx: Its position in the call.
        payload: The arguments, as the client sent them.
        state: Where it is.
        retry_count: How often it was tried again because the function failed. The client counts too, and takes an
            output with another number for one that came too late.
        losses: How often its container died under it.
        container: The container that has it, while it runs.
        container_ids: Every container that ever had it, in order.
        output: The final output, if there is one.
        is_cancelling: Whether its container was asked to end it.
    """

    id: str
    call: FunctionCall
    idx: int
    payload: api_pb2.FunctionInput
    state: InputState = InputState.PENDING
    retry_count: int = 0
    losses: int = 0
    container: Container | None = None
    container_ids: list[str] = field(default_factory=list)
    started_at: float = 0.0
    output: api_pb2.FunctionGetOutputsItem | None = None
    is_cancelling: bool = False

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.state in (InputState.FINISHED, InputState.CANCELLED)

    def start(self, container: Container) -> None:
        """A container takes it."""
        self._become(InputState.RUNNING)
        self.container = container
        self.container_ids.append(container.id)
        self.started_at = time.time()

    def finish(self, result: Result, data_format: api_pb2.DataFormat.ValueType = api_pb2.DATA_FORMAT_PICKLE) -> None:
        """It has an output."""
        cancelled = result.status == Result.GENERIC_STATUS_TERMINATED
        self._become(InputState.CANCELLED if cancelled else InputState.FINISHED)
        self.output = api_pb2.FunctionGetOutputsItem(
            result=result,
            idx=self.idx,
            input_id=self.id,
            data_format=data_format,
            task_id=self.container_ids[-1] if self.container_ids else "",
            input_started_at=self.started_at,
            output_created_at=time.time(),
            retry_count=self.retry_count,
        )
        self.container = None
        self.call.add_output(self)

    def delay(self) -> None:
        """It failed, and waits before it is tried again."""
        self._become(InputState.DELAYED)
        self.container = None
        self.retry_count += 1

    def put_back(self) -> None:
        """Wait for a container again: the last one died, or the delay is over."""
        self._become(InputState.PENDING)
        self.container = None

    def retry(self, payload: api_pb2.FunctionInput, retry_count: int) -> None:
        """The client wants it tried again after it failed."""
        self._become(InputState.PENDING)
        self.call.unfinished += 1
        self.output = None
        self.payload = payload
        self.retry_count = retry_count

    def _become(self, state: InputState) -> None:
        if state not in _NEXT[self.state]:
            raise ValueError(f"input {self.id} is {self.state.value} and cannot become {state.value}")
        self.state = state
