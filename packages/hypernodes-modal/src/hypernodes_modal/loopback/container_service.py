"""What containers ask for: the next input, and where to put the output of the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.containers import EndReason
from hypernodes_modal.loopback.inputs import Result
from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.call_service import CallService
    from hypernodes_modal.loopback.faults import Faults
    from hypernodes_modal.loopback.pools import Pools

_HEARTBEAT_S = 10.0  # the client gives up after 15.1 s


class ContainerService:
    """Serves containers."""

    def __init__(self, pools: Pools, calls: CallService, faults: Faults) -> None:
        self._pools = pools
        self._calls = calls
        self._faults = faults

    @rpc
    async def container_hello(self, request: Empty, caller: Caller) -> Empty:
        return Empty()

    @rpc
    async def container_heartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest, caller: Caller
    ) -> api_pb2.ContainerHeartbeatResponse:
        container = caller.inside
        if not container.cancellations:
            await container.cancelled.wait(_HEARTBEAT_S)
        reply = api_pb2.ContainerHeartbeatResponse()
        if container.cancellations:
            reply.cancel_input_event.input_ids.extend(container.cancellations)
            container.cancellations.clear()
        return reply

    @rpc
    async def function_get_inputs(
        self, request: api_pb2.FunctionGetInputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetInputsResponse:
        container = caller.inside
        pool = self._pools.of(container.function)
        taken = await pool.take(container, max(1, request.batch_max_size), request.batch_linger_ms / 1000)
        if taken is None:
            return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
        self._faults.at("input", container)
        return api_pb2.FunctionGetInputsResponse(
            inputs=[
                api_pb2.FunctionGetInputsItem(
                    input_id=given.id,
                    input=given.payload,
                    function_call_id=given.call.id,
                    retry_count=given.retry_count,
                    function_call_invocation_type=given.call.invocation_type,
                    function_map_idx=given.idx,
                )
                for given in taken
            ]
        )

    @rpc
    async def function_put_outputs(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller) -> Empty:
        container = caller.inside
        if self._faults.at("output", container):
            raise GRPCError(Status.UNAVAILABLE, "loopback: told to lose this output")
        for item in request.outputs:
            given = self._calls.inputs.get(item.input_id)
            if given is None:
                raise not_found("Input", item.input_id)
            # Anything else comes too late: the input was cancelled, timed out, or given to another container.
            if given.container is container and given.retry_count == item.retry_count:
                result = item.result
                if result.status == Result.GENERIC_STATUS_TERMINATED and not result.exception:
                    result.exception = "Input was cancelled."
                self._pools.of(container.function).settle(given, result, item.data_format)
        self._faults.at("after output", container)
        return Empty()

    @rpc
    async def function_get_dynamic_concurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, caller: Caller
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.target_concurrency)

    @rpc
    async def task_result(self, request: api_pb2.TaskResultRequest, caller: Caller) -> Empty:
        container = caller.inside
        # The data of an exception carries no format, and the client takes an unspecified one for a pickle.
        container.start_failure = request.result
        return Empty()

    @rpc
    async def container_stop(
        self, request: api_pb2.ContainerStopRequest, caller: Caller
    ) -> api_pb2.ContainerStopResponse:
        for pool in self._pools.all():
            for container in pool.containers:
                if container.id == request.task_id:
                    if request.graceful:
                        container.retire(EndReason.REPLACED)
                    else:
                        container.kill(EndReason.REPLACED)
        return api_pb2.ContainerStopResponse()

    @rpc
    async def task_list(self, request: api_pb2.TaskListRequest, caller: Caller) -> api_pb2.TaskListResponse:
        containers = [
            container
            for pool in self._pools.all()
            if not request.app_id or pool.function.app_id == request.app_id
            for container in pool.containers
        ]
        return api_pb2.TaskListResponse(
            tasks=[
                api_pb2.TaskStats(
                    task_id=container.id,
                    app_id=container.function.app_id,
                    enqueued_at=container.started_at,
                    started_at=container.ready_at or 0.0,
                )
                for container in containers
            ]
        )
