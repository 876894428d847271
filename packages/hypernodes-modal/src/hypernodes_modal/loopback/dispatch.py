"""Receives remote procedure calls and hands them to their handlers, on the way recording them and misbehaving."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import StreamTerminatedError
from modal_proto import api_pb2

from hypernodes_modal.loopback.observations import RpcRecord
from hypernodes_modal.loopback.rpc import Caller, Rpc, all_rpcs

if TYPE_CHECKING:
    from hypernodes_modal.loopback.containers import Container
    from hypernodes_modal.loopback.faults import Faults

logger = logging.getLogger("hypernodes_modal.loopback")

_MAX_RECORDS = 100_000  # of calls; the oldest are dropped
_MAX_KEPT_REPLIES = 5000
_MAX_KEPT_BYTES = 64 * 1024 * 1024


class Dispatcher:
    """Serves Modal's service.

    Args:
        handlers: By name, see `rpc.handlers_of`.
        credentials: Token id and token secret that a client must show.
        faults: How to misbehave.
    """

    def __init__(
        self, handlers: Mapping[str, Callable[..., Any]], credentials: tuple[str, str], faults: Faults
    ) -> None:
        self._handlers = handlers
        self._faults = faults
        self._credentials = credentials
        # A client that gets no answer asks again, with the same key. It must get the answer to its first question:
        # asking twice for an input must not take two.
        self._replies: OrderedDict[str, Any] = OrderedDict()
        self._kept_bytes = 0
        self.records: deque[RpcRecord] = deque(maxlen=_MAX_RECORDS)

    @property
    def handled(self) -> set[str]:
        """Names of the procedures that are handled."""
        return set(self._handlers)

    def for_clients(self) -> Endpoint:
        """What to serve where clients connect."""
        return Endpoint(self, None)

    def for_container(self, container: Container) -> Endpoint:
        """What to serve where one container connects."""
        return Endpoint(self, container)

    async def handle(self, procedure: str, definition: Rpc, container: Container | None, stream: Any) -> None:
        """Answer one call."""
        if container is None:
            self._authenticate(stream.metadata)  # nothing of a stranger is read or recorded
        request = await stream.recv_message()
        caller = Caller(container)
        record = RpcRecord(definition.name, caller.name, time.time())
        self.records.append(record)
        handler = self._handlers.get(procedure)
        if handler is None:
            raise GRPCError(
                Status.UNIMPLEMENTED,
                f"The loopback control plane does not have {definition.name}. It covers functions and classes, images, "
                "mounts, queues, dicts, volumes, secrets and logs; see the README of hypernodes-modal.",
            )
        self._faults.on_request(record)
        try:
            if definition.is_stream:
                await self._stream(handler(request, caller), record, stream)
            else:
                await self._answer(handler, request, caller, record, stream)
        except (GRPCError, asyncio.CancelledError, StreamTerminatedError):
            raise
        except Exception as error:
            logger.exception("%s failed", definition.name)
            raise GRPCError(Status.INTERNAL, f"loopback: {definition.name} failed: {error!r}") from error

    async def _stream(self, messages: AsyncIterator[Any], record: RpcRecord, stream: Any) -> None:
        async for message in messages:
            await self._faults.before_reply(record)
            await stream.send_message(message)
            if self._faults.is_duplicated(record):
                await stream.send_message(message)
            self._faults.after_reply()

    async def _answer(
        self, handler: Callable[..., Any], request: Any, caller: Caller, record: RpcRecord, stream: Any
    ) -> None:
        key = stream.metadata.get("x-idempotency-key")
        reply = await self._reply_once(key, handler, request, caller, record)
        if self._faults.is_duplicated(record):
            reply = await self._reply_once(key, handler, request, caller, record)
            if isinstance(reply, api_pb2.FunctionGetOutputsResponse):
                reply = api_pb2.FunctionGetOutputsResponse.FromString(reply.SerializeToString())
                reply.outputs.extend(list(reply.outputs))
        await self._faults.before_reply(record)
        await stream.send_message(reply)
        self._faults.after_reply()

    async def _reply_once(
        self, key: str | None, handler: Callable[..., Any], request: Any, caller: Caller, record: RpcRecord
    ) -> Any:
        if key is not None and key in self._replies:
            record.is_repeated = True
            return self._replies[key]
        # A first question that is still waiting, as for an input, has changed nothing yet: handlers change the state
        # only after their last wait. So it does no harm to ask the second as well, and the first is cancelled.
        reply = await handler(request, caller)
        if key is not None:
            self._replies[key] = reply
            self._kept_bytes += reply.ByteSize()
            while len(self._replies) > _MAX_KEPT_REPLIES or self._kept_bytes > _MAX_KEPT_BYTES:
                _, dropped = self._replies.popitem(last=False)
                self._kept_bytes -= dropped.ByteSize()
        return reply

    def _authenticate(self, metadata: Mapping[str, Any]) -> None:
        shown = (metadata.get("x-modal-token-id"), metadata.get("x-modal-token-secret"))
        if shown != self._credentials:
            raise GRPCError(
                Status.UNAUTHENTICATED,
                "Token validation failed: this is a loopback control plane, and it takes only the token that it put "
                "into the environment of the programs it was started for.",
            )


class Endpoint:
    """Modal's service for one kind of caller, as grpclib wants it."""

    def __init__(self, dispatcher: Dispatcher, container: Container | None) -> None:
        self._dispatcher = dispatcher
        self._container = container

    def __mapping__(self) -> dict[str, Handler]:
        return {definition.path: self._handler(name, definition) for name, definition in _RPCS.items()}

    def _handler(self, name: str, definition: Rpc) -> Handler:
        async def handle(stream: Any) -> None:
            await self._dispatcher.handle(name, definition, self._container, stream)

        cardinality = Cardinality.UNARY_STREAM if definition.is_stream else Cardinality.UNARY_UNARY
        return Handler(handle, cardinality, definition.request_type, definition.reply_type)


_RPCS = all_rpcs()
