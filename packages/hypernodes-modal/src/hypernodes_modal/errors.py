"""What can go wrong with Modal, as exceptions that say what happened and what to do."""

from __future__ import annotations

from hypernodes import RemoteError, WorkerLostError


class ModalSetupError(RemoteError):
    """Nothing ran: no credentials, an image that cannot be built, something that Modal does not know."""


class ModalConnectionError(RemoteError):
    """The connection to Modal was lost for good, or too long.

    Attributes:
        call_id: Id of the function call, which may still go on; empty when none was started.
    """

    call_id: str


class ModalTimeoutError(RemoteError, TimeoutError):
    """The container did not finish in time.

    Attributes:
        timeout_s: The limit of the backend, in seconds; None when it was another one's.
    """

    timeout_s: int | None


class ContainerLostError(WorkerLostError):
    """The container ended before the job did: killed, out of memory, preempted, stopped from outside."""


class ModalEnvironmentError(RemoteError):
    """What is installed in the container does not fit what is installed here."""
