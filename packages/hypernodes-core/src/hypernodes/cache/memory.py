"""A cache in the memory of this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from hypernodes.cache.base import MISS, Cache
from hypernodes.errors import ConfigurationError, is_positive


class MemoryCache(Cache):
    """Keeps results for as long as this object lives; values are shared, not copied.

    Args:
        max_items: The largest number of entries kept; the one used longest ago makes room. None for no limit.

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

    def __init__(self, max_items: int | None = None) -> None:
        if max_items is not None and not is_positive(max_items):
            raise ConfigurationError(f"max_items must be a positive whole number or None; got {max_items!r}")
        self.max_items = max_items
        self._entries: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Any:
        with self._lock:
            value = self._entries.get(key, MISS)
            if value is not MISS and self.max_items is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: str, value: Any) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if self.max_items is not None and len(self._entries) > self.max_items:
                self._entries.popitem(last=False)

    def contains(self, key: str) -> bool:
        with self._lock:
            return key in self._entries

    def delete(self, key: str) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"MemoryCache({len(self)} entries)"
