"""Failed items in the lists that nodes take: left out where a node asks for that, pointed out in errors elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from hypernodes import Failure, InvalidNodeError, LocalBackend, MapLengthError, MemoryCache, Node, Pipeline, node
from hypernodes.backend import SubprocessBackend
from tests.support import Recorder

PLACES = [
    pytest.param(LocalBackend(*modes), id="-".join(modes))
    for modes in (
        ("sequential", "sequential"),
        ("threaded", "threaded"),
        ("async", "async"),
        ("sequential", "threaded"),
    )
] + [
    pytest.param(LocalBackend("parallel", "parallel", max_workers=2), id="parallel", marks=pytest.mark.slow),
    pytest.param(SubprocessBackend(), id="subprocess", marks=pytest.mark.slow),
]


@node(output_name="inverse")
def invert(x: int) -> float:
    return 1 / x


inverses = invert.as_node({"xs": "x"}, {"inverse": "inverses"}, map_over="xs", on_error="collect")


@node(output_name="total", skip_failures="inverses")
def add_up(inverses: list[float], start: float = 0) -> float:
    return start + sum(inverses)


@node(output_name="pairs", skip_failures=("inverses", "xs"))
def pair(inverses: list[float], *, xs: list[int]) -> list[tuple[int, float]]:
    return list(zip(xs, inverses, strict=True))


@node(output_name="total", skip_failures="inverses")
async def add_up_in_loop(inverses: list[float]) -> float:
    return sum(inverses)


@pytest.mark.parametrize("backend", PLACES)
@pytest.mark.parametrize("is_observed", [False, True], ids=["unobserved", "observed"])
@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["uncached", "cached"])
@pytest.mark.parametrize("adding", [add_up, add_up_in_loop], ids=["plain", "async"])
def test_failed_items_are_left_out_of_the_lists_that_a_node_names(
    backend: Any, is_observed: bool, cache: MemoryCache | None, adding: Any
) -> None:
    callbacks = [Recorder()] if is_observed else None
    pipeline = Pipeline([inverses, adding, pair], backend=backend, cache=cache, callbacks=callbacks)
    for _ in range(2):
        found = pipeline.run({"xs": [1, 0, 2, 0, 4]})
        assert found["total"] == 1.75
        assert found["pairs"] == [(1, 1.0), (2, 0.5), (4, 0.25)]
        assert [type(item) is Failure for item in found["inverses"]] == [False, True, False, True, False]


@pytest.mark.parametrize("backend", PLACES)
def test_nodes_of_items_skip_the_failures_of_a_list_that_all_share(backend: Any) -> None:
    items = Pipeline([add_up]).as_node({"starts": "start"}, {"total": "totals"}, map_over="starts")
    pipeline = Pipeline([inverses, items], backend=backend)
    assert pipeline.run({"xs": [2, 0], "starts": [1, 2, 3]}, "totals") == {"totals": [1.5, 2.5, 3.5]}


def test_if_all_items_failed_the_list_is_empty_and_without_failures_it_is_what_it_was() -> None:
    pipeline = Pipeline([inverses, add_up])
    assert pipeline.run({"xs": [0, 0], "start": 7}, "total") == {"total": 7}
    same = Pipeline([Node(lambda xs: xs, "y", name="same", skip_failures="xs")])
    numbers = [1, 2]
    assert same.run({"xs": numbers})["y"] is numbers
    assert same.run({"xs": "no list"}) == {"y": "no list"}


def test_what_a_node_is_given_and_a_call_by_hand_are_not_changed() -> None:
    failed = Pipeline([inverses]).run({"xs": [0, 1]})["inverses"]
    recorder = Recorder()
    Pipeline([add_up], callbacks=[recorder]).run({"inverses": failed})
    assert recorder.of("node_start")[0][2]["inputs"]["inverses"] == failed
    with pytest.raises(TypeError):
        add_up(failed)


def test_lists_that_do_not_go_together_are_refused_if_items_failed() -> None:
    pipeline = Pipeline([inverses, pair])
    message = "node 'pair' skips failed items, but its lists do not go together: 'inverses' has 2, 'xs' has 3 items"
    with pytest.raises(MapLengthError, match=message):
        pipeline.run({"inverses": pipeline.run({"xs": [0, 1]}, "inverses")["inverses"], "xs": [1, 2, 3]})


def test_the_option_is_a_part_of_the_signature() -> None:
    def count(inverses: list[float]) -> int:
        return len(inverses)

    cache = MemoryCache()
    inputs = {"xs": [0, 1]}
    assert Pipeline([inverses, Node(count, "y")], cache=cache).run(inputs)["y"] == 2
    skipping = Pipeline([inverses, Node(count, "y", skip_failures="inverses")], cache=cache)
    assert skipping.explain(inputs)["count"].reasons[0] == "it uses option `skip_failures` now"
    assert skipping.run(inputs)["y"] == 1


def test_a_parameter_that_does_not_exist_is_refused() -> None:
    with pytest.raises(
        InvalidNodeError, match=r"skip_failures of node 'add_up' names 'inverse'.*did you mean 'inverses'"
    ):
        Node(add_up.func, "y", skip_failures="inverse")


# --- nodes that do not ask for that -------------------------------------------------------------------------------

HINT = (
    "'inverses' holds 2 failed items in place of results, the first for item 1 (ZeroDivisionError). To leave them out: "
    "@node(skip_failures='inverses')"
)


@pytest.mark.parametrize("backend", PLACES)
@pytest.mark.parametrize("is_observed", [False, True], ids=["unobserved", "observed"])
def test_the_error_of_a_node_that_got_failed_items_says_so(backend: Any, is_observed: bool) -> None:
    summing = Node(lambda inverses: sum(inverses), "total", name="summing")
    callbacks = [Recorder()] if is_observed else None
    with pytest.raises(TypeError, match="unsupported operand") as caught:
        Pipeline([inverses, summing], backend=backend, callbacks=callbacks).run({"xs": [1, 0, 2, 0]})
    assert HINT in caught.value.__notes__


def test_an_error_without_failed_items_says_nothing_of_them() -> None:
    summing = Node(lambda inverses: sum(inverses) / 0, "total", name="summing")
    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline([inverses, summing]).run({"xs": [1, 2]})
    assert not any("failed item" in note for note in caught.value.__notes__)
