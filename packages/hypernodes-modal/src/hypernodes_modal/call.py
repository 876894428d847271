"""One remote function call: spawned, then polled by its id until it has an outcome."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any, NamedTuple

import modal
import modal.exception as modal_errors

from hypernodes.extension import Channel, start_thread
from hypernodes_modal.error_translation import BACKEND_NAME, TRANSIENT
from hypernodes_modal.errors import ContainerLostError, ModalConnectionError
from hypernodes_modal.event_loops import outside_event_loop
from hypernodes_modal.message_relay import MessageRelay
from hypernodes_modal.queue_transport import MessageBacklog

_POLL_S = 5.0
_PAUSES_S = (0.1, 2.0)


class CallContext(NamedTuple):
    """What a container needs for a job besides its bytes.

    Attributes:
        callable_backends: Specs of the backends that nested pipelines ask for, by their number in the job (see
            `callable_backends.CallableBackendSpec`).
        volumes: Volumes that hold a cache, to be reloaded before and committed after the job.
        has_caches: Whether the caller stores results while the job runs.
        begins_once: Whether a second container that gets the job, because the first was lost, does not begin it: the
            caller gives out again what was not done.
        shared: Holds what the job shares with others; None if it shares nothing.
    """

    callable_backends: list[Any]
    volumes: list[modal.Volume]
    has_caches: bool
    begins_once: bool = False
    shared: modal.Dict | None = None


BEGUN_BEFORE = b""
"""What is returned for a job that another container had begun."""


class JobCall:
    """A call of the function that runs jobs.

    Args:
        function: The function.
        patience_s: How long to retry while the connection is lost, in seconds.
        context: What the container needs besides the job.

    Attributes:
        call_id: Id of the call; empty before it was started.
    """

    def __init__(self, function: Any, patience_s: float, context: CallContext) -> None:
        self._function = function
        self._context = context
        self._patience_s = patience_s
        self._call: modal.FunctionCall[tuple[bytes, MessageBacklog | None]] | None = None
        self._is_cancelled = threading.Event()

    @property
    def call_id(self) -> str:
        return self._call.object_id if self._call is not None else ""

    def run(self, job: bytes, channel: Channel) -> bytes:
        """Execute a job; return its outcome.

        Raises:
            modal.exception.Error: The error that Modal reported.
            ContainerLostError: Another container had begun it, and was lost.
            ModalConnectionError: It is not known whether the call was started.
        """
        with ExitStack() as stack:
            queue = stack.enter_context(modal.Queue.ephemeral()) if channel.has_listeners else None
            self._spawn(job, queue)
            channel.when_cancelled(lambda: outside_event_loop(self.cancel))
            relay = backlog = None
            if queue is not None:
                relay = MessageRelay(queue, channel.handle)
                start_thread(relay)
            try:
                outcome, backlog = self._wait()
                if outcome == BEGUN_BEFORE:
                    raise ContainerLostError(
                        "the container that executed a job was lost: killed, preempted, or out of memory",
                        backend_name=BACKEND_NAME,
                        exit_code=None,
                        log_tail="",
                    )
                return outcome
            except BaseException:
                # Also when only this side gives up, on an interrupt or a lost connection: nobody would take the result.
                self.cancel()
                raise
            finally:
                if relay is not None:
                    relay.finish(backlog)

    def cancel(self) -> None:
        """End the call and its container."""
        self._is_cancelled.set()
        if self._call is not None:
            with suppress(modal_errors.Error):  # the call has ended, or Modal cannot be reached
                self._call.cancel(terminate_containers=True)

    def _spawn(self, job: bytes, queue: modal.Queue | None) -> None:
        try:
            self._call = self._function.spawn(job, queue, self._context)
        except TRANSIENT as error:
            # Not retried: if the request arrived and only its reply was lost, the work would be done twice.
            raise ModalConnectionError(
                f"the connection to Modal was lost while the call was being started: {error}. It is not known whether "
                "the call was started; `close()` of the backend ends it if so. Nothing else is lost: run it again.",
                call_id="",
                backend_name=BACKEND_NAME,
            ) from error
        if self._is_cancelled.is_set():
            self.cancel()

    def _wait(self) -> tuple[bytes, MessageBacklog | None]:
        assert self._call is not None
        lost_since: float | None = None
        pause_s = _PAUSES_S[0]
        while True:
            try:
                return self._call.get(timeout=_POLL_S)
            except (modal_errors.FunctionTimeoutError, modal_errors.OutputExpiredError):
                raise
            except TimeoutError:  # still running
                lost_since, pause_s = None, _PAUSES_S[0]
            except (*TRANSIENT, modal_errors.ResourceExhaustedError, modal_errors.TimeoutError):
                now = monotonic()
                lost_since = now if lost_since is None else lost_since
                # Nobody waits any more for what was cancelled: Modal will hear of it, or stop the app by itself.
                if self._is_cancelled.wait(pause_s) or now - lost_since > self._patience_s:
                    raise
                pause_s = min(2 * pause_s, _PAUSES_S[1])
