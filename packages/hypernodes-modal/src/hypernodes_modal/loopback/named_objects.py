"""Objects that are either named and stay, or ephemeral and go when their client stops saying that it is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.rpc import not_found

_EPHEMERAL_S = 900.0  # the client says so every 300 s


class _Object(Protocol):
    id: str
    name: str


_Kind = TypeVar("_Kind", bound=_Object)


class NamedObjects(Generic[_Kind]):
    """Objects of one kind, by name and by identifier.

    Args:
        kind: What they are called in messages.
        make: Makes one with some name.
    """

    def __init__(self, kind: str, make: Callable[[str], _Kind]) -> None:
        self._kind = kind
        self._make = make
        self._by_id: dict[str, _Kind] = {}
        self._by_name: dict[str, _Kind] = {}
        self._last_seen_at: dict[str, float] = {}

    def get(self, object_id: str) -> _Kind:
        """Return an object by its identifier.

        Raises:
            GRPCError: There is none.
        """
        try:
            return self._by_id[object_id]
        except KeyError:
            raise not_found(self._kind, object_id) from None

    def get_or_create(self, name: str, creation_type: api_pb2.ObjectCreationType.ValueType) -> _Kind:
        """Return an object by its name, made if that is asked for.

        Raises:
            GRPCError: There is none, or it is to be made and there is one.
        """
        self._forget_ephemeral()
        if creation_type in (
            api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
            api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
        ):
            made = self._add("")
            if creation_type == api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL:
                self.heartbeat(made.id)
            return made
        found = self._by_name.get(name)
        if creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS and found is not None:
            raise GRPCError(Status.ALREADY_EXISTS, f"{self._kind} {name!r} exists already.")
        if found is None or creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            if creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found(
                    self._kind,
                    name,
                    f"There are: {', '.join(sorted(self._by_name)) or 'none'}. "
                    "Make it, or pass create_if_missing=True.",
                )
            found = self._add(name)
            self._by_name[name] = found
        return found

    def delete(self, object_id: str) -> _Kind:
        """Delete an object, and return it."""
        found = self.get(object_id)
        del self._by_id[object_id]
        self._last_seen_at.pop(object_id, None)
        if self._by_name.get(found.name) is found:
            del self._by_name[found.name]
        return found

    def heartbeat(self, object_id: str) -> None:
        """The client of an ephemeral object is there."""
        self.get(object_id)
        self._last_seen_at[object_id] = time.monotonic()

    def named(self) -> list[_Kind]:
        """All objects with a name."""
        return list(self._by_name.values())

    def ids(self) -> list[str]:
        """Identifiers of all objects."""
        return list(self._by_id)

    def _add(self, name: str) -> _Kind:
        made = self._make(name)
        self._by_id[made.id] = made
        return made

    def _forget_ephemeral(self) -> None:
        too_long_ago = time.monotonic() - _EPHEMERAL_S
        for object_id, seen_at in list(self._last_seen_at.items()):
            if seen_at < too_long_ago:
                self.delete(object_id)
