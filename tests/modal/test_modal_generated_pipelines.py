"""Generated pipelines do in a Modal container what the reference interpreter says.

Some here, in each mode once; `HYPERNODES_MODAL_EXAMPLES=1000 pytest
tests/modal/test_modal_generated_pipelines.py` goes through as many, in all pairs of modes.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator

import modal
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans, integers, sampled_from

from hypernodes import Backend, MemoryCache
from hypernodes_modal import ModalBackend
from hypernodes_modal.loopback import ModalLoopback
from tests.branches.branching_pipelines import Spec, branching_pipelines
from tests.branches.test_generated_branches import INPUTS, check
from tests.semantics.build import CallsOverNetwork
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.modes import MODES, MODES_ELSEWHERE, Modes
from tests.semantics.test_generated_pipelines import check_scenario

EXAMPLES = int(os.environ.get("HYPERNODES_MODAL_EXAMPLES", "24"))
DRAWN = MODES if "HYPERNODES_MODAL_EXAMPLES" in os.environ else MODES_ELSEWHERE


@pytest.fixture(scope="module")
def backends(modal_loopback_session: ModalLoopback) -> Callable[[Modes], Backend]:
    """A backend for each pair of modes; one deployed function, and so one container, serves them all."""
    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install("loky")
    ModalBackend(image).deploy("generated")

    @functools.cache
    def backend(modes: Modes) -> Backend:
        node_execution, map_execution = modes
        return ModalBackend.deployed(
            "generated", node_execution=node_execution, map_execution=map_execution, max_workers=3
        )

    return backend


@pytest.fixture(scope="module")
def calls() -> Iterator[CallsOverNetwork]:
    made = CallsOverNetwork()
    yield made
    made.close()


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(), modes=sampled_from(DRAWN))
def test_generated_pipelines_do_in_a_container_what_the_reference_says(
    backends: Callable[[Modes], Backend], calls: CallsOverNetwork, scenario: Scenario, modes: Modes
) -> None:
    check_scenario(scenario, backends(modes), calls)


@settings(max_examples=EXAMPLES // 3, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(), chunk_size=integers(1, 3))
def test_generated_pipelines_mean_the_same_divided_among_containers(
    backends: Callable[[Modes], Backend], calls: CallsOverNetwork, scenario: Scenario, chunk_size: int
) -> None:
    backends(("sequential", "sequential"))  # which has deployed the function
    distributed = ModalBackend.deployed("generated", mode="distributed", max_concurrent=2, chunk_size=chunk_size)
    check_scenario(scenario, distributed, calls)


@settings(max_examples=EXAMPLES // 3, suppress_health_check=list(HealthCheck))
@given(spec=branching_pipelines(), inputs=INPUTS, modes=sampled_from(DRAWN), is_cached=booleans())
def test_generated_branches_are_evaluated_lazily_in_a_container(
    backends: Callable[[Modes], Backend],
    calls: CallsOverNetwork,
    spec: Spec,
    inputs: dict[str, object],
    modes: Modes,
    is_cached: bool,
) -> None:
    check(spec, inputs, backends(modes), calls, cache=MemoryCache() if is_cached else None)
