"""Listens for connections, and can end those there are, which grpclib's server cannot."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

from grpclib.server import Server

if TYPE_CHECKING:
    from grpclib.protocol import H2Protocol

    from hypernodes_modal.loopback.dispatch import Endpoint


class Listener:
    """One place where callers connect.

    Args:
        endpoint: What they find there.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._server: _Server | None = None
        self.port = 0

    async def listen_on_port(self, host: str, port: int = 0) -> None:
        """Listen on a port; on a free one if it is 0."""
        self._server = _Server([self._endpoint])
        await self._server.start(host, port, reuse_address=True)
        self.port = self._server.port

    async def listen_on_socket(self, path: str) -> None:
        """Listen on a Unix domain socket."""
        self._server = _Server([self._endpoint])
        await self._server.start(path=path)

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            server.abort_connections()
            await server.wait_closed()


class _Server(Server):
    def __init__(self, endpoints: list[Endpoint]) -> None:
        super().__init__(endpoints)
        self._protocols: weakref.WeakSet[H2Protocol] = weakref.WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._protocols.add(protocol)
        return protocol

    @property
    def port(self) -> int:
        assert isinstance(self._server, asyncio.Server)
        return int(self._server.sockets[0].getsockname()[1])

    def abort_connections(self) -> None:
        for protocol in self._protocols:
            if hasattr(protocol, "connection"):
                protocol.connection._transport.abort()
