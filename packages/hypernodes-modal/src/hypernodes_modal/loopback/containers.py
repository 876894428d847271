"""One container: the state of a process that works on inputs of one function."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hypernodes_modal.loopback.notifications import ChangeNotifier

if TYPE_CHECKING:
    from modal_proto import api_pb2

    from hypernodes_modal.loopback.functions import Function
    from hypernodes_modal.loopback.inputs import Input


class ContainerState(enum.Enum):
    """Where a container is in its life."""

    STARTING = "starting"
    READY = "ready"  # has asked for an input
    STOPPING = "stopping"  # gets no more inputs
    ENDED = "ended"


class EndReason(enum.Enum):
    """Why a container ended."""

    IDLE = "idle"  # nothing to do for the scaledown window
    SINGLE_USE = "single use"
    APP_STOPPED = "app stopped"
    REPLACED = "replaced"  # its function was deployed again
    TIMEOUT = "timeout"  # an input took too long
    START_TIMEOUT = "start timeout"
    CANCELLED = "cancelled"  # an input was cancelled and asked for that, or did not heed the cancellation
    KILLED = "killed"  # misbehaviour that was asked for
    PREEMPTED = "preempted"  # misbehaviour that was asked for
    OUT_OF_MEMORY = "out of memory"  # misbehaviour that was asked for
    CRASHED = "crashed"  # it ended by itself, though it should not have


@dataclass(eq=False)
class Container:
    """A container.

    Attributes:
        id: Its identifier, which Modal calls a task id.
        function: What it runs.
        state: Where it is in its life.
        directory: Where its files are, and its socket.
        inputs: The inputs it has now, by identifier.
        inputs_taken: How many inputs it ever had.
        cancellations: Inputs it is to be told to cancel.
        process: Its process, once started; leader of a process group of its own.
        exit_code: As a shell would show it: 137 for a process that was killed.
        end_reason: Why it ended or is about to.
        start_failure: What it reported when its code could not be imported.
    """

    id: str
    function: Function
    directory: Path
    state: ContainerState = ContainerState.STARTING
    inputs: dict[str, Input] = field(default_factory=dict)
    inputs_taken: int = 0
    cancellations: list[str] = field(default_factory=list)
    cancelled: ChangeNotifier = field(default_factory=ChangeNotifier)
    process: asyncio.subprocess.Process | None = None
    exit_code: int | None = None
    end_reason: EndReason | None = None
    start_failure: api_pb2.GenericResult | None = None
    started_at: float = field(default_factory=time.time)
    ready_at: float | None = None
    idle_since: float = field(default_factory=time.monotonic)
    last_lines: list[str] = field(default_factory=list)

    @property
    def is_alive(self) -> bool:
        """Whether it may take further inputs, now or once it has started."""
        return self.state in (ContainerState.STARTING, ContainerState.READY)

    @property
    def free_slots(self) -> int:
        """How many more inputs it can take."""
        if not self.is_alive or (self.function.is_single_use and self.inputs_taken):
            return 0
        return self.function.inputs_at_once - len(self.inputs)

    @property
    def root(self) -> Path:
        """The directory that is `/` in the container."""
        return self.directory / "root"

    @property
    def socket(self) -> Path:
        """Where it reaches the control plane. Short, since the length of such a path is limited."""
        return self.directory / "s"

    def cancel(self, input_id: str) -> None:
        """Have it told to end an input."""
        self.cancellations.append(input_id)
        self.cancelled.notify()

    def kill(self, reason: EndReason) -> None:
        """End all its processes at once."""
        self._end(reason, signal.SIGKILL)

    def interrupt(self, reason: EndReason) -> None:
        """Ask it to end, as Modal does before it takes a container away."""
        self._end(reason, signal.SIGINT)

    def retire(self, reason: EndReason) -> None:
        """Give it no more inputs; it ends when it asks for the next."""
        if self.is_alive:
            self.state = ContainerState.STOPPING
            self.end_reason = self.end_reason or reason

    def kill_group(self) -> None:
        """Kill what is left of its process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _end(self, reason: EndReason, with_signal: signal.Signals) -> None:
        if self.state is ContainerState.ENDED:
            return
        self.state = ContainerState.STOPPING
        if self.end_reason in (None, EndReason.IDLE) or with_signal == signal.SIGKILL:
            self.end_reason = self.end_reason if self.end_reason is EndReason.PREEMPTED else reason
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, with_signal)
