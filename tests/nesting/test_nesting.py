"""Nesting: names, settings that are inherited, and pipelines as values."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from hypernodes import (
    Backend,
    LocalBackend,
    MapRequest,
    MemoryCache,
    MissingInputError,
    Node,
    Pipeline,
    PipelineNode,
    RunRequest,
    node,
)
from hypernodes.backend import SubprocessBackend
from tests.concurrency.kit import Gauge
from tests.support import Recorder, RecordingCache


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="words")
def split(clean: str, separator: str = " ") -> list[str]:
    return clean.split(separator)


@node(output_name="count")
def count(words: list[str]) -> int:
    return len(words)


class CountingBackend(LocalBackend):
    """A local backend that writes down which pipelines it was asked to run."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[Any, ...]] = []

    def run(self, request: RunRequest) -> dict[str, Any]:
        self.ran.append(("run", request.pipeline.id, dict(request.inputs)))
        return super().run(request)

    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        self.ran.append(("map", request.pipeline.id, request.items(), dict(request.inputs)))
        return super().map(request)


prep = Pipeline(nodes=[strip, split], name="prep")


@pytest.mark.parametrize("node_execution", ["sequential", "threaded"])
@pytest.mark.parametrize("max_workers", [1, 2, 5])
def test_max_workers_bounds_nested_pipelines_with_backends_of_their_own(node_execution: Any, max_workers: int) -> None:
    gauge = Gauge()

    def count_calls(x: int) -> int:
        with gauge:
            return x

    counted = Pipeline([Node(count_calls, "y")], backend=LocalBackend())
    items = Pipeline([Node(lambda w: w + 1, "x", name="prepare"), counted])
    backend = LocalBackend(node_execution, "threaded", max_workers=max_workers)
    found = items.with_backend(backend).map({"w": range(30)}, map_over="w", output_name="y")
    assert found == {"y": [w + 1 for w in range(30)]}
    assert 1 <= gauge.peak <= max_workers


# --- names -------------------------------------------------------------------------------------------------------


def test_without_mappings_names_are_shared_with_the_pipeline_around() -> None:
    assert Pipeline(nodes=[prep, count]).run({"text": " a b"}) == {"clean": "a b", "words": ["a", "b"], "count": 2}


def test_mappings_rename_inputs_and_outputs() -> None:
    renamed = prep.as_node(input_mapping={"page": "text"}, output_mapping={"clean": "tidy", "words": "tokens"})
    assert renamed.inputs == ("page", "separator")
    assert renamed.outputs == ("tidy", "tokens")
    assert Pipeline(nodes=[renamed]).run({"page": " a b"}) == {"tidy": "a b", "tokens": ["a", "b"]}


def test_mappings_can_swap_input_names() -> None:
    minus = Pipeline(nodes=[Node(lambda a, b: a - b, "difference")])
    swapped = minus.as_node(input_mapping={"a": "b", "b": "a"})
    assert Pipeline(nodes=[swapped]).run({"a": 1, "b": 10}) == {"difference": 9}


def test_mappings_can_swap_output_names() -> None:
    both = Pipeline(nodes=[Node(lambda: (1, 2), ("one", "two"))])
    assert Pipeline(nodes=[both.as_node(output_mapping={"one": "two", "two": "one"})]).run() == {"two": 1, "one": 2}


def test_one_pipeline_can_be_nested_twice_under_different_names() -> None:
    left = prep.as_node({"left": "text"}, {"clean": "left_clean", "words": "left_words"}, name="left")
    right = prep.as_node({"right": "text"}, {"clean": "right_clean", "words": "right_words"}, name="right")
    found = Pipeline(nodes=[left, right]).run({"left": "a", "right": "b"}, output_name=["left_clean", "right_clean"])
    assert found == {"left_clean": "a", "right_clean": "b"}


def test_inner_names_do_not_leak() -> None:
    """An inner intermediate and an outer output of the same name are different things."""
    outer_clean = Node(lambda text: f"outer {text}", "clean")
    inner = prep.as_node(output_mapping={"clean": "inner_clean"})
    found = Pipeline(nodes=[outer_clean, inner]).run({"text": " a"})
    assert found == {"clean": "outer  a", "inner_clean": "a", "words": ["a"]}


def test_mappings_compose_over_many_levels() -> None:
    pipeline = Pipeline(nodes=[strip])
    for level in range(5):
        pipeline = Pipeline(
            nodes=[pipeline.as_node({f"t{level}": pipeline.inputs[0]}, {pipeline.outputs[0]: f"c{level}"})]
        )
    assert pipeline.inputs == ("t4",)
    assert pipeline.run({"t4": " a "}) == {"c4": "a"}


def test_a_pipeline_node_shows_what_it_is() -> None:
    assert repr(prep.as_node({"page": "text"}, name="n")) == "<pipeline node n(page, separator) -> clean, words>"
    assert repr(prep.as_node(map_over="text", map_mode="product")) == (
        "<pipeline node prep(text, separator) -> clean, words, one per item of text (product)>"
    )


def test_a_pipeline_node_is_named_after_its_pipeline_unless_told_otherwise() -> None:
    assert prep.as_node().name == "prep"
    assert prep.as_node(name="other").name == "other"
    unnamed = Pipeline(nodes=[strip])
    assert unnamed.as_node().name == unnamed.id


# --- inheritance -------------------------------------------------------------------------------------------------


def test_a_nested_pipeline_uses_the_cache_and_callbacks_around_it() -> None:
    recorder, cache = Recorder(), RecordingCache()
    outer = Pipeline(nodes=[Pipeline(nodes=[prep]), count], cache=cache, callbacks=[recorder])
    outer.run({"text": "a"})
    assert recorder.computed == ["strip", "split", "count"]
    assert len(cache) == 3


def test_cache_false_means_no_cache_here() -> None:
    recorder, cache = Recorder(), RecordingCache()
    outer = Pipeline(nodes=[prep.with_cache(False), count], cache=cache, callbacks=[recorder])
    outer.run({"text": "a"})
    outer.run({"text": "a"})
    assert recorder.computed == ["strip", "split", "count", "strip", "split"]
    assert len(cache) == 1


def test_cache_false_is_inherited_further_down() -> None:
    cache = RecordingCache()
    middle = Pipeline(nodes=[prep], cache=False)
    Pipeline(nodes=[middle], cache=cache).run({"text": "a"})
    assert (cache.asked, len(cache)) == ([], 0)


def test_a_nested_cache_of_its_own_is_used_instead() -> None:
    around, own = RecordingCache(), RecordingCache()
    outer = Pipeline(nodes=[prep.with_cache(own), count], cache=around)
    outer.run({"text": "a"})
    assert (len(own), len(around)) == (2, 1)


def test_a_nested_cache_works_without_one_around() -> None:
    recorder, own = Recorder(), MemoryCache()
    outer = Pipeline(nodes=[prep.with_cache(own), count], callbacks=[recorder])
    outer.run({"text": "a"})
    recorder.clear()
    assert outer.run({"text": "a"}) == {"clean": "a", "words": ["a"], "count": 1}
    assert (recorder.computed, recorder.cached) == (["count"], ["strip", "split"])


def test_with_empty_callbacks_nothing_inside_is_observed() -> None:
    recorder = Recorder()
    outer = Pipeline(nodes=[prep.with_callbacks([]), count], callbacks=[recorder])
    outer.run({"text": "a"})
    assert recorder.computed == ["count"]


def test_callbacks_of_a_nested_pipeline_are_called_instead() -> None:
    recorder, own = Recorder(), Recorder()
    Pipeline(nodes=[prep.with_callbacks([own]), count], callbacks=[recorder]).run({"text": "a"})
    assert (own.computed, recorder.computed) == (["strip", "split"], ["count"])


def test_a_mapped_node_inherits_like_any_nested_pipeline() -> None:
    recorder, cache = Recorder(), RecordingCache()
    outer = Pipeline(nodes=[prep.as_node(map_over="text")], cache=cache, callbacks=[recorder])
    outer.run({"text": ["a", "b"]}, output_name="clean")
    assert recorder.computed == ["strip", "strip"]
    assert len(cache) == 2 + 1  # one entry for each item, and the list of them


def test_a_parent_passes_on_what_is_not_set() -> None:
    recorder, cache, backend = Recorder(), MemoryCache(), CountingBackend()
    cache.put("something", 1)
    parent = Pipeline(nodes=[count], backend=backend, cache=cache, callbacks=[recorder], name="parent")
    child = Pipeline(nodes=[strip], parent=parent, name="child")
    assert child.parent is parent
    assert (child.backend, child.cache, child.callbacks) == (None, None, None)
    assert child.effective_backend is backend
    assert child.effective_cache is cache
    assert child.effective_callbacks == [recorder]
    child.run({"text": "a"})
    assert backend.ran == [("run", "child", {"text": "a"})]
    assert recorder.computed == ["strip"]
    assert len(cache) == 2


def test_a_parent_passes_on_what_it_inherits_itself() -> None:
    recorder = Recorder()
    grandparent = Pipeline(nodes=[count], callbacks=[recorder])
    parent = Pipeline(nodes=[count], parent=grandparent)
    assert Pipeline(nodes=[strip], parent=parent).effective_callbacks == [recorder]


def test_own_settings_come_before_those_of_a_parent() -> None:
    recorder = Recorder()
    parent = Pipeline(nodes=[count], cache=MemoryCache(), callbacks=[Recorder()], backend=CountingBackend())
    own_backend = LocalBackend()
    child = Pipeline(nodes=[strip], parent=parent, cache=False, callbacks=[recorder], backend=own_backend)
    assert child.effective_cache is None
    assert child.effective_callbacks == [recorder]
    assert child.effective_backend is own_backend
    assert Pipeline(nodes=[strip], parent=parent, callbacks=[]).effective_callbacks == []


def test_the_pipeline_really_around_comes_before_the_parent() -> None:
    around, from_parent = Recorder(), Recorder()
    parent = Pipeline(nodes=[count], callbacks=[from_parent])
    child = Pipeline(nodes=[strip], parent=parent)
    Pipeline(nodes=[child], callbacks=[around]).run({"text": "a"})
    assert (around.computed, from_parent.computed) == (["strip"], [])
    Pipeline(nodes=[child]).run({"text": "a"})
    assert from_parent.computed == ["strip"]


def test_effective_cache_is_the_cache_even_while_it_is_empty() -> None:
    cache = MemoryCache()
    assert Pipeline(nodes=[strip], cache=cache).effective_cache is cache


def test_nothing_set_means_this_process_no_cache_nobody() -> None:
    assert isinstance(prep.effective_backend, LocalBackend)
    assert prep.effective_cache is None
    assert prep.effective_callbacks == []


# --- a pipeline is a value ---------------------------------------------------------------------------------------


def test_with_methods_return_new_pipelines_and_change_nothing() -> None:
    recorder, cache, backend = Recorder(), MemoryCache(), LocalBackend()
    changed = prep.with_cache(cache).with_callbacks([recorder]).with_backend(backend).with_name("renamed")
    assert (changed.cache, changed.callbacks, changed.backend, changed.name) == (cache, (recorder,), backend, "renamed")
    assert changed.id == "renamed"
    assert (prep.cache, prep.callbacks, prep.backend, prep.name) == (None, None, None, "prep")
    assert changed.run({"text": "a"}) == prep.run({"text": "a"})


def test_with_none_goes_back_to_inheriting() -> None:
    changed = prep.with_cache(False).with_callbacks([]).with_backend(LocalBackend())
    back = changed.with_cache(None).with_callbacks(None).with_backend(None)
    assert (back.cache, back.callbacks, back.backend) == (None, None, None)


def test_with_methods_keep_the_parent() -> None:
    recorder = Recorder()
    parent = Pipeline(nodes=[count], callbacks=[recorder])
    child = Pipeline(nodes=[strip], parent=parent)
    assert child.with_cache(False).effective_callbacks == [recorder]
    assert child.with_name("n").parent is parent


def test_running_leaves_no_trace_on_the_pipeline() -> None:
    recorder = Recorder()
    outer = Pipeline(nodes=[prep, count], cache=MemoryCache(), callbacks=[recorder])
    outer.run({"text": "a"})
    outer.map({"text": ["a"]}, map_over="text")
    assert (prep.cache, prep.callbacks, prep.backend, prep.parent) == (None, None, None, None)
    recorder.clear()
    prep.run({"text": "a"})
    assert recorder.events == []


def test_one_nested_pipeline_serves_two_outer_ones_with_different_settings() -> None:
    first, second = Recorder(), Recorder()
    a = Pipeline(nodes=[prep], callbacks=[first])
    b = Pipeline(nodes=[prep], callbacks=[second])
    a.run({"text": "a"})
    assert (len(first.computed), len(second.computed)) == (2, 0)
    b.run({"text": "a"})
    assert (len(first.computed), len(second.computed)) == (2, 2)


def test_nodes_of_a_pipeline_are_wrapped_pipelines_and_functions() -> None:
    outer = Pipeline(nodes=[prep, count])
    nested, last = outer.nodes
    assert isinstance(nested, PipelineNode)
    assert nested.pipeline is prep
    assert last is count


# --- a nested pipeline with a backend of its own -----------------------------------------------------------------


def test_a_nested_backend_runs_the_nested_pipeline() -> None:
    backend = CountingBackend()
    outer = Pipeline(nodes=[prep.with_backend(backend).as_node({"page": "text"}), count])
    assert outer.run({"page": " a b"}) == {"clean": "a b", "words": ["a", "b"], "count": 2}
    assert backend.ran == [("run", "prep", {"text": " a b"})]


def test_a_nested_backend_maps_the_nested_pipeline_in_one_call() -> None:
    backend = CountingBackend()
    mapped = prep.with_backend(backend).as_node({"pages": "text"}, map_over="pages")
    outer = Pipeline(nodes=[mapped])
    assert outer.run({"pages": ["a b", "c"], "separator": " "}, "words") == {"words": [["a", "b"], ["c"]]}
    assert backend.ran == [("map", "prep", [{"text": "a b"}, {"text": "c"}], {"separator": " "})]


def test_a_nested_backend_computes_only_what_is_asked_for() -> None:
    recorder = Recorder()
    outer = Pipeline(nodes=[prep.with_backend(CountingBackend()), count], callbacks=[recorder])
    assert outer.run({"text": " a "}, output_name="clean") == {"clean": "a"}
    assert recorder.computed == ["strip"]


@pytest.mark.parametrize("backend", [None, LocalBackend(), SubprocessBackend()], ids=["none", "local", "subprocess"])
@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["uncached", "cached"])
@pytest.mark.parametrize(
    ("inputs", "asked_for", "expected"),
    [
        ({"CLEAN": "a b c"}, None, {"words": ["a", "b", "c"], "count": 3}),
        ({"text": " x ", "CLEAN": "a b c"}, None, {"words": ["a", "b", "c"], "count": 3}),
        ({"CLEAN": "a b c"}, "count", {"count": 3}),
        ({"CLEAN": "a b c", "separator": "b"}, "words", {"words": ["a ", " c"]}),
        ({"text": " x ", "CLEAN": "a b c", "words": ["d"]}, None, {"count": 1}),
        ({"text": " x y ", "words": ["d"]}, None, {"count": 1}),
        ({"text": " x y ", "words": ["d"]}, ["CLEAN", "count"], {"CLEAN": "x y", "count": 1}),
        ({"text": " x y ", "count": 7}, None, {}),
    ],
)
def test_a_given_value_replaces_a_node_of_a_nested_pipeline_wherever_that_runs(
    inputs: dict[str, Any], asked_for: Any, expected: dict[str, Any], cache: MemoryCache | None, backend: Backend | None
) -> None:
    inner = Pipeline(nodes=[strip, split], name="prep", backend=backend)
    outer = Pipeline(nodes=[inner.as_node(output_mapping={"clean": "CLEAN"}), count], cache=cache)
    outer.run({"text": "something else"})
    assert outer.run(inputs, asked_for) == expected
    assert outer.run(inputs, asked_for) == expected


@node(output_name=("size", "text_again"))
def measure(text: str) -> tuple[int, str]:
    return len(text), text


@node(output_name="shown")
def show(text_again: str, size: Any) -> tuple[str, str]:
    return text_again, type(size).__name__


def test_a_given_value_that_nothing_inside_reads_does_not_travel() -> None:
    inner = Pipeline(nodes=[measure], name="inner", backend=SubprocessBackend())
    outer = Pipeline(nodes=[inner.as_node(), show])
    assert outer.run({"text": "ab", "size": threading.Lock()}, "shown") == {"shown": ("ab", "lock")}


@node(output_name="moment", cache=False)
def look_at_clock() -> int:
    return 0


@node(output_name="loud")
def shout(words: list[str]) -> list[str]:
    return [word.upper() for word in words]


@pytest.mark.parametrize("backend", [None, LocalBackend()], ids=["inlined", "own backend"])
def test_what_maps_over_results_of_items_is_found_whether_or_not_others_are_cached(backend: Backend | None) -> None:
    """Each word list has its own signature, although the list of clock readings beside them has none."""
    recorder = Recorder()
    items = Pipeline(nodes=[look_at_clock, split], name="items", backend=backend)
    nodes = [items.as_node(map_over="clean"), Pipeline(nodes=[shout], name="loud").as_node(map_over="words")]
    outer = Pipeline(nodes=nodes, cache=MemoryCache(), callbacks=[recorder])
    assert outer.run({"clean": ["a b"]}) == {"moment": [0], "words": [["a", "b"]], "loud": [["A", "B"]]}
    recorder.events.clear()
    assert outer.run({"clean": ["a b"], "moment": [0]}) == {"words": [["a", "b"]], "loud": [["A", "B"]]}
    assert recorder.computed == []


@pytest.mark.parametrize("map_over", [None, "text"])
def test_events_and_caching_do_not_depend_on_the_backend_of_a_nested_pipeline(map_over: str | None) -> None:
    """Events, hierarchy and cache entries are the same with and without a backend of its own."""
    inputs = {"text": "a b"} if map_over is None else {"text": ["a b", "c"]}
    recorder: dict[bool, Recorder] = {}
    entries: dict[bool, int] = {}
    for is_own in (False, True):
        recorder[is_own] = Recorder()
        cache = MemoryCache()
        inner = prep.with_backend(LocalBackend()) if is_own else prep
        outer = Pipeline(nodes=[inner.as_node(map_over=map_over)], name="outer", callbacks=[recorder[is_own]])
        outer.run(inputs)
        outer.with_cache(cache).run(inputs)
        entries[is_own] = len([key for key in cache._entries if "-" not in key])
    assert recorder[True].events == recorder[False].events
    assert [repr(c) for c in recorder[True].contexts] == [repr(c) for c in recorder[False].contexts]
    assert entries[True] == entries[False]


def test_a_nested_backend_finds_cached_results() -> None:
    recorder = Recorder()
    outer = Pipeline(
        nodes=[prep.with_backend(LocalBackend()), count], name="outer", cache=MemoryCache(), callbacks=[recorder]
    )
    first = outer.run({"text": "a b"})
    recorder.clear()
    assert outer.run({"text": "a b"}) == first
    assert recorder.computed == []


def test_a_nested_backend_announces_a_map_without_items() -> None:
    recorder = Recorder()
    mapped = prep.with_backend(LocalBackend()).as_node(map_over="text")
    Pipeline(nodes=[mapped], callbacks=[recorder]).run({"text": []})
    assert [event[0] for event in recorder.events] == [
        "pipeline_start",
        "nested_start",
        "map_start",
        "map_end",
        "nested_end",
        "pipeline_end",
    ]


@pytest.mark.parametrize("depth", [3, 200])
@pytest.mark.parametrize("is_cached", [False, True])
def test_events_reach_any_depth(depth: int, is_cached: bool) -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[strip], name="level0")
    for level in range(depth):
        pipeline = Pipeline(nodes=[pipeline], name=f"level{level + 1}")
    cache = MemoryCache() if is_cached else None
    assert pipeline.with_callbacks([recorder]).with_cache(cache).run({"text": " a"}) == {"clean": "a"}
    ((_, context, _),) = recorder.of("node_start")
    assert context.depth == depth
    assert context.hierarchy_path == tuple(f"level{level}" for level in range(depth, -1, -1))


def test_events_reach_depths_beyond_the_recursion_limit() -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[strip])
    for _ in range(1200):
        pipeline = Pipeline(nodes=[pipeline])
    assert pipeline.with_callbacks([recorder]).run({"text": " a"}) == {"clean": "a"}
    assert max(context.depth for context in recorder.contexts) == 1200


def test_what_only_unwanted_outputs_of_a_mapped_node_need_may_be_missing() -> None:
    @node(output_name="doubled")
    def double(x: int, factor: int = 2) -> int:
        return x * factor

    @node(output_name="scaled")
    def scale(x: int, factor: int, size: int) -> int:
        return x * factor * size

    mapped = Pipeline(nodes=[double, scale], name="inner").as_node(map_over="x")
    pipeline = Pipeline(nodes=[mapped])
    assert pipeline.run({"x": [1, 2]}, output_name="doubled") == {"doubled": [2, 4]}
    assert pipeline.run({"x": [1, 2], "factor": 3}, output_name="doubled") == {"doubled": [3, 6]}
    with pytest.raises(MissingInputError) as caught:
        pipeline.run({"x": [1, 2]}, output_name="scaled")
    assert caught.value.missing == {"factor": ("inner",), "size": ("inner",)}


@pytest.mark.parametrize("settings", [{}, {"backend": LocalBackend()}], ids=["inlined", "on a backend of its own"])
def test_an_output_that_only_a_hidden_node_would_take_is_computed_when_another_one_is_given(
    settings: dict[str, Any],
) -> None:
    inner = Pipeline(
        nodes=[Node(lambda x: 2 * x, "shown"), Node(lambda taken: taken, "hidden")], name="inner", **settings
    )
    middle = Pipeline(
        nodes=[inner.as_node(outputs=["shown"], input_mapping={"value": "taken"})], name="middle", **settings
    )
    made = Pipeline(nodes=[Node(lambda: 9, "value")], name="made", **settings)
    pipeline = Pipeline(nodes=[Node(lambda: 5, "given"), made.as_node(), middle.as_node()])
    assert pipeline.run({"x": 1}) == {"given": 5, "value": 9, "shown": 2}
    assert pipeline.run({"x": 1, "given": 0}) == {"value": 9, "shown": 2}
