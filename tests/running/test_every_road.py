"""Options choose no road: what a map gives is the same however it is run, observed, cached, awaited or streamed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from hypernodes import Failure, LocalBackend, MemoryCache, Pipeline, PipelineCallback, node
from tests.concurrency.kit import PATIENCE_S
from tests.support import Recorder, notes_of


class OverridesNothing(PipelineCallback):
    pass


@node(output_name="inverse")
def invert(x: float, offset: int = 0) -> float:
    return 1 / (x + offset)


@node(output_name=("low", "high"))
def bounds(inverse: float, *, width: int = 1) -> tuple[float, float]:
    return inverse - width, inverse + width


@node(output_name="inverse", name="invert", retries=1, retry_delay=0)
def invert_again(x: float, offset: int = 0) -> float:
    return 1 / (x + offset)


@node(output_name="inverse", name="invert", timeout=PATIENCE_S)
def invert_in_time(x: float, offset: int = 0) -> float:
    return 1 / (x + offset)


@node(output_name="inverse", name="invert")
async def invert_awaited(x: float, offset: int = 0) -> float:
    return 1 / (x + offset)


@node(output_name=("low", "high"), name="bounds")
async def bounds_awaited(inverse: float, *, width: int = 1) -> tuple[float, float]:
    return inverse - width, inverse + width


def whole(pipeline: Pipeline, inputs: dict[str, Any], on_error: Any) -> dict[str, list[Any]]:
    return pipeline.map(inputs, "x", on_error=on_error)


def awaited(pipeline: Pipeline, inputs: dict[str, Any], on_error: Any) -> dict[str, list[Any]]:
    return asyncio.run(pipeline.amap(inputs, "x", on_error=on_error))


def streamed(pipeline: Pipeline, inputs: dict[str, Any], on_error: Any) -> dict[str, list[Any]]:
    rows = list(pipeline.map_iter(inputs, "x", on_error=on_error))
    return {name: [row[name] for row in rows] for name in pipeline.outputs}


def nested(pipeline: Pipeline, inputs: dict[str, Any], on_error: Any) -> dict[str, list[Any]]:
    each = pipeline.as_node(input_mapping={"xs": "x"}, map_over="xs", on_error=on_error)
    outer = Pipeline(nodes=[each], name="outer", backend=pipeline.backend)
    return outer.run({"xs" if name == "x" else name: value for name, value in inputs.items()})


NODES: dict[str, list[Any]] = {
    "plain": [invert, bounds],
    "retries": [invert_again, bounds],
    "time limit": [invert_in_time, bounds],
    "async": [invert_awaited, bounds],
    "all async": [invert_awaited, bounds_awaited],
}
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "alone": dict,
    "observed": lambda: {"callbacks": [Recorder()]},
    "callback that overrides nothing": lambda: {"callbacks": [OverridesNothing()]},
    "cached": lambda: {"cache": MemoryCache()},
}
BACKENDS = {
    "sequential": LocalBackend(),
    "threaded": LocalBackend(map_execution="threaded", max_workers=2),
    "async": LocalBackend(map_execution="async", max_workers=3),
    "nodes threaded": LocalBackend("threaded", max_workers=2),
}
ROADS = [
    pytest.param(backend, id=name, marks=pytest.mark.slow if "threaded" in name else ())
    for name, backend in BACKENDS.items()
]
CALLS = [whole, awaited, streamed, nested]


@pytest.fixture(params=NODES)
def nodes(request: pytest.FixtureRequest) -> list[Any]:
    return NODES[request.param]


@pytest.fixture(params=SETTINGS)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SETTINGS[request.param]()


@pytest.mark.parametrize("backend", ROADS)
@pytest.mark.parametrize("call", CALLS)
def test_failed_items_are_collected_in_the_same_way(
    nodes: list[Any], settings: dict[str, Any], backend: LocalBackend, call: Any
) -> None:
    pipeline = Pipeline(nodes=nodes, name="each", backend=backend, **settings)
    upstream = Failure(KeyError("lost"), "", 7, ("upstream", "load"))
    found = call(pipeline, {"x": [1, 0, upstream, 2], "offset": 0, "width": 2}, "collect")
    failed = found["inverse"][1]
    assert found["inverse"] == [1.0, failed, upstream, 0.5]
    assert found["low"] == [-1.0, failed, upstream, -1.5]
    assert found["high"] == [3.0, failed, upstream, 2.5]
    assert isinstance(failed.error, ZeroDivisionError)
    outer = ("outer",) if call is nested else ()
    assert (failed.item_index, failed.node_path) == (1, (*outer, "each", "invert"))
    (note,) = notes_of(failed.error)
    path = " → ".join((*outer, "each"))
    assert "in node 'invert' (test_every_road.py:" in note
    assert note.endswith(f"of pipeline {path}, map item 1; its inputs: x, offset; backend: local")


@pytest.mark.parametrize("backend", ROADS)
@pytest.mark.parametrize("call", CALLS)
def test_the_first_failed_item_ends_the_map_in_the_same_way(
    nodes: list[Any], settings: dict[str, Any], backend: LocalBackend, call: Any
) -> None:
    pipeline = Pipeline(nodes=nodes, name="each", backend=backend, **settings)
    with pytest.raises(ZeroDivisionError) as caught:
        call(pipeline, {"x": [1, 2, -3, 4], "offset": 3}, "raise")
    (note,) = notes_of(caught.value)
    path = "outer → each" if call is nested else "each"
    assert note.endswith(f"of pipeline {path}, map item 2; its inputs: x, offset; backend: local")


def test_failures_in_maps_in_maps_stay_where_they_are_collected(settings: dict[str, Any]) -> None:
    cell = Pipeline(nodes=[invert], name="cell")
    raising = Pipeline(nodes=[cell.as_node({"xs": "x"}, map_over="xs", name="row")], name="rows", **settings)
    found = raising.map({"xs": [[1, 0], [2], [0, 0]]}, "xs", on_error="collect")["inverse"]
    path = ("rows", "row", "invert")
    assert found[1] == [0.5]
    assert [(found[i].item_index, found[i].node_path) for i in (0, 2)] == [(0, path), (2, path)]
    assert "map item 0 → 1;" in found[0].error.__notes__[0]

    collecting = Pipeline(nodes=[cell.as_node({"xs": "x"}, map_over="xs", on_error="collect")], **settings)
    inner = collecting.map({"xs": [[1, 0], [2], [0, 4]]}, "xs")["inverse"]
    failed = [[isinstance(value, Failure) for value in values] for values in inner]
    assert failed == [[False, True], [False], [True, False]]
    assert "map item 2 → 0;" in inner[2][0].error.__notes__[0]


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_context_variables_set_by_one_item_are_not_seen_by_another_thread_or_item(backend: LocalBackend) -> None:
    seen: ContextVar[str] = ContextVar("seen", default="caller's")

    @node(output_name="y")
    def look(x: int) -> str:
        value = seen.get()
        seen.set(f"item {x}")
        return value

    pipeline = Pipeline(nodes=[look], backend=backend)
    token = seen.set("caller's own")
    try:
        found = pipeline.map({"x": range(20)}, "x")["y"]
    finally:
        seen.reset(token)
    if backend.engine.map_execution == "threaded":
        assert set(found) == {"caller's own"}
    assert found[0] == "caller's own"


@pytest.mark.parametrize("settings", SETTINGS)
def test_cancelling_ends_a_sequential_run_between_two_attempts(settings: str) -> None:
    tried = threading.Event()

    @node(output_name="y", retries=1, retry_delay=1_000_000.0, cache=False)
    def fetch(x: int) -> int:
        tried.set()
        raise ConnectionError

    async def call() -> None:
        task = asyncio.ensure_future(Pipeline(nodes=[fetch], **SETTINGS[settings]()).amap({"x": [1, 2]}, "x"))
        assert await asyncio.to_thread(tried.wait, PATIENCE_S)
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.cancelled()

    asyncio.run(call())


@pytest.mark.parametrize("settings", SETTINGS)
def test_cancelling_ends_a_sequential_run_between_two_nodes(settings: str) -> None:
    started, may_return = threading.Event(), threading.Event()
    called: list[str] = []

    @node(output_name="a", cache=False)
    def first(x: int) -> int:
        called.append("first")
        started.set()
        assert may_return.wait(PATIENCE_S)
        return x

    @node(output_name="b", cache=False)
    def second(a: int) -> int:
        called.append("second")
        return a

    async def call() -> None:
        task = asyncio.ensure_future(Pipeline(nodes=[first, second], **SETTINGS[settings]()).arun({"x": 1}))
        assert await asyncio.to_thread(started.wait, PATIENCE_S)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        may_return.set()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.cancelled()

    asyncio.run(call())
    assert called == ["first"]


def test_a_run_inside_a_node_ends_with_the_run_around_it() -> None:
    started, may_return = threading.Event(), threading.Event()
    called: list[int] = []

    @node(output_name="y")
    def inner(x: int) -> int:
        called.append(x)
        started.set()
        assert may_return.wait(PATIENCE_S)
        return x

    items = Pipeline(nodes=[inner])

    @node(output_name="z", cache=False)
    def outer(count: int) -> list[int]:
        return items.map({"x": range(count)}, "x")["y"]

    async def call() -> None:
        task = asyncio.ensure_future(Pipeline(nodes=[outer]).arun({"count": 5}))
        assert await asyncio.to_thread(started.wait, PATIENCE_S)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        may_return.set()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.cancelled()

    asyncio.run(call())
    assert called == [0]
