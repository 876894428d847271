"""The time limit of a node holds in a worker process, whatever the node is doing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypernodes import LocalBackend, NodeTimeoutError, Pipeline, failures, node
from tests.worker_processes import nodes

INTERRUPTED = [nodes.sleep_too_long, nodes.compute_too_long, nodes.await_too_long]
ENDED_WITH_THEIR_WORKER = [nodes.stay_in_native_code, nodes.hold_the_interpreter, nodes.stop_its_process]


@pytest.fixture(params=["items", "nodes"])
def backend(request: pytest.FixtureRequest) -> LocalBackend:
    return request.getfixturevalue(f"{request.param}_backend")  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["map_execution", "node_execution"], ids=["items", "nodes"])
def backend_of_one(request: pytest.FixtureRequest) -> Iterator[LocalBackend]:
    """One worker process only, so that it is known which one made a call."""
    with LocalBackend(**{request.param: "parallel"}, max_workers=1) as backend:
        yield backend


@pytest.mark.parametrize("slow", INTERRUPTED + ENDED_WITH_THEIR_WORKER, ids=lambda slow: slow.name)
def test_a_call_that_takes_too_long_is_stopped(slow: Any, backend: LocalBackend) -> None:
    found = Pipeline(nodes=[slow], backend=backend).map(inputs={"x": range(5)}, map_over="x", on_error="collect")
    (failure,) = failures(found)
    assert failure.item_index == 2
    assert type(failure.error) is NodeTimeoutError
    assert failure.error.node_name == slow.name
    assert failure.error.timeout_s == 0.3
    assert "took longer than its timeout of 0.3 s" in str(failure.error)
    assert [y for y in found["y"] if y is not failure] == [0, 1, 3, 4]


@pytest.mark.parametrize("slow", INTERRUPTED, ids=lambda slow: slow.name)
def test_a_worker_that_can_interrupt_a_call_goes_on(slow: Any, backend_of_one: LocalBackend) -> None:
    tell = Pipeline(nodes=[nodes.tell_process], backend=backend_of_one)
    before = tell.map(inputs={"x": range(2)}, map_over="x")["process_id"]
    found = Pipeline(nodes=[slow], backend=backend_of_one).map(inputs={"x": [2]}, map_over="x", on_error="collect")
    assert type(failures(found)[0].error) is NodeTimeoutError
    after = tell.map(inputs={"x": range(2)}, map_over="x")["process_id"]
    assert len({*before, *after}) == 1


def test_a_limit_that_is_kept_leaves_nothing_behind(backend: LocalBackend) -> None:
    pipeline = Pipeline(nodes=[nodes.sleep_too_long], backend=backend)
    assert pipeline.map(inputs={"x": [0, 1]}, map_over="x") == {"y": [0, 1]}
    time.sleep(0.4)  # longer than the limit: an alarm left behind would now go off in an idle worker
    assert pipeline.map(inputs={"x": [0, 1]}, map_over="x") == {"y": [0, 1]}


def test_a_call_inside_an_item_that_takes_too_long_in_native_code(items_backend: LocalBackend) -> None:
    """The worker dies with the results of the calls before it."""
    pipeline = Pipeline(nodes=[nodes.double, nodes.stay_in_native_code_after], backend=items_backend)
    found = pipeline.map(inputs={"x": range(5)}, map_over="x", on_error="collect")
    (failure,) = failures(found)
    assert failure.item_index == 2
    assert isinstance(failure.error, NodeTimeoutError)
    assert failure.node_path[-1] == "stay_in_native_code_after"
    assert [y for y in found["y"] if y is not failure] == [0, 2, 6, 8]


def test_a_call_that_took_too_long_in_native_code_is_made_again(backend: LocalBackend, tmp_path: Path) -> None:
    @node(output_name="y", timeout=0.3, retries=1, retry_delay=0)
    def stay_once(x: int, folder: str) -> int:
        path = Path(folder) / f"call-{x}"
        nodes.note_line(path, x)
        return nodes.stay_in_native_code.func(2 if x == 1 and len(nodes.read_lines(path)) == 1 else x + 10)

    pipeline = Pipeline(nodes=[stay_once], backend=backend)
    found = pipeline.map(inputs={"x": range(3), "folder": str(tmp_path)}, map_over="x")
    assert found == {"y": [10, 11, 12]}
