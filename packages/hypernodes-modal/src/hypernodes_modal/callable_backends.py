"""Other Modal configurations that nested pipelines ask for, as a container calls them."""

from __future__ import annotations

from typing import Any, NamedTuple

import modal.exception as modal_errors

from hypernodes import RemoteBackend
from hypernodes.extension import Channel, ExecutionMode
from hypernodes_modal import error_translation
from hypernodes_modal.call import CallContext, RemoteCall

_PATIENCE_S = 120.0


class CallableBackendSpec(NamedTuple):
    """What a container needs to call the function of another backend.

    Attributes:
        function: The function, of an app that runs.
        timeout: Its time limit, in seconds; None when unknown.
        node_execution: How the nodes of one run are executed there.
        map_execution: How the items of a map are executed there.
        max_workers: The largest number of calls at a time there.
    """

    function: Any
    timeout: int | None
    node_execution: ExecutionMode
    map_execution: ExecutionMode
    max_workers: int | None


class CallableBackend(RemoteBackend):
    """Another Modal configuration, as seen from a container.

    Args:
        handle: How to reach it.
    """

    place = error_translation.BACKEND_NAME

    def __init__(self, handle: CallableBackendSpec) -> None:
        super().__init__(handle.node_execution, handle.map_execution, handle.max_workers)
        self._handle = handle

    def submit(self, job: bytes, channel: Channel) -> bytes:
        call = RemoteCall(self._handle.function, _PATIENCE_S, CallContext([], [], channel.has_caches))
        try:
            return call.run(job, channel)
        except modal_errors.Error as error:
            raise error_translation.translate(error, self._handle.timeout, call.call_id) from error
