"""Results that the control plane makes itself, where no container can: for lost, late and cancelled inputs."""

from __future__ import annotations

from modal_proto import api_pb2

from hypernodes_modal.loopback.containers import Container, EndReason
from hypernodes_modal.loopback.inputs import Result


def retry_delay_s(policy: api_pb2.FunctionRetryPolicy, retry_count: int) -> float:
    """How long to wait before a retry, in seconds.

    Args:
        policy: What the user asked for.
        retry_count: How many retries there were before.
    """
    delay_ms = policy.initial_delay_ms * (policy.backoff_coefficient or 1.0) ** retry_count
    return min(delay_ms, policy.max_delay_ms or delay_ms) / 1000


def failure(why: str, status: Result.GenericStatus.ValueType = Result.GENERIC_STATUS_FAILURE) -> Result:
    """A result that says that something went wrong."""
    return Result(status=status, exception=why)


def describe_loss(container: Container) -> str:
    """What to say when a container ended while it had an input."""
    memory = " (out of memory)" if container.end_reason is EndReason.OUT_OF_MEMORY else ""
    return (
        f"Runner failed with exit code: {container.exit_code}{memory}. Container {container.id} of function "
        f"{container.function.name!r} ended ({_reason(container)}) while it worked on an input."
    )


def describe_start_failure(container: Container) -> str:
    """What to say when containers of a function do not start."""
    said = "\n".join(container.last_lines[-20:])
    if container.exit_code is None:
        return f"{said}\nContainer {container.id} of function {container.function.name!r} could not be started."
    what = "did not start in time" if container.end_reason is EndReason.START_TIMEOUT else "ended while it started"
    return (
        f"Runner failed with exit code: {container.exit_code}. Container {container.id} of function "
        f"{container.function.name!r} {what}, as another did before. Its last words:\n{said}"
    )


def _reason(container: Container) -> str:
    return container.end_reason.value if container.end_reason else "unknown"
