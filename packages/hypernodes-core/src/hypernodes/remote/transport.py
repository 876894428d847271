"""A remote backend as one of its calls sees it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from hypernodes.backend.base import Backend
from hypernodes.remote.channel import Channel

if TYPE_CHECKING:
    from hypernodes.remote.needed_packages import Package


class Transport(Protocol):
    """What a call needs to know of its backend; see `RemoteBackend` for the meaning."""

    @property
    def sends_caches(self) -> bool: ...

    def submit(self, job: bytes, channel: Channel) -> bytes: ...

    def turn_of(self, channel: Channel) -> AbstractContextManager[None]: ...

    @property
    def shares_data(self) -> bool: ...

    def share(self, key: str, data: bytes) -> str | None: ...

    def runs_here(self, other: Backend) -> bool: ...

    def can_call(self, other: Backend) -> bool: ...

    def find_python_version(self) -> str | None: ...

    def find_missing(self, packages: Sequence[Package]) -> Sequence[Package]: ...

    def advise_python(self, version: str) -> str: ...

    def advise_packages(self, requirements: Sequence[str]) -> str: ...
