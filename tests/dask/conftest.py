"""One Dask cluster for all tests of a module: a scheduler here, two worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from distributed import Client

    from hypernodes_dask import DaskBackend


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskBackend]:
    """A backend whose cluster stays for all tests of a module."""
    from hypernodes_dask import DaskBackend

    with DaskBackend("local", workers=2) as backend:
        yield backend


@pytest.fixture
def client(cluster: DaskBackend) -> Client:
    return cluster.client
