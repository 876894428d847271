"""How many results would come from the cache and how many would be computed, without computing or loading anything."""

from __future__ import annotations

from typing import Any

import pytest

from hypernodes import (
    LocalBackend,
    MapInputError,
    MapLengthError,
    MemoryCache,
    MissingInputError,
    Node,
    Pipeline,
    UnknownInputError,
    UnknownOutputError,
    node,
)
from tests.support import Recorder


@node(output_name="words")
def split(text: str) -> list[str]:
    return text.split()


@node(output_name="length")
def measure(word: str, unit: int = 1) -> int:
    return len(word) * unit


@node(output_name="total")
def add_up(lengths: list[int]) -> int:
    return sum(lengths)


@node(output_name="seed", cache=False)
def draw() -> int:
    return 4


@node(output_name="shifted")
def shift(total: int, seed: int) -> int:
    return total + seed


lengths_of = Pipeline(nodes=[measure], name="lengths")
measure_all = lengths_of.as_node({"words": "word"}, {"length": "lengths"}, map_over="words")


class Guarded(MemoryCache):
    """Gives no result away while it is guarded; what is listed about items and nodes is no result."""

    is_guarded = False

    def get(self, key: str) -> Any:
        if self.is_guarded and len(key) == 64:
            raise AssertionError("a result was loaded")
        return super().get(key)


def statuses(pipeline: Pipeline, *arguments: Any, **more: Any) -> dict[str, str]:
    return {entry.title: entry.counts for entry in pipeline.explain(*arguments, **more).nodes}


def test_what_was_computed_is_a_hit_and_what_was_not_would_run() -> None:
    pipeline = Pipeline([split, measure_all, add_up], cache=MemoryCache())
    assert not pipeline.explain({"text": "a bb"}).is_fully_cached
    pipeline.run({"text": "a bb"}, output_name="words")
    explanation = pipeline.explain({"text": "a bb"})
    assert [(entry.name, entry.status) for entry in explanation.nodes] == [
        ("split", "hit"),
        ("measure", "run"),
        ("add_up", "run"),
    ]
    assert (explanation.hits, explanation.runs, explanation.unknown) == (1, 3, 0)
    pipeline.run({"text": "a bb"})
    assert pipeline.explain({"text": "a bb"}).is_fully_cached


def test_explain_looks_only_at_what_is_asked_for() -> None:
    pipeline = Pipeline([split, measure_all, add_up], cache=MemoryCache())
    pipeline.run({"text": "a bb"}, output_name="total")
    pipeline.effective_cache.delete(next(iter(pipeline.effective_cache._entries)))  # type: ignore[union-attr, attr-defined]
    assert statuses(pipeline, {"text": "a bb"}, "total") == {
        "split": "not needed",
        "lengths → measure": "not needed",
        "add_up": "hit",
    }


def test_items_of_a_mapped_pipeline_are_counted() -> None:
    pipeline = Pipeline([measure_all, add_up], cache=MemoryCache())
    pipeline.run({"words": ["a", "bb"]})
    assert statuses(pipeline, {"words": ["a", "ccc", "bb", "ccc", "dddd"]}) == {
        "lengths → measure": "2 hit, 2 would run, 1 equal to one before",
        "add_up": "would run",
    }


def test_items_of_a_list_that_a_node_would_have_to_make_first_are_not_known() -> None:
    pipeline = Pipeline([split, measure_all], cache=MemoryCache())
    explanation = pipeline.explain({"text": "a bb"})
    assert explanation["measure"].status == "unknown"
    assert explanation["measure"].reasons == ("depends on `split`, which would run first",)


def test_a_list_that_a_node_made_is_loaded_where_its_items_have_to_be_looked_up() -> None:
    pipeline = Pipeline([split, measure_all], cache=MemoryCache())
    pipeline.run({"text": "a bb", "unit": 1})
    pipeline.run({"text": "bb ccc", "unit": 1}, output_name="words")
    assert statuses(pipeline, {"text": "bb ccc", "unit": 1}) == {
        "split": "hit",
        "lengths → measure": "1 hit, 1 would run",
    }


def test_no_result_is_loaded_to_see_whether_it_is_there() -> None:
    cache = Guarded()
    pipeline = Pipeline([split, measure_all, add_up], cache=cache)
    pipeline.run({"text": "a bb"})
    cache.is_guarded = True
    for inputs in ({"text": "a bb"}, {"text": "ccc"}):
        assert pipeline.explain(inputs).warnings == ()
    assert pipeline.explain({"text": "a bb"}).is_fully_cached


def test_a_map_counts_items_and_nodes() -> None:
    pipeline = Pipeline([measure], cache=MemoryCache(), name="measuring")
    pipeline.map({"word": ["a", "bb"]}, map_over="word")
    explanation = pipeline.explain({"word": ["bb", "ccc"]}, map_over="word")
    assert (explanation.items, explanation.items_found) == (2, 1)
    assert (explanation["measure"].hits, explanation["measure"].runs) == (1, 1)
    product = pipeline.explain({"word": ["a", "bb"], "unit": [1, 2]}, map_over=["word", "unit"], map_mode="product")
    assert (product.items, product.hits, product.runs) == (4, 2, 2)
    assert pipeline.explain({"word": []}, map_over="word").is_fully_cached


def test_what_depends_on_a_node_that_is_never_cached_is_not_known_yet() -> None:
    pipeline = Pipeline([add_up, draw, shift], cache=MemoryCache())
    pipeline.run({"lengths": [1]})
    explanation = pipeline.explain({"lengths": [1]})
    assert explanation["shift"].status == "unknown"
    assert explanation["shift"].reasons == ("depends on `draw`, which would run first",)
    assert explanation["draw"].reasons == ("never cached (cache=False)",)
    assert explanation["add_up"].status == "hit"


def test_what_only_an_undecided_node_needs_is_undecided_as_well() -> None:
    pipeline = Pipeline([add_up, draw, shift], cache=MemoryCache())
    explanation = pipeline.explain({"lengths": [1]}, "shifted")
    assert explanation["add_up"].status == "unknown"
    assert explanation["add_up"].reasons == ("needed only if `shift` has to run",)


def test_without_a_cache_everything_would_run() -> None:
    pipeline = Pipeline([measure_all, add_up])
    explanation = pipeline.explain({"words": ["a", "bb"]})
    assert [(entry.runs, entry.reasons) for entry in explanation.nodes] == [(2, ("no cache",)), (1, ("no cache",))]
    over = lengths_of.explain({"word": ["a", "bb"]}, map_over="word")
    assert (over.items, over.items_found, over.runs) == (2, 0, 2)


def test_a_nested_pipeline_without_a_cache_would_run_in_one_that_has_one() -> None:
    bare = Pipeline([measure], name="bare", cache=False).as_node(
        {"words": "word"}, {"length": "lengths"}, map_over="words"
    )
    explanation = Pipeline([bare, add_up], cache=MemoryCache()).explain({"words": ["a", "bb"]})
    assert explanation["measure"].runs == 2
    assert explanation["measure"].reasons == ("no cache",)
    assert explanation["add_up"].reasons == ("depends on `bare`, which would run first",)


@pytest.mark.parametrize("map_over", [None, "word"])
def test_a_nested_pipeline_with_a_backend_of_its_own_is_looked_into(map_over: str | None) -> None:
    own = Pipeline([measure], name="elsewhere", backend=LocalBackend()).as_node(map_over=map_over)
    pipeline = Pipeline([own], cache=MemoryCache())
    inputs = {"word": ["a", "bb"] if map_over else "a"}
    assert not pipeline.explain(inputs).is_fully_cached
    pipeline.run(inputs)
    assert pipeline.explain(inputs).is_fully_cached
    assert pipeline.explain({**inputs, "unit": 7})["measure"].reasons == ("input `unit` changed 1 → 7",)


def test_an_overridden_node_is_shown_as_replaced() -> None:
    pipeline = Pipeline([split, measure_all], cache=MemoryCache())
    explanation = pipeline.explain({"words": ["a"]})
    assert explanation["split"].status == "overridden"
    assert explanation["split"].reasons == ("a value is given for `words`",)
    assert explanation["measure"].runs == 1


@pytest.mark.parametrize("backend", [None, LocalBackend()], ids=["inlined", "backend_of_its_own"])
@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["uncached", "cached"])
def test_of_a_nested_pipeline_only_the_node_whose_output_is_given_is_replaced(
    backend: LocalBackend | None, cache: MemoryCache | None
) -> None:
    inner = Pipeline([split, measure_all], name="inner", backend=backend)
    explanation = Pipeline([Pipeline([inner], name="middle"), add_up], cache=cache).explain({"words": ["a", "bb"]})
    assert explanation["middle", "inner", "split"].status == "overridden"
    assert explanation["middle", "inner", "split"].reasons == ("a value is given for `words`",)
    assert [entry.status for entry in explanation.nodes] == ["overridden", "run", "unknown" if cache else "run"]


def test_of_a_node_with_two_outputs_only_one_of_which_is_given_nothing_is_replaced() -> None:
    pipeline = Pipeline([Node(lambda text: (text, text), ("first", "second"), name="twice")])
    explanation = pipeline.explain({"text": "a", "first": "b"}, "second")
    assert [entry.status for entry in explanation.nodes] == ["run"]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_pipelines_with_backends_of_their_own_run_once_at_any_depth(depth: int) -> None:
    pipeline = Pipeline([measure], name="measuring")
    for _ in range(depth):
        pipeline = Pipeline([pipeline.with_backend(LocalBackend())], name="around")
    explanation = pipeline.explain({"word": "a"})
    assert (explanation["measure"].runs, explanation["measure"].has_unknown_items) == (1, False)


def test_explain_says_what_would_fail() -> None:
    pairs = Pipeline([measure], name="pairs").as_node(map_over=["word", "unit"])
    uneven = Pipeline([Node(lambda size: ["a"] * size, "word", name="make"), pairs], cache=MemoryCache())
    uneven.run({"size": 1, "unit": [1]})
    explanation = uneven.explain({"size": 1, "unit": [1, 2]})
    assert "would fail: node 'pairs' pairs its inputs item by item" in explanation["measure"].reasons[0]


# --- nothing happens ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`record`, which node 'same' is known by, changed")  # a method of it reads `calls`
def test_explaining_calls_writes_and_reports_nothing() -> None:
    calls: list[str] = []

    class Calls:
        __cache_key__ = staticmethod(lambda: "calls")

        def add(self, word: str) -> str:
            calls.append(word)
            return word

    record, recorder, cache = Calls(), Recorder(), MemoryCache()
    pipeline = Pipeline([Node(lambda word: record.add(word), "same", name="same")], cache=cache, callbacks=[recorder])
    pipeline.run({"word": "a"})
    recorder.clear()
    before = (dict(cache._entries), dict(cache._records), cache.stats())
    pipeline.explain({"word": "a"})
    pipeline.explain({"word": "b"})
    pipeline.explain({"word": ["a", "b"]}, map_over="word")
    assert calls == ["a"]
    assert recorder.events == []
    assert (dict(cache._entries), dict(cache._records), cache.stats()) == before


def test_a_cache_that_cannot_be_read_is_a_warning_in_the_explanation() -> None:
    class Broken(MemoryCache):
        def contains(self, key: str) -> bool:
            raise OSError("no such disk")

    explanation = Pipeline([measure], cache=Broken()).explain({"word": "a"})
    assert explanation["measure"].status == "run"
    assert "no such disk" in explanation.warnings[0]
    assert "warning: nothing can be read" in repr(explanation)


# --- wrong input -------------------------------------------------------------------------------------------------


def test_explain_refuses_wrong_input_as_run_and_map_do() -> None:
    pipeline = Pipeline([measure_all], cache=MemoryCache())
    with pytest.raises(MissingInputError):
        pipeline.explain()
    with pytest.raises(UnknownInputError):
        pipeline.explain({"wordz": []})
    with pytest.raises(UnknownOutputError):
        pipeline.explain({"words": []}, "length")
    with pytest.raises(MapInputError):
        pipeline.explain({"words": "abc"})
    with pytest.raises(UnknownInputError):
        pipeline.explain({"words": [["a"]]}, map_over="unit")
    with pytest.raises(MapLengthError):
        lengths_of.explain({"word": ["a"], "unit": [1, 2]}, map_over=["word", "unit"])


def test_explain_refuses_an_iterator_rather_than_using_it_up() -> None:
    words = iter(["a", "bb"])
    with pytest.raises(MapInputError, match=r"pass list\(word\)"):
        lengths_of.explain({"word": words}, map_over="word")
    with pytest.raises(MapInputError, match=r"pass list\(words\)"):
        Pipeline([measure_all], cache=MemoryCache()).explain({"words": words})
    assert list(words) == ["a", "bb"]


# --- how it reads ------------------------------------------------------------------------------------------------


def test_an_explanation_reads_as_a_table() -> None:
    pipeline = Pipeline([split, measure_all, add_up], cache=MemoryCache(), name="sizes")
    pipeline.run({"text": "a bb"})
    assert repr(pipeline.explain({"text": "a bb", "unit": 2})).splitlines() == [
        "pipeline 'sizes': 1 hit, 3 would run",
        "  split              hit",
        "  lengths → measure  2 would run  input `unit` changed 1 → 2",
        "  add_up             would run    input `lengths` changed (made by `lengths`)",
    ]
    assert repr(pipeline.explain({"text": ["a bb", "c"]}, map_over="text")).startswith(
        "pipeline 'sizes', map over 2 items (1 fully cached): "
    )


def test_the_notebook_table_escapes_what_it_shows() -> None:
    html = Pipeline([Node(lambda x: x, "y", name="<b>")], cache=MemoryCache()).explain({"x": 1})._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "never computed" in html


def test_a_node_is_found_by_its_name_and_its_path() -> None:
    twice = [
        lengths_of.as_node({"a": "word"}, {"length": "la"}, name="one"),
        lengths_of.as_node({"b": "word"}, name="two"),
    ]
    explanation = Pipeline(twice).explain({"a": "x", "b": "y"})
    assert explanation["one", "measure"].path == ("one",)
    with pytest.raises(KeyError, match="several nodes"):
        explanation["measure"]
    with pytest.raises(KeyError, match="no node is called 'mesure'"):
        explanation["mesure"]
