"""A remote backend as one of its calls sees it."""

from __future__ import annotations

from typing import Protocol

from hypernodes.backend.base import Backend
from hypernodes.remote.channel import Channel


class Transport(Protocol):
    """What a call needs to know of its backend; see `RemoteBackend` for the meaning."""

    @property
    def keeps_caches_there(self) -> bool: ...

    def submit(self, job: bytes, channel: Channel) -> bytes: ...

    def runs_here(self, other: Backend) -> bool: ...

    def can_call(self, other: Backend) -> bool: ...

    def find_python_version(self) -> str | None: ...
