"""`modal.Secret`: variables for the environment of containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.named_objects import NamedObjects
from hypernodes_modal.loopback.rpc import Caller, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.ids import Ids


@dataclass(eq=False)
class Secret:
    """A secret.

    Attributes:
        id: Its identifier.
        name: What it is called; empty for one made on the spot.
        variables: What it puts into the environment.
    """

    id: str
    name: str
    variables: dict[str, str] = field(default_factory=dict, repr=False)


class Secrets:
    """Serves secrets."""

    def __init__(self, ids: Ids) -> None:
        self._secrets = NamedObjects("Secret", lambda name: Secret(ids.new("st"), name))

    def variables(self, secret_id: str) -> dict[str, str]:
        """What a secret puts into the environment."""
        return dict(self._secrets.get(secret_id).variables)

    @rpc
    async def secret_get_or_create(
        self, request: api_pb2.SecretGetOrCreateRequest, caller: Caller
    ) -> api_pb2.SecretGetOrCreateResponse:
        creation_type = request.object_creation_type
        is_lookup = creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED
        secret = self._secrets.get_or_create(request.deployment_name, creation_type)
        if not is_lookup:
            secret.variables.update(request.env_dict)
        missing = [key for key in request.required_keys if key not in secret.variables]
        if missing:
            raise GRPCError(
                Status.NOT_FOUND, f"Secret {request.deployment_name!r} lacks required keys: {', '.join(missing)}."
            )
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.id, metadata=_metadata(secret))

    @rpc
    async def secret_get_info(
        self, request: api_pb2.SecretGetInfoRequest, caller: Caller
    ) -> api_pb2.SecretGetInfoResponse:
        return api_pb2.SecretGetInfoResponse(metadata=_metadata(self._secrets.get(request.secret_id)))

    @rpc
    async def secret_delete(self, request: api_pb2.SecretDeleteRequest, caller: Caller) -> Empty:
        self._secrets.delete(request.secret_id)
        return Empty()


def _metadata(secret: Secret) -> api_pb2.SecretMetadata:
    return api_pb2.SecretMetadata(name=secret.name, keys=sorted(secret.variables))
