"""Caches, which store results."""

from hypernodes import _namesake
from hypernodes.cache.base import MISS, Cache, CacheStats
from hypernodes.cache.memory import MemoryCache

__all__ = ["MISS", "Cache", "CacheStats", "MemoryCache"]

_namesake.refuse_if_imported()
