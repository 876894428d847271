"""Modal backends of nested pipelines that a container can call."""

from __future__ import annotations

from typing import Any, NamedTuple

import modal.exception as modal_errors

from hypernodes import Limit, RemoteBackend
from hypernodes.extension import Channel, ExecutionMode
from hypernodes_modal import error_translation
from hypernodes_modal.call import CallContext, JobCall

_PATIENCE_S = 120.0


class CallableBackendSpec(NamedTuple):
    """What a container needs to call the function of another backend.

    Attributes:
        function: The function, of a running app.
        timeout_s: Its time limit, in seconds; None when it is unknown.
        node_execution: How the nodes of one run are executed in the other container.
        map_execution: How the items of a map are executed in the other container.
        max_workers: The maximum number of concurrent calls in the other container.
        limits: The limits that nodes may name there.
        max_in_flight: The largest number of items of a map that are open at a time there.
    """

    function: Any
    timeout_s: int | None
    node_execution: ExecutionMode
    map_execution: ExecutionMode
    max_workers: int | None
    limits: tuple[Limit, ...] = ()
    max_in_flight: int | None = None


class CallableBackend(RemoteBackend):
    """Another `ModalBackend` of the caller's, as a container uses it.

    Args:
        spec: The function to call, and its settings.
    """

    backend_name = error_translation.BACKEND_NAME

    def __init__(self, spec: CallableBackendSpec) -> None:
        super().__init__(
            node_execution=spec.node_execution,
            map_execution=spec.map_execution,
            max_workers=spec.max_workers,
            limits=spec.limits,
            max_in_flight=spec.max_in_flight,
        )
        self._spec = spec

    def submit(self, job: bytes, channel: Channel) -> bytes:
        call = JobCall(self._spec.function, _PATIENCE_S, CallContext([], [], channel.has_caches))
        try:
            return call.run(job, channel)
        except modal_errors.Error as error:
            raise error_translation.translate(error, self._spec.timeout_s, call_id=call.call_id) from error
