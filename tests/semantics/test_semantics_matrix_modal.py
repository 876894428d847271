"""The semantics matrix on Modal: the real client and a real container, on a control plane on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from hypernodes import Backend
from hypernodes_modal.loopback import ModalLoopback
from tests.semantics.modes import MODES, Modes
from tests.semantics.test_semantics_matrix import BackendConformance

# What is executed in the container is the engine that the other matrices take through all modes; here each mode stands
# once on either side.
SOME_MODES = [MODES[i] for i in (0, 6, 9, 15)]
PLACE_TESTS = ("test_an_error", "test_map", "test_callbacks", "test_the_cache_holds", "test_what_was_computed")


@pytest.fixture(params=MODES, ids="-".join, scope="module")
def shared_backend(request: pytest.FixtureRequest, modal_loopback_session: ModalLoopback) -> Iterator[Backend]:
    import modal

    from hypernodes_modal import ModalBackend

    node_execution, map_execution = modes = request.param
    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install("loky")
    with ModalBackend(
        image, node_execution=node_execution, map_execution=map_execution, max_workers=3
    ) as backend:  # keeps the container for all tests
        backend.modes = modes  # type: ignore[attr-defined]
        yield backend


class TestModalBackend(BackendConformance):
    @pytest.fixture
    def backend(self, shared_backend: Backend, request: pytest.FixtureRequest) -> Backend:
        modes: Modes = shared_backend.modes  # type: ignore[attr-defined]
        if modes not in SOME_MODES and not request.node.originalname.startswith(PLACE_TESTS):
            pytest.skip("these modes only go through what concerns the place")
        return shared_backend
