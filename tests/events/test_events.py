"""Events: which hooks are called, in which order, with what, and in which context."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from hypernodes import CallbackContext, LocalBackend, MemoryCache, Node, Pipeline, PipelineCallback, node
from hypernodes.callbacks import HOOKS
from tests.support import Recorder


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="length")
def measure(clean: str) -> int:
    return len(clean)


@node(output_name="inverse")
def invert(length: int) -> float:
    return 1 / length


@node(output_name="joined")
def join(inverse: list[float]) -> float:
    return sum(inverse)


prep = Pipeline(nodes=[strip, measure], name="prep")


def observe(pipeline: Pipeline, cache: MemoryCache | None = None) -> tuple[Recorder, Pipeline]:
    recorder = Recorder()
    return recorder, pipeline.with_callbacks([recorder]).with_cache(cache)


# --- sequences ---------------------------------------------------------------------------------------------------


def test_events_of_a_run() -> None:
    recorder, pipeline = observe(prep)
    pipeline.run({"text": " a"})
    assert recorder.events == [
        ("pipeline_start", "prep"),
        ("node_start", "strip"),
        ("node_end", "strip"),
        ("node_start", "measure"),
        ("node_end", "measure"),
        ("pipeline_end", "prep"),
    ]


def test_events_of_a_run_from_the_cache() -> None:
    recorder, pipeline = observe(prep, MemoryCache())
    pipeline.run({"text": " a"})
    recorder.clear()
    pipeline.run({"text": " a"})
    assert recorder.events == [
        ("pipeline_start", "prep"),
        ("node_cached", "strip"),
        ("node_cached", "measure"),
        ("pipeline_end", "prep"),
    ]


def test_a_run_partly_from_the_cache_announces_hits_before_work() -> None:
    recorder, pipeline = observe(prep, MemoryCache())
    pipeline.run({"text": " a"}, output_name="clean")
    recorder.clear()
    pipeline.run({"text": " a"})
    assert recorder.events == [
        ("pipeline_start", "prep"),
        ("node_cached", "strip"),
        ("node_start", "measure"),
        ("node_end", "measure"),
        ("pipeline_end", "prep"),
    ]


def test_nested_pipelines_start_with_their_first_node_and_end_with_their_last() -> None:
    recorder, pipeline = observe(Pipeline(nodes=[Pipeline(nodes=[prep], name="middle"), invert], name="outer"))
    pipeline.run({"text": " a"})
    assert recorder.events == [
        ("pipeline_start", "outer"),
        ("nested_start", "outer", "middle"),
        ("nested_start", "middle", "prep"),
        ("node_start", "strip"),
        ("node_end", "strip"),
        ("node_start", "measure"),
        ("node_end", "measure"),
        ("nested_end", "middle", "prep"),
        ("nested_end", "outer", "middle"),
        ("node_start", "invert"),
        ("node_end", "invert"),
        ("pipeline_end", "outer"),
    ]


def test_a_nested_pipeline_of_which_nothing_is_needed_is_not_announced() -> None:
    recorder, pipeline = observe(Pipeline(nodes=[prep, invert], name="outer"))
    pipeline.run({"length": 2})
    assert recorder.events == [
        ("pipeline_start", "outer"),
        ("node_start", "invert"),
        ("node_end", "invert"),
        ("pipeline_end", "outer"),
    ]


def test_events_of_a_nested_pipeline_from_the_cache() -> None:
    recorder, pipeline = observe(Pipeline(nodes=[prep, invert], name="outer"), MemoryCache())
    pipeline.run({"text": " a"})
    recorder.clear()
    pipeline.run({"text": " a"})
    assert recorder.events == [
        ("pipeline_start", "outer"),
        ("nested_start", "outer", "prep"),
        ("node_cached", "strip"),
        ("node_cached", "measure"),
        ("nested_end", "outer", "prep"),
        ("node_cached", "invert"),
        ("pipeline_end", "outer"),
    ]


def test_a_nested_pipeline_stays_open_while_it_is_unknown_what_else_of_it_will_run() -> None:
    """What follows a never-cached node is looked up only when that node's value is there."""
    lower = Node(lambda text: text.lower(), "low", cache=False, name="lower")
    both = Node(lambda low, length: (low, length), "both", name="both")
    inner = Pipeline(nodes=[lower, strip, measure, both], name="inner")
    recorder, pipeline = observe(Pipeline(nodes=[inner], name="outer"), MemoryCache())
    pipeline.run({"text": "A"}, output_name="both")
    assert sorted(recorder.computed) == ["both", "lower", "measure", "strip"]
    assert recorder.events[:2] == [("pipeline_start", "outer"), ("nested_start", "outer", "inner")]
    assert recorder.events[-2:] == [("nested_end", "outer", "inner"), ("pipeline_end", "outer")]
    assert len(recorder.of("nested_start")) == len(recorder.of("nested_end")) == 1


def test_a_node_ends_before_what_depends_on_it_is_announced() -> None:
    lower = Node(lambda text: text.lower(), "clean", cache=False, name="lower")
    recorder, pipeline = observe(Pipeline(nodes=[lower, measure], name="p"), MemoryCache())
    pipeline.run({"text": "A"}, output_name="length")
    recorder.clear()
    pipeline.run({"text": "A"}, output_name="length")
    assert recorder.events == [
        ("pipeline_start", "p"),
        ("node_start", "lower"),
        ("node_end", "lower"),
        ("node_cached", "measure"),
        ("pipeline_end", "p"),
    ]


MAPPED = Pipeline(nodes=[Pipeline(nodes=[prep, invert], name="each").as_node(map_over="text"), join], name="outer")


def test_events_of_a_mapped_node() -> None:
    recorder, pipeline = observe(MAPPED)
    pipeline.run({"text": ["a", "b"]}, output_name="joined")
    item = [
        ("nested_start", "each", "prep"),
        ("node_start", "strip"),
        ("node_end", "strip"),
        ("node_start", "measure"),
        ("node_end", "measure"),
        ("nested_end", "each", "prep"),
        ("node_start", "invert"),
        ("node_end", "invert"),
    ]
    assert recorder.events == [
        ("pipeline_start", "outer"),
        ("nested_start", "outer", "each"),
        ("map_start", 2),
        ("map_item_start", 0),
        *item,
        ("map_item_end", 0),
        ("map_item_start", 1),
        *item,
        ("map_item_end", 1),
        ("map_end",),
        ("nested_end", "outer", "each"),
        ("node_start", "join"),
        ("node_end", "join"),
        ("pipeline_end", "outer"),
    ]


def test_events_of_a_mapped_node_without_items() -> None:
    recorder, pipeline = observe(MAPPED)
    pipeline.run({"text": []}, output_name="inverse")
    assert recorder.events == [
        ("pipeline_start", "outer"),
        ("nested_start", "outer", "each"),
        ("map_start", 0),
        ("map_end",),
        ("nested_end", "outer", "each"),
        ("pipeline_end", "outer"),
    ]


def test_a_cached_item_is_announced_instead_of_its_start_and_end() -> None:
    recorder, pipeline = observe(MAPPED, MemoryCache())
    pipeline.run({"text": ["a", "b"]}, output_name="inverse")
    recorder.clear()
    pipeline.run({"text": ["a", "c", "b"]}, output_name="inverse")
    assert recorder.events == [
        ("pipeline_start", "outer"),
        ("nested_start", "outer", "each"),
        ("map_start", 3),
        ("map_item_cached", 0),
        ("map_item_start", 1),
        ("nested_start", "each", "prep"),
        ("node_start", "strip"),
        ("node_end", "strip"),
        ("node_start", "measure"),
        ("node_end", "measure"),
        ("nested_end", "each", "prep"),
        ("node_start", "invert"),
        ("node_end", "invert"),
        ("map_item_end", 1),
        ("map_item_cached", 2),
        ("map_end",),
        ("nested_end", "outer", "each"),
        ("pipeline_end", "outer"),
    ]


def test_a_map_from_the_cache_announces_every_item() -> None:
    recorder, pipeline = observe(MAPPED, MemoryCache())
    pipeline.run({"text": ["a", "b"]}, output_name="inverse")
    recorder.clear()
    pipeline.run({"text": ["a", "b"]}, output_name="inverse")
    assert recorder.events == [
        ("pipeline_start", "outer"),
        ("nested_start", "outer", "each"),
        ("map_start", 2),
        ("map_item_cached", 0),
        ("map_item_cached", 1),
        ("map_end",),
        ("nested_end", "outer", "each"),
        ("pipeline_end", "outer"),
    ]


def test_an_item_partly_from_the_cache_announces_its_hits_inside() -> None:
    recorder, pipeline = observe(prep, MemoryCache())
    pipeline.map({"text": ["a"]}, map_over="text", output_name="clean")
    recorder.clear()
    pipeline.map({"text": ["a"]}, map_over="text")
    assert recorder.events == [
        ("map_start", 1),
        ("map_item_start", 0),
        ("node_cached", "strip"),
        ("node_start", "measure"),
        ("node_end", "measure"),
        ("map_item_end", 0),
        ("map_end",),
    ]


def test_events_of_a_map_of_the_outermost_pipeline() -> None:
    recorder, pipeline = observe(Pipeline(nodes=[strip], name="p"))
    pipeline.map({"text": ["a", "b"]}, map_over="text")
    assert recorder.events == [
        ("map_start", 2),
        ("map_item_start", 0),
        ("node_start", "strip"),
        ("node_end", "strip"),
        ("map_item_end", 0),
        ("map_item_start", 1),
        ("node_start", "strip"),
        ("node_end", "strip"),
        ("map_item_end", 1),
        ("map_end",),
    ]


# --- contexts ----------------------------------------------------------------------------------------------------


def test_the_context_says_where_in_the_hierarchy_an_event_happened() -> None:
    recorder, pipeline = observe(Pipeline(nodes=[prep.as_node(name="first"), invert], name="outer"))
    pipeline.run({"text": " a"})
    contexts = {event: context for event, context, _ in recorder.of("node_start")}
    outer, inner = contexts["node_start", "invert"], contexts["node_start", "strip"]
    assert (outer.depth, outer.hierarchy_path, outer.current_pipeline_id) == (0, ("outer",), "outer")
    assert outer.parent_pipeline_id is None
    assert (inner.depth, inner.hierarchy_path, inner.current_pipeline_id) == (1, ("outer", "prep"), "prep")
    assert inner.parent_pipeline_id == "outer"
    assert inner.node_path == ("outer", "first")
    assert {c.hierarchy_path for event, c, _ in recorder.of("nested_start") + recorder.of("nested_end")} == {("outer",)}


def test_the_context_says_which_items_of_which_maps() -> None:
    inner = Pipeline(nodes=[strip], name="cell").as_node(map_over="text")
    rows = Pipeline(nodes=[inner], name="row").as_node({"table": "text"}, map_over="table")
    recorder, pipeline = observe(Pipeline(nodes=[rows], name="table"))
    pipeline.run({"table": [["a", "b"], ["c"]]})
    cells = recorder.of("node_start")
    assert [context.item_path for _, context, _ in cells] == [(0, 0), (0, 1), (1, 0)]
    assert {context.hierarchy_path for _, context, _ in cells} == {("table", "row", "cell")}
    assert [context.item_path for _, context, _ in recorder.of("map_start")] == [(), (0,), (1,)]
    assert [context.item_path for _, context, _ in recorder.of("map_item_end")] == [(0, 0), (0, 1), (0,), (1, 0), (1,)]
    assert [context.item_path for _, context, _ in recorder.of("nested_start")] == [(), (0,), (1,)]


def test_all_callbacks_of_a_run_share_what_they_set() -> None:
    class Setter(PipelineCallback):
        def on_pipeline_start(self, pipeline_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
            assert ctx.get("seen") is None
            assert ctx.get("seen", 0) == 0
            ctx.set("seen", 0)

    class Counter(PipelineCallback):
        total = 0

        def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
            ctx.set("seen", ctx.get("seen") + 1)

        def on_pipeline_end(
            self, pipeline_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext
        ) -> None:
            self.total = ctx.get("seen")

    counter = Counter()
    nested = Pipeline(nodes=[prep.with_backend(LocalBackend()).as_node(map_over="text")])
    pipeline = Pipeline(nodes=[nested], callbacks=[Setter(), counter])
    for _ in range(2):
        pipeline.run({"text": ["a", "b"]})
        assert counter.total == 4


# --- payloads ----------------------------------------------------------------------------------------------------


def test_events_carry_inputs_outputs_and_durations() -> None:
    recorder, pipeline = observe(prep)
    pipeline.run({"text": " a"}, output_name="length")
    payloads = dict(zip(recorder.events, recorder.payloads, strict=True))
    assert payloads["pipeline_start", "prep"] == {"inputs": {"text": " a"}}
    assert payloads["node_start", "measure"] == {"inputs": {"clean": "a"}}
    assert payloads["node_end", "measure"]["outputs"] == {"length": 1}
    assert payloads["pipeline_end", "prep"]["outputs"] == {"length": 1}
    assert payloads["pipeline_end", "prep"]["duration"] >= payloads["node_end", "measure"]["duration"] >= 0


def test_a_node_with_several_outputs_announces_each_by_name() -> None:
    @node(output_name=("low", "high"))
    def bounds(values: list[int]) -> tuple[int, int]:
        return min(values), max(values)

    recorder, pipeline = observe(Pipeline(nodes=[bounds]))
    pipeline.run({"values": [3, 1]})
    assert recorder.of("node_end")[0][2]["outputs"] == {"low": 1, "high": 3}


def test_the_name_of_a_node_is_its_id_in_events() -> None:
    @node(output_name="y", name="chosen")
    def f(x: int) -> int:
        return x

    recorder, pipeline = observe(Pipeline(nodes=[f]))
    pipeline.run({"x": 1})
    assert recorder.computed == ["chosen"]


def test_cached_events_carry_the_key_under_which_the_result_is_kept() -> None:
    cache = MemoryCache()
    recorder, pipeline = observe(prep, cache)
    pipeline.run({"text": " a"})
    pipeline.run({"text": " a"})
    pipeline.map({"text": [" a"]}, map_over="text", output_name="length")
    for hook, value in (("node_cached", "a"), ("map_item_cached", 1)):
        assert cache.get(recorder.of(hook)[0][2]["signature"]) == value


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["no cache", "cache"])
def test_after_an_error_everything_that_started_ends(cache: MemoryCache | None) -> None:
    recorder, pipeline = observe(MAPPED, cache)
    with pytest.raises(ZeroDivisionError) as caught:
        pipeline.run({"text": ["", "b"]})
    assert recorder.events == [
        ("pipeline_start", "outer"),
        ("nested_start", "outer", "each"),
        ("map_start", 2),
        ("map_item_start", 0),
        ("nested_start", "each", "prep"),
        ("node_start", "strip"),
        ("node_end", "strip"),
        ("node_start", "measure"),
        ("node_end", "measure"),
        ("nested_end", "each", "prep"),
        ("node_start", "invert"),
        ("error", "invert"),
        ("map_item_end", 0),
        ("map_end",),
        ("nested_end", "outer", "each"),
        ("pipeline_end", "outer"),
    ]
    ((_, context, payload),) = recorder.of("error")
    assert payload["error"] is caught.value
    assert context.item_path == (0,)


def test_after_an_error_inside_a_nested_pipeline_it_ends_too() -> None:
    recorder, pipeline = observe(Pipeline(nodes=[Pipeline(nodes=[measure, invert], name="inner")], name="outer"))
    with pytest.raises(ZeroDivisionError):
        pipeline.run({"clean": ""})
    assert recorder.events[-3:] == [("error", "invert"), ("nested_end", "outer", "inner"), ("pipeline_end", "outer")]


def test_after_an_error_the_end_event_has_what_had_been_computed() -> None:
    recorder, pipeline = observe(Pipeline(nodes=[measure, invert]))
    with pytest.raises(ZeroDivisionError):
        pipeline.run({"clean": ""})
    assert recorder.payloads[-1]["outputs"] == {"length": 0}


# --- callbacks that fail -----------------------------------------------------------------------------------------


class Broken(Recorder):
    """Raises when a node starts."""

    def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        super().on_node_start(node_id, inputs, ctx)
        raise RuntimeError("callback is broken")


def test_a_callback_that_raises_is_logged_once_and_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    broken, recorder = Broken(), Recorder()
    pipeline = MAPPED.with_callbacks([broken, recorder])
    assert pipeline.run({"text": ["a", "b"]}, output_name="joined") == {"joined": 2}
    assert broken.computed == ["strip"]
    assert broken.events[-1] == ("node_start", "strip")
    assert recorder.computed == ["strip", "measure", "invert", "strip", "measure", "invert", "join"]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hypernodes", logging.ERROR)
    assert record.getMessage() == (
        "callback Broken raised in on_node_start; it is switched off for the rest of this run"
    )
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "callback is broken"


def test_a_callback_that_was_switched_off_observes_the_next_run_again(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    pipeline = prep.with_callbacks([broken])
    pipeline.run({"text": "a"})
    pipeline.run({"text": "a"})
    assert broken.events.count(("pipeline_start", "prep")) == 2
    assert len(caplog.records) == 2


def test_a_callback_stays_switched_off_in_a_nested_pipeline_with_its_own_backend(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = Broken()
    inner = Pipeline(nodes=[invert], backend=LocalBackend())
    Pipeline(nodes=[measure, inner], callbacks=[broken]).run({"clean": "a"})
    assert broken.computed == ["measure"]
    assert len(caplog.records) == 1


# --- hooks -------------------------------------------------------------------------------------------------------


def test_every_hook_may_be_left_out() -> None:
    class Deaf(PipelineCallback):
        pass

    pipeline = MAPPED.with_callbacks([Deaf()])
    assert pipeline.run({"text": ["a"]}, output_name="joined") == {"joined": 1}


def test_every_hook_of_the_base_class_is_a_hook_that_is_called() -> None:
    defined = {name for name in vars(PipelineCallback) if name.startswith("on_")}
    assert defined == set(HOOKS)


def test_a_hook_can_be_put_on_one_object() -> None:
    seen: list[str] = []
    callback = PipelineCallback()
    callback.on_node_end = lambda node_id, outputs, duration, ctx: seen.append(node_id)  # type: ignore[method-assign]
    prep.with_callbacks([callback]).run({"text": "a"})
    assert seen == ["strip", "measure"]


def test_callbacks_are_called_in_the_order_given() -> None:
    order: list[str] = []

    class Named(PipelineCallback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
            order.append(self.name)

    Pipeline(nodes=[strip], callbacks=[Named("first"), Named("second")]).run({"text": "a"})
    assert order == ["first", "second"]


def test_a_nested_pipeline_with_its_own_callbacks_is_announced_to_both() -> None:
    around, own = Recorder(), Recorder()
    inner = Pipeline(nodes=[strip], name="inner", callbacks=[own])
    Pipeline(nodes=[inner], name="outer", callbacks=[around]).run({"text": "a"})
    nested = [("nested_start", "outer", "inner"), ("nested_end", "outer", "inner")]
    assert around.events == [("pipeline_start", "outer"), *nested, ("pipeline_end", "outer")]
    assert own.events == [nested[0], ("node_start", "strip"), ("node_end", "strip"), nested[1]]
