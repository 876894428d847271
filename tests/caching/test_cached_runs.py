"""Caching: what is computed, what is looked up, and what makes a result another one."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypernodes import MISS, Cache, CacheStats, CacheWarning, LocalBackend, MemoryCache, Node, Pipeline, node
from tests.support import Recorder, RecordingCache

LoadModule = Callable[..., ModuleType]


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="words")
def split(clean: str, separator: str = " ") -> list[str]:
    return clean.split(separator)


@node(output_name="count")
def count(words: list[str]) -> int:
    return len(words)


chain = Pipeline(nodes=[strip, split, count], name="chain")


def cached(pipeline: Pipeline, cache: Cache | None = None) -> tuple[Recorder, Pipeline]:
    recorder = Recorder()
    return recorder, pipeline.with_cache(MemoryCache() if cache is None else cache).with_callbacks([recorder])


def computed_by(pipeline: Pipeline, cache: Cache, inputs: dict[str, Any]) -> list[str]:
    """Run a pipeline with a cache and return the nodes that were called."""
    recorder = Recorder()
    pipeline.with_cache(cache).with_callbacks([recorder]).run(inputs)
    return recorder.computed


# --- hits and misses ---------------------------------------------------------------------------------------------


def test_the_same_run_again_computes_nothing() -> None:
    recorder, pipeline = cached(chain)
    first = pipeline.run({"text": " a b"})
    assert recorder.computed == ["strip", "split", "count"]
    recorder.clear()
    assert pipeline.run({"text": " a b"}) == first
    assert (recorder.computed, recorder.cached) == ([], ["strip", "split", "count"])


def test_without_a_cache_nothing_is_kept() -> None:
    recorder = Recorder()
    pipeline = chain.with_callbacks([recorder])
    pipeline.run({"text": "a"})
    pipeline.run({"text": "a"})
    assert len(recorder.computed) == 6


def test_another_input_misses_and_the_old_one_still_hits() -> None:
    recorder, pipeline = cached(chain)
    pipeline.run({"text": "a"})
    pipeline.run({"text": "b"})
    recorder.clear()
    pipeline.run({"text": "a"})
    assert recorder.computed == []


def test_only_what_depends_on_a_changed_input_is_computed_again() -> None:
    recorder, pipeline = cached(chain)
    pipeline.run({"text": "a,b", "separator": " "})
    recorder.clear()
    assert pipeline.run({"text": "a,b", "separator": ","})["count"] == 2
    assert (recorder.computed, recorder.cached) == (["split", "count"], ["strip"])


def test_signatures_follow_what_went_in_not_what_came_out() -> None:
    """Early cut-off is not part of the design: an upstream change is a change, even when the value is the same."""
    recorder, pipeline = cached(chain)
    pipeline.run({"text": "a"})
    recorder.clear()
    pipeline.run({"text": " a"})
    assert recorder.computed == ["strip", "split", "count"]


def test_none_is_cached_like_any_other_value() -> None:
    nothing = Node(lambda x: None, "nothing")
    recorder, pipeline = cached(Pipeline(nodes=[nothing]))
    assert pipeline.run({"x": 1}) == pipeline.run({"x": 1}) == {"nothing": None}
    assert (recorder.computed, recorder.cached) == (["nothing"], ["nothing"])


@pytest.mark.parametrize("value", [False, 0, "", [], ()])
def test_false_and_empty_values_are_hits(value: Any) -> None:
    recorder, pipeline = cached(Pipeline(nodes=[Node(lambda: value, "out")]))
    pipeline.run()
    recorder.clear()
    assert pipeline.run() == {"out": value}
    assert recorder.computed == []


def test_a_default_and_the_same_value_given_are_the_same() -> None:
    recorder, pipeline = cached(chain)
    pipeline.run({"text": "a"})
    recorder.clear()
    pipeline.run({"text": "a", "separator": " "})
    assert recorder.computed == []


def test_values_of_different_types_are_cached_apart() -> None:
    double = Pipeline(nodes=[Node(lambda x: x * 2, "y")])
    recorder, pipeline = cached(double)
    for value in (5, 5.0, "5", True, 1, [5], (5,)):
        assert pipeline.run({"x": value}) == {"y": value * 2}
    assert len(recorder.computed) == 7


def test_an_override_is_keyed_by_its_value() -> None:
    recorder, pipeline = cached(chain)
    pipeline.run({"text": "a b"})
    recorder.clear()
    assert pipeline.run({"words": ["x"]}) == {"count": 1}
    assert recorder.computed == ["count"]
    recorder.clear()
    assert pipeline.run({"words": ["x"]}) == {"count": 1}
    assert recorder.computed == []
    assert pipeline.run({"words": ["x", "y"]}) == {"count": 2}
    assert pipeline.run({"text": "a b"})["count"] == 2


def test_two_pipelines_with_one_cache_share_what_is_the_same() -> None:
    cache = MemoryCache()
    assert computed_by(Pipeline(nodes=[strip]), cache, {"text": "a"}) == ["strip"]
    assert computed_by(chain, cache, {"text": "a"}) == ["split", "count"]
    assert computed_by(Pipeline(nodes=[Pipeline(nodes=[chain])]), cache, {"text": "a"}) == []
    renamed = chain.as_node({"page": "text"}, {"count": "n"})
    assert computed_by(Pipeline(nodes=[renamed]), cache, {"page": "a"}) == []


def test_each_of_several_outputs_is_kept() -> None:
    bounds = Node(lambda values: (min(values), max(values)), ("low", "high"))
    recorder, pipeline = cached(Pipeline(nodes=[bounds]))
    first = pipeline.run({"values": [1, 5]})
    recorder.clear()
    assert pipeline.run({"values": [1, 5]}) == first == {"low": 1, "high": 5}
    assert pipeline.run({"values": [1, 5]}, output_name="high") == {"high": 5}
    assert recorder.computed == []


def test_when_one_of_several_outputs_is_gone_the_node_runs_again() -> None:
    cache = RecordingCache()
    bounds = Node(lambda values: (min(values), max(values)), ("low", "high"))
    recorder, pipeline = cached(Pipeline(nodes=[bounds]), cache)
    pipeline.run({"values": [1, 5]})
    cache.delete(cache.stored[0])
    recorder.clear()
    assert pipeline.run({"values": [1, 5]}) == {"low": 1, "high": 5}
    assert len(recorder.computed) == 1


def test_async_nodes_are_cached() -> None:
    @node(output_name="page")
    async def fetch(url: str) -> str:
        return f"<{url}>"

    recorder, pipeline = cached(Pipeline(nodes=[fetch]))
    assert pipeline.run({"url": "a"}) == pipeline.run({"url": "a"}) == {"page": "<a>"}
    assert recorder.computed == ["fetch"]


# --- demand ------------------------------------------------------------------------------------------------------


def test_with_the_last_output_there_nothing_upstream_is_looked_up() -> None:
    cache = RecordingCache()
    recorder, pipeline = cached(chain, cache)
    pipeline.run({"text": "a"}, output_name="count")
    recorder.clear()
    cache.asked.clear()
    assert pipeline.run({"text": "a"}, output_name="count") == {"count": 1}
    assert len(cache.asked) == 1
    assert recorder.events == [("pipeline_start", "chain"), ("node_cached", "count"), ("pipeline_end", "chain")]


@pytest.mark.parametrize("callbacks", [[], [Recorder()]], ids=["not observed", "observed"])
def test_a_long_chain_of_which_only_the_last_output_is_wanted_is_one_look_up(callbacks: list[Recorder]) -> None:
    cache = RecordingCache()
    nodes = [Node(eval(f"lambda x{i}: x{i} + 1"), f"x{i + 1}", name=f"x{i + 1}") for i in range(100)]
    pipeline = Pipeline(nodes=nodes, cache=cache, callbacks=callbacks)
    assert pipeline.run({"x0": 0}, output_name="x100") == {"x100": 100}
    assert len(cache.stored) == 100
    cache.asked.clear()
    assert pipeline.run({"x0": 0}, output_name="x100") == {"x100": 100}
    assert len(cache.asked) == 1
    cache.asked.clear()
    assert pipeline.map({"x0": [0, 1, 2, 0]}, map_over="x0", output_name="x100") == {"x100": [100, 101, 102, 100]}
    cache.asked.clear()
    pipeline.map({"x0": [0, 1, 2, 0]}, map_over="x0", output_name="x100")
    assert len(cache.asked) <= 4


def test_look_ups_stop_at_the_first_hit_upstream() -> None:
    cache = RecordingCache()
    recorder, pipeline = cached(chain, cache)
    pipeline.run({"text": "a"}, output_name="words")
    recorder.clear()
    cache.asked.clear()
    pipeline.run({"text": "a"}, output_name="count")
    assert len(cache.asked) == 2
    assert (recorder.cached, recorder.computed) == (["split"], ["count"])


def test_every_key_is_looked_up_once_and_stored_once() -> None:
    cache = RecordingCache()
    _, pipeline = cached(chain, cache)
    pipeline.run({"text": "a"})
    assert sorted(cache.asked) == sorted(cache.stored) == sorted(set(cache.asked))
    assert len(cache.asked) == 3


@pytest.mark.parametrize("execution", ["sequential", "threaded", "async"])
@pytest.mark.parametrize("is_observed", [False, True], ids=["plain", "observed"])
@pytest.mark.parametrize("is_mixed", [False, True], ids=["all identified", "one uncached"])
def test_a_result_that_two_nested_pipelines_share_is_computed_once_in_a_run(
    execution: str, is_observed: bool, is_mixed: bool
) -> None:
    cache = RecordingCache()
    others = [Node(lambda text: text, "extra", cache=False, name="extra")] if is_mixed else []
    pipeline = Pipeline(
        nodes=[
            *others,
            chain.as_node(name="first", output_mapping={name: f"first_{name}" for name in ("clean", "words", "count")}),
            chain.as_node(name="again", output_mapping={name: f"again_{name}" for name in ("clean", "words", "count")}),
        ],
        backend=LocalBackend(node_execution=execution),
    ).with_cache(cache)
    recorder = Recorder()
    if is_observed:
        pipeline = pipeline.with_callbacks([recorder])
    result = pipeline.run({"text": " a b "})
    assert (result["first_count"], result["again_count"]) == (2, 2)
    assert len(cache.stored) == len(set(cache.stored)) == 3
    if is_observed:
        assert sorted(recorder.computed) == sorted(["strip", "split", "count"] + ["extra"] * is_mixed)
        assert sorted(recorder.cached) == ["count", "split", "strip"]


def test_an_upstream_result_that_is_gone_is_not_missed() -> None:
    cache = RecordingCache()
    recorder, pipeline = cached(chain, cache)
    pipeline.run({"text": "a"})
    for key in cache.stored[:2]:
        cache.delete(key)
    recorder.clear()
    assert pipeline.run({"text": "a"}, output_name="count") == {"count": 1}
    assert recorder.computed == []


# --- cache=False -------------------------------------------------------------------------------------------------


class Clock:
    """Gives one value after the other; identified as nothing, so that signatures do not change with it."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)

    def __call__(self) -> Any:
        return self.values.pop(0)

    def __cache_key__(self) -> str:
        return "clock"


def test_a_node_that_is_never_cached_runs_every_time_and_downstream_is_keyed_by_its_value() -> None:
    clock = Node(Clock("a", "b", "a"), "text", cache=False, name="clock")
    recorder, pipeline = cached(Pipeline(nodes=[clock, strip, split]))
    assert pipeline.run(output_name="words") == {"words": ["a"]}
    assert pipeline.run(output_name="words") == {"words": ["b"]}
    recorder.clear()
    assert pipeline.run(output_name="words") == {"words": ["a"]}
    assert (recorder.computed, recorder.cached) == (["clock"], ["split"])


def test_downstream_of_a_node_that_is_never_cached_shares_entries_with_the_value_given_as_input() -> None:
    cache = MemoryCache()
    clock = Node(Clock("a"), "text", cache=False, name="clock")
    assert computed_by(Pipeline(nodes=[clock, strip]), cache, {}) == ["clock", "strip"]
    assert computed_by(Pipeline(nodes=[strip]), cache, {"text": "a"}) == []


def test_a_node_that_is_never_cached_does_not_run_when_nothing_needs_it() -> None:
    clock = Node(Clock(), "now", cache=False, name="clock")
    recorder, pipeline = cached(Pipeline(nodes=[clock, strip]))
    assert pipeline.run({"text": "a"}, output_name="clean") == {"clean": "a"}
    assert recorder.computed == ["strip"]


def test_a_node_that_is_never_cached_takes_cached_inputs() -> None:
    @node(output_name="copy", cache=False)
    def copy(clean: str) -> str:
        return clean

    recorder, pipeline = cached(Pipeline(nodes=[strip, copy, Node(lambda copy: len(copy), "n")]))
    pipeline.run({"text": " a"})
    recorder.clear()
    assert pipeline.run({"text": " a"}, output_name="n") == {"n": 1}
    assert (recorder.computed, recorder.cached) == (["copy"], ["strip", "n"])


def test_an_unchanged_value_in_the_middle_cuts_off_what_follows() -> None:
    """Two different inputs that a never-cached node maps to one value share everything downstream."""
    lower = Node(str.lower, "clean", cache=False, name="lower")
    recorder, pipeline = cached(Pipeline(nodes=[lower, split, count]))
    (name,) = lower.inputs
    pipeline.run({name: "A"}, output_name="count")
    recorder.clear()
    pipeline.run({name: "a"}, output_name="count")
    assert (recorder.computed, recorder.cached) == (["lower"], ["count"])


# --- maps --------------------------------------------------------------------------------------------------------


def test_a_map_over_more_items_computes_only_those() -> None:
    recorder, pipeline = cached(Pipeline(nodes=[strip, split]))
    pipeline.map({"text": ["a", "b"]}, map_over="text")
    recorder.clear()
    found = pipeline.map({"text": ["c", "a", "b", "d"]}, map_over="text", output_name="words")
    assert found == {"words": [["c"], ["a"], ["b"], ["d"]]}
    assert recorder.cached_items == [1, 2]
    assert recorder.computed == ["strip", "split"] * 2


mapped = Pipeline(
    nodes=[
        chain.as_node({"texts": "text"}, {"count": "counts"}, map_over="texts"),
        Node(lambda counts: sum(counts), "total"),
    ]
)


def test_a_mapped_node_with_more_items_computes_only_those() -> None:
    recorder, pipeline = cached(mapped)
    pipeline.run({"texts": ["a", "b c"]}, output_name="total")
    recorder.clear()
    assert pipeline.run({"texts": ["a", "b c", "d"]}, output_name="total") == {"total": 4}
    assert recorder.cached_items == [0, 1]
    assert recorder.computed == ["strip", "split", "count", "total"]


def test_what_follows_a_mapped_node_is_found_without_looking_at_the_items() -> None:
    cache = RecordingCache()
    _, pipeline = cached(mapped, cache)
    pipeline.run({"texts": ["a", "b"]}, output_name="total")
    cache.asked.clear()
    pipeline.run({"texts": ["a", "b"]}, output_name="total")
    assert len(cache.asked) == 1


def test_a_mapped_node_with_a_changed_item_computes_that_one() -> None:
    recorder, pipeline = cached(mapped)
    pipeline.run({"texts": ["a", "b", "c"]})
    recorder.clear()
    assert pipeline.run({"texts": ["a", "B C", "c"]}, output_name="counts") == {"counts": [1, 2, 1]}
    assert recorder.cached_items == [0, 2]


def test_a_changed_shared_input_recomputes_only_what_depends_on_it() -> None:
    recorder, pipeline = cached(mapped)
    pipeline.run({"texts": ["a", "b"]})
    recorder.clear()
    pipeline.run({"texts": ["a", "b"], "separator": ","})
    assert sorted(recorder.computed) == ["count", "count", "split", "split", "total"]


def test_an_input_that_the_requested_output_does_not_need_does_not_matter() -> None:
    recorder, pipeline = cached(mapped)
    pipeline.run({"texts": ["a", "b"], "separator": " "}, output_name="clean")
    recorder.clear()
    pipeline.run({"texts": ["a", "b"], "separator": ","}, output_name="clean")
    assert recorder.computed == []


@pytest.mark.parametrize("levels", [1, 2])
def test_what_follows_a_mapped_node_does_not_depend_on_inputs_that_the_mapped_output_does_not_need(levels: int) -> None:
    each, texts = chain, ["a", "b"]
    for level in range(levels):
        each = Pipeline(nodes=[each.as_node(map_over="text")])
        texts = texts if level == 0 else [texts]  # type: ignore[list-item]
    follows = Node(lambda clean: len(clean), "n", name="follows")
    recorder, pipeline = cached(Pipeline(nodes=[each, follows]))
    pipeline.run({"text": texts, "separator": " "}, output_name="n")
    recorder.clear()
    pipeline.run({"text": texts, "separator": ","}, output_name="n")
    assert (recorder.computed, recorder.cached) == ([], ["follows"])


def test_items_are_known_by_what_made_them_not_by_their_content() -> None:
    """So a mapped node can follow another one even when nobody can tell what is in the items between them."""
    make = Pipeline(nodes=[Node(lambda x: threading.Lock(), "lock", name="make")]).as_node({"xs": "x"}, map_over="xs")
    use = Pipeline(nodes=[Node(lambda lock: lock.locked(), "used", name="use")]).as_node(map_over="lock")
    recorder, pipeline = cached(Pipeline(nodes=[make, use]))
    pipeline.run({"xs": [1, 2]}, output_name="used")
    recorder.clear()
    assert pipeline.run({"xs": [1, 2, 3]}, output_name="used") == {"used": [False] * 3}
    assert recorder.computed == ["make", "use"]


def test_items_of_a_run_a_map_and_a_mapped_node_share_entries() -> None:
    cache = MemoryCache()
    assert computed_by(chain, cache, {"text": "a"}) == ["strip", "split", "count"]
    recorder, pipeline = cached(chain, cache)
    pipeline.map({"text": ["a"]}, map_over="text")
    assert recorder.cached_items == [0]
    assert computed_by(mapped, cache, {"texts": ["a"]}) == ["total"]


def test_a_mapped_node_fed_by_a_mapped_node_computes_only_new_items() -> None:
    first = Pipeline(nodes=[strip], name="first").as_node({"texts": "text"}, map_over="texts")
    second = Pipeline(nodes=[split], name="second").as_node(map_over="clean")
    recorder, pipeline = cached(Pipeline(nodes=[first, second]))
    pipeline.run({"texts": ["a", "b"]}, output_name="words")
    recorder.clear()
    assert pipeline.run({"texts": ["a", "b", "c"]}, output_name="words") == {"words": [["a"], ["b"], ["c"]]}
    assert recorder.computed == ["strip", "split"]


def test_an_item_that_is_gone_from_the_cache_is_computed_again() -> None:
    cache = RecordingCache()
    recorder, pipeline = cached(mapped, cache)
    pipeline.run({"texts": ["a", "b c"]}, output_name="counts")
    items = [key for key in cache.stored if cache.get(key) == 2]
    for key in items:
        cache.delete(key)
    recorder.clear()
    assert pipeline.run({"texts": ["a", "b c"]}, output_name="counts") == {"counts": [1, 2]}
    assert recorder.computed == ["count"]


def test_zip_and_product_of_the_same_values_are_different_results() -> None:
    pair = Pipeline(nodes=[Node(lambda a, b: (a, b), "pair")])
    cache = MemoryCache()
    for mode, expected in (("zip", 2), ("product", 4)):
        node_ = pair.as_node(map_over=["a", "b"], map_mode=mode)  # type: ignore[arg-type]
        found = Pipeline(nodes=[node_], cache=cache).run({"a": [1, 2], "b": [3, 4]})
        assert len(found["pair"]) == expected


def test_the_same_values_mapped_and_not_mapped_are_different_results() -> None:
    size = Pipeline(nodes=[Node(lambda xs: len(xs), "n")])
    cache = MemoryCache()
    assert Pipeline(nodes=[size], cache=cache).run({"xs": [[1], [2, 3]]}) == {"n": 2}
    assert Pipeline(nodes=[size.as_node(map_over="xs")], cache=cache).run({"xs": [[1], [2, 3]]}) == {"n": [1, 2]}


def test_which_of_two_lists_is_mapped_over_matters() -> None:
    pair = Pipeline(nodes=[Node(lambda a, b: (a, b), "pair")])
    cache = MemoryCache()
    over_a = Pipeline(nodes=[pair.as_node(map_over="a")], cache=cache).run({"a": [1, 2], "b": [1, 2]})
    over_b = Pipeline(nodes=[pair.as_node(map_over="b")], cache=cache).run({"a": [1, 2], "b": [1, 2]})
    assert over_a == {"pair": [(1, [1, 2]), (2, [1, 2])]}
    assert over_b == {"pair": [([1, 2], 1), ([1, 2], 2)]}


def test_a_never_cached_node_inside_a_mapped_pipeline_runs_for_every_item() -> None:
    lower = Node(lambda text: text.lower(), "clean", cache=False, name="lower")
    inner = Pipeline(nodes=[lower, split], name="inner")
    recorder, pipeline = cached(Pipeline(nodes=[inner.as_node({"texts": "text"}, map_over="texts")]))
    pipeline.run({"texts": ["A", "B"]}, output_name="words")
    recorder.clear()
    assert pipeline.run({"texts": ["A", "b"]}, output_name="words") == {"words": [["a"], ["b"]]}
    assert recorder.computed == ["lower", "lower"]
    assert recorder.cached == ["split", "split"]


def test_a_list_of_uncached_items_is_known_by_its_values_whatever_else_is_computed_from_them() -> None:
    lower = Node(lambda text: text.lower(), "clean", cache=False, name="lower")
    inner = Pipeline(nodes=[lower, split], name="inner").as_node(
        {"texts": "text"}, map_over="texts", output_mapping={"clean": "cleaned"}
    )
    join = Node(lambda cleaned: " ".join(cleaned), "joined", name="join")
    recorder, pipeline = cached(Pipeline(nodes=[inner, join]))
    pipeline.run({"texts": ["A", "B"]})
    recorder.clear()
    assert pipeline.run({"texts": ["A", "b"]}, output_name="joined") == {"joined": "a b"}
    assert recorder.computed == ["lower", "lower"]
    assert recorder.cached == ["join"]


def test_what_follows_a_list_of_equal_values_made_of_something_else_is_found() -> None:
    lower = Node(lambda text: text.lower(), "clean", cache=False, name="lower")
    count_words = Node(lambda clean: len(clean.split()), "count", name="count")
    inner = Pipeline(nodes=[lower, count_words], name="inner").as_node(
        {"texts": "text"}, map_over="texts", output_mapping={"count": "counts"}
    )
    add_up = Node(lambda counts: sum(counts), "total", name="add up")
    recorder, pipeline = cached(Pipeline(nodes=[inner, add_up]))
    pipeline.run({"texts": ["a b", "c"]}, output_name="total")
    recorder.clear()
    assert pipeline.run({"texts": ["x y", "z"]}, output_name="total") == {"total": 3}
    assert recorder.computed == ["lower", "count", "lower", "count"]
    assert recorder.cached == ["add up"]


# --- what cannot be cached ---------------------------------------------------------------------------------------


@pytest.fixture
def caught() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


def messages(caught: list[warnings.WarningMessage]) -> list[str]:
    assert all(issubclass(w.category, CacheWarning) for w in caught)
    return [str(w.message) for w in caught]


def test_an_input_that_cannot_be_identified_runs_uncached_with_one_warning(
    caught: list[warnings.WarningMessage],
) -> None:
    cache = RecordingCache()
    uses_lock = Node(lambda lock, x: x, "a", name="uses_lock")
    uses_it_too = Node(lambda lock, x: x, "b", name="uses_it_too")
    after = Node(lambda a, b: a + b, "sum", name="after")
    recorder, pipeline = cached(Pipeline(nodes=[uses_lock, uses_it_too, after]), cache)
    for _ in range(2):
        assert pipeline.run({"lock": threading.Lock(), "x": 1})["sum"] == 2
    assert recorder.computed == ["uses_lock", "uses_it_too", "after", "uses_lock", "uses_it_too"]
    assert recorder.cached == ["after"]
    first, second = messages(caught)
    assert first == second
    assert "'uses_lock', 'uses_it_too'" in first
    assert "uncached" in first
    assert "lock" in first


def test_the_warning_about_an_input_reads_well(caught: list[warnings.WarningMessage]) -> None:
    _, pipeline = cached(Pipeline(nodes=[Node(lambda guard: 1, "a")]))
    pipeline.run({"guard": threading.Lock()})
    (message,) = messages(caught)
    assert "because guard is a _thread.lock" in message


def test_a_whole_map_of_unidentifiable_inputs_gives_one_warning(caught: list[warnings.WarningMessage]) -> None:
    _, pipeline = cached(Pipeline(nodes=[Node(lambda lock: 1, "one")]))
    assert pipeline.map({"lock": [threading.Lock(), threading.Lock()]}, map_over="lock") == {"one": [1, 1]}
    assert len(messages(caught)) == 1


def test_the_warning_says_where_in_the_value_the_trouble_is(caught: list[warnings.WarningMessage]) -> None:
    class Client:
        def __init__(self) -> None:
            self.pool = [threading.Lock()]

    _, pipeline = cached(Pipeline(nodes=[Node(lambda client: 1, "one")]))
    pipeline.run({"client": Client()})
    (message,) = messages(caught)
    assert "client.pool[0] is a _thread.lock" in message


def test_a_function_that_cannot_be_identified_runs_uncached_with_one_warning(
    caught: list[warnings.WarningMessage],
) -> None:
    lock = threading.Lock()

    @node(output_name="y")
    def guarded(x: int) -> int:
        with lock:
            return x

    recorder, pipeline = cached(Pipeline(nodes=[guarded, Node(lambda y: y, "z")]))
    pipeline.map({"x": [1, 1]}, map_over="x")
    assert recorder.computed == ["guarded", "z", "guarded"]
    (message,) = messages(caught)
    assert message.startswith("node 'guarded' runs uncached: its function cannot be identified: ")
    assert "'lock'" in message


class KeepsNothing(MemoryCache):
    """A cache that cannot store anything."""

    def put(self, key: str, value: Any) -> None:
        raise OSError("disk full")


def test_a_result_that_cannot_be_stored_is_one_warning_and_the_run_goes_on(
    caught: list[warnings.WarningMessage],
) -> None:
    recorder, pipeline = cached(Pipeline(nodes=[strip]), KeepsNothing())
    assert pipeline.map({"text": ["a", "b"]}, map_over="text") == {"clean": ["a", "b"]}
    assert recorder.computed == ["strip", "strip"]
    (message,) = messages(caught)
    assert message.startswith("the result of node 'strip' is not cached: OSError: disk full")


class AnswersNothing(MemoryCache):
    """A cache that cannot be read."""

    def get(self, key: str) -> Any:
        raise OSError("disk gone")


def test_a_look_up_that_fails_is_a_miss_with_one_warning(caught: list[warnings.WarningMessage]) -> None:
    _, pipeline = cached(Pipeline(nodes=[strip]), AnswersNothing())
    assert pipeline.run({"text": " a"}) == {"clean": "a"}
    assert len(messages(caught)) == 1


def test_an_unidentifiable_value_for_a_mapped_node_with_optional_inputs(caught: list[warnings.WarningMessage]) -> None:
    def locks() -> list[Any]:
        return [threading.Lock()]

    inner = Pipeline(nodes=[Node(lambda lock, k=1: k, "one")])
    outer = Pipeline(nodes=[Node(locks, cache=False), inner.as_node({"locks": "lock"}, map_over="locks")])
    assert outer.with_cache(MemoryCache()).run(output_name="one") == {"one": [1]}
    assert len(messages(caught)) >= 1


def test_a_generator_is_not_kept_to_be_found_empty(caught: list[warnings.WarningMessage]) -> None:
    numbers = Node(lambda n: (i for i in range(n)), "numbers")
    cache = MemoryCache()
    for factor in (1, 2):
        pipeline = Pipeline(nodes=[numbers, Node(lambda numbers, k: [k * i for i in numbers], "scaled")], cache=cache)
        assert pipeline.run({"n": 2, "k": factor}, output_name="scaled") == {"scaled": [0, factor]}


# --- code --------------------------------------------------------------------------------------------------------

BASE = """
    import math
    from hypernodes import Pipeline, node

    OFFSET = 1
    TABLE = {"a": 1}

    def helper(x):
        return deeper(x) + OFFSET

    def deeper(x):
        return x * 2

    class Scaler:
        factor = 3

        def scale(self, x):
            return self.factor * x

    @node(output_name="y")
    def compute(x, extra=0):
        '''Say something.'''
        return helper(x) + Scaler().scale(x) + TABLE["a"] + extra

    pipeline = Pipeline(nodes=[compute])
"""


def is_hit(load_module: LoadModule, before: str, after: str) -> bool:
    """Run one version of a module, then another with the same cache; whether the second found the first's result."""
    cache = MemoryCache()
    assert computed_by(load_module(before).pipeline, cache, {"x": 5}) == ["compute"]
    return computed_by(load_module(after).pipeline, cache, {"x": 5}) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+ extra", "- extra"),
        ("extra=0", "extra=1"),
        ("deeper(x) + OFFSET", "deeper(x) - OFFSET"),
        ("return x * 2", "return x * 3"),
        ("OFFSET = 1", "OFFSET = 2"),
        ("OFFSET = 1", "OFFSET = True"),
        ('TABLE = {"a": 1}', 'TABLE = {"a": 2}'),
        ("factor = 3", "factor = 4"),
        ("return self.factor * x", "return self.factor + x"),
        ("x, extra=0", "extra, x=0"),
    ],
    ids=[
        "body",
        "default",
        "helper",
        "helper's helper",
        "constant",
        "type of a constant",
        "table",
        "class attribute",
        "method",
        "order of parameters",
    ],
)
def test_changed_code_misses(load_module: LoadModule, old: str, new: str) -> None:
    assert old in BASE
    changed = BASE.replace(old, new)
    cache = MemoryCache()
    inputs = {"x": 5, "extra": 0}
    assert computed_by(load_module(BASE).pipeline, cache, inputs) == ["compute"]
    assert computed_by(load_module(changed).pipeline, cache, inputs if "extra=" not in new else {"x": 5}) == ["compute"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("'''Say something.'''", "'''Say something else.'''"),
        ("'''Say something.'''", "# a comment"),
        ("return x * 2", "return (\n            x\n            * 2  # doubled\n        )"),
        ("x, extra=0", "x: int, extra: int = 0"),
        ("import math", "import math\n\n    UNUSED = 1"),
        ("class Scaler:", "class Unrelated:\n        pass\n\n    class Scaler:"),
        ("def deeper(x):", "def deeper(x):\n        '''New words.'''\n"),
    ],
    ids=["docstring", "comment", "formatting", "annotations", "unused constant", "moved", "docstring of a helper"],
)
def test_reformatted_code_hits(load_module: LoadModule, old: str, new: str) -> None:
    assert old in BASE
    assert is_hit(load_module, BASE, BASE.replace(old, new))


def test_the_same_module_loaded_again_hits(load_module: LoadModule) -> None:
    assert is_hit(load_module, BASE, BASE)


@pytest.mark.parametrize("first", [1, [1], "1"])
def test_a_changed_closure_misses(first: Any) -> None:
    def make(captured: Any) -> Pipeline:
        @node(output_name="y")
        def use(x: int) -> Any:
            return (x, captured)

        return Pipeline(nodes=[use])

    cache = MemoryCache()
    assert computed_by(make(first), cache, {"x": 1}) == ["use"]
    assert computed_by(make(first), cache, {"x": 1}) == []
    assert computed_by(make(2), cache, {"x": 1}) == ["use"]


IMPORTS = """
    {top}
    from hypernodes import Pipeline, node

    @node(output_name="y")
    def compute(x):
        {body}

    pipeline = Pipeline(nodes=[compute])
"""

ROADS_TO_A_HELPER = {
    "from helpers import h": ("from helpers import h", "return h(x)"),
    "import helpers": ("import helpers", "return helpers.h(x)"),
    "alias of the module": ("import helpers as aid", "return aid.h(x)"),
}

HIDDEN_ROADS_TO_A_HELPER = {
    "from helpers import h, inside": ("", "from helpers import h; return h(x)"),
    "import helpers, inside": ("", "import helpers; return helpers.h(x)"),
    "module in a variable": ("import helpers", "aid = helpers; return aid.h(x)"),
}


def helper_change_is_seen(load_module: LoadModule, top: str, body: str) -> bool:
    cache = MemoryCache()
    source = IMPORTS.format(top=top, body=body)
    load_module("def h(x): return x + 1", name="helpers")
    assert computed_by(load_module(source).pipeline, cache, {"x": 1}) == ["compute"]
    assert computed_by(load_module(source).pipeline, cache, {"x": 1}) == []
    load_module("def h(x): return x + 2", name="helpers")
    return computed_by(load_module(source).pipeline, cache, {"x": 1}) == ["compute"]


@pytest.mark.parametrize(("top", "body"), ROADS_TO_A_HELPER.values(), ids=ROADS_TO_A_HELPER.keys())
def test_a_changed_helper_in_another_module_misses(load_module: LoadModule, top: str, body: str) -> None:
    assert helper_change_is_seen(load_module, top, body)


@pytest.mark.parametrize(("top", "body"), HIDDEN_ROADS_TO_A_HELPER.values(), ids=HIDDEN_ROADS_TO_A_HELPER.keys())
def test_a_changed_helper_reached_in_another_way_misses(load_module: LoadModule, top: str, body: str) -> None:
    assert helper_change_is_seen(load_module, top, body)


def test_source_edited_after_the_import_does_not_poison_the_cache(load_module: LoadModule) -> None:
    old = "import hypernodes as h\n@h.node\ndef compute(x):\n    return x + 1\np = h.Pipeline(nodes=[compute])\n"
    new = old.replace("x + 1", "x + 1000")
    cache = MemoryCache()
    module = load_module(old)
    Path(str(module.__file__)).write_text(new, encoding="utf-8")
    assert module.p.with_cache(cache).run({"x": 1}) == {"compute": 2}
    assert load_module(new).p.with_cache(cache).run({"x": 1}) == {"compute": 1001}


def test_a_recursive_function_can_be_identified() -> None:
    @node(output_name="y")
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    recorder, pipeline = cached(Pipeline(nodes=[factorial]))
    assert pipeline.run({"n": 5}) == pipeline.run({"n": 5}) == {"y": 120}
    assert recorder.computed == ["factorial"]


# --- MemoryCache -------------------------------------------------------------------------------------------------


def test_memory_cache_keeps_values_under_keys() -> None:
    cache = MemoryCache()
    assert cache.get("k") is MISS
    cache.put("k", None)
    cache.put_many({"l": 1, "m": 2})
    assert cache.get("k") is None
    assert cache.get_many(["k", "l", "nothing"]) == {"k": None, "l": 1}
    assert cache.contains("l")
    assert "l" in cache
    cache.delete("l")
    cache.delete("l")
    assert "l" not in cache
    assert len(cache) == 2
    assert repr(cache) == "MemoryCache(2 entries)"
    cache.clear()
    assert len(cache) == 0
    cache.close()


def test_memory_cache_drops_what_was_used_longest_ago() -> None:
    cache = MemoryCache(max_items=2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.get("a")
    cache.put("c", 3)
    assert [key for key in "abc" if key in cache] == ["a", "c"]


def test_the_marker_of_a_miss_shows_what_it_is() -> None:
    assert repr(MISS) == "MISS"


# --- generated pipelines -----------------------------------------------------------------------------------------


@given(st.data())
def test_a_cache_never_changes_a_result_and_never_computes_twice(data: st.DataObject) -> None:
    """Whatever the graph, the nesting, the never-cached nodes and the entries that got lost."""
    count_ = data.draw(st.integers(1, 8))
    nodes: list[Node[..., Any]] = []
    for i in range(count_):
        names = ["r1", "r2", *(f"n{j}" for j in range(i))]
        inputs = data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
        terms = [str(i), *(f"{position + 2} * {name}" for position, name in enumerate(inputs))]
        function = eval(f"lambda {', '.join(inputs)}: {' + '.join(terms)}")
        nodes.append(Node(function, f"n{i}", cache=data.draw(st.booleans())))
    never_cached = {n.name for n in nodes if not n.cache}
    split_at = data.draw(st.integers(0, count_))
    inner_settings: dict[str, Any] = data.draw(
        st.sampled_from([{}, {"cache": False}, {"cache": MemoryCache()}, {"backend": LocalBackend()}])
    )
    inner = [Pipeline(nodes=nodes[:split_at], **inner_settings)] if split_at else []
    if inner_settings.get("cache") is False:
        never_cached |= {n.name for n in nodes[:split_at]}
    plain = Pipeline(nodes=[*inner, *nodes[split_at:]])
    requested = data.draw(st.lists(st.sampled_from(plain.outputs), min_size=1, unique=True))

    reference = Pipeline(nodes=nodes)
    given_inputs = {name: {"r1": 3, "r2": 50}[name] for name in plain.inputs}
    expected = reference.run(given_inputs, output_name=requested)
    cache, recorder = RecordingCache(), Recorder()
    pipeline = plain.with_cache(cache).with_callbacks([recorder])

    assert pipeline.run(given_inputs, output_name=requested) == expected
    assert len(recorder.computed) == len(set(recorder.computed))
    for key in data.draw(st.lists(st.sampled_from(cache.stored), unique=True)) if cache.stored else []:
        cache.delete(key)
    assert pipeline.run(given_inputs, output_name=requested) == expected
    recorder.clear()
    assert pipeline.run(given_inputs, output_name=requested) == expected
    assert set(recorder.computed) <= never_cached

    if "r1" in plain.inputs:
        items = [3, 4, 5]
        shared = {name: value for name, value in given_inputs.items() if name != "r1"}
        recorder.clear()
        found = pipeline.map({"r1": items, **shared}, map_over="r1", output_name=requested)
        assert found == reference.map({"r1": items, **shared}, map_over="r1", output_name=requested)
        assert all(
            context.item_path[0] != 0 for event, context, _ in recorder.of("node_start") if event[1] not in never_cached
        )
        mapped_node = plain.as_node({"items": "r1"}, map_over="items")
        outer = Pipeline(nodes=[mapped_node], cache=cache, callbacks=[recorder])
        for _ in range(2):
            recorder.clear()
            assert outer.run({"items": items, **shared}, output_name=requested) == found
            assert set(recorder.computed) <= never_cached


def test_a_node_that_runs_a_pipeline_is_known_by_what_is_in_it_and_not_by_how_it_runs() -> None:
    cache = MemoryCache()

    def outer(inner: Pipeline) -> Pipeline:
        @node(output_name="y")
        def run_inner(x: int) -> Any:
            return inner.run({"a": x})["b"]

        return Pipeline([run_inner], cache=cache)

    add = Pipeline([Node(lambda a: a + 1, "b", name="add")])
    for inner in (
        add,
        add.with_cache(MemoryCache()),
        add.with_callbacks([Recorder()]),
        add.with_backend(LocalBackend()),
    ):
        assert outer(inner).run({"x": 1}) == {"y": 2}
    assert cache.stats() == CacheStats(1, None, 3, 1)
    assert outer(Pipeline([Node(lambda a: a + 2, "b", name="add")])).run({"x": 1}) == {"y": 3}
