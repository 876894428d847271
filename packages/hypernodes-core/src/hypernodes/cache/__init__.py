"""Where results are kept."""

from hypernodes.cache.base import MISS, Cache
from hypernodes.cache.memory import MemoryCache

__all__ = ["MISS", "Cache", "MemoryCache"]
