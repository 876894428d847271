"""A cache in a directory, on the diskcache library: results survive the process and are shared between processes."""

from __future__ import annotations

import contextlib
import os
import pickle
import sqlite3
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import diskcache

from hypernodes import MISS, Cache, CacheWarning, ConfigurationError


class _BytesOnlyDisk(diskcache.Disk):  # type: ignore[misc, unused-ignore]
    """Storage that never unpickles on its own account.

    diskcache 5.6.3 unpickles whatever its database marks as a pickle (CVE-2025-69872); here everything is stored as
    bytes, and anything marked otherwise is refused.
    """

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode not in (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY):
            raise ValueError("the entry was not written by DiskCache")
        return super().fetch(mode, filename, value, read)


class _Store(diskcache.Cache):  # type: ignore[misc, unused-ignore]
    """A diskcache whose connections, one for each thread, are closed when their thread ends."""

    @property
    def _con(self) -> Any:
        connection = super()._con
        if getattr(self._local, "closer", None) is None or self._local.closer.connection is not connection:
            self._local.closer = _Closer(connection)
        return connection


class _Closer:
    """Closes a connection when the thread that made it lets go of it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # only the thread that made it may close it
            self.connection.close()


class DiskCache(Cache):
    """Keeps results in a directory.

    Values are stored with pickle, so only open a directory that you trust. Several processes may use one directory at
    the same time. An entry that cannot be read is a miss, with a warning.

    Args:
        path: The directory; made when it is first used.
        size_limit: Size in bytes beyond which the entries stored longest ago are dropped; None for no limit.

    Raises:
        ConfigurationError: A setting has a value it cannot have.

    Example:
        >>> import tempfile
        >>> from hypernodes import DiskCache, Pipeline, node
        >>> @node(output_name="doubled")
        ... def double(x):
        ...     print("computing")
        ...     return 2 * x
        >>> directory = tempfile.mkdtemp()
        >>> pipeline = Pipeline(nodes=[double], cache=DiskCache(path=directory))
        >>> pipeline.run(inputs={"x": 4})
        computing
        {'doubled': 8}
        >>> pipeline.with_cache(DiskCache(path=directory)).run(inputs={"x": 4})
        {'doubled': 8}
    """

    def __init__(self, path: str | os.PathLike[str], size_limit: int | None = None) -> None:
        if not os.fspath(path):
            raise ConfigurationError(f"path must be a directory; got {path!r}")
        if size_limit is not None and size_limit < 1:
            raise ConfigurationError(f"size_limit must be a positive number of bytes or None; got {size_limit!r}")
        self.path = os.path.abspath(path)  # not wherever the process is when it is first used
        self.size_limit = size_limit
        self._store: Any = None

    def get(self, key: str) -> Any:
        data = self._open().get(key, default=MISS)
        return data if data is MISS else self._load(key, data)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        found = {}
        with self._open().transact():
            stored = {key: self._open().get(key, default=MISS) for key in keys}
        for key, data in stored.items():
            value = data if data is MISS else self._load(key, data)
            if value is not MISS:
                found[key] = value
        return found

    def put(self, key: str, value: Any) -> None:
        self._open().set(key, pickle.dumps(value, protocol=5))

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        packed = {key: pickle.dumps(value, protocol=5) for key, value in entries.items()}
        store = self._open()
        with store.transact():
            for key, data in packed.items():
                store.set(key, data)

    def contains(self, key: str) -> bool:
        return key in self._open()

    def delete(self, key: str) -> None:
        self._open().delete(key)

    def clear(self) -> None:
        self._open().clear()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def __len__(self) -> int:
        return len(self._open())

    def __repr__(self) -> str:
        return f"DiskCache(path={self.path!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}

    def _open(self) -> Any:
        if self._store is None:
            limit = {"eviction_policy": "none"} if self.size_limit is None else {"size_limit": self.size_limit}
            self._store = _Store(self.path, disk=_BytesOnlyDisk, **limit)
            weakref.finalize(self, self._store.close)
        return self._store

    def _load(self, key: str, data: bytes) -> Any:
        try:
            return pickle.loads(data)
        except Exception as error:
            warnings.warn(
                f"an entry of {self!r} cannot be read and is computed again: {type(error).__name__}: {error}",
                CacheWarning,
                stacklevel=3,
            )
            return MISS
