"""`modal.Dict`: named and ephemeral dictionaries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from hypernodes_modal.loopback.named_objects import NamedObjects
from hypernodes_modal.loopback.rpc import Caller, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.ids import Ids


@dataclass(eq=False)
class Dict:
    """A dictionary.

    Attributes:
        id: Its identifier.
        name: What it is called; empty for an ephemeral one.
        items: Its content, as the client serialized it.
    """

    id: str
    name: str
    items: dict[bytes, bytes] = field(default_factory=dict)


class Dicts:
    """Serves dictionaries."""

    def __init__(self, ids: Ids) -> None:
        self._dicts = NamedObjects("Dict", lambda name: Dict(ids.new("di"), name))

    @rpc
    async def dict_get_or_create(
        self, request: api_pb2.DictGetOrCreateRequest, caller: Caller
    ) -> api_pb2.DictGetOrCreateResponse:
        found = self._dicts.get_or_create(request.deployment_name, request.object_creation_type)
        for entry in request.data:
            found.items.setdefault(entry.key, entry.value)
        return api_pb2.DictGetOrCreateResponse(dict_id=found.id, metadata=api_pb2.DictMetadata(name=found.name))

    @rpc
    async def dict_update(self, request: api_pb2.DictUpdateRequest, caller: Caller) -> api_pb2.DictUpdateResponse:
        items = self._dicts.get(request.dict_id).items
        created = False
        for entry in request.updates:
            if entry.key not in items or not request.if_not_exists:
                created = created or entry.key not in items
                items[entry.key] = entry.value
        return api_pb2.DictUpdateResponse(created=created)

    @rpc
    async def dict_get(self, request: api_pb2.DictGetRequest, caller: Caller) -> api_pb2.DictGetResponse:
        value = self._dicts.get(request.dict_id).items.get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    @rpc
    async def dict_pop(self, request: api_pb2.DictPopRequest, caller: Caller) -> api_pb2.DictPopResponse:
        value = self._dicts.get(request.dict_id).items.pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    @rpc
    async def dict_contains(self, request: api_pb2.DictContainsRequest, caller: Caller) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=request.key in self._dicts.get(request.dict_id).items)

    @rpc
    async def dict_len(self, request: api_pb2.DictLenRequest, caller: Caller) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=len(self._dicts.get(request.dict_id).items))

    @rpc
    async def dict_contents(
        self, request: api_pb2.DictContentsRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.DictEntry]:
        for key, value in list(self._dicts.get(request.dict_id).items.items()):
            yield api_pb2.DictEntry(
                key=key if request.keys else b"",
                value=value if request.values else b"",
            )

    @rpc
    async def dict_clear(self, request: api_pb2.DictClearRequest, caller: Caller) -> Empty:
        self._dicts.get(request.dict_id).items.clear()
        return Empty()

    @rpc
    async def dict_delete(self, request: api_pb2.DictDeleteRequest, caller: Caller) -> Empty:
        self._dicts.delete(request.dict_id)
        return Empty()

    @rpc
    async def dict_heartbeat(self, request: api_pb2.DictHeartbeatRequest, caller: Caller) -> Empty:
        self._dicts.heartbeat(request.dict_id)
        return Empty()
