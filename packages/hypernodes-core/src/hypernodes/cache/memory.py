"""A cache in the memory of the process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from hypernodes.cache.base import CONSTANTS, MISS, Cache, CacheStats, is_constant
from hypernodes.cache.record import RECORD_PREFIX
from hypernodes.caller import warn_caller
from hypernodes.checks import shown
from hypernodes.errors import CacheWarning, ConfigurationError, is_positive
from hypernodes.locks import reset_after_fork


class MemoryCache(Cache):
    """Stores results for as long as this object lives.

    Every reader gets a value of its own, as from a cache on disk: what a node or a caller does to a list, an array or
    an object that it got, or a function to what its closure holds, does not change what others get later. Values that
    cannot change (numbers, texts, tuples of such) are shared, and so are classes and modules. So is what takes more
    than 64 MiB, or cannot be copied (a connection, a model with handles): if its content has changed when it is asked
    for again, it is a miss, with one warning that names the node. What can be neither copied nor identified by its
    content is shared without a check; it is not stored if it holds a generator.

    A copy of a cache, and one that arrives in another process, starts empty.

    Args:
        max_items: The largest number of entries; the least recently used one is evicted. None for no limit.
        max_bytes: The largest total size of the values, in bytes; the least recently used ones are evicted, and a value
            that alone is larger is not stored. None for no limit. See `hypernodes.cache.size.estimate_size_bytes` for
            what is counted. A value that changes after it was put is not measured again.
        copy: True to copy values of every size, and to store nothing that cannot be copied. False to share all values
            without copies and checks, e.g. large models that nobody changes. None for what is said above.

    Raises:
        ConfigurationError: A limit is not a positive whole number, or `copy` is not True, False or None.

    Example:
        >>> from hypernodes import MemoryCache, Pipeline, node
        >>> @node(output_name="doubled")
        ... def double(x):
        ...     print("computing")
        ...     return 2 * x
        >>> pipeline = Pipeline(nodes=[double], cache=MemoryCache())
        >>> pipeline.run(inputs={"x": 4})
        computing
        {'doubled': 8}
        >>> pipeline.run(inputs={"x": 4})
        {'doubled': 8}
    """

    _set_by_init = ("_entries",)

    def __init__(self, *, max_items: int | None = None, max_bytes: int | None = None, copy: bool | None = None) -> None:
        for name, limit in (("max_items", max_items), ("max_bytes", max_bytes)):
            if limit is not None and not is_positive(limit):
                raise ConfigurationError(f"{name} must be a positive whole number or None; got {shown(limit)}")
        if copy not in (True, False, None):
            raise ConfigurationError(f"copy must be True, False or None; got {shown(copy)}")
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.copy = copy
        self._kept_types: frozenset[type] = frozenset()  # of values that are not simply handed out; see `copies`
        self._labels: dict[str, str] = {}  # the nodes that made the values that are compared when they are handed out
        self._warned: set[str] = set()
        self._is_limited = max_items is not None or max_bytes is not None
        self._entries: OrderedDict[str, Any] = OrderedDict()
        self._sizes: dict[str, int] = {}  # filled only when `max_bytes` is set, since measuring takes time
        self._size_bytes = 0
        self._records: dict[str, Any] = {}  # one record per node, not counted by the limits
        self._hits = 0
        self._misses = 0
        self._lock = reset_after_fork(threading.Lock())

    def get(self, key: str) -> Any:
        try:
            with self._lock:
                if key[:6] == RECORD_PREFIX:
                    return self._records.get(key, MISS)
                value = self._entries.get(key, MISS)
                if value is MISS:
                    if type(key) is not str:
                        raise _wrong_key(key)
                    self._misses += 1
                    return value
                self._hits += 1
                if self._is_limited:
                    self._entries.move_to_end(key)
        except TypeError as error:
            raise _wrong_key(key) from error
        return self._hand_out(key, value) if type(value) in self._kept_types else value

    def _hand_out(self, key: str, kept: Any) -> Any:
        """Return a value that nobody else has, or one that is what it was; else `MISS`."""
        from hypernodes.cache.copies import ChangedError

        try:
            return kept.hand_out()
        except ChangedError:
            reason = "was changed after it was stored in a MemoryCache"
        except Exception as error:  # of the value's own code
            reason = f"cannot be copied out of a MemoryCache any more ({type(error).__name__}: {error})"
        label = self._labels.get(key, "")
        with self._lock:
            if self._entries.get(key) is kept:
                self._remove(key)
            self._hits -= 1
            self._misses += 1
            is_new = label not in self._warned
            self._warned.add(label)
        if is_new:
            whose = f"the result of node {label!r}" if label else "a value"
            warn_caller(
                f"{whose} {reason}, and is not used again. Let what changes it work on a copy, or make the cache with "
                "MemoryCache(copy=True).",
                CacheWarning,
            )
        return MISS

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        others = entries
        if not self._is_limited and not self._labels and type(self).put is MemoryCache.put:
            # The same as `put` for most results, at once.
            simple = {key: value for key, value in entries.items() if _is_result_key(key) and is_constant(value)}
            with self._lock:
                self._entries.update(simple)
            others = {key: entries[key] for key in entries if key not in simple} if len(simple) < len(entries) else {}
        try:
            super().put_many(others, labels)
        finally:
            if labels and self._kept_types:
                for key, value in others.items():
                    if type(value) not in CONSTANTS and type(self._entries.get(key)) in self._kept_types:
                        self._labels[key] = labels.get(key, "")

    def put(self, key: str, value: Any) -> None:
        if type(key) is not str:
            raise _wrong_key(key)
        if key[:6] == RECORD_PREFIX:
            with self._lock:
                self._records[key] = value
            return
        kept = value if is_constant(value) or self.copy is False else self._keep(value)
        if self.max_bytes is None:
            size = 0
        else:
            from hypernodes.cache.size import estimate_size_bytes

            size = estimate_size_bytes(value)
        with self._lock:
            self._remove(key)
            if self.max_bytes is not None:
                if size > self.max_bytes:
                    return
                self._sizes[key] = size
                self._size_bytes += size
            self._entries[key] = kept
            if self._is_limited:
                self._evict()

    def _keep(self, value: Any) -> Any:
        from hypernodes.cache.copies import KEPT, keep  # which takes long to import

        self._kept_types = KEPT
        return keep(value, copies_always=bool(self.copy))

    def contains(self, key: str) -> bool:
        if type(key) is not str:
            raise _wrong_key(key)
        with self._lock:
            return key in self._entries or key in self._records

    def delete(self, key: str) -> None:
        if type(key) is not str:
            raise _wrong_key(key)
        with self._lock:
            self._records.pop(key, None)
            self._remove(key)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._records.clear()
            self._labels.clear()
            self._sizes.clear()
            self._size_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        empty = MemoryCache(max_items=self.max_items, max_bytes=self.max_bytes, copy=self.copy)
        return {**vars(self), **vars(empty), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=reset_after_fork(threading.Lock()))

    def stats(self) -> CacheStats:
        with self._lock:
            size = None if self.max_bytes is None else self._size_bytes
            return CacheStats(len(self._entries), size, self._hits, self._misses)

    def _remove(self, key: str) -> None:
        self._entries.pop(key, None)
        if self._labels:
            self._labels.pop(key, None)
        if self._sizes:
            self._size_bytes -= self._sizes.pop(key, 0)

    def _evict(self) -> None:
        while (self.max_items is not None and len(self._entries) > self.max_items) or (
            self.max_bytes is not None and self._size_bytes > self.max_bytes
        ):
            self._remove(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"MemoryCache({len(self)} entries)"


def _is_result_key(key: Any) -> bool:
    return type(key) is str and key[:6] != RECORD_PREFIX  # `is_record_key`, without a call for every item


def _wrong_key(key: object) -> TypeError:
    return TypeError(f"keys must be str; got {shown(key)}")
