"""What every cache has, the limits of `MemoryCache`, and how sizes are estimated."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from hypernodes import MISS, Cache, CacheStats, ConfigurationError, MemoryCache
from hypernodes.cache.size import estimate_size_bytes


class Simple(Cache):
    """A third party's cache, with no more than it must have."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.entries.get(key, MISS)

    def put(self, key: str, value: Any) -> None:
        if isinstance(value, type(threading.Lock())):
            raise TypeError("cannot be stored")
        self.entries[key] = value

    def contains(self, key: str) -> bool:
        return key in self.entries

    def delete(self, key: str) -> None:
        self.entries.pop(key, None)

    def clear(self) -> None:
        self.entries.clear()


def test_a_simple_cache_gets_the_rest_for_nothing() -> None:
    with Simple() as cache:
        cache.put_many({"a": 1, "b": None}, labels={"a": "node"})
        assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": None}
        assert cache.contains_many(["a", "c"]) == {"a"}
        assert "a" in cache
        assert cache.stats() == CacheStats(None, None, None, None)


def test_one_value_that_cannot_be_stored_does_not_cost_the_others() -> None:
    cache = Simple()
    with pytest.raises(TypeError, match="cannot be stored"):
        cache.put_many({"a": 1, "b": threading.Lock(), "c": 3})
    assert cache.entries == {"a": 1, "c": 3}


@pytest.mark.parametrize("key", [3, None, b"key", ["key"], ("key",)])
def test_keys_that_are_no_text_are_refused(key: Any) -> None:
    cache = MemoryCache()
    for use in (
        cache.get,
        cache.contains,
        cache.delete,
        lambda key: cache.put(key, 1),
        lambda key: cache.get_many([key]),
    ):
        with pytest.raises(TypeError, match="keys must be str; got"):
            use(key)
    assert cache.stats() == CacheStats(0, None, 0, 0)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copy_of_a_cache_in_memory_starts_empty(again: Any) -> None:
    cache = MemoryCache(max_items=2, copy=True)
    cache.put("a", [1])
    other = again(cache)
    assert (other.get("a"), other.stats(), other.max_items, other.copy) == (MISS, CacheStats(0, None, 0, 1), 2, True)
    for key in "abc":
        other.put(key, key)
    assert (len(other), len(cache)) == (2, 1)


def test_memory_is_limited_in_bytes_and_the_longest_unused_goes() -> None:
    cache = MemoryCache(max_bytes=3500)
    for key in "abc":
        cache.put(key, bytes(1000))
    cache.get("a")
    cache.put("d", bytes(1000))
    assert cache.contains_many("abcd") == {"a", "c", "d"}
    entries, size, hits, misses = cache.stats()
    assert (entries, hits, misses) == (3, 1, 0)
    assert size is not None
    assert 3000 < size <= 3500


def test_a_value_larger_than_all_the_memory_is_not_kept_and_drops_nothing_else() -> None:
    cache = MemoryCache(max_bytes=2000)
    cache.put("small", bytes(1000))
    cache.put("large", bytes(3000))
    assert cache.contains_many(["small", "large"]) == {"small"}
    cache.put("small", bytes(5000))
    assert cache.get("small") is MISS  # and not what was there before
    assert cache.stats().size_bytes == 0


def test_putting_again_and_deleting_count_once() -> None:
    cache = MemoryCache(max_bytes=10_000)
    for _ in range(50):
        cache.put("k", bytes(1000))
    assert cache.contains("k")
    cache.delete("k")
    assert cache.stats() == CacheStats(0, 0, 0, 0)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1"])
@pytest.mark.parametrize("name", ["max_items", "max_bytes"])
def test_limits_that_a_memory_cache_cannot_have_are_refused(name: str, limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        MemoryCache(**{name: limit})


@dataclass
class Holder:
    data: Any


class Slotted:
    __slots__ = ("__private", "data")

    def __init__(self, data: Any) -> None:
        self.data = data
        self.__private = data[:-1]


SIZE = 100_000
large = bytes(SIZE)


@pytest.mark.parametrize(
    ("value", "times"),
    [
        (large, 1),
        ("x" * SIZE, 1),
        ([large, large], 1),
        ({"a": (bytes(SIZE),), "b": {frozenset({"x" * SIZE})}}, 2),
        ([bytes(SIZE) for _ in range(3)], 3),
        (Holder(Holder([large])), 1),
        (Slotted(bytes(SIZE)), 2),
        (memoryview(large), 1),
        (pytest, 0),
        (test_limits_that_a_memory_cache_cannot_have_are_refused, 0),
    ],
)
def test_sizes_are_those_of_everything_a_value_keeps_alive_once(value: Any, times: float) -> None:
    assert estimate_size_bytes(value) == pytest.approx(times * SIZE, abs=4000)


def test_sizes_of_arrays_are_those_of_the_memory_they_keep_alive() -> None:
    import numpy as np

    array = np.zeros(SIZE, dtype=np.uint8)
    sizes = [
        (array, 1),
        (array[: SIZE // 2], 0.5),
        (array.reshape(100, -1).T, 1),
        ([array, array], 1),
        (Holder(Holder([array])), 1),
        (memoryview(array), 1),
        (np.array([bytes(SIZE), bytes(SIZE + 1)], dtype=object), 2),
        (np, 0),
    ]
    for value, times in sizes:
        assert estimate_size_bytes(value) == pytest.approx(times * SIZE, abs=4000), value


def test_values_in_a_circle_and_deep_ones_have_a_size() -> None:
    circle: list[Any] = [bytes(SIZE)]
    circle.append(circle)
    assert estimate_size_bytes(circle) == pytest.approx(SIZE, abs=1000)
    deep: list[Any] = []
    for _ in range(SIZE):
        deep = [deep]
    assert estimate_size_bytes(deep) > SIZE * 8
