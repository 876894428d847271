"""Exceptions of `ModalBackend`; each message says what happened and what to do."""

from __future__ import annotations

from hypernodes import RemoteError, WorkerLostError


class ModalSetupError(RemoteError):
    """Nothing was run: no credentials, an image that cannot be built, a name that Modal does not know."""


class ModalConnectionError(RemoteError):
    """The connection to Modal was lost, and did not come back in time.

    Attributes:
        call_id: Id of the function call, which may still be running; empty when none was started.
    """

    call_id: str


class ModalTimeoutError(RemoteError, TimeoutError):
    """The container did not finish in time.

    Attributes:
        timeout_s: Time limit of the backend, in seconds; None when it is unknown, as for a deployed app.
    """

    timeout_s: int | None


class ContainerLostError(WorkerLostError):
    """The container ended before the job did: it was killed, preempted or stopped, or ran out of memory."""


class ModalEnvironmentError(RemoteError):
    """The container could not take the call, or its answer cannot be read here."""
