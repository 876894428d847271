"""Objects that refer to each other: told apart by all that can be reached, in linear time, whichever is met first."""

from __future__ import annotations

import copy
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypernodes.signature import digest, new_memo, value


class Vertex:
    """An object with a letter that refers to others, in order or in a set."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self.ordered: list[Vertex] = []
        self.unordered: set[Vertex] = set()


@st.composite
def graphs(draw: st.DrawFn) -> list[Vertex]:
    size = draw(st.integers(1, 9))
    vertices = [Vertex(draw(st.sampled_from("ab"))) for _ in range(size)]
    for vertex in vertices:
        vertex.ordered = draw(st.lists(st.sampled_from(vertices), max_size=3))
        vertex.unordered = set(draw(st.lists(st.sampled_from(vertices), max_size=2, unique=True)))
    return vertices


def sorts(vertices: Sequence[Vertex]) -> dict[int, int]:
    """Say which of the vertices cannot be told apart, by looking at all of them again until nothing changes."""
    sort = {id(vertex): 0 for vertex in vertices}
    for _ in vertices:
        numbers: dict[Any, int] = {}
        sort = {
            id(v): numbers.setdefault(
                (
                    sort[id(v)],
                    v.letter,
                    *(sort[id(o)] for o in v.ordered),
                    "|",
                    *sorted(sort[id(u)] for u in v.unordered),
                ),
                len(numbers),
            )
            for v in vertices
        }
    return sort


@pytest.mark.slow
@given(graphs())
@settings(max_examples=150)
def test_what_can_be_told_apart_has_different_digests(vertices: list[Vertex]) -> None:
    sort = sorts(vertices)
    digests = {id(vertex): digest(vertex) for vertex in vertices}
    for one in vertices:
        for other in vertices:
            assert digests[id(one)] != digests[id(other)] or sort[id(one)] == sort[id(other)]


@pytest.mark.slow
@given(graphs(), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_a_copy_has_the_same_digests_wherever_the_walk_begins(vertices: list[Vertex], chance: random.Random) -> None:
    copies = copy.deepcopy(vertices)
    for vertex in copies:  # another order in which the sets are filled
        others = list(vertex.unordered)
        chance.shuffle(others)
        vertex.unordered = set(others)
    order = list(range(len(vertices)))
    chance.shuffle(order)
    memo = new_memo()
    assert {i: digest(copies[i], memo) for i in order} == {i: digest(vertex) for i, vertex in enumerate(vertices)}
    assert digest(copies) == digest(vertices)


def chain(size: int) -> Any:
    first = vertex = Vertex("a")
    for _ in range(size - 1):
        vertex.ordered = [Vertex("a")]
        vertex = vertex.ordered[0]
    return first


def chain_in_both_directions(size: int) -> Any:
    vertices = [Vertex("a") for _ in range(size)]
    for left, right in itertools.pairwise(vertices):
        left.ordered.append(right)
        right.ordered.append(left)
    return vertices


def tree(size: int) -> Any:
    chance = random.Random(0)
    vertices = [Vertex("a")]
    for _ in range(size - 1):
        parent, child = chance.choice(vertices), Vertex("a")
        child.ordered.append(parent)
        parent.unordered.add(child)
        vertices.append(child)
    return vertices


def graph(size: int) -> Any:
    chance = random.Random(0)
    vertices = [Vertex(str(i)) for i in range(size)]
    for vertex in vertices:
        vertex.ordered = [chance.choice(vertices) for _ in range(3)]
    return vertices


@pytest.mark.parametrize("build", [chain, chain_in_both_directions, tree, graph])
def test_every_object_is_taken_apart_once(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[int] = Counter()
    known = value._Rules.parts

    def counting(rules: Any, obj: Any) -> Any:
        taken[id(obj)] += 1
        return known(rules, obj)

    monkeypatch.setattr(value._Rules, "parts", counting)
    content = build(2_000)
    digest(content)
    assert len(taken) >= 2_000
    assert set(taken.values()) == {1}


@pytest.mark.parametrize("build", [chain_in_both_directions, tree, graph])
def test_sorting_the_objects_of_a_cycle_takes_hardly_more_steps_than_there_are_objects(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypernodes.signature import cycles

    moved = 0
    known = cycles._split

    def counting(colour: int, groups: dict[Any, list[int]], *rest: Any) -> None:
        nonlocal moved
        moved += sum(map(len, groups.values()))
        known(colour, groups, *rest)

    monkeypatch.setattr(cycles, "_split", counting)
    steps = []
    for size in (500, 4_000):
        moved = 0
        digest(build(size))
        steps.append(moved)
    assert steps[1] <= 12 * max(steps[0], 500)  # 8 times as many objects, and a logarithm


def test_functions_that_call_each_other_are_taken_apart_once_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hypernodes.signature import code

    taken: Counter[int] = Counter()
    known = code.function_parts

    def counting(function: Any) -> Any:
        taken[id(function)] += 1
        return known(function)

    monkeypatch.setitem(value._RULES, type(digest_all), counting)
    namespace: dict[str, Any] = {"__name__": "functions_of_mine"}
    size = 60
    exec(
        "\n".join(f"def f{i}(x): return f{(i + 1) % size}(x) + f{(i * 7) % size}(x) + {i}" for i in range(size)),
        namespace,
    )
    functions = [namespace[f"f{i}"] for i in range(size)]
    assert len(set(digest_all(functions))) == size
    assert set(taken.values()) == {1}


def digest_all(functions: Sequence[Any]) -> list[bytes]:
    memo = new_memo()
    return [digest(function, memo) for function in functions]
