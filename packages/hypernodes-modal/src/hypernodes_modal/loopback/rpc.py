"""How a method becomes the handler of a remote procedure call of Modal's service."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from google.protobuf import message_factory
from grpclib import GRPCError, Status
from modal_proto import api_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from hypernodes_modal.loopback.containers import Container

SERVICE = "ModalClient"
_Method = TypeVar("_Method", bound=Callable[..., Any])


class Rpc(NamedTuple):
    """A procedure of Modal's service.

    Attributes:
        name: As in Modal's protocol definition.
        path: What is asked for over HTTP/2.
        is_stream: Whether it answers with a stream of messages rather than one.
        request_type: Class of the request.
        reply_type: Class of the reply.
    """

    name: str
    path: str
    is_stream: bool
    request_type: type[Message]
    reply_type: type[Message]


class Caller(NamedTuple):
    """Who is calling.

    Attributes:
        container: The container that calls; None for a client.
    """

    container: Container | None

    @property
    def name(self) -> str:
        """The container's id, or "client"."""
        return self.container.id if self.container else "client"

    @property
    def inside(self) -> Container:
        """The container that calls, for procedures that only containers may call."""
        if self.container is None:
            raise GRPCError(Status.PERMISSION_DENIED, "Only a container may call this.")
        return self.container


def rpc(method: _Method) -> _Method:
    """Mark a method as the handler of the procedure with its name (`queue_put` handles `QueuePut`).

    It is called with the request and the `Caller`, on the loop of the control plane. A handler of a procedure that
    answers with one message is a coroutine function, one that answers with a stream an asynchronous generator.
    """
    method.__dict__["is_rpc"] = True
    return method


def all_rpcs() -> Mapping[str, Rpc]:
    """Every procedure of Modal's service, as the installed client defines it, by the name its handler would have."""
    service = api_pb2.DESCRIPTOR.services_by_name[SERVICE]
    return {
        _snake_case(method.name): Rpc(
            name=method.name,
            path=f"/{service.full_name}/{method.name}",
            is_stream=method.server_streaming,
            request_type=message_factory.GetMessageClass(method.input_type),
            reply_type=message_factory.GetMessageClass(method.output_type),
        )
        for method in service.methods
    }


def handlers_of(services: list[Any]) -> dict[str, Callable[..., Any]]:
    """The marked methods of some objects, by name; also those that older clients do not know and never call.

    Raises:
        ValueError: Two objects handle one procedure.
    """
    found: dict[str, Callable[..., Any]] = {}
    for service in services:
        for name in dir(type(service)):
            method = getattr(service, name)
            if not getattr(method, "is_rpc", False):
                continue
            if name in found:
                raise ValueError(f"{type(service).__name__}.{name} handles a procedure that another handles already")
            found[name] = method
    return found


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def not_found(kind: str, name: str, hint: str = "") -> GRPCError:
    """The error for something that does not exist."""
    return GRPCError(Status.NOT_FOUND, f"{kind} {name!r} not found on the loopback control plane. {hint}".strip())
