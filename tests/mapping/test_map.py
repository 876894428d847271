"""Maps: `Pipeline.map` and mapped nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from hypernodes import (
    Backend,
    LocalBackend,
    MapInputError,
    MapLengthError,
    MapRequest,
    MemoryCache,
    Node,
    Pipeline,
    RunRequest,
    node,
)
from hypernodes.engine.settings import ExecutionMode
from tests.support import Recorder


@node(output_name="product")
def multiply(x: int, k: int = 1) -> int:
    return x * k


@node(output_name="shown")
def show(product: int) -> str:
    return f"<{product}>"


@node(output_name="total")
def total(products: Iterable[int]) -> int:
    return sum(products)


single = Pipeline(nodes=[multiply, show], name="single")
plain = Pipeline(nodes=[multiply], name="plain")
multiply_all = plain.as_node({"xs": "x"}, {"product": "products"}, map_over="xs")


class MapsOneByOne(Backend):
    """A third party's backend that implements no more than it must."""

    def run(self, request: RunRequest) -> dict[str, Any]:
        return LocalBackend().run(request)

    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        return request.to_columns([self.run(run) for run in request.runs()])


@pytest.fixture(params=["bare", "observed", "cached", "other backend"])
def configure(request: pytest.FixtureRequest) -> Callable[[Pipeline], Pipeline]:
    """Every way of running a map must give the same."""
    return {
        "bare": lambda p: p,
        "observed": lambda p: p.with_callbacks([Recorder()]),
        "cached": lambda p: p.with_cache(MemoryCache()),
        "other backend": lambda p: p.with_backend(MapsOneByOne()),
    }[request.param]


# --- Pipeline.map ------------------------------------------------------------------------------------------------


def test_each_output_becomes_a_list_in_item_order(configure: Callable[[Pipeline], Pipeline]) -> None:
    found = configure(single).map(inputs={"x": [3, 1, 2]}, map_over="x")
    assert found == {"product": [3, 1, 2], "shown": ["<3>", "<1>", "<2>"]}


def test_inputs_not_mapped_over_are_shared(configure: Callable[[Pipeline], Pipeline]) -> None:
    assert configure(single).map({"x": [1, 2], "k": 10}, map_over="x", output_name="product") == {"product": [10, 20]}


def test_zip_pairs_the_nth_values(configure: Callable[[Pipeline], Pipeline]) -> None:
    assert configure(plain).map({"x": [1, 2], "k": [10, 100]}, map_over=["x", "k"]) == {"product": [10, 200]}


def test_product_takes_every_combination_the_last_name_fastest(configure: Callable[[Pipeline], Pipeline]) -> None:
    found = configure(plain).map({"x": [1, 2], "k": [1, 10, 100]}, map_over=["x", "k"], map_mode="product")
    assert found == {"product": [1, 10, 100, 2, 20, 200]}
    found = configure(plain).map({"x": [1, 2], "k": [1, 10, 100]}, map_over=["k", "x"], map_mode="product")
    assert found == {"product": [1, 2, 10, 20, 100, 200]}


def test_a_map_over_no_items_gives_empty_lists(configure: Callable[[Pipeline], Pipeline]) -> None:
    assert configure(single).map({"x": []}, map_over="x") == {"product": [], "shown": []}
    assert configure(single).map({"x": []}, map_over="x", output_name="shown") == {"shown": []}
    assert configure(plain).map({"x": [1, 2], "k": []}, map_over=["x", "k"], map_mode="product") == {"product": []}


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        iter,
        lambda values: (v for v in values),
        lambda values: dict.fromkeys(values, "ignored").keys(),
        lambda values: map(int, values),
    ],
    ids=["tuple", "iterator", "generator", "keys of a dict", "map object"],
)
def test_any_iterable_can_be_mapped_over(
    configure: Callable[[Pipeline], Pipeline], make: Callable[[list[int]], Iterable[int]]
) -> None:
    pipeline = configure(plain)
    assert pipeline.map({"x": make([1, 2])}, map_over="x") == {"product": [1, 2]}
    both = {"x": make([1, 2]), "k": make([3, 4])}
    assert pipeline.map(both, map_over=["x", "k"], map_mode="product") == {"product": [3, 4, 6, 8]}


def test_an_object_with_only_getitem_can_be_mapped_over() -> None:
    class Squares:
        def __getitem__(self, index: int) -> int:
            if index > 2:
                raise IndexError(index)
            return index * index

    assert plain.map({"x": Squares()}, map_over="x") == {"product": [0, 1, 4]}


def test_what_the_users_own_iterator_raises_is_not_disguised() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise TypeError("my own")

    with pytest.raises(TypeError, match="my own") as caught:
        plain.map({"x": broken()}, map_over="x")
    assert not isinstance(caught.value, MapInputError)


def test_lists_as_items_stay_lists() -> None:
    @node(output_name="n")
    def count(xs: list[int]) -> int:
        return len(xs)

    assert Pipeline(nodes=[count]).map({"xs": [[1, 2], [], [3]]}, map_over="xs") == {"n": [2, 0, 1]}


def test_none_is_an_item_of_a_map_like_any_other() -> None:
    @node(output_name="kind")
    def kind(x: Any) -> str:
        return type(x).__name__

    assert Pipeline(nodes=[kind]).map({"x": [None, 1]}, map_over="x") == {"kind": ["NoneType", "int"]}


def test_a_map_over_an_output_overrides_the_node() -> None:
    assert single.map({"product": [7, 8]}, map_over="product") == {"shown": ["<7>", "<8>"]}


def test_async_nodes_are_awaited_for_every_item() -> None:
    @node(output_name="y")
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert Pipeline(nodes=[later]).map({"x": [1, 2]}, map_over="x") == {"y": [2, 3]}


# --- mapped nodes ------------------------------------------------------------------------------------------------


def test_a_mapped_node_takes_a_list_and_gives_lists(configure: Callable[[Pipeline], Pipeline]) -> None:
    pipeline = configure(Pipeline(nodes=[multiply_all, total]))
    assert pipeline.run({"xs": [1, 2, 3], "k": 10}) == {"products": [10, 20, 30], "total": 60}
    assert pipeline.run({"xs": []}) == {"products": [], "total": 0}


def test_a_mapped_node_zips_and_combines(configure: Callable[[Pipeline], Pipeline]) -> None:
    for mode, expected in (("zip", [10, 40]), ("product", [10, 20, 20, 40])):
        mapped = plain.as_node({"xs": "x", "ks": "k"}, map_over=["xs", "ks"], map_mode=mode)  # type: ignore[arg-type]
        found = configure(Pipeline(nodes=[mapped])).run({"xs": [1, 2], "ks": [10, 20]})
        assert found == {"product": expected}


def test_the_order_of_map_over_decides_the_order_of_combinations(configure: Callable[[Pipeline], Pipeline]) -> None:
    mapped = plain.as_node({"xs": "x", "ks": "k"}, map_over=["ks", "xs"], map_mode="product")
    assert configure(Pipeline(nodes=[mapped])).run({"xs": [1, 2], "ks": [1, 10]}) == {"product": [1, 2, 10, 20]}


def test_a_mapped_node_takes_any_iterable_that_is_given(configure: Callable[[Pipeline], Pipeline]) -> None:
    assert configure(Pipeline(nodes=[multiply_all])).run({"xs": iter([0, 1, 2])}) == {"products": [0, 1, 2]}


def test_a_mapped_node_takes_any_iterable_that_a_node_made(configure: Callable[[Pipeline], Pipeline]) -> None:
    @node(output_name="xs")
    def numbers(n: int) -> Iterable[int]:
        return range(n)

    pipeline = configure(Pipeline(nodes=[numbers, multiply_all]))
    assert pipeline.run({"n": 3}, output_name="products") == {"products": [0, 1, 2]}


def test_a_mapped_node_takes_a_generator_that_a_node_made() -> None:
    @node(output_name="xs")
    def numbers(n: int) -> Iterator[int]:
        return (i for i in range(n))

    pipeline = Pipeline(nodes=[numbers, multiply_all])
    assert pipeline.run({"n": 3}, output_name="products") == {"products": [0, 1, 2]}


def test_a_generator_given_once_serves_every_mapped_node() -> None:
    again = plain.as_node({"xs": "x"}, {"product": "again"}, map_over="xs")
    found = Pipeline(nodes=[multiply_all, again]).run({"xs": iter([1, 2])})
    assert found == {"products": [1, 2], "again": [1, 2]}


def test_a_generator_that_a_node_returned_serves_every_mapped_node() -> None:
    @node(output_name="xs")
    def numbers(n: int) -> Iterator[int]:
        return (i for i in range(n))

    again = plain.as_node({"xs": "x"}, {"product": "again"}, map_over="xs")
    found = Pipeline(nodes=[numbers, multiply_all, again]).run({"n": 2}, output_name=["products", "again"])
    assert found == {"products": [0, 1], "again": [0, 1]}


def test_a_generator_shared_by_all_items_serves_every_item() -> None:
    inner = Pipeline(nodes=[multiply_all, total])
    found = inner.map({"xs": iter([1, 2]), "k": [1, 10]}, map_over="k", output_name="total")
    assert found == {"total": [3, 30]}


def test_other_nodes_get_a_mapped_over_value_as_it_was_given() -> None:
    @node(output_name="kind")
    def kind(xs: Any) -> str:
        return type(xs).__name__

    found = Pipeline(nodes=[multiply_all, kind]).run({"xs": range(3)})
    assert found == {"products": [0, 1, 2], "kind": "range"}


def test_values_made_by_nodes_are_checked_when_they_are_there() -> None:
    @node(output_name="xs")
    def text() -> str:
        return "abc"

    with pytest.raises(MapInputError, match=r"node 'plain' maps over 'xs', which is a single str"):
        Pipeline(nodes=[text, multiply_all]).run()


@node(output_name="xs")
def names_by_number() -> dict[int, str]:
    return {1: "a", 2: "b"}


@pytest.mark.parametrize(
    "run",
    [
        lambda values: plain.map({"x": values}, map_over="x"),
        lambda values: list(plain.map_iter({"x": values}, map_over="x")),
        lambda values: Pipeline(nodes=[multiply_all]).run({"xs": values}),
        lambda values: Pipeline(nodes=[names_by_number, multiply_all]).run(),
    ],
    ids=["map", "map_iter", "mapped node", "made by a node"],
)
def test_a_mapping_is_not_mapped_over_by_its_keys(run: Callable[[Any], Any]) -> None:
    with pytest.raises(MapInputError, match=r"which is a dict; pass list\(xs?\), list\(xs?\.values\(\)\)"):
        run({1: "a", 2: "b"})


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_is_not_mapped_over_by_its_columns(library: str) -> None:
    table = pytest.importorskip(library).DataFrame({"x": [1, 2]})
    with pytest.raises(MapInputError, match=r"which is a table \(DataFrame\); pass one of its columns"):
        plain.map({"x": table}, map_over="x")
    assert plain.map({"x": table["x"]}, map_over="x") == plain.map({"x": [1, 2]}, map_over="x")


def test_lengths_made_by_nodes_are_checked_when_they_are_there() -> None:
    @node(output_name=("xs", "ks"))
    def unequal() -> tuple[list[int], list[int]]:
        return [1, 2], [1]

    mapped = plain.as_node({"xs": "x", "ks": "k"}, map_over=["xs", "ks"])
    with pytest.raises(MapLengthError, match=r"'xs' has 2, 'ks' has 1 values"):
        Pipeline(nodes=[unequal, mapped]).run()


def test_mapped_nodes_inside_mapped_nodes_give_lists_of_lists(configure: Callable[[Pipeline], Pipeline]) -> None:
    rows = Pipeline(nodes=[multiply_all, total], name="row")
    table = Pipeline(nodes=[rows.as_node({"table": "xs"}, {"total": "totals"}, map_over="table")])
    found = configure(table).run({"table": [[1, 2], [], [3]], "k": 10}, output_name="totals")
    assert found == {"totals": [30, 0, 30]}


def test_a_map_over_a_pipeline_with_a_mapped_node(configure: Callable[[Pipeline], Pipeline]) -> None:
    rows = Pipeline(nodes=[multiply_all, total])
    found = configure(rows).map({"xs": [[1], [2, 3]], "k": [1, 10]}, map_over=["xs", "k"], map_mode="product")
    assert found == {"products": [[1], [10], [2, 3], [20, 30]], "total": [1, 10, 5, 50]}


def test_maps_nest_to_any_depth() -> None:
    pipeline, value = plain, [1, 2]
    pipeline = Pipeline(nodes=[pipeline.as_node(map_over="x")])
    for _ in range(20):
        pipeline = Pipeline(nodes=[pipeline.as_node(map_over="x")])
        value = [value]  # type: ignore[list-item]
    assert pipeline.run({"x": value}) == {"product": value}


def test_a_mapped_node_fed_by_a_mapped_node(configure: Callable[[Pipeline], Pipeline]) -> None:
    show_all = Pipeline(nodes=[show]).as_node({"products": "product"}, map_over="products")
    pipeline = configure(Pipeline(nodes=[show_all, multiply_all]))
    assert pipeline.run({"xs": [1, 2]}) == {"products": [1, 2], "shown": ["<1>", "<2>"]}


def test_a_map_of_a_pipeline_without_inputs_to_share() -> None:
    @node(output_name="doubled")
    def double(x: int) -> int:
        return 2 * x

    mapped = Pipeline(nodes=[double]).as_node(map_over=["x"])
    assert Pipeline(nodes=[mapped]).run({"x": (1, 2)}) == {"doubled": [2, 4]}


def test_a_generator_shared_through_two_mapped_nodes_serves_every_item() -> None:
    @node(output_name="y")
    def add(x: int, k: int) -> int:
        return x + k

    inner = Pipeline([add]).as_node(input_mapping={"xs": "x"}, map_over="xs")
    middle = Pipeline([inner]).as_node(input_mapping={"ks": "k"}, map_over="ks")
    found = Pipeline([middle]).run({"ks": [0, 10], "xs": (i for i in range(3))})
    assert found == {"y": [[0, 1, 2], [10, 11, 12]]}


@pytest.mark.parametrize("mode", ["sequential", "async", "threaded", "parallel"])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_given_output_may_be_asked_for(mode: ExecutionMode, is_mapped: bool) -> None:
    one, two = Node(lambda x: [x], "one"), Node(lambda x, y: [x + y], "two")
    pipeline = Pipeline(nodes=[one, two], backend=LocalBackend(map_execution=mode))
    given: Any = [["a"], ["b"], ["c"]] if is_mapped else ["a"]
    over = ["x", "one"] if is_mapped else ["x"]
    found = pipeline.map({"x": [1, 2, 3], "y": 10, "one": given}, map_over=over, output_name=["two", "one"])
    assert found == {"two": [[11], [12], [13]], "one": given if is_mapped else [given] * 3}
