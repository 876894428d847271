"""Caches, which store results.

`Cache` and `MemoryCache` are core's own; any other name resolves to the cache that an installed distribution registers
(entry point group `hypernodes.caches`), imported at its first use.
"""

from typing import TYPE_CHECKING, Any

from hypernodes import _namesake
from hypernodes.cache.base import MISS, Cache, CacheStats
from hypernodes.cache.memory import MemoryCache

if TYPE_CHECKING:
    from hypernodes_cache import DiskCache as DiskCache

__all__ = ["MISS", "Cache", "CacheStats", "MemoryCache"]

_namesake.refuse_if_imported()


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from hypernodes import plugins

    return plugins.find_class(name, [plugins.CACHES], __name__)


def __dir__() -> list[str]:
    from hypernodes import plugins

    return sorted({*globals(), *__all__, *plugins.class_names([plugins.CACHES])})
