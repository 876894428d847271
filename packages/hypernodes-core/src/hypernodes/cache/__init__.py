"""Caches, which store results."""

from hypernodes.cache.base import MISS, Cache, CacheStats
from hypernodes.cache.memory import MemoryCache

__all__ = ["MISS", "Cache", "CacheStats", "MemoryCache"]
