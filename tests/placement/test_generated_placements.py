"""Generated pipelines whose nodes run at places that are drawn by lot: the same meaning as in one place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import integers, sampled_from

from hypernodes import Backend, LocalBackend
from hypernodes.backend.placed import PlacedBackend
from tests.remote.transports import InProcess, SeveralAtOnce
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.modes import Modes
from tests.semantics.specification import FunctionSpec, PipelineSpec
from tests.semantics.test_generated_pipelines import check_scenario


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


def paths_of(pipeline: PipelineSpec, above: str = "") -> Iterator[str]:
    for node in pipeline.nodes:
        yield above + node.name
        if not isinstance(node, FunctionSpec):
            yield from paths_of(node.pipeline, f"{above}{node.name}/")


@settings(max_examples=max(100, settings().max_examples), suppress_health_check=list(HealthCheck))
@given(
    scenario=scenarios(),
    modes=sampled_from([("sequential", "sequential"), ("threaded", "threaded"), ("sequential", "async")]),
    seed=integers(0, 2**30),
)
def test_generated_pipelines_mean_the_same_wherever_their_nodes_run(
    folder: str, scenario: Scenario, modes: Modes, seed: int
) -> None:
    chance = Random(seed)
    node_execution, map_execution = modes
    most = None if modes == ("sequential", "sequential") else 3
    here = LocalBackend(node_execution, map_execution, max_workers=most)
    both = {"node_execution": node_execution, "map_execution": map_execution, "max_workers": most}
    several = SeveralAtOnce(3, chunk_size=chance.choice([1, 2, None]), **both)
    places: list[Backend] = [here, InProcess(**both), several, LocalBackend("threaded")]
    nodes = {path: chance.choice(places) for path in paths_of(scenario.pipeline) if chance.random() < 0.5}
    check_scenario(scenario, PlacedBackend(chance.choice([here, *places[:3]]), nodes), folder)
