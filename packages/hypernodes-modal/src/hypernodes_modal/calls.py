"""One call of the function that runs jobs: spawned, polled by its id, and spoken with while it runs."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from time import monotonic, sleep
from typing import Any, NamedTuple

import modal
import modal.exception as modal_errors

from hypernodes import RemoteBackend
from hypernodes.engine import ExecutionMode
from hypernodes.remote.channel import Channel
from hypernodes_modal import trouble
from hypernodes_modal.queues import Pump, Queues

_POLL_S = 5.0
_PATIENCE_S = 120.0  # with a lost connection, before a call is given up
_FIRST_PAUSE_S = 0.2


class Handle(NamedTuple):
    """What a container needs to call the function of another backend.

    Attributes:
        function: The function, of an app that runs.
        timeout: Its time limit, in seconds.
        node_execution: How the nodes of one run are executed there.
        map_execution: How the items of a map are executed there.
        max_workers: The largest number of calls at a time there.
    """

    function: Any
    timeout: int | None
    node_execution: ExecutionMode
    map_execution: ExecutionMode
    max_workers: int | None


class Extras(NamedTuple):
    """What a job needs besides its bytes.

    Attributes:
        others: Other backends that nested pipelines ask for, by their number in the job.
        volumes: Volumes that hold a cache, to be reloaded before and committed after the job.
    """

    others: list[Handle]
    volumes: list[modal.Volume]


class CalledBackend(RemoteBackend):
    """Another Modal configuration, as seen from a container that calls it.

    Args:
        handle: How to reach it.
    """

    place = trouble.PLACE

    def __init__(self, handle: Handle) -> None:
        super().__init__(handle.node_execution, handle.map_execution, handle.max_workers)
        self._handle = handle

    def submit(self, job: bytes, channel: Channel) -> bytes:
        try:
            return call_function(self._handle.function, job, channel, self._handle.timeout, Extras([], []))
        except modal_errors.Error as error:
            raise (trouble.translate(error, self._handle.timeout) or error) from error


def call_function(function: Any, job: bytes, channel: Channel, timeout_s: int | None, extras: Extras) -> bytes:
    """Have a job executed in a container.

    Args:
        function: `container.run_job` as a Modal function.
        job: The job.
        channel: Takes what the worker says.
        timeout_s: Time limit of the function, for messages.
        extras: What the job needs besides.

    Returns:
        The outcome.

    Raises:
        modal.exception.Error: What Modal raised, other than what can be waited out.
        RemoteError: The connection was lost for good.
    """
    with ExitStack() as stack:
        queues = pump = None
        if channel.has_listeners:
            up, down = (stack.enter_context(modal.Queue.ephemeral()) for _ in range(2))
            queues = Queues(up, down)
        call = function.spawn(job, queues, extras)
        if queues is not None:
            pump = Pump(queues, channel.handle)
            pump.start()
        try:
            return _wait_for(call, timeout_s)
        except BaseException:
            # Also when only this side gives up: an interrupt, a lost connection. Nobody would take the result.
            with suppress(Exception):
                call.cancel(terminate_containers=True)
            raise
        finally:
            if pump is not None:
                pump.finish()


def _wait_for(call: Any, timeout_s: int | None) -> bytes:
    lost_since: float | None = None
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return call.get(timeout=_POLL_S)  # type: ignore[no-any-return]
        except (modal_errors.FunctionTimeoutError, modal_errors.OutputExpiredError):
            raise
        except TimeoutError:  # still running
            lost_since, pause = None, _FIRST_PAUSE_S
        except (*trouble.TRANSIENT, modal_errors.ResourceExhaustedError) as error:
            lost_since = lost_since or monotonic()
            if monotonic() - lost_since > _PATIENCE_S:
                raise (trouble.translate(error, timeout_s, call.object_id) or error) from error
            sleep(pause)
            pause = min(2 * pause, _POLL_S)
