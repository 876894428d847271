"""What Modal raises, in the words of this library: what happened and what to do."""

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

# The call goes on in the cloud whatever happens to the connection: the same call is asked about again.
TRANSIENT = (modal_errors.ConnectionError, modal_errors.ServiceError, modal_errors.InternalError, ConnectionError)

_KEPT = "What it had computed before is kept in the cache, if there is one."


def translate(error: BaseException, timeout_s: int | None, call_id: str = "", gpu: Any = None) -> RemoteError:
    """Return an error of ours for one that Modal raised.

    Args:
        error: What was raised.
        timeout_s: Time limit of the backend.
        call_id: Id of the call; empty when none was started.
        gpu: Kinds of GPU that were asked for, which only Modal can check.
    """
    text = str(error).strip().rstrip(".") or type(error).__name__
    facts: dict[str, Any] = {"place": BACKEND_NAME}
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
                f"the container did not finish within {limit} ({text}). {_KEPT} Give ModalBackend a larger timeout.",
                timeout_s=timeout_s,
                **facts,
            )
        case modal_errors.NotFoundError() | modal_errors.InvalidError():
            asked = f". It was asked for gpu={gpu!r}" if gpu else ""
            return ModalSetupError(f"Modal refused the request: {text}{asked}", **facts)
        case modal_errors.ResourceExhaustedError():
            return ModalSetupError(f"Modal has no room for it: {text}", **facts)
        case modal_errors.DeserializationError() | modal_errors.ExecutionError():
            return ModalEnvironmentError(
                f"what is installed in the container does not fit what is installed here: {text}", **facts
            )
        case modal_errors.RemoteError() | modal_errors.InternalFailure():
            return ContainerLostError(
                f"the container was lost: {text}. {_KEPT}{_advice(text)}", exit_code=None, log_tail=text, **facts
            )
        case _ if isinstance(error, TRANSIENT):
            where = f" The call {call_id} may still go on there." if call_id else " Nothing was started."
            return ModalConnectionError(
                f"the connection to Modal was lost: {text}.{where} {_KEPT}", call_id=call_id, **facts
            )
        case _:
            return RemoteError(f"Modal failed: {type(error).__name__}: {text}. {_KEPT}", **facts)


def _advice(text: str) -> str:
    if "137" in text or "memory" in text.lower():
        return " If it ran out of memory, give ModalBackend more (memory=), or fewer workers (max_workers=)."
    return ""
