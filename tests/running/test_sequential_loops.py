"""Sequential runs without cache or callbacks go a shorter way than others, and only their speed may tell."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hypernodes import (
    CacheWarning,
    Failure,
    LocalBackend,
    MapInputError,
    MapLengthError,
    MemoryCache,
    Node,
    OutputCountError,
    Pipeline,
    PipelineCallback,
    node,
)
from tests.support import Recorder, notes_of


@node(output_name="inverse")
def invert(x: int, offset: int = 0) -> float:
    return 1 / (x + offset)


@node(output_name=("low", "high"))
def bounds(inverse: float, *, width: int = 1) -> tuple[float, float]:
    return inverse - width, inverse + width


@node(output_name="row")
def spread(size: int) -> list[int]:
    return list(range(size))


WAYS = {
    "bare": lambda pipeline: pipeline,
    "observed": lambda pipeline: pipeline.with_callbacks([Recorder()]),
    "cached": lambda pipeline: pipeline.with_cache(MemoryCache()),
    "threaded": lambda pipeline: pipeline.with_backend(LocalBackend("threaded", "threaded", max_workers=2)),
}


@pytest.fixture(params=WAYS)
def go(request: pytest.FixtureRequest) -> Any:
    """A way of running pipelines."""
    return WAYS[request.param]


cell = Pipeline(nodes=[invert], name="cell")
wrapped = Pipeline(nodes=[cell], name="wrap").as_node({"row": "x"}, map_over="row")
line = Pipeline(nodes=[Pipeline(nodes=[spread, wrapped], name="in")], name="line")
grid = line.as_node({"sizes": "size"}, map_over="sizes")
outer = Pipeline(nodes=[Pipeline(nodes=[grid], name="around")], name="outer")


def test_maps_in_maps_give_lists_of_lists(go: Any) -> None:
    found = go(outer).run({"sizes": [0, 2, 1], "offset": 1})
    assert found == {"row": [[], [0, 1], [0]], "inverse": [[], [1.0, 0.5], [1.0]]}


def test_an_error_in_maps_in_maps_says_where(go: Any) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        go(outer).run({"sizes": [0, 1, 3], "offset": -2})
    (note,) = notes_of(caught.value)
    assert "of pipeline outer → around → line → in → wrap → cell, map item 2 → 2;" in note
    assert "in node 'invert' (test_sequential_loops.py:" in note
    assert note.endswith("its inputs: x, offset; backend: local")


def test_an_error_in_a_map_of_maps_says_where(go: Any) -> None:
    rows = Pipeline(nodes=[spread, cell.as_node({"row": "x"}, map_over="row")], name="rows")
    with pytest.raises(ZeroDivisionError) as caught:
        go(rows).map({"size": [1, 3], "offset": -2}, map_over="size")
    (note,) = notes_of(caught.value)
    assert "of pipeline rows → cell, map item 1 → 2;" in note


def test_an_error_in_a_run_names_no_item(go: Any) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        go(cell).run({"x": 0})
    (note,) = notes_of(caught.value)
    assert "of pipeline cell; its inputs: x, offset" in note


def test_something_that_cannot_be_mapped_over_is_found_when_it_is_there(go: Any) -> None:
    rows = Pipeline(nodes=[Node(lambda size: size, "row"), cell.as_node({"row": "x"}, map_over="row")], name="rows")
    with pytest.raises(MapInputError) as caught:
        go(rows).run({"size": 3})
    (note,) = notes_of(caught.value)
    assert note.startswith("in node 'cell' of pipeline rows; its inputs: row, offset")


def test_columns_of_different_lengths_are_found_when_they_are_there(go: Any) -> None:
    pairs = cell.as_node({"row": "x", "offsets": "offset"}, map_over=["offsets", "row"])
    rows = Pipeline(nodes=[spread, pairs], name="rows")
    with pytest.raises(MapLengthError) as caught:
        go(rows).run({"size": 3, "offsets": [1]})
    assert caught.value.lengths == {"offsets": 1, "row": 3}


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_every_combination_comes_in_the_order_of_the_names_mapped_over(go: Any, order: list[str]) -> None:
    pair = Pipeline(nodes=[Node(lambda a, b, k: (a, b, k), "pair")])
    pipeline = go(Pipeline(nodes=[pair.as_node(map_over=order, map_mode="product")]))
    values = {"a": [1, 2], "b": [3, 4]}
    expected = [(1, 3, 0), (1, 4, 0), (2, 3, 0), (2, 4, 0)]
    if order == ["b", "a"]:
        expected = [(1, 3, 0), (2, 3, 0), (1, 4, 0), (2, 4, 0)]
    assert pipeline.run({"k": 0, **values}) == {"pair": expected}
    assert go(pair).map({"k": 0, **values}, map_over=order, map_mode="product") == {"pair": expected}


def test_several_outputs_and_keyword_only_parameters_in_maps(go: Any) -> None:
    pipeline = go(Pipeline(nodes=[invert, bounds]))
    assert pipeline.run({"x": 1, "width": 2}, output_name=["high", "low"]) == {"high": 3.0, "low": -1.0}
    assert pipeline.run({"x": 1, "low": 7}, output_name="high") == {"high": 2.0}
    assert pipeline.run({"x": 1, "low": 7}) == {}  # that node is replaced, and the other one only served it
    assert pipeline.map({"x": [1, 2], "low": 7}, map_over="x") == {}
    nested = go(Pipeline(nodes=[Pipeline(nodes=[invert, bounds]).as_node(map_over="x")]))
    assert nested.run({"x": [1, 2]}, output_name="low") == {"low": [0.0, -0.5]}


def test_a_wrong_number_of_outputs_is_an_error_that_says_where(go: Any) -> None:
    broken = Pipeline(nodes=[Node(lambda x: (x, x), ("a", "b", "c"), name="triple")], name="broken")
    with pytest.raises(OutputCountError, match="must return a tuple of 3 values") as caught:
        go(Pipeline(nodes=[broken.as_node(map_over="x")], name="outer")).run({"x": [1]})
    assert "in node 'triple'" in caught.value.__notes__[0]
    assert "of pipeline outer → broken, map item 0;" in caught.value.__notes__[0]


def test_an_item_made_of_a_failure_fails_the_same_way(go: Any) -> None:
    failure = Failure(KeyError("lost"), "", 1, ("upstream", "load"))
    calls: list[int] = []
    keep = Pipeline(nodes=[Node(lambda x: calls.append(x), "kept", cache=False)], name="keep")
    for run in (
        lambda: go(keep).map({"x": [1, failure]}, map_over="x"),
        lambda: go(Pipeline(nodes=[keep.as_node(map_over="x")])).run({"x": [1, failure]}),
    ):
        calls.clear()
        with pytest.raises(KeyError) as caught:
            run()
        assert caught.value is failure.error
        assert caught.value.__context__ is None
        assert not hasattr(caught.value, "__notes__")
        # A thread may not have begun with the first item when the second one ends the map.
        assert calls in ([[1], []] if go is WAYS["threaded"] else [[1]])


@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["uncached", "cached"])
def test_an_item_made_of_a_failure_is_announced_and_ends_the_map(cache: MemoryCache | None) -> None:
    recorder = Recorder()
    failure = Failure(KeyError("lost"), "", 1, ("upstream", "load"))
    with pytest.raises(KeyError):
        Pipeline(nodes=[invert], cache=cache, callbacks=[recorder]).map({"x": [1, failure, 2]}, map_over="x")
    assert [event[0] for event in recorder.events] == [
        "map_start",
        "map_item_start",
        "node_start",
        "node_end",
        "map_item_end",
        "map_item_start",
        "map_item_end",
        "map_end",
    ]


def test_an_item_with_an_input_that_cannot_be_identified_runs_among_others_that_are_cached() -> None:
    recorder = Recorder()
    key = Node(lambda x: str(x)[:5], "key", name="key")
    pipeline = Pipeline(nodes=[key], cache=MemoryCache(), callbacks=[recorder])
    items: list[Any] = ["a", threading.Lock(), "b", "a"]
    for computed, cached in (["key", "key", "key"], [3]), (["key"], [0, 2, 3]):
        recorder.clear()
        with pytest.warns(CacheWarning, match="runs uncached"):
            assert pipeline.map({"x": items}, map_over="x") == {"key": ["a", "<unlo", "b", "a"]}
        assert (recorder.computed, recorder.cached_items) == (computed, cached)


def test_a_generator_that_every_item_maps_over_serves_all_of_them(go: Any) -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2)

    inner = Pipeline(nodes=[Node(lambda x, k: x * k, "product")]).as_node(map_over="x")
    pipeline = go(Pipeline(nodes=[Pipeline(nodes=[inner]).as_node(map_over="k")]))
    assert pipeline.run({"x": numbers(), "k": [1, 10]}) == {"product": [[1, 2], [10, 20]]}


def test_a_mapped_pipeline_uses_the_workers_of_the_map(go: Any) -> None:
    """Nodes in sequence, items in threads: then the items of a map inside a run are in threads as well."""
    both = threading.Barrier(2, timeout=30)
    meet = Pipeline(nodes=[Node(lambda x: both.wait() * 0 + x, "met", cache=False)]).as_node(map_over="x")
    backend = LocalBackend(node_execution="sequential", map_execution="threaded", max_workers=2)
    assert go(Pipeline(nodes=[meet])).with_backend(backend).run({"x": [1, 2]}) == {"met": [1, 2]}


def test_an_interrupt_ends_everything_that_was_announced() -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(x: int) -> int:
        raise Interrupted

    recorder = Recorder()
    inner = Pipeline(nodes=[Node(interrupt, "y")], name="inner")
    pipeline = Pipeline(nodes=[inner.as_node(map_over="x")], name="outer", callbacks=[recorder])
    with pytest.raises(Interrupted):
        pipeline.run({"x": [1]})
    assert [event[0] for event in recorder.events] == [
        "pipeline_start",
        "nested_start",
        "map_start",
        "map_item_start",
        "node_start",
        "error",
        "map_item_end",
        "map_end",
        "nested_end",
        "pipeline_end",
    ]


def test_a_callback_that_raises_in_a_hot_hook_is_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(PipelineCallback):
        calls = 0

        def on_node_end(self, *event: Any) -> None:
            self.calls += 1
            raise RuntimeError("broken")

    broken, recorder = Broken(), Recorder()
    found = Pipeline(nodes=[cell.as_node(map_over="x")], callbacks=[broken, recorder]).run({"x": [1, 2]})
    assert found == {"inverse": [1.0, 0.5]}
    assert broken.calls == 1
    assert recorder.computed == ["invert", "invert"]
    assert len(caplog.records) == 1


def test_a_hook_put_on_a_callback_between_two_runs_is_observed() -> None:
    seen: list[str] = []
    callback = PipelineCallback()
    pipeline = cell.with_callbacks([callback])
    pipeline.run({"x": 1})
    callback.on_node_start = lambda node_id, inputs, ctx: seen.append(node_id)  # type: ignore[method-assign]
    pipeline.run({"x": 1})
    assert seen == ["invert"]


def test_inputs_may_be_given_in_any_order(go: Any) -> None:
    pipeline = go(Pipeline(nodes=[Node(lambda a, b: (a, b), "pair")]))
    assert pipeline.run({"a": 1, "b": 2}) == pipeline.run({"b": 2, "a": 1}) == {"pair": (1, 2)}
