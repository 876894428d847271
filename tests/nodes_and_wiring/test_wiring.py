"""Wiring: who feeds whom, and in which order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypernodes import Node, Pipeline, node
from tests.support import Recorder, run_python


@node(output_name="b")
def after_a(a: int) -> int:
    return a + 1


@node(output_name="c")
def after_b(b: int, scale: int = 10) -> int:
    return b * scale


@node(output_name="d")
def after_both(b: int, c: int) -> int:
    return b + c


def test_nodes_are_wired_by_name_whatever_order_they_are_written_in() -> None:
    orders: list[list[Node[..., Any]]] = [
        [after_a, after_b, after_both],
        [after_both, after_b, after_a],
        [after_b, after_both, after_a],
    ]
    for order in orders:
        assert Pipeline(nodes=order).run({"a": 1}) == {"b": 2, "c": 20, "d": 22}


def test_nodes_can_come_from_any_iterable() -> None:
    nodes: list[Node[..., Any]] = [after_b, after_a]
    assert Pipeline(nodes=iter(nodes)).run({"a": 1}) == {"b": 2, "c": 20}


def test_independent_nodes_run_in_the_order_written() -> None:
    recorder = Recorder()
    nodes = [Node(lambda x: x, name) for name in ("q", "p", "r")]
    Pipeline(nodes=nodes, callbacks=[recorder]).run({"x": 1})
    assert recorder.computed == ["q", "p", "r"]


def test_a_node_runs_as_soon_as_its_turn_in_the_order_written_allows() -> None:
    recorder = Recorder()
    waits = Node(lambda b: b, "waits")
    Pipeline(nodes=[waits, *(Node(lambda: 0, name) for name in "abc")], callbacks=[recorder]).run()
    assert recorder.computed == ["a", "b", "waits", "c"]


def test_a_pipeline_knows_its_root_inputs_and_outputs() -> None:
    pipeline = Pipeline(nodes=[after_both, after_b, after_a])
    assert pipeline.inputs == ("scale", "a")
    assert pipeline.outputs == ("b", "c", "d")
    assert dict(pipeline.defaults) == {"scale": 10}
    assert [n.name for n in pipeline.nodes] == ["after_a", "after_b", "after_both"]


def test_an_input_is_required_as_soon_as_one_node_has_no_default_for_it() -> None:
    @node(output_name="e")
    def needs_scale(scale: int) -> int:
        return scale

    pipeline = Pipeline(nodes=[after_a, after_b, needs_scale])
    assert dict(pipeline.defaults) == {}


def test_a_pipeline_in_nodes_is_nested() -> None:
    inner = Pipeline(nodes=[after_a], name="inner")
    assert Pipeline(nodes=[after_b, inner]).run({"a": 1}) == {"b": 2, "c": 20}


def test_a_pipeline_shows_what_it_takes_and_makes() -> None:
    pipeline = Pipeline(nodes=[after_a, after_b], name="demo")
    assert repr(pipeline) == "<Pipeline 'demo': 2 nodes, (a, scale) -> (b, c)>"


def test_a_large_pipeline_shows_only_some_names() -> None:
    chain = [Node(eval(f"lambda x{i}: x{i}"), f"x{i + 1}") for i in range(20)]
    assert repr(Pipeline(nodes=chain)) == "<Pipeline: 20 nodes, (x0) -> (x1, x2, x3, … 16 more, x20)>"


def test_the_id_of_a_named_pipeline_is_its_name() -> None:
    assert Pipeline(nodes=[after_a], name="demo").id == "demo"


def test_the_id_of_an_unnamed_pipeline_depends_on_its_nodes_only() -> None:
    assert Pipeline(nodes=[after_a, after_b]).id == Pipeline(nodes=[after_a, after_b]).id
    assert Pipeline(nodes=[after_a, after_b]).id != Pipeline(nodes=[after_a]).id


def test_the_id_of_an_unnamed_pipeline_is_the_same_in_every_process() -> None:
    script = "from tests.nodes_and_wiring.test_wiring import *; print(Pipeline(nodes=[after_a, after_b]).id)"
    assert {run_python("-c", script, hash_seed=seed).strip() for seed in (1, 2)} == {
        Pipeline(nodes=[after_a, after_b]).id
    }


def test_a_chain_of_thousands_of_nodes_runs() -> None:
    chain = [Node(eval(f"lambda x{i}: x{i} + 1"), f"x{i + 1}") for i in range(3000)]
    random.Random(0).shuffle(chain)
    assert Pipeline(nodes=chain).run({"x0": 0}, output_name="x3000") == {"x3000": 3000}


@given(st.data())
def test_any_acyclic_graph_gives_what_evaluating_it_by_hand_gives(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    sources = [data.draw(st.lists(st.integers(-2, i - 1), max_size=4, unique=True)) for i in range(count)]
    named = ["r1" if s == -1 else "r2" if s == -2 else f"n{s}" for s in range(-2, count)]
    nodes = [_sum_node(i, [named[s + 2] for s in chosen]) for i, chosen in enumerate(sources)]
    requested = data.draw(st.lists(st.sampled_from([f"n{i}" for i in range(count)]), min_size=1, unique=True))
    values = {"r1": 100, "r2": 1000}
    for i, chosen in enumerate(sources):
        values[f"n{i}"] = i + sum(values[named[s + 2]] for s in chosen)

    pipeline = Pipeline(nodes=data.draw(st.permutations(nodes)))
    given_inputs = {name: values[name] for name in pipeline.inputs}
    assert pipeline.run(given_inputs, output_name=requested) == {name: values[name] for name in requested}
    assert pipeline.run(given_inputs) == {f"n{i}": values[f"n{i}"] for i in range(count)}


def _sum_node(number: int, inputs: list[str]) -> Node[..., Any]:
    return Node(eval(f"lambda {', '.join(inputs)}: {' + '.join([str(number), *inputs])}"), f"n{number}")


@pytest.mark.parametrize("depth", [1, 50])
def test_pipelines_nest_to_any_depth(depth: int) -> None:
    pipeline = Pipeline(nodes=[after_a])
    for _ in range(depth):
        pipeline = Pipeline(nodes=[pipeline])
    assert pipeline.run({"a": 1}) == {"b": 2}
