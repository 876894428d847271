"""How the items of one mapped node are executed, whatever the enclosing pipeline does."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from hypernodes import ConfigurationError, LocalBackend, MemoryCache, Node, Pipeline, node
from hypernodes.backend import SubprocessBackend
from tests.support import Recorder

PLACES = [
    pytest.param(None, id="here"),
    pytest.param(LocalBackend("threaded", "threaded", max_workers=2), id="threaded"),
    pytest.param(SubprocessBackend(), id="subprocess", marks=pytest.mark.slow),
]


@node(output_name="y")
def meet(x: int, parties: int) -> tuple[int, int]:
    """Return only when as many items as `parties` are here at a time."""
    import builtins

    barrier = vars(builtins).setdefault(f"barrier of {parties}", threading.Barrier(parties))
    barrier.wait(60)
    return x, os.getpid()


@pytest.mark.parametrize("backend", PLACES)
@pytest.mark.parametrize("as_node", [meet.as_node, Pipeline([meet], name="meeting").as_node], ids=["node", "pipeline"])
def test_the_items_of_a_mapped_node_are_executed_as_it_says(backend: Any, as_node: Any) -> None:
    mapped = as_node({"xs": "x"}, {"y": "ys"}, map_over="xs", map_execution="threaded", max_workers=3)
    pipeline = Pipeline([mapped, Node(lambda ys: len(ys), "count", name="count")], backend=backend)
    found = pipeline.run({"xs": range(6), "parties": 3})
    assert [x for x, _ in found["ys"]] == list(range(6))
    assert found["count"] == 6
    is_here = not isinstance(backend, SubprocessBackend)
    assert {pid == os.getpid() for _, pid in found["ys"]} == {is_here}


@pytest.mark.slow
def test_items_may_be_computed_in_worker_processes_while_the_rest_is_not() -> None:
    def tell(x: int) -> int:
        return os.getpid()

    mapped = Node(tell, "pid").as_node({"xs": "x"}, {"pid": "pids"}, map_over="xs", map_execution="parallel")
    found = Pipeline([mapped, Node(lambda pids: os.getpid(), "own", name="own")]).run({"xs": range(4)})
    assert found["own"] == os.getpid()
    assert os.getpid() not in found["pids"]


def test_the_mode_makes_no_difference_to_what_is_cached_and_observed() -> None:
    cache, recorder = MemoryCache(), Recorder()

    def computed(mode: Any) -> list[str]:
        recorder.clear()
        mapped = Node(lambda x: x + 1, "y", name="add").as_node(map_over="x", map_execution=mode)
        assert Pipeline([mapped], cache=cache, callbacks=[recorder]).run({"x": [1, 2]}) == {"y": [2, 3]}
        return recorder.computed

    assert computed("threaded") == ["add", "add"]
    for mode in ("sequential", "async", None):
        assert computed(mode) == []


def test_modes_without_items_or_beside_a_backend_are_refused() -> None:
    inner = Pipeline([meet], name="inner")
    with pytest.raises(ConfigurationError, match="map_execution and max_workers of as_node need map_over"):
        inner.as_node(map_execution="threaded")
    with pytest.raises(ConfigurationError, match="'inner' has a backend of its own, LocalBackend"):
        inner.with_backend(LocalBackend()).as_node(map_over="x", map_execution="threaded")
    with pytest.raises(ConfigurationError, match="map_execution must be one of"):
        inner.as_node(map_over="x", map_execution="thread")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_workers=3 has no use without a mode"):
        inner.as_node(map_over="x", max_workers=3)
