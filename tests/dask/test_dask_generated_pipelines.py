"""Generated pipelines on a Dask cluster: what the reference interpreter says, however maps are divided."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import integers, sampled_from

from tests.semantics.generate import Scenario, scenarios
from tests.semantics.modes import Modes
from tests.semantics.test_generated_pipelines import check_scenario

if TYPE_CHECKING:
    from distributed import Client

MODES: list[Modes] = [("sequential", "sequential"), ("threaded", "async")]


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.fixture(scope="module")
def backend_on(cluster: Any) -> Callable[..., Any]:
    from hypernodes_dask import DaskBackend

    client: Client = cluster.client
    return lambda modes, chunk_size: DaskBackend(
        client, node_execution=modes[0], map_execution=modes[1], max_workers=None, chunk_size=chunk_size
    )


@settings(max_examples=max(24, settings().max_examples // 4), suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(), modes=sampled_from(MODES), chunk_size=integers(1, 3))
def test_generated_pipelines_do_on_a_cluster_what_the_reference_says(
    backend_on: Callable[..., Any], folder: str, scenario: Scenario, modes: Modes, chunk_size: int
) -> None:
    with backend_on(modes, chunk_size) as backend:
        check_scenario(scenario, backend, folder)
