"""HyperNodes on Dask: runs pipelines on the workers of a `distributed` cluster, and divides maps among them."""

from __future__ import annotations

from hypernodes_dask.backend import DaskBackend

__all__ = ["DaskBackend"]
