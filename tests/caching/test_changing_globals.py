"""A node that changes something that it is known by is never found again, and says so."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from hypernodes import CacheWarning, LocalBackend, MemoryCache, Node, Pipeline, node

seen: list[int] = []
counts: dict[int, int] = {}
total = 0
drawn = random.Random(3)
constant = [1, 2, 3]


class State:
    number = 0

    def __init__(self) -> None:
        self.own = 0


state = State()


def count_up(x: int) -> int:
    counts[x] = counts.get(x, 0) + 1
    return x


@node(output_name="y")
def append(x: int) -> int:
    seen.append(x)
    return x


@node(output_name="y")
def rebind(x: int) -> int:
    global total
    total += 1
    return x


@node(output_name="y")
def set_attribute(x: int) -> int:
    state.own += 1
    return x


@node(output_name="y")
def set_on_class(x: int) -> int:
    State.number += 1
    return x


@node(output_name="y")
def call_helper(x: int) -> int:
    return count_up(x)


@node(output_name="y")
def draw(x: int) -> float:
    return x + drawn.random()


@node(output_name="y")
def default(x: int, memo: dict[int, int] = {}) -> int:  # noqa: B006
    memo[x] = len(memo)
    return x


def closure() -> Node[..., Any]:
    calls = 0

    @node(output_name="y")
    def call(x: int) -> int:
        nonlocal calls
        calls += 1
        return x

    return call


CASES: list[tuple[Callable[[], Node[..., Any]], str, str]] = [
    (lambda: append, "seen", "constant `seen` changed since the last entry"),
    (lambda: rebind, "total", "constant `total` changed since the last entry"),
    (lambda: set_attribute, "state", "constant `state` changed since the last entry"),
    (lambda: set_on_class, "State.number", "constant `State.number` changed since the last entry"),
    (lambda: call_helper, "counts", "constant `counts` changed since the last entry"),
    (lambda: draw, "drawn", "constant `drawn` changed since the last entry"),
    (lambda: default, "memo", "default of `memo` changed"),
    (closure, "calls", "closure value `calls` changed since the last entry"),
]
IDS = [name for _, name, _ in CASES]


@pytest.mark.parametrize("mode", ["sequential", "threaded"])
@pytest.mark.parametrize(("make", "name", "reason"), CASES, ids=IDS)
def test_what_a_run_changes_is_named_by_a_warning_and_by_explain(mode: Any, make: Any, name: str, reason: str) -> None:
    changing = make()
    pipeline = Pipeline(nodes=[changing], cache=MemoryCache(), backend=LocalBackend(mode))
    with pytest.warns(CacheWarning) as shown:
        pipeline.run({"x": 1})
    assert [str(warning.message) for warning in shown] == [
        f"`{name}`, which node {changing.name!r} is known by, changed while the node ran: later runs in this process "
        "compute it again. Return the value or pass it as an input instead of changing it, or mark the node "
        "@node(cache=False)."
    ]
    assert shown[0].filename == __file__
    assert pipeline.explain({"x": 1})[changing.name].reasons == (reason,)


def test_a_map_warns_once() -> None:
    with pytest.warns(CacheWarning) as shown:
        Pipeline(nodes=[append], cache=MemoryCache()).map({"x": [1, 2, 3]}, "x")
    assert len(shown) == 1


def test_what_another_node_of_the_run_changed_is_named_too() -> None:
    @node(output_name="size")
    def measure(y: int) -> int:
        return len(seen)

    with pytest.warns(CacheWarning) as shown:
        Pipeline(nodes=[append, measure], cache=MemoryCache()).run({"x": 1})
    assert {str(warning.message).partition(" changed")[0] for warning in shown} == {
        "`seen`, which node 'append' is known by,",
        "`seen`, which node 'measure' is known by,",
    }


@pytest.mark.parametrize("cache", [True, False])
def test_a_node_that_changes_nothing_that_it_is_known_by_is_silent(cache: bool) -> None:
    @node(output_name="y", cache=cache)
    def read(x: int) -> int:
        return sum(constant) + x

    @node(output_name="z", cache=False)
    def change(y: int) -> int:
        counts[y] = 1
        return y

    pipeline = Pipeline(nodes=[read, change], cache=MemoryCache())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.run({"x": 1})
        constant.append(4)  # between runs, as in a notebook
        pipeline.run({"x": 1})
        constant.pop()
