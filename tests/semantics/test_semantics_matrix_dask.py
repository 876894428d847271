"""The semantics matrix on a Dask cluster: a scheduler here, and worker processes that share the items of maps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypernodes import Backend
from tests.semantics.test_semantics_matrix import BackendConformance


@pytest.fixture(scope="module")
def shared_backend() -> Iterator[Backend]:
    from hypernodes_dask import DaskBackend

    with DaskBackend("local", workers=2, chunk_size=2) as backend:  # keeps the cluster for all tests
        yield backend


class TestDaskBackend(BackendConformance):
    @pytest.fixture
    def backend(self, shared_backend: Backend) -> Backend:
        return shared_backend
