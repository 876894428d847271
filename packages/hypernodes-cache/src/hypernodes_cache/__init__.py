"""Caches on disk for HyperNodes."""

from hypernodes_cache.disk_cache import DiskCache

__all__ = ["DiskCache"]
