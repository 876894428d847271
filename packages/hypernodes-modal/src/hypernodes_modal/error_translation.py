"""Translates the exceptions of Modal's client into errors that say what happened and what to do."""

from __future__ import annotations

from typing import Any

import modal.exception as modal_errors

from hypernodes import RemoteError
from hypernodes_modal.errors import (
    ContainerLostError,
    ModalConnectionError,
    ModalEnvironmentError,
    ModalSetupError,
    ModalTimeoutError,
)

BACKEND_NAME = "modal"

# Errors of the connection: the call continues in the cloud, so the same call is polled again.
TRANSIENT = (modal_errors.ConnectionError, modal_errors.ServiceError, modal_errors.InternalError, ConnectionError)

_CACHE_NOTE = "Results that were computed before are stored in the cache, if there is one."


def translate(error: BaseException, timeout_s: int | None, *, call_id: str = "", gpu: Any = None) -> RemoteError:
    """Return the error to raise for an exception of Modal's client.

    Args:
        error: The exception.
        timeout_s: Time limit of the backend, in seconds; None when it is unknown.
        call_id: Id of the call; empty when none was started.
        gpu: The requested kinds of GPU, which only Modal can check.
    """
    text = str(error).strip().rstrip(".") or type(error).__name__
    facts: dict[str, Any] = {"backend_name": BACKEND_NAME}
    match error:
        case modal_errors.AuthError():
            return ModalSetupError(
                f"Modal does not accept the credentials: {text}. Run `modal setup`, or set MODAL_TOKEN_ID and "
                "MODAL_TOKEN_SECRET; without an account, use hypernodes_modal.loopback.",
                **facts,
            )
        case modal_errors.ImageBuildError():
            return ModalSetupError(f"the image cannot be built: {text}", **facts)
        case modal_errors.FunctionTimeoutError() | modal_errors.OutputExpiredError():
            limit = "its timeout" if timeout_s is None else f"timeout={timeout_s} s"
            return ModalTimeoutError(
                f"the container did not finish within {limit} ({text}). {_CACHE_NOTE} Give ModalBackend a larger "
                "timeout.",
                timeout_s=timeout_s,
                **facts,
            )
        case modal_errors.NotFoundError() | modal_errors.InvalidError():
            requested = f". The request was for gpu={gpu!r}" if gpu else ""
            return ModalSetupError(f"Modal refused the request: {text}{requested}", **facts)
        case modal_errors.ResourceExhaustedError():
            return ModalSetupError(f"Modal has no capacity for the request: {text}", **facts)
        case modal_errors.DeserializationError() | modal_errors.ExecutionError():
            return ModalEnvironmentError(
                f"the container could not take the call, or its answer cannot be read here: {text}. Compare Python and "
                "the packages in the image with those here, if it names a module or an attribute.",
                **facts,
            )
        case modal_errors.RemoteError() | modal_errors.InternalFailure():
            return ContainerLostError(
                f"the container was lost: {text}. {_CACHE_NOTE}{_advice(text)}", exit_code=None, log_tail=text, **facts
            )
        case _ if isinstance(error, TRANSIENT):
            status = f" The call {call_id} may still be running." if call_id else " No call was started."
            return ModalConnectionError(
                f"the connection to Modal was lost: {text}.{status} {_CACHE_NOTE}", call_id=call_id, **facts
            )
        case _:
            return RemoteError(f"Modal failed: {type(error).__name__}: {text}. {_CACHE_NOTE}", **facts)


def _advice(text: str) -> str:
    if "137" in text or "memory" in text.lower():
        return " If it ran out of memory, give ModalBackend more (memory=), or fewer workers (max_workers=)."
    return ""
