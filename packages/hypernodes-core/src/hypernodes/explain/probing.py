"""The store of `explain`: checks which values are cached without loading them, and returns placeholders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hypernodes.cache.base import MISS, Cache
from hypernodes.engine.store.run_store import RunStore, Warn, is_manifest_key, manifest_key
from hypernodes.plan import UNSET


class CachedValue:
    """Placeholder for a value in a cache.

    Attributes:
        cache: The cache.
        key: The key of the value.
        is_expected: Whether the value is not in the cache yet, but would be by the time it is needed.
    """

    __slots__ = ("cache", "is_expected", "key")

    def __init__(self, cache: Cache, key: str, is_expected: bool = False) -> None:
        self.cache = cache
        self.key = key
        self.is_expected = is_expected


class UnavailableError(Exception):
    """A value cannot be loaded; the message says why."""


class ProbingStore(RunStore):
    """Checks which keys caches hold, loads as little as possible, and writes nothing."""

    def __init__(self, warn: Warn) -> None:
        super().__init__(warn)
        self._expected: set[tuple[int, str]] = set()
        self._expected_lists: dict[tuple[int, str], bytes] = {}

    def expect(self, cache: Cache, keys: Iterable[str]) -> None:
        """Record results that the run would have stored by now."""
        self._expected.update((id(cache), key) for key in keys)

    def expect_list(self, cache: Cache, signature: bytes, elements: list[bytes]) -> None:
        """Record a manifest of a mapped result that the run would have stored by now."""
        self._expected_lists[id(cache), manifest_key(signature.hex())] = b"".join(elements)

    def expects(self, cache: Cache, keys: Iterable[str]) -> bool:
        """Whether the run would have stored all of these results by now."""
        return all((id(cache), key) in self._expected for key in keys)

    def get_many(self, cache: Cache, keys: Iterable[str]) -> Mapping[str, Any]:
        keys = list(dict.fromkeys(keys))
        manifests = [key for key in keys if is_manifest_key(key)]
        found = dict(super().get_many(cache, manifests)) if manifests else {}
        for key in manifests:
            if key not in found and (id(cache), key) in self._expected_lists:
                found[key] = self._expected_lists[id(cache), key]
        results = [key for key in keys if not is_manifest_key(key)] if manifests else keys
        if results:
            found.update({key: CachedValue(cache, key) for key in self._present(cache, results)})
        if self._expected and len(found) < len(keys):
            identity = id(cache)
            awaited = [key for key in keys if key not in found and (identity, key) in self._expected]
            found.update({key: CachedValue(cache, key, is_expected=True) for key in awaited})
        return found

    def _present(self, cache: Cache, keys: list[str]) -> set[str]:
        try:
            return cache.contains_many(keys)
        except Exception as error:
            text = f"nothing can be read from {cache!r}: {type(error).__name__}: {error}; the run goes on without it."
            self._warn(repr(cache), "get", text)
            return set()

    def record(self, cache: Cache, key: str) -> Any:
        """Return the record of a node; `MISS` when there is none, None when it cannot be read."""
        if not self._present(cache, [key]):
            return MISS
        return super().get_many(cache, [key]).get(key)

    def actual(self, value: Any) -> Any:
        try:
            return self.load(value)
        except UnavailableError:
            return UNSET

    def load(self, value: Any) -> Any:
        """Return the value of a placeholder, or a list with its placeholders replaced.

        Raises:
            UnavailableError: A value cannot be loaded.
        """
        if isinstance(value, CachedValue):
            if value.is_expected:
                raise UnavailableError("depends on a step that would run first")
            found = super().get_many(value.cache, [value.key])
            if value.key not in found:
                raise UnavailableError("its items cannot be read from the cache")
            return found[value.key]
        return [self.load(element) for element in value] if _contains_cached_values(value) else value

    def put(self, cache: Cache, entries: Mapping[str, Any], node_name: str) -> None:
        raise AssertionError("explaining computes nothing")  # pragma: no cover

    def flush(self) -> None:
        pass


def _contains_cached_values(value: Any) -> bool:
    return type(value) is list and any(isinstance(v, CachedValue) or _contains_cached_values(v) for v in value)
