"""Cache look-ups of frames: the queries of many executions are answered together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hypernodes.cache.base import Cache, is_constant
from hypernodes.engine.store.run_store import RunStore
from hypernodes.plan import CallStep


class CacheQuery(NamedTuple):
    """The look-up of a step's results in a cache.

    Attributes:
        step: The step.
        cache: The cache that stores its results.
        keys: The key of each of its outputs.
    """

    step: CallStep
    cache: Cache
    keys: list[str]


class CacheReplies:
    """The values found in a cache for several executions.

    Args:
        store: Reads the cache.
        cache: The cache.
        keys: The keys to look up.
    """

    def __init__(self, store: RunStore, cache: Cache, keys: Iterable[str]) -> None:
        self._store = store
        self._cache = cache
        self._found = store.get_many(cache, keys)
        self._taken: set[str] = set()

    def take(self, keys: Sequence[str]) -> Sequence[Any] | None:
        """Return the values of keys, for a caller that may modify them; None when any is missing."""
        found, taken = self._found, self._taken
        values: list[Any] = []
        for key in keys:
            if key not in found:
                return None
            values.append(found[key])
        if not taken.isdisjoint(keys) and not all(map(is_constant, values)):
            return self._store.get_each(self._cache, keys)
        taken.update(keys)
        return values
