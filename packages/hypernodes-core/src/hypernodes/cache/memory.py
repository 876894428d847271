"""A cache in the memory of the process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from hypernodes.cache.base import MISS, Cache, CacheStats
from hypernodes.cache.record import RECORD_PREFIX
from hypernodes.checks import shown
from hypernodes.errors import ConfigurationError, is_positive
from hypernodes.locks import reset_after_fork


class MemoryCache(Cache):
    """Stores results for as long as this object lives; values are shared, not copied.

    Args:
        max_items: The largest number of entries; the least recently used one is evicted. None for no limit.
        max_bytes: The largest total size of the values, in bytes; the least recently used ones are evicted, and a value
            that alone is larger is not stored. None for no limit. See `hypernodes.cache.size.estimate_size_bytes` for
            what is counted. A value that changes after it was put is not measured again.

    Raises:
        ConfigurationError: A limit is not a positive whole number.

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

    def __init__(self, *, max_items: int | None = None, max_bytes: int | None = None) -> None:
        for name, limit in (("max_items", max_items), ("max_bytes", max_bytes)):
            if limit is not None and not is_positive(limit):
                raise ConfigurationError(f"{name} must be a positive whole number or None; got {shown(limit)}")
        self.max_items = max_items
        self.max_bytes = max_bytes
        self._is_limited = max_items is not None or max_bytes is not None
        self._entries: OrderedDict[str, Any] = OrderedDict()
        self._sizes: dict[str, int] = {}  # filled only when `max_bytes` is set, since measuring takes time
        self._size_bytes = 0
        self._records: dict[str, Any] = {}  # one record per node, not counted by the limits
        self._hits = 0
        self._misses = 0
        self._lock = reset_after_fork(threading.Lock())

    def get(self, key: str) -> Any:
        with self._lock:
            if key[:6] == RECORD_PREFIX:
                return self._records.get(key, MISS)
            value = self._entries.get(key, MISS)
            if value is MISS:
                self._misses += 1
                return value
            self._hits += 1
            if self._is_limited:
                self._entries.move_to_end(key)
            return value

    def put(self, key: str, value: Any) -> None:
        if key[:6] == RECORD_PREFIX:  # `is_record_key`, without a call for every item
            with self._lock:
                self._records[key] = value
            return
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
            self._entries[key] = value
            if self._is_limited:
                self._evict()

    def contains(self, key: str) -> bool:
        with self._lock:
            return key in self._entries or key in self._records

    def delete(self, key: str) -> None:
        with self._lock:
            self._records.pop(key, None)
            self._remove(key)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._records.clear()
            self._sizes.clear()
            self._size_bytes = 0

    def stats(self) -> CacheStats:
        with self._lock:
            size = None if self.max_bytes is None else self._size_bytes
            return CacheStats(len(self._entries), size, self._hits, self._misses)

    def _remove(self, key: str) -> None:
        self._entries.pop(key, None)
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
