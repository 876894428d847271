"""The semantics matrix on Modal: the real client and a real container, on a control plane on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from hypernodes import Backend
from hypernodes_modal.loopback import ModalLoopback
from tests.semantics.modes import Modes
from tests.semantics.test_semantics_matrix import BackendConformance

# Where it runs and how it runs are independent of each other: the engine in a container is that of the other process of
# `SubprocessBackend`, and modal/test_modal_generated_pipelines.py draws from more modes in a container.
MODES: list[Modes] = [("threaded", "parallel")]


@pytest.fixture(params=MODES, ids="-".join, scope="module")
def shared_backend(request: pytest.FixtureRequest, modal_loopback_session: ModalLoopback) -> Iterator[Backend]:
    import modal

    from hypernodes_modal import ModalBackend

    node_execution, map_execution = request.param
    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install("loky")
    with ModalBackend(
        image, node_execution=node_execution, map_execution=map_execution, max_workers=2
    ) as backend:  # keeps the container for all tests
        yield backend


class TestModalBackend(BackendConformance):
    @pytest.fixture
    def backend(self, shared_backend: Backend) -> Backend:
        return shared_backend


@pytest.fixture(scope="module")
def distributed_backend(modal_loopback_session: ModalLoopback) -> Iterator[Backend]:
    import modal

    from hypernodes_modal import ModalBackend

    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install("cloudpickle")
    with ModalBackend(image, mode="distributed", max_concurrent=2, chunk_size=1) as backend:
        yield backend


class TestDistributedModalBackend(BackendConformance):
    @pytest.fixture
    def backend(self, distributed_backend: Backend) -> Backend:
        return distributed_backend
