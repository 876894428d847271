"""Calling functions and getting their outputs: what `.remote()`, `.spawn()`, `.map()` and `.get()` ask for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal._utils.jwt_utils import DecodedJwt
from modal_proto import api_pb2

from hypernodes_modal.loopback.calls import FunctionCall
from hypernodes_modal.loopback.inputs import Input, InputState
from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.function_service import Functions
    from hypernodes_modal.loopback.ids import Ids
    from hypernodes_modal.loopback.pools import Pools

_MAX_INPUTS_OUTSTANDING = 1000
_MAX_OUTPUTS_PER_REPLY = 100
_STREAM_S = 55.0  # after which a client opens a stream again


class CallService:
    """Takes inputs, and gives out outputs."""

    def __init__(self, ids: Ids, functions: Functions, pools: Pools) -> None:
        self._ids = ids
        self._functions = functions
        self._pools = pools
        self.calls: dict[str, FunctionCall] = {}
        self.inputs: dict[str, Input] = {}

    def get(self, call_id: str) -> FunctionCall:
        """Return a function call by its identifier.

        Raises:
            GRPCError: There is none.
        """
        try:
            return self.calls[call_id]
        except KeyError:
            raise not_found("Function call", call_id) from None

    def forget_finished(self) -> None:
        """Drop all calls that have nothing left to do."""
        self.calls = {call.id: call for call in self.calls.values() if call.unfinished}
        self.inputs = {given.id: given for call in self.calls.values() for given in call.inputs.values()}

    @rpc
    async def function_map(self, request: api_pb2.FunctionMapRequest, caller: Caller) -> api_pb2.FunctionMapResponse:
        function = self._functions.get(request.function_id)
        self._pools.of(function).check_open()
        call = FunctionCall(
            self._ids.new("fc"),
            function,
            request.function_call_invocation_type,
            is_map=request.function_call_type == api_pb2.FUNCTION_CALL_TYPE_MAP,
        )
        self.calls[call.id] = call
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id,
            pipelined_inputs=self._add(call, request.pipelined_inputs),
            retry_policy=function.definition.retry_policy,
            function_call_jwt=_token(function_call_id=call.id),
            sync_client_retries_enabled=True,
            max_inputs_outstanding=_MAX_INPUTS_OUTSTANDING,
        )

    @rpc
    async def function_put_inputs(
        self, request: api_pb2.FunctionPutInputsRequest, caller: Caller
    ) -> api_pb2.FunctionPutInputsResponse:
        return api_pb2.FunctionPutInputsResponse(inputs=self._add(self.get(request.function_call_id), request.inputs))

    @rpc
    async def function_finish_inputs(self, request: api_pb2.FunctionFinishInputsRequest, caller: Caller) -> Empty:
        return Empty()  # every input is taken as it comes, so there is nothing to finish

    @rpc
    async def function_retry_inputs(
        self, request: api_pb2.FunctionRetryInputsRequest, caller: Caller
    ) -> api_pb2.FunctionRetryInputsResponse:
        call = self.get(_read_token(request.function_call_jwt)["function_call_id"])
        for item in request.inputs:
            given = self.inputs[_read_token(item.input_jwt)["input_id"]]
            if given.state is not InputState.FINISHED:
                continue  # the client asks twice, or its container was lost and it runs again anyway
            call.forget_output(given)
            given.retry(item.input, item.retry_count or given.retry_count + 1)
            self._pools.of(call.function).put(given)
        return api_pb2.FunctionRetryInputsResponse(input_jwts=[item.input_jwt for item in request.inputs])

    @rpc
    async def function_get_outputs(
        self, request: api_pb2.FunctionGetOutputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self.get(request.function_call_id)
        first = request.start_idx if request.HasField("start_idx") else None
        last = request.end_idx if request.HasField("end_idx") else None
        entry = int((request.last_entry_id or "0-0").partition("-")[0])
        limit = request.max_values or _MAX_OUTPUTS_PER_REPLY
        deadline = time.monotonic() + request.timeout
        while not (found := call.outputs_after(entry, first, last, limit)):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            await call.changed.wait(remaining)
        reply = api_pb2.FunctionGetOutputsResponse(
            outputs=[given.output for _, given in found if given.output is not None],
            last_entry_id=f"{found[-1][0] if found else entry}-0",
            num_unfinished_inputs=call.unfinished,
        )
        if request.clear_on_success:
            for _, given in found:
                call.forget_output(given)
        return reply

    @rpc
    async def function_call_cancel(self, request: api_pb2.FunctionCallCancelRequest, caller: Caller) -> Empty:
        call = self.get(request.function_call_id)
        self._pools.of(call.function).cancel(call.inputs.values(), terminate_containers=request.terminate_containers)
        return Empty()

    @rpc
    async def function_call_from_id(
        self, request: api_pb2.FunctionCallFromIdRequest, caller: Caller
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self.get(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=len(call.inputs))

    @rpc
    async def function_call_put_data_out(self, request: api_pb2.FunctionCallPutDataRequest, caller: Caller) -> Empty:
        self.get(request.function_call_id).add_chunks(request.data_chunks)
        return Empty()

    @rpc
    async def function_call_get_data_out(
        self, request: api_pb2.FunctionCallGetDataRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self.get(request.function_call_id)
        sent = request.last_index
        deadline = time.monotonic() + _STREAM_S
        while (remaining := deadline - time.monotonic()) > 0:
            for chunk in call.chunks[sent:]:
                yield chunk
                sent = chunk.index
            if sent == len(call.chunks):
                await call.changed.wait(remaining)

    def _add(
        self, call: FunctionCall, items: Iterable[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        answers = []
        pool = self._pools.of(call.function)
        for item in items:
            given = call.inputs.get(item.idx)
            if given is None:
                given = Input(self._ids.new("in"), call, item.idx, item.input)
                call.add_input(given)
                self.inputs[given.id] = given
                pool.put(given)
            answers.append(
                api_pb2.FunctionPutInputsResponseItem(
                    idx=item.idx,
                    input_id=given.id,
                    input_jwt=_token(idx=item.idx, input_id=given.id, function_call_id=call.id),
                )
            )
        return answers


def _token(**fields: object) -> str:
    return DecodedJwt.encode_without_signature(fields)


def _read_token(token: str) -> dict[str, str]:
    try:
        return DecodedJwt.decode_without_verification(token).payload
    except ValueError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, f"Not a token of this control plane: {error}") from error
