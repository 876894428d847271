"""A store that says what is there without loading it: something else stands in the place of every value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hypernodes.cache.base import MISS, Cache
from hypernodes.engine.store import Store, is_manifest_key


class Present:
    """Stands for a value that is in a cache."""

    __slots__ = ("cache", "key")

    def __init__(self, cache: Cache, key: str) -> None:
        self.cache = cache
        self.key = key


class GoneError(Exception):
    """A value that was there cannot be loaded."""


class PresenceStore(Store):
    """Looks into caches, loads as little as it can, and writes nothing."""

    def get_many(self, cache: Cache, keys: Iterable[str]) -> Mapping[str, Any]:
        keys = list(dict.fromkeys(keys))
        manifests = [key for key in keys if is_manifest_key(key)]
        found = dict(super().get_many(cache, manifests)) if manifests else {}
        results = [key for key in keys if not is_manifest_key(key)] if manifests else keys
        if results:
            found.update({key: Present(cache, key) for key in self._present(cache, results)})
        return found

    def _present(self, cache: Cache, keys: list[str]) -> set[str]:
        try:
            return cache.contains_many(keys)
        except Exception as error:
            text = f"nothing can be read from {cache!r}: {type(error).__name__}: {error}; the run goes on without it."
            self._warn(repr(cache), "get", text)
            return set()

    def record(self, cache: Cache, key: str) -> Any:
        """Return what is kept about a node; `MISS` where nothing is, None where it cannot be read."""
        if not self._present(cache, [key]):
            return MISS
        return super().get_many(cache, [key]).get(key)

    def load(self, value: Any) -> Any:
        """Return the value that something stands for, or the list of those.

        Raises:
            GoneError: It cannot be loaded.
        """
        if isinstance(value, Present):
            found = super().get_many(value.cache, [value.key])
            if value.key not in found:
                raise GoneError(value.key)
            return found[value.key]
        return [self.load(element) for element in value] if _stands_for_others(value) else value

    def keep(self, cache: Cache, entries: Mapping[str, Any], node_name: str) -> None:
        raise AssertionError("looking computes nothing")  # pragma: no cover

    def flush(self) -> None:
        pass


def _stands_for_others(value: Any) -> bool:
    return type(value) is list and any(isinstance(v, Present) or _stands_for_others(v) for v in value)
