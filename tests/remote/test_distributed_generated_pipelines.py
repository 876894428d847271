"""Generated pipelines at a place that executes several jobs at a time: the same meaning as here.

`HYPERNODES_SCHEDULES=2000 pytest tests/remote/test_distributed_generated_pipelines.py` tries that many schedules of
lost, late, doubled and reordered messages and of lost workers.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from zlib import crc32

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis.strategies import integers, sampled_from

from hypernodes import CacheWarning, HyperNodesWarning, WorkerDiedError, WorkerLostError
from hypernodes.remote import outbox
from tests.remote.transports import SeveralAtOnce, UnreliableCluster
from tests.semantics.build import Built
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.modes import Modes
from tests.semantics.reference import Reference
from tests.semantics.test_generated_pipelines import (
    MAX_CALLS,
    Observed,
    check_repeated_work,
    check_scenario,
)

SCHEDULES = int(os.environ.get("HYPERNODES_SCHEDULES", "60"))


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(
    scenario=scenarios(),
    modes=sampled_from([("sequential", "sequential"), ("threaded", "async")]),
    chunk_size=integers(1, 3),
)
def test_generated_pipelines_mean_the_same_in_several_jobs(
    folder: str, scenario: Scenario, modes: Modes, chunk_size: int
) -> None:
    node_execution, map_execution = modes
    backend = SeveralAtOnce(
        3, chunk_size=chunk_size, node_execution=node_execution, map_execution=map_execution, max_workers=3
    )
    check_scenario(scenario, backend, folder)


@settings(max_examples=SCHEDULES, suppress_health_check=list(HealthCheck))
@given(
    scenario=scenarios(),
    seed=integers(0, 2**32),
    modes=sampled_from([("sequential", "sequential"), ("threaded", "threaded")]),
    chunk_size=integers(1, 4),
)
def test_lost_workers_and_bad_lines_of_several_jobs_change_no_result(
    folder: str, scenario: Scenario, seed: int, modes: Modes, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MAX_WAITING", 1)  # so that more can happen to each message
    execution = next((one for one in scenario.executions if one.map_over), scenario.executions[0])
    expected = Reference(scenario.pipeline).execute(execution)
    assume(expected.calls.total() <= MAX_CALLS)
    cluster = UnreliableCluster(
        seed ^ crc32(repr(scenario).encode()),
        losses=3,
        chunk_size=chunk_size,
        node_execution=modes[0],
        map_execution=modes[1],
        max_workers=3,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing can be read from <the caller's cache>", CacheWarning)
        warnings.filterwarnings("ignore", ".*messages of backend.*were lost", HyperNodesWarning)
        observed = Observed(Built(scenario.pipeline, folder, cluster), execution)
    event(f"{min(cluster.lost, 3)} workers lost")
    if isinstance(observed.error, (WorkerLostError, WorkerDiedError)):
        assert cluster.lost
        return  # a run is not given out again; an item that ends two workers may be why they end
    check_repeated_work(observed, expected)
