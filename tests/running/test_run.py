"""`run`: selection, overrides, defaults, kinds of parameters, several outputs, async nodes."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from hypernodes import (
    LocalBackend,
    MapRequest,
    MemoryCache,
    Node,
    OutputCountError,
    Pipeline,
    PipelineExecutionEngine,
    RunRequest,
    node,
)
from tests.support import Recorder


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="words")
def split(clean: str, separator: str = " ") -> list[str]:
    return clean.split(separator)


@node(output_name="count")
def count(words: list[str]) -> int:
    return len(words)


@node(output_name="shout")
def shout(text: str) -> str:
    return text.upper()


def test_all_outputs_and_never_the_inputs_come_back() -> None:
    assert Pipeline(nodes=[strip, split]).run(inputs={"text": " a b"}) == {"clean": "a b", "words": ["a", "b"]}


def test_inputs_may_be_left_out_when_none_is_needed() -> None:
    @node(output_name="answer")
    def answer() -> int:
        return 42

    assert Pipeline(nodes=[answer]).run() == {"answer": 42}


# --- selection ---------------------------------------------------------------------------------------------------


def test_only_what_a_requested_output_needs_runs() -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[strip, split, count, shout], callbacks=[recorder])
    assert pipeline.run({"text": " a b"}, output_name="words") == {"words": ["a", "b"]}
    assert recorder.computed == ["strip", "split"]


def test_several_outputs_come_in_the_order_asked_for() -> None:
    pipeline = Pipeline(nodes=[strip, split, count, shout])
    for requested in (["shout", "clean"], ("shout", "clean")):
        found = pipeline.run({"text": " a "}, output_name=requested)
        assert list(found.items()) == [("shout", " A "), ("clean", "a")]


def test_an_input_that_only_unrequested_nodes_need_may_be_missing() -> None:
    @node(output_name="weighed")
    def weigh(count: int, weight: int) -> int:
        return count * weight

    pipeline = Pipeline(nodes=[strip, split, count, weigh])
    assert pipeline.run({"text": "a b"}, output_name="count") == {"count": 2}


def test_selection_reaches_into_nested_pipelines() -> None:
    recorder = Recorder()
    inner = Pipeline(nodes=[strip, split, count, shout])
    outer = Pipeline(nodes=[inner.as_node(output_mapping={"clean": "tidy"})], callbacks=[recorder])
    assert outer.run({"text": " a "}, output_name="tidy") == {"tidy": "a"}
    assert recorder.computed == ["strip"]


def test_selection_reaches_into_mapped_nodes() -> None:
    recorder = Recorder()
    inner = Pipeline(nodes=[strip, split, count, shout])
    outer = Pipeline(nodes=[inner.as_node(map_over="text")], callbacks=[recorder])
    assert outer.run({"text": [" a ", "b"]}, output_name="clean") == {"clean": ["a", "b"]}
    assert recorder.computed == ["strip", "strip"]


# --- overrides ---------------------------------------------------------------------------------------------------


def test_a_value_for_an_output_replaces_the_node_and_what_only_it_needed() -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[strip, split, count], callbacks=[recorder])
    assert pipeline.run({"words": ["x", "y"]}) == {"count": 2}
    assert recorder.computed == ["count"]


def test_what_else_needs_the_inputs_of_an_overridden_node_still_runs() -> None:
    @node(output_name="both")
    def both(clean: str, words: list[str]) -> str:
        return f"{clean}:{','.join(words)}"

    recorder = Recorder()
    pipeline = Pipeline(nodes=[strip, split, both], callbacks=[recorder])
    assert pipeline.run({"text": " a b", "words": ["x"]}) == {"clean": "a b", "both": "a b:x"}
    assert recorder.computed == ["strip", "both"]


def test_a_requested_output_that_is_given_comes_back_as_given() -> None:
    found = Pipeline(nodes=[strip, split]).run({"clean": "x y"}, output_name=["clean", "words"])
    assert found == {"clean": "x y", "words": ["x", "y"]}


def test_none_is_a_value_that_replaces_a_node() -> None:
    @node(output_name="kind")
    def kind(clean: str | None) -> str:
        return type(clean).__name__

    assert Pipeline(nodes=[strip, kind]).run({"clean": None}) == {"kind": "NoneType"}


def test_one_of_several_outputs_can_be_replaced() -> None:
    @node(output_name=("low", "high"))
    def bounds(values: list[int]) -> tuple[int, int]:
        return min(values), max(values)

    @node(output_name="span")
    def span(low: int, high: int) -> int:
        return high - low

    assert Pipeline(nodes=[bounds, span]).run({"values": [1, 5], "low": -10}) == {"high": 5, "span": 15}


def test_an_output_of_a_nested_pipeline_can_be_replaced() -> None:
    recorder = Recorder()
    inner = Pipeline(nodes=[strip, split])
    outer = Pipeline(nodes=[inner.as_node(output_mapping={"words": "parts"}), count_parts], callbacks=[recorder])
    assert outer.run({"parts": [1, 2, 3]}) == {"n": 3}
    assert recorder.computed == ["count_parts"]


@node(output_name="n")
def count_parts(parts: list[Any]) -> int:
    return len(parts)


# --- defaults and kinds of parameters ----------------------------------------------------------------------------


def test_a_default_is_used_unless_a_value_is_given() -> None:
    pipeline = Pipeline(nodes=[strip, split])
    assert pipeline.run({"text": "a,b"}, output_name="words") == {"words": ["a,b"]}
    assert pipeline.run({"text": "a,b", "separator": ","}, output_name="words") == {"words": ["a", "b"]}


def test_every_node_uses_its_own_default() -> None:
    first = Node(lambda k=1: k, "first")
    second = Node(lambda k=2: k, "second")
    pipeline = Pipeline(nodes=[first, second])
    assert pipeline.run() == {"first": 1, "second": 2}
    assert pipeline.run({"k": 5}) == {"first": 5, "second": 5}


def test_a_node_that_produces_the_name_comes_before_the_default() -> None:
    maker = Node(lambda: "made", "k")
    assert Pipeline(nodes=[maker, Node(lambda k="default": k, "seen")]).run() == {"k": "made", "seen": "made"}


def test_defaults_of_nested_pipelines_count() -> None:
    inner = Pipeline(nodes=[strip, split])
    outer = Pipeline(nodes=[inner.as_node(input_mapping={"sep": "separator"})])
    assert dict(outer.defaults) == {"sep": " "}
    assert outer.run({"text": "a b"}, output_name="words") == {"words": ["a", "b"]}
    assert outer.run({"text": "a,b", "sep": ","}, output_name="words") == {"words": ["a", "b"]}


@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["no cache", "cache"])
def test_positional_only_and_keyword_only_parameters_are_inputs(cache: MemoryCache | None) -> None:
    @node(output_name="y")
    def mixed(a: int, b: int = 2, /, c: int = 3, *, d: int, e: int = 5) -> tuple[int, ...]:
        return (a, b, c, d, e)

    pipeline = Pipeline(nodes=[mixed], cache=cache)
    assert pipeline.run({"a": 1, "d": 4}) == {"y": (1, 2, 3, 4, 5)}
    assert pipeline.run({"a": 1, "b": 20, "c": 30, "d": 40, "e": 50}) == {"y": (1, 20, 30, 40, 50)}


@pytest.mark.parametrize("arity", range(7))
def test_nodes_have_any_number_of_parameters(arity: int) -> None:
    names = [f"p{i}" for i in range(arity)]
    collect = Node(eval(f"lambda {', '.join(names)}: ({''.join(n + ',' for n in names)})"), "all_of_them")
    assert Pipeline(nodes=[collect]).run({n: i for i, n in enumerate(names)}) == {"all_of_them": tuple(range(arity))}


# --- several outputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tuple, list])
def test_a_tuple_or_list_is_taken_apart_into_the_named_outputs(make: type) -> None:
    two = Node(lambda x: make([x, -x]), ("plus", "minus"))
    assert Pipeline(nodes=[two]).run({"x": 1}) == {"plus": 1, "minus": -1}


@pytest.mark.parametrize(
    ("result", "what"), [((1,), "1 values"), ([1, 2, 3], "3 values"), ("ab", "a str"), (None, "a NoneType")]
)
@pytest.mark.parametrize("is_observed", [False, True])
def test_a_result_that_does_not_fit_the_named_outputs_is_an_error_that_says_what_came(
    result: Any, what: str, is_observed: bool
) -> None:
    two = Node(lambda: result, ("plus", "minus"), name="two")
    pipeline = Pipeline(nodes=[two], callbacks=[Recorder()] if is_observed else None)
    with pytest.raises(OutputCountError) as caught:
        pipeline.run()
    assert str(caught.value) == f"node 'two' must return a tuple of 2 values (plus, minus); it returned {what}"
    assert (caught.value.node_name, caught.value.expected) == ("two", ("plus", "minus"))


def test_a_tuple_of_one_name_takes_the_result_as_it_is() -> None:
    assert Pipeline(nodes=[Node(lambda: (1, 2), ("pair",))]).run() == {"pair": (1, 2)}


# --- async nodes -------------------------------------------------------------------------------------------------


@node(output_name="page")
async def fetch(url: str) -> str:
    await asyncio.sleep(0)
    return f"<{url}>"


@node(output_name="size")
def measure(page: str) -> int:
    return len(page)


@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["no cache", "cache"])
def test_run_awaits_async_nodes(cache: MemoryCache | None) -> None:
    assert Pipeline(nodes=[fetch, measure], cache=cache).run({"url": "a"}) == {"page": "<a>", "size": 3}


def test_async_nodes_work_inside_a_running_event_loop() -> None:
    async def cell() -> Mapping[str, Any]:
        return Pipeline(nodes=[fetch, measure]).run({"url": "a"})

    assert asyncio.run(cell()) == {"page": "<a>", "size": 3}


def test_async_nodes_work_in_a_thread_of_their_own() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(Pipeline(nodes=[fetch]).run({"url": "a"})))
    thread.start()
    thread.join()
    assert found == [{"page": "<a>"}]


def test_all_async_nodes_of_a_run_share_one_event_loop() -> None:
    @node(output_name="first", cache=False)
    async def first() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @node(output_name="is_same")
    async def compare(first: asyncio.AbstractEventLoop) -> bool:
        return first is asyncio.get_running_loop()

    pipeline = Pipeline(nodes=[first, compare])

    async def cell() -> Mapping[str, Any]:
        return pipeline.run(output_name="is_same")

    assert pipeline.run(output_name="is_same") == {"is_same": True}
    assert asyncio.run(cell()) == {"is_same": True}


@pytest.mark.parametrize("in_loop", [False, True])
def test_async_nodes_see_the_context_variables_of_the_caller(in_loop: bool) -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")

    async def who() -> str:
        return tenant.get()

    pipeline = Pipeline(nodes=[Node(who)])

    async def cell() -> Mapping[str, Any]:
        tenant.set("me")
        return pipeline.run()

    def plain() -> Mapping[str, Any]:
        tenant.set("me")
        return pipeline.run()

    found = asyncio.run(cell()) if in_loop else contextvars.copy_context().run(plain)
    assert found == {"who": "me"}


@pytest.mark.parametrize("in_loop", [False, True])
def test_async_nodes_see_the_context_variables_that_earlier_nodes_set(in_loop: bool) -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")

    async def before() -> str:
        return tenant.get()

    def change(before: str) -> str:
        tenant.set("me")
        return before

    async def after(change: str) -> str:
        return tenant.get()

    pipeline = Pipeline(nodes=[Node(before), Node(change), Node(after)])

    async def cell() -> Mapping[str, Any]:
        return pipeline.run()

    found = asyncio.run(cell()) if in_loop else contextvars.copy_context().run(pipeline.run)
    assert found == {"before": "nobody", "change": "nobody", "after": "me"}


@pytest.mark.parametrize("in_loop", [False, True])
def test_what_an_async_node_raises_is_what_the_caller_catches(in_loop: bool) -> None:
    @node(output_name="page")
    async def fail(url: str) -> str:
        raise LookupError(url)

    pipeline = Pipeline(nodes=[fail])

    async def cell() -> Mapping[str, Any]:
        return pipeline.run({"url": "a"})

    with pytest.raises(LookupError, match="a") as caught:
        asyncio.run(cell()) if in_loop else pipeline.run({"url": "a"})
    assert "in node 'fail'" in caught.value.__notes__[0]


def test_a_partial_of_an_async_function_is_awaited() -> None:
    async def join(a: str, b: str) -> str:
        return a + b

    assert Pipeline(nodes=[Node(functools.partial(join, "x"), "joined")]).run({"b": "y"}) == {"joined": "xy"}


# --- where it runs -----------------------------------------------------------------------------------------------


def test_an_engine_runs_and_maps_like_the_pipeline_does() -> None:
    engine = PipelineExecutionEngine()
    pipeline = Pipeline(nodes=[strip, split])
    assert engine.run(RunRequest(pipeline, {"text": " a"})) == {"clean": "a", "words": ["a"]}
    assert engine.run(RunRequest(pipeline, {"text": " a"}, "clean")) == {"clean": "a"}
    items = [{"text": "a b"}, {"text": "c"}]
    request = MapRequest.of_items(pipeline, items, {"separator": " "}, output_name="words")
    assert request.items() == items
    assert engine.map(request) == {"words": [["a", "b"], ["c"]]}
    assert engine.map(MapRequest(pipeline, {"text": []}, {"separator": " "})) == {"clean": [], "words": []}


def test_a_pipeline_runs_on_the_backend_it_was_given() -> None:
    class Elsewhere(LocalBackend):
        def run(self, request: RunRequest) -> dict[str, Any]:
            return {"clean": (request.pipeline.id, dict(request.inputs), request.ctx, request.output_name)}

    pipeline = Pipeline(nodes=[strip], backend=Elsewhere(), name="p")
    assert pipeline.run({"text": "a"}, "clean") == {"clean": ("p", {"text": "a"}, None, "clean")}


def test_a_backend_and_its_engine_show_their_settings() -> None:
    assert repr(LocalBackend(map_execution="threaded", max_workers=2)) == (
        "LocalBackend(PipelineExecutionEngine(node_execution='sequential', map_execution='threaded', max_workers=2))"
    )


def test_one_pipeline_can_be_run_from_several_threads_at_once() -> None:
    pipeline = Pipeline(nodes=[strip, split, count], cache=MemoryCache())
    found: dict[int, Any] = {}
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for i in range(20):
            found[100 * number + i] = pipeline.run({"text": " a" * (i + 1)}, output_name="count")["count"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {100 * number + i: i + 1 for number in range(4) for i in range(20)}
