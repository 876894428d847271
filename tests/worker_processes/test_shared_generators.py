"""Calls in worker processes get copies of a random generator, so that sharing one repeats its numbers: that is said."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest

from hypernodes import HyperNodesWarning, LocalBackend, Node, Pipeline


def draw(x: int, generator: Any) -> float:
    return float(generator.random())


def draw_again(generator: Any) -> float:
    return float(generator.random())


PIPELINE = Pipeline(nodes=[Node(draw, output_name="y"), Node(draw_again, output_name="z")])


GLOBAL = random.Random(1)


class Sampler:
    def __init__(self) -> None:
        self.own = random.Random(1)


def draw_global(x: int) -> float:
    return helper()


def helper() -> float:
    return GLOBAL.random()


def draw_global_again(x: int) -> float:
    return GLOBAL.random()


def ignore(x: int, held: Any) -> int:
    return x


def generators() -> dict[str, Any]:
    found: dict[str, Any] = {"random": random.Random(1)}
    try:
        import numpy
    except ImportError:
        return found
    return {**found, "numpy": numpy.random.default_rng(1)}


@pytest.mark.parametrize("kind", generators())
def test_a_generator_shared_by_items_in_workers_is_warned_of(kind: str, items_backend: LocalBackend) -> None:
    generator = generators()[kind]
    message = rf"the {kind} generator that is input 'generator' of node 'draw' is shared by the items of a map"
    with pytest.warns(HyperNodesWarning, match=message) as caught:
        PIPELINE.with_backend(items_backend).map({"x": [1, 2], "generator": generator}, map_over="x")
    (warning,) = caught
    assert warning.filename == __file__
    assert {"random": "random.Random(seed)", "numpy": "rng.spawn(n)"}[kind] in str(warning.message)
    outer = Pipeline(nodes=[PIPELINE.as_node({"xs": "x"}, map_over="xs")], backend=items_backend)
    with pytest.warns(HyperNodesWarning, match=message):
        outer.run({"xs": [1, 2], "generator": generator})


def test_a_generator_shared_by_nodes_in_workers_is_warned_of(nodes_backend: LocalBackend) -> None:
    with pytest.warns(HyperNodesWarning, match="input 'generator' of node 'draw' is shared by several nodes"):
        PIPELINE.with_backend(nodes_backend).run({"x": 1, "generator": random.Random(1)})


@pytest.mark.parametrize(
    "held", [{"a": [random.Random(1)]}, (0, random.Random(1)), Sampler()], ids=["dict", "tuple", "own"]
)
def test_a_generator_in_a_shared_value_is_warned_of(held: Any, items_backend: LocalBackend) -> None:
    pipeline = Pipeline(nodes=[Node(ignore, output_name="y")], backend=items_backend)
    with pytest.warns(
        HyperNodesWarning, match="the random generator that is in input 'held' of node 'ignore' is shared"
    ):
        pipeline.map({"x": [1, 2], "held": held}, map_over="x")


def test_a_generator_that_code_refers_to_is_warned_of_once(
    items_backend: LocalBackend, nodes_backend: LocalBackend
) -> None:
    around = random.Random(1)
    nodes = [Node(draw_global, output_name="y"), Node(draw_global_again, output_name="z")]
    pipeline = Pipeline(nodes=nodes)
    message = "the random generator that node 'draw_global' uses as 'GLOBAL' is shared by"
    with pytest.warns(HyperNodesWarning, match=message + " the items of a map") as caught:
        pipeline.with_backend(items_backend).map({"x": [1, 2]}, map_over="x")
    (warning,) = caught
    assert warning.filename == __file__
    assert "make it an input of the node, and map over" in str(warning.message)
    with pytest.warns(HyperNodesWarning, match=message + " several nodes"):
        pipeline.with_backend(nodes_backend).run({"x": 1})
    inside = Node(lambda x: around.random(), name="inside", output_name="y")
    with pytest.warns(HyperNodesWarning, match="node 'inside' uses as 'around'"):
        Pipeline(nodes=[inside], backend=items_backend).map({"x": [1, 2]}, map_over="x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline(nodes=nodes[:1], backend=nodes_backend).run({"x": 1})  # one call has all of its numbers


def test_other_generators_are_not_warned_of(items_backend: LocalBackend) -> None:
    own = {"x": [1, 2], "generator": [random.Random(1), random.Random(2)]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = PIPELINE.with_backend(items_backend).map(own, map_over=["x", "generator"], output_name="y")["y"]
        assert found[0] != found[1]
        PIPELINE.with_backend(LocalBackend(map_execution="threaded")).map(
            {"x": [1], "generator": random.Random(1)}, map_over="x"
        )
