"""What happened on a control plane, for tests to look at."""

from __future__ import annotations

from dataclasses import dataclass

from hypernodes_modal.loopback.calls import FunctionCall
from hypernodes_modal.loopback.containers import Container
from hypernodes_modal.loopback.inputs import Input, Result


@dataclass
class RpcRecord:
    """A remote procedure call that was received.

    Attributes:
        name: The procedure, as in Modal's protocol ("FunctionMap").
        caller: "client", or the container's id.
        at: When, in seconds since 1970.
        is_repeated: Whether it was asked before and the answer did not get through.
    """

    name: str
    caller: str
    at: float
    is_repeated: bool = False


@dataclass(frozen=True)
class InputRecord:
    """One input of a function call.

    Attributes:
        idx: Its position.
        state: "pending", "running", "delayed", "finished" or "cancelled".
        container_ids: The containers that had it, in order; more than one if one was lost or it was retried.
        retry_count: How often it was tried again because the function failed.
        status: Of the output, without its prefix: "SUCCESS", "FAILURE", "TIMEOUT" and so on; None without an output.
    """

    idx: int
    state: str
    container_ids: tuple[str, ...]
    retry_count: int
    status: str | None


@dataclass(frozen=True)
class CallRecord:
    """One remote function call.

    Attributes:
        id: Its identifier.
        function_name: Name of the function.
        app_id: The app it belongs to.
        is_spawned: Whether the caller did not wait for it.
        is_map: Whether it is a map.
        inputs: By position.
    """

    id: str
    function_name: str
    app_id: str
    is_spawned: bool
    is_map: bool
    inputs: tuple[InputRecord, ...]


@dataclass(frozen=True)
class ContainerRecord:
    """One container.

    Attributes:
        id: Its identifier.
        function_name: What it runs.
        pid: Its process; None if there is none yet.
        state: "starting", "ready", "stopping" or "ended".
        exit_code: As a shell would show it; None while it runs.
        end_reason: Why it ended: "idle", "crashed", "timeout" and so on; see `containers.EndReason`.
        inputs_taken: How many inputs it was given.
        cold_start_s: Time from the decision to start it until it asked for an input, in seconds.
    """

    id: str
    function_name: str
    pid: int | None
    state: str
    exit_code: int | None
    end_reason: str | None
    inputs_taken: int
    cold_start_s: float | None


def call_record(call: FunctionCall) -> CallRecord:
    """What to show of a function call."""
    return CallRecord(
        id=call.id,
        function_name=call.function.name,
        app_id=call.function.app_id,
        is_spawned=call.is_async,
        is_map=call.is_map,
        inputs=tuple(_input_record(given) for _, given in sorted(call.inputs.items())),
    )


def container_record(container: Container) -> ContainerRecord:
    """What to show of a container."""
    return ContainerRecord(
        id=container.id,
        function_name=container.function.name,
        pid=container.process.pid if container.process else None,
        state=container.state.value,
        exit_code=container.exit_code,
        end_reason=container.end_reason.value if container.end_reason else None,
        inputs_taken=container.inputs_taken,
        cold_start_s=container.ready_at - container.started_at if container.ready_at else None,
    )


def _input_record(given: Input) -> InputRecord:
    status = None
    if given.output is not None:
        status = Result.GenericStatus.Name(given.output.result.status).removeprefix("GENERIC_STATUS_")
    return InputRecord(
        idx=given.idx,
        state=given.state.value,
        container_ids=tuple(given.container_ids),
        retry_count=given.retry_count,
        status=status,
    )
