"""Caches on disk for HyperNodes."""

from hypernodes_cache.disk_cache import DiskCache
from hypernodes_cache.eviction import RemovedCounts
from hypernodes_cache.inspection import Entry

__all__ = ["DiskCache", "Entry", "RemovedCounts"]
