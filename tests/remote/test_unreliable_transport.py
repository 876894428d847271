"""Whatever happens to messages and workers: the result is that of a local run, or a clear error; what arrived is kept.

`HYPERNODES_SCHEDULES=10000 pytest tests/remote/test_unreliable_transport.py` tries that many schedules.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from zlib import crc32

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis.strategies import integers, sampled_from

from hypernodes import CacheWarning, WorkerLostError
from hypernodes.cache.record import is_record_key
from hypernodes.remote import outbox
from tests.remote.transports import InProcess, Unreliable
from tests.semantics.build import Built
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.reference import Expected, Reference
from tests.semantics.specification import Execution
from tests.semantics.test_generated_pipelines import (
    MAX_CALLS,
    Observed,
    check,
    check_caches,
    check_event_tree,
    check_result,
)

SCHEDULES = int(os.environ.get("HYPERNODES_SCHEDULES", "200"))
PER_SCENARIO = 5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.fixture(scope="module", autouse=True)
def _no_company() -> Iterator[None]:
    """Send every message on its own, so that more can happen to them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "_MAX_WAITING", 1)
        yield


@settings(max_examples=SCHEDULES // PER_SCENARIO, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(), seed=integers(0, 2**32), node_execution=sampled_from(["sequential", "threaded"]))
def test_an_unreliable_transport_costs_no_result(
    folder: str, scenario: Scenario, seed: int, node_execution: str
) -> None:
    seed ^= crc32(repr(scenario).encode())  # drawn numbers alone are too often the same ones
    for number in range(PER_SCENARIO):
        check_schedule(folder, scenario, seed + number, node_execution)


def check_schedule(folder: str, scenario: Scenario, seed: int, node_execution: str) -> None:
    """Check one run over a line on which happens what a seed says."""
    unreliable = Unreliable(seed, node_execution=node_execution)
    reference = Reference(scenario.pipeline)
    execution = scenario.executions[0]
    expected = reference.execute(execution)
    assume(expected.calls.total() <= MAX_CALLS and not expected.is_contested)
    built = Built(scenario.pipeline, folder, unreliable)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing can be read from <the caller's cache>", CacheWarning)
        observed = Observed(built, execution)
    held = {key for cache in built.caches.values() for key in cache.entries}
    assert {key for _, key in unreliable.arrived if not is_record_key(key)} <= held
    if isinstance(observed.error, WorkerLostError):
        event("the worker was lost")
        assert unreliable.was_killed
        check_event_tree_so_far(observed)
        check_rest(built, execution, reference, expected)
    elif unreliable.was_broken:  # nothing could be asked any more, so that more may have been computed
        event("the line broke")
        check_result(observed, expected)
        if not expected.refusals:
            check_event_tree(observed, expected)
    else:
        event("all arrived in some order")
        check(observed, expected)
        if not expected.failures:
            check_caches(built, reference)


def check_event_tree_so_far(observed: Observed) -> None:
    """Check that no event came twice, and none without its cause."""
    recorder = [one for one, _ in observed.events]
    assert len(set(recorder)) == len(recorder)
    for position, one in enumerate(recorder):
        if one.hook.endswith("_end"):
            start = one._replace(hook=one.hook.replace("_end", "_start"))
            assert start in recorder[:position], f"{one} came without a start"


def check_rest(built: Built, execution: Execution, reference: Reference, expected: Expected) -> None:
    """Check that a run after the loss of a worker computes what did not arrive before it, and nothing else."""
    held = {label: set(cache.entries) for label, cache in built.caches.items()}
    kept: dict[str, set[str]] = {}
    for label, cache in built.caches.items():
        keys = kept[label] = set()
        put = cache.put

        def put_noted(key: str, value: object, keys: set[str] = keys, put: Callable[..., None] = put) -> None:
            keys.add(key)
            put(key, value)

        cache.put = put_noted  # type: ignore[method-assign]
    built.pipeline = built.pipeline.with_backend(InProcess())
    check_result(Observed(built, execution), expected)
    for label, keys in kept.items():
        again = {key for key in keys & held[label] if not key.endswith("-items")}
        assert not again, f"computed again for {label}: {again}"
    if not expected.failures and not expected.refusals:
        check_caches(built, reference)
