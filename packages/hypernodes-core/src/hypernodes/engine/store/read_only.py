"""The store of dry runs: reads from caches, writes nothing, and records misses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hypernodes.cache.base import Cache
from hypernodes.engine.store.run_store import RunStore, Warn


class ReadOnlyStore(RunStore):
    """Reads from caches, writes nothing, and records misses.

    Attributes:
        misses: Keys that were looked up and not found, by the id of the cache.
    """

    def __init__(self, warn: Warn) -> None:
        super().__init__(warn)
        self.misses: dict[int, set[str]] = {}

    def get_many(self, cache: Cache, keys: Iterable[str]) -> Mapping[str, Any]:
        keys = list(keys)
        found = super().get_many(cache, keys)
        if len(found) < len(keys):
            self.misses.setdefault(id(cache), set()).update(key for key in keys if key not in found)
        return found

    def put(self, cache: Cache, entries: Mapping[str, Any], node_name: str) -> None:
        raise AssertionError("a dry run computes nothing")  # pragma: no cover

    def flush(self) -> None:
        pass
