"""Work on an executor of the caller's own, whatever happens to its workers."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hypernodes import ConfigurationError, LocalBackend, MemoryCache, Pipeline, WorkerDiedError, failures, node
from tests.worker_processes.nodes import die_if_told

MODES = [("sequential", "parallel"), ("parallel", "sequential")]


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize("modes", MODES, ids=["items", "nodes"])
@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["", "cached"])
def test_items_fail_one_by_one_when_a_process_of_the_caller_dies(
    modes: Any, cache: MemoryCache | None, processes: ProcessPoolExecutor, tmp_path: Path
) -> None:
    backend = LocalBackend(*modes, executor=processes, max_workers=1)
    pipeline = Pipeline(nodes=[die_if_told], backend=backend, cache=cache)
    inputs = {"x": range(6), "victims": {1: "always"}, "folder": str(tmp_path)}
    found = pipeline.map(inputs=inputs, map_over="x", on_error="collect")
    assert {1, 2, 3, 4, 5} <= {failure.item_index for failure in failures(found)}
    assert [type(failure.error) for failure in failures(found)] == [WorkerDiedError] * len(failures(found))
    with pytest.raises(WorkerDiedError, match=r"'die_if_told' for map item 0 cannot be computed.* executor="):
        pipeline.map(inputs={**inputs, "x": [9]}, map_over="x")


def test_an_executor_that_was_shut_down_is_named(processes: ProcessPoolExecutor) -> None:
    backend = LocalBackend(map_execution="parallel", executor=processes)
    processes.shutdown()
    with pytest.raises(ConfigurationError, match=r"executor passed as executor= takes no work .*after shutdown"):
        Pipeline(nodes=[die_if_told], backend=backend).map(inputs={"x": [0], "victims": {}, "folder": ""}, map_over="x")


@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["", "cached"])
def test_threads_of_the_caller_may_take_the_place_of_processes(cache: MemoryCache | None) -> None:
    @node(output_name="y")
    def append(x: int, text: bytes) -> bytes:
        return text + bytes([x])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as executor, ThreadPoolExecutor(4) as callers:
            backend = LocalBackend(map_execution="parallel", executor=executor, max_workers=8)
            pipeline = Pipeline(nodes=[append], backend=backend, cache=cache)

            def run(number: int) -> bool:
                text = bytes([number]) * 100_000
                found = pipeline.map(inputs={"x": range(20), "text": text}, map_over="x")
                return found == {"y": [text + bytes([x]) for x in range(20)]}

            assert all(callers.map(run, range(40)))
    finally:
        sys.setswitchinterval(interval)
