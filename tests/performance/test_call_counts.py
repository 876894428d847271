"""The hot paths stay short: counted in calls of Python functions, which no busy machine can disturb."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import pytest

from hypernodes import CallbackContext, MemoryCache, Node, Pipeline, PipelineCallback

# Calls for a node that is observed: the node, two events and their two hooks; before Python 3.12 also a comprehension.
OBSERVED_NODE = 5 + (sys.version_info < (3, 12))
# For an item that is observed: its three nodes, its frame, its context, and its two events.
OBSERVED_ITEM = 3 * OBSERVED_NODE + 19

# For an item with three nodes and a cache in memory: signing, looking up, calling, keeping. Comprehensions count before
# Python 3.12, and so do generators, which the memory cache answers with.
COLD_ITEM = 107 if sys.version_info < (3, 12) else 91
WARM_ITEM = 36 if sys.version_info < (3, 12) else 30
OBSERVED_COLD_ITEM = COLD_ITEM + 3 * 9 + (13 if sys.version_info >= (3, 12) else 15)
OBSERVED_WARM_ITEM = WARM_ITEM + 1


class NoOp(PipelineCallback):
    """Observes every event of nodes and items, and does nothing."""

    def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        pass

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        pass

    def on_map_item_start(self, item_index: int, ctx: CallbackContext) -> None:
        pass

    def on_map_item_end(self, item_index: int, duration: float, ctx: CallbackContext) -> None:
        pass


def count_calls(function: Callable[[], object], kinds: tuple[str, ...] = ("call",)) -> int:
    """Return how many calls of Python functions `function` makes, without its own; "c_call" for functions in C."""
    calls = -1

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        if event in kinds:
            calls += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


@functools.cache
def chain_nodes(length: int) -> tuple[Node[..., Any], ...]:
    """Nodes each of which takes the result of the one before; made, and identified by their code, once."""
    nodes = []
    for number in range(1, length + 1):
        names: dict[str, Any] = {"__name__": __name__}
        exec(f"def f{number}(x{number - 1}): return x{number - 1}", names)
        nodes.append(Node(names[f"f{number}"], output_name=f"x{number}"))
    return tuple(nodes)


three = Pipeline(
    nodes=[
        Node(lambda x: x + 1, "a", name="a"),
        Node(lambda a: a * 2, "b", name="b"),
        Node(lambda a, b: a + b, "c", name="c"),
    ]
)
inside = Pipeline(nodes=[three.as_node(map_over="x")])
twice_inside = Pipeline(nodes=[inside.as_node(map_over="x")])


def run_chain(size: int, **settings: Any) -> Callable[[], object]:
    pipeline = Pipeline(nodes=chain_nodes(size), **settings)
    pipeline.run({"x0": 0})  # compiled once
    return lambda: pipeline.run({"x0": 0})


def build_chain(size: int) -> Callable[[], object]:
    nodes = chain_nodes(size)
    return lambda: Pipeline(nodes=nodes).plan_for(["x0"])


def build_nodes(size: int) -> Callable[[], object]:
    functions = [node.func for node in chain_nodes(size)]
    return lambda: [Node(function, output_name="y") for function in functions]


def build_fan(size: int) -> Callable[[], object]:
    names = [f"y{number}" for number in range(size)]
    spread = [Node(lambda x: x, name, name=name) for name in names]
    scope: dict[str, Any] = {"__name__": __name__}
    exec(f"def join({', '.join(names)}): return 0", scope)
    nodes = [*spread, Node(scope["join"], "joined")]
    return lambda: Pipeline(nodes=nodes).plan_for(["x"])


def map_items(size: int, pipeline: Pipeline = three, **settings: Any) -> Callable[[], object]:
    pipeline = Pipeline(nodes=pipeline.nodes, **settings)
    pipeline.map({"x": [0]}, map_over="x")
    return lambda: pipeline.map({"x": list(range(size))}, map_over="x")


def run_items(size: int, **settings: Any) -> Callable[[], object]:
    pipeline = Pipeline(nodes=inside.nodes, **settings)
    pipeline.run({"x": [0]})
    return lambda: pipeline.run({"x": list(range(size))})


def run_items_of_items(size: int, **settings: Any) -> Callable[[], object]:
    pipeline = Pipeline(nodes=twice_inside.nodes, **settings)
    pipeline.run({"x": [[0]]})
    return lambda: pipeline.run({"x": [list(range(100))] * (size // 100)})


def map_cold(size: int, **settings: Any) -> Callable[[], object]:
    return map_items(size, cache=MemoryCache(), **settings)


def map_warm(size: int, **settings: Any) -> Callable[[], object]:
    run = map_items(size, cache=MemoryCache(), **settings)
    run()
    return run


def run_cold(size: int) -> Callable[[], object]:
    pipeline = Pipeline(nodes=chain_nodes(size))
    pipeline.with_cache(MemoryCache()).run({"x0": 0})  # for what is remembered of the code from run to run
    return lambda: pipeline.with_cache(MemoryCache()).run({"x0": 0})


def run_warm(size: int) -> Callable[[], object]:
    return run_chain(size, cache=MemoryCache())


def run_after_a_node_that_is_never_cached(size: int) -> Callable[[], object]:
    first, *others = chain_nodes(size)
    pipeline = Pipeline(nodes=[Node(first.func, "x1", cache=False), *others], cache=MemoryCache())
    pipeline.run({"x0": 0})
    return lambda: pipeline.run({"x0": 0})


recorder = {"callbacks": [NoOp()]}


@pytest.mark.parametrize(
    ("work", "most"),
    [
        pytest.param(run_chain, 1, id="run: the node"),
        pytest.param(map_items, 3, id="map: the three nodes"),
        pytest.param(run_items, 3, id="mapped pipeline: the three nodes"),
        pytest.param(run_items_of_items, 3.2, id="maps in a map: the three nodes, and what begins an inner map"),
        pytest.param(lambda size: run_chain(size, **recorder), OBSERVED_NODE, id="observed run: node and two events"),
        pytest.param(lambda size: map_items(size, **recorder), OBSERVED_ITEM, id="observed map: and the item"),
        pytest.param(map_cold, COLD_ITEM, id="map with an empty cache"),
        pytest.param(map_warm, WARM_ITEM, id="map of which everything is cached"),
        pytest.param(lambda size: map_cold(size, **recorder), OBSERVED_COLD_ITEM, id="observed map, empty cache"),
        pytest.param(lambda size: map_warm(size, **recorder), OBSERVED_WARM_ITEM, id="observed map, everything cached"),
        pytest.param(lambda size: run_items(size, cache=MemoryCache()), COLD_ITEM, id="mapped pipeline, empty cache"),
    ],
)
def test_no_more_calls_than_needed_for_one_more(work: Callable[[int], Callable[[], object]], most: float) -> None:
    """For each node or item more, Python functions are called so many times."""
    assert (count_calls(work(2000)) - count_calls(work(1000))) / 1000 <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    "work",
    [
        run_chain,
        build_nodes,
        build_chain,
        build_fan,
        map_items,
        run_items,
        run_items_of_items,
        pytest.param(lambda size: run_chain(size, **recorder), id="observed run"),
        pytest.param(lambda size: map_items(size, **recorder), id="observed map"),
        pytest.param(lambda size: run_items(size, **recorder), id="observed mapped pipeline"),
        map_cold,
        map_warm,
        run_cold,
        run_warm,
        run_after_a_node_that_is_never_cached,
    ],
)
def test_ten_times_the_size_takes_ten_times_the_calls(work: Callable[[int], Callable[[], object]]) -> None:
    small, large = count_calls(work(100)), count_calls(work(1000))
    assert large <= 10.2 * small + 100


def test_an_input_that_many_nodes_read_costs_a_run_nothing_but_their_calls() -> None:
    def calls_in_c(readers: int) -> int:
        pipeline = Pipeline([Node(lambda x: x, f"y{number}", name=f"f{number}") for number in range(readers)])
        pipeline.run({"x": [1]})
        return count_calls(lambda: pipeline.run({"x": [1]}), ("c_call",))

    assert calls_in_c(100) <= calls_in_c(10)


def test_a_plan_is_compiled_once() -> None:
    pipeline = Pipeline(nodes=chain_nodes(3))
    first = count_calls(lambda: pipeline.run({"x0": 0}))
    again = count_calls(lambda: pipeline.run({"x0": 1}))
    assert again < first / 5


def test_compiling_pipelines_in_pipelines_takes_time_that_grows_with_their_depth() -> None:
    """Also where inner ones have inputs that nothing which is asked for needs."""

    def nested(depth: int) -> Pipeline:
        both = Node(lambda x, needless: x, "unasked", name="both")
        pipeline = Pipeline([Node(lambda x: x, "y", name="innermost"), both])
        for _ in range(depth):
            pipeline = Pipeline([pipeline.as_node(map_over="x")])
        return pipeline

    def calls(depth: int) -> int:
        pipeline = nested(depth)
        return count_calls(lambda: pipeline.plan_for(["x", "needless"], "y"))

    assert calls(16) < 3 * calls(8)
