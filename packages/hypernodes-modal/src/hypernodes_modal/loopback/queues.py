"""`modal.Queue`: named and ephemeral queues with partitions."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.named_objects import NamedObjects
from hypernodes_modal.loopback.notifications import ChangeNotifier
from hypernodes_modal.loopback.rpc import Caller, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.ids import Ids

_MAX_ITEMS = 5000  # per partition, as Modal documents
_DEFAULT_TTL_S = 24 * 3600


@dataclass(eq=False)
class Partition:
    """One partition.

    Attributes:
        items: The entries with their numbers, oldest first.
        last_number: Of the newest entry there ever was.
        expires_at: When it is emptied, on the monotonic clock.
    """

    items: list[tuple[int, bytes]] = field(default_factory=list)
    last_number: int = 0
    expires_at: float = float("inf")


@dataclass(eq=False)
class Queue:
    """A queue.

    Attributes:
        id: Its identifier.
        name: What it is called; empty for an ephemeral one.
        partitions: By key.
        changed: Notified when something was put in or taken out.
    """

    id: str
    name: str
    partitions: defaultdict[bytes, Partition] = field(default_factory=lambda: defaultdict(Partition))
    changed: ChangeNotifier = field(default_factory=ChangeNotifier)

    def partition(self, key: bytes) -> Partition:
        """The partition with some key, without what has expired."""
        partition = self.partitions[key]
        if time.monotonic() > partition.expires_at:
            partition.items.clear()
        return partition


class Queues:
    """Serves queues."""

    def __init__(self, ids: Ids) -> None:
        self._queues = NamedObjects("Queue", lambda name: Queue(ids.new("qu"), name))

    def ids(self) -> list[str]:
        """Identifiers of all queues there are."""
        return self._queues.ids()

    @rpc
    async def queue_get_or_create(
        self, request: api_pb2.QueueGetOrCreateRequest, caller: Caller
    ) -> api_pb2.QueueGetOrCreateResponse:
        queue = self._queues.get_or_create(request.deployment_name, request.object_creation_type)
        return api_pb2.QueueGetOrCreateResponse(
            queue_id=queue.id, metadata=api_pb2.QueueMetadata(name=request.deployment_name)
        )

    @rpc
    async def queue_get_by_id(
        self, request: api_pb2.QueueGetByIdRequest, caller: Caller
    ) -> api_pb2.QueueGetByIdResponse:
        queue = self._queues.get(request.queue_id)
        return api_pb2.QueueGetByIdResponse(queue_id=queue.id, metadata=api_pb2.QueueMetadata(name=queue.name))

    @rpc
    async def queue_put(self, request: api_pb2.QueuePutRequest, caller: Caller) -> Empty:
        queue = self._queues.get(request.queue_id)
        partition = queue.partition(request.partition_key)
        if len(partition.items) + len(request.values) > _MAX_ITEMS:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"The queue is full: a partition holds {_MAX_ITEMS} items.")
        for value in request.values:
            partition.last_number += 1
            partition.items.append((partition.last_number, value))
        partition.expires_at = time.monotonic() + (request.partition_ttl_seconds or _DEFAULT_TTL_S)
        queue.changed.notify()
        return Empty()

    @rpc
    async def queue_get(self, request: api_pb2.QueueGetRequest, caller: Caller) -> api_pb2.QueueGetResponse:
        queue = self._queues.get(request.queue_id)
        deadline = time.monotonic() + request.timeout
        while not (partition := queue.partition(request.partition_key)).items:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            await queue.changed.wait(remaining)
        count = max(1, request.n_values)
        taken, partition.items[:] = partition.items[:count], partition.items[count:]
        if taken:
            queue.changed.notify()
        return api_pb2.QueueGetResponse(values=[value for _, value in taken])

    @rpc
    async def queue_next_items(
        self, request: api_pb2.QueueNextItemsRequest, caller: Caller
    ) -> api_pb2.QueueNextItemsResponse:
        queue = self._queues.get(request.queue_id)
        last = int(request.last_entry_id or 0)
        deadline = time.monotonic() + request.item_poll_timeout
        while True:
            items = [item for item in queue.partition(request.partition_key).items if item[0] > last]
            remaining = deadline - time.monotonic()
            if items or remaining <= 0:
                break
            await queue.changed.wait(remaining)
        return api_pb2.QueueNextItemsResponse(
            items=[api_pb2.QueueItem(value=value, entry_id=str(number)) for number, value in items[:100]]
        )

    @rpc
    async def queue_len(self, request: api_pb2.QueueLenRequest, caller: Caller) -> api_pb2.QueueLenResponse:
        queue = self._queues.get(request.queue_id)
        keys = list(queue.partitions) if request.total else [request.partition_key]
        return api_pb2.QueueLenResponse(len=sum(len(queue.partition(key).items) for key in keys))

    @rpc
    async def queue_clear(self, request: api_pb2.QueueClearRequest, caller: Caller) -> Empty:
        queue = self._queues.get(request.queue_id)
        keys = list(queue.partitions) if request.all_partitions else [request.partition_key]
        for key in keys:
            queue.partition(key).items.clear()
        queue.changed.notify()
        return Empty()

    @rpc
    async def queue_delete(self, request: api_pb2.QueueDeleteRequest, caller: Caller) -> Empty:
        self._queues.delete(request.queue_id)
        return Empty()

    @rpc
    async def queue_heartbeat(self, request: api_pb2.QueueHeartbeatRequest, caller: Caller) -> Empty:
        self._queues.heartbeat(request.queue_id)
        return Empty()

    @rpc
    async def queue_list(self, request: api_pb2.QueueListRequest, caller: Caller) -> api_pb2.QueueListResponse:
        return api_pb2.QueueListResponse(
            queues=[
                api_pb2.QueueListResponse.QueueInfo(
                    name=queue.name,
                    num_partitions=len(queue.partitions),
                    total_size=sum(len(part.items) for part in queue.partitions.values()),
                    queue_id=queue.id,
                )
                for queue in self._queues.named()
            ]
        )
