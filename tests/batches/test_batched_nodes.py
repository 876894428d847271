"""Batched nodes: written for many items, and yet cached, observed and failing item by item."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent import futures
from itertools import product
from math import log2
from typing import Any

import pytest

from hypernodes import (
    SKIPPED,
    BatchResultError,
    CallbackContext,
    ConfigurationError,
    Failure,
    HyperNodesWarning,
    InvalidNodeError,
    LocalBackend,
    MemoryCache,
    Node,
    NodeTimeoutError,
    Pipeline,
    failures,
    node,
    replay,
    resource,
)
from hypernodes.engine import ExecutionMode
from tests.concurrency.kit import NAMES, PATIENCE_S, ROADS, Gate, Log, guarded, ways_of
from tests.support import Recorder, notes_of

MODES = list(product(NAMES, NAMES))


class Doubler:
    """Doubles lists of numbers; writes down the sizes of the batches, and how often it got each number.

    Attributes:
        sizes: The sizes, in order.
        seen: How often it got each number.
        refused: The numbers that it raises for.
    """

    def __init__(self, refused: Sequence[int] = ()) -> None:
        self.sizes: list[int] = []
        self.seen: Counter[int] = Counter()
        self.refused = refused

    def __call__(self, x: list[int]) -> list[int]:
        self.sizes.append(len(x))
        self.seen.update(x)
        for number in x:
            if number in self.refused:
                raise ValueError(f"{number} cannot be doubled")
        return [2 * number for number in x]

    def __cache_key__(self) -> str:
        return "doubler"


def doubling(doubler: Doubler, **options: Any) -> Node[..., Any]:
    options = {"batch_over": "x", "batch_size": 4, **options}
    return Node(doubler, "y", **options)


# --- what is called with what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_streamed", [False, True], ids=["map", "map_iter"])
@pytest.mark.parametrize("road", ROADS)
def test_items_of_a_map_are_given_in_batches_in_their_order(road: str, is_streamed: bool) -> None:
    got: Log[list[int]] = Log()

    @node(output_name="y", batch_over="x", batch_size=4)
    def double(x: list[int]) -> list[int]:
        got.append(list(x))
        return [2 * number for number in x]

    pipeline = ways_of(Pipeline(nodes=[double]), road)
    if is_streamed:
        found = [one["y"] for one in pipeline.map_iter(inputs={"x": range(10)}, map_over="x")]
    else:
        found = pipeline.map(inputs={"x": range(10)}, map_over="x")["y"]
    assert found == [2 * x for x in range(10)]
    assert got == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_run_is_a_batch_of_one_and_a_call_by_hand_is_the_function_itself() -> None:
    doubler = Doubler()
    double = doubling(doubler)
    assert Pipeline(nodes=[double]).run(inputs={"x": 3}) == {"y": 6}
    assert double([1, 2]) == [2, 4]
    assert doubler.sizes == [1, 2]


@pytest.mark.parametrize("road", ROADS)
def test_parameters_that_are_not_batched_get_their_values_as_they_are(road: str) -> None:
    @node(output_name="y", batch_over=("a", "b"), batch_size=3)
    def combine(a: list[int], k: int, *, b: list[int], c: int = 1) -> list[int]:
        assert isinstance(k, int)
        assert len(a) == len(b)
        return [k * (first - second) + c for first, second in zip(a, b, strict=True)]

    pipeline = ways_of(Pipeline(nodes=[combine]), road)
    given = {"a": [5, 6, 7, 8], "b": [1, 2, 3, 4], "k": 10}
    assert pipeline.map(inputs=given, map_over=["a", "b"]) == {"y": [41, 41, 41, 41]}


@pytest.mark.parametrize("road", ROADS)
def test_items_whose_other_arguments_differ_are_in_different_batches(road: str) -> None:
    got: Log[tuple[list[int], Any]] = Log()

    @node(output_name="y", batch_over="x")
    def tag(x: list[int], k: Any) -> list[str]:
        got.append((list(x), k))
        return [f"{number} {k!r}" for number in x]

    pipeline = ways_of(Pipeline(nodes=[tag]), road)
    others = [1, True, 1.0, 0.0, -0.0, "1", 1]
    found = pipeline.map(inputs={"x": range(7), "k": others}, map_over=["x", "k"])
    assert found == {"y": [f"{x} {k!r}" for x, k in enumerate(others)]}
    assert sorted(map(len, (x for x, _ in got))) == [1, 1, 1, 1, 1, 2]


def test_values_that_are_equal_by_signature_share_a_batch_in_a_cached_run() -> None:
    got: Log[int] = Log()

    @node(output_name="settings")
    def configure(kind: str) -> dict[str, str]:
        return {"kind": kind}

    @node(output_name="y", batch_over="x")
    def tag(x: list[int], settings: dict[str, str]) -> list[str]:
        got.append(len(x))
        return [f"{number} {settings['kind']}" for number in x]

    pipeline = Pipeline(nodes=[configure, tag], cache=MemoryCache())
    found = pipeline.map(inputs={"x": range(4), "kind": ["a", "a", "b", "a"]}, map_over=["x", "kind"])
    assert found["y"] == ["0 a", "1 a", "2 b", "3 a"]
    assert sorted(got) == [1, 3]


@pytest.mark.parametrize("road", ROADS)
def test_several_outputs_are_a_tuple_of_lists(road: str) -> None:
    @node(output_name=("low", "high"), batch_over="x", batch_size=2)
    def bounds(x: list[list[int]]) -> tuple[list[int], tuple[int, ...]]:
        return [min(numbers) for numbers in x], tuple(max(numbers) for numbers in x)

    pipeline = ways_of(Pipeline(nodes=[bounds]), road)
    found = pipeline.map(inputs={"x": [[1, 2], [3], [5, 4]]}, map_over="x")
    assert found == {"low": [1, 3, 4], "high": [2, 3, 5]}


@pytest.mark.parametrize("road", ROADS)
def test_async_batched_functions_are_awaited(road: str) -> None:
    sizes: Log[int] = Log()

    @node(output_name="y", batch_over="x", batch_size=3)
    async def double(x: list[int]) -> list[int]:
        await asyncio.sleep(0)
        sizes.append(len(x))
        return [2 * number for number in x]

    @node(output_name="z", batch_over="y", batch_size=3)
    def later(y: list[int]) -> Any:  # an ordinary function that returns a coroutine
        async def add() -> list[int]:
            return [number + 1 for number in y]

        return add()

    pipeline = ways_of(Pipeline(nodes=[double, later]), road)
    assert pipeline.map(inputs={"x": range(7)}, map_over="x")["z"] == [2 * x + 1 for x in range(7)]
    assert sizes == [3, 3, 1]


def test_weights_limit_batches_and_a_heavy_item_is_alone() -> None:
    got: Log[list[str]] = Log()

    @node(output_name="y", batch_over="text", batch_weight=len, batch_limit=10)
    def measure(text: list[str]) -> list[int]:
        got.append(list(text))
        return [len(one) for one in text]

    pipeline = Pipeline(nodes=[measure])
    texts = ["aaaa", "bbbb", "cc", "d", "e" * 30, "ff", "g" * 9]
    assert pipeline.map(inputs={"text": texts}, map_over="text") == {"y": [4, 4, 2, 1, 30, 2, 9]}
    assert got == [["aaaa", "bbbb", "cc"], ["d"], ["e" * 30], ["ff"], ["g" * 9]]


def test_weights_and_size_limit_batches_together() -> None:
    doubler = Doubler()
    double = doubling(doubler, batch_size=3, batch_weight=lambda number: number, batch_limit=10)
    assert Pipeline(nodes=[double]).map(inputs={"x": [1, 1, 1, 1, 9, 2]}, map_over="x")["y"] == [2, 2, 2, 2, 18, 4]
    assert doubler.sizes == [3, 2, 1]


def test_what_weighs_items_may_fail_for_one_of_them() -> None:
    double = doubling(Doubler(), batch_weight=lambda number: 1 // (number - 2) + 5, batch_limit=100)
    found = Pipeline(nodes=[double]).map(inputs={"x": range(4)}, map_over="x", on_error="collect")["y"]
    assert [type(one) for one in found] == [int, int, Failure, int]
    negative = doubling(Doubler(), batch_weight=lambda number: -1, batch_limit=100)
    with pytest.raises(ConfigurationError, match="must return a number, 0 or more; it returned -1"):
        Pipeline(nodes=[negative]).map(inputs={"x": [1]}, map_over="x")


@pytest.mark.parametrize("modes", [*MODES, ("parallel", "parallel"), ("sequential", "parallel")], ids="-".join)
@pytest.mark.parametrize("road", ROADS)
def test_batches_in_every_mode(modes: tuple[ExecutionMode, ExecutionMode], road: str) -> None:
    @node(output_name="clean")
    def clean(x: int) -> int:
        return x + 1

    @node(output_name="pair", batch_over="clean", batch_size=5)
    def embed(clean: list[int]) -> list[tuple[int, int]]:
        return [(number, len(clean)) for number in clean]

    @node(output_name="first")
    def take(pair: tuple[int, int]) -> int:
        return pair[0]

    backend = LocalBackend(node_execution=modes[0], map_execution=modes[1])
    pipeline = ways_of(Pipeline(nodes=[clean, embed, take], backend=backend), road)
    found = pipeline.map(inputs={"x": range(23)}, map_over="x")
    assert found["first"] == list(range(1, 24))
    sizes = Counter(size for _, size in found["pair"])
    assert max(sizes) == 5
    assert sum(sizes.values()) == 23
    assert pipeline.run(inputs={"x": 99})["pair"] == (100, 1)
    assert [one["first"] for one in pipeline.map_iter(inputs={"x": range(23)}, map_over="x")] == list(range(1, 24))


@pytest.mark.parametrize("name", [*NAMES, "parallel"])
def test_batches_are_formed_of_the_items_of_several_nested_maps(name: ExecutionMode) -> None:
    @node(output_name="size", batch_over="chunk", batch_size=6)
    def encode(chunk: list[str]) -> list[tuple[str, int]]:
        return [(one, len(chunk)) for one in chunk]

    chunks = Pipeline(nodes=[encode]).as_node({"chunks": "chunk"}, map_over="chunks")
    backend = LocalBackend(map_execution=name, max_workers=2)
    pipeline = Pipeline(nodes=[chunks], backend=backend)
    documents = [[f"{number}.{part}" for part in range(number % 4)] for number in range(16)]
    found = pipeline.map(inputs={"chunks": documents}, map_over="chunks")["size"]
    assert [[one for one, _ in document] for document in found] == documents
    assert Counter(size for document in found for _, size in document) == {6: 24}


@pytest.mark.parametrize("name", ["threaded", "async"])
def test_one_node_gathers_the_items_of_two_mapped_pipelines(name: ExecutionMode) -> None:
    """One encoder for documents and queries."""

    @node(output_name="vector", batch_over="text", batch_size=64, batch_wait=PATIENCE_S)
    def encode(text: list[str], model: str) -> list[tuple[str, int]]:
        return [(one, len(text)) for one in text]

    encoder = Pipeline(nodes=[encode], name="encoder")
    documents = encoder.as_node({"documents": "text"}, {"vector": "of_documents"}, map_over="documents", name="d")
    queries = encoder.as_node({"queries": "text"}, {"vector": "of_queries"}, map_over="queries", name="q")
    pipeline = Pipeline(nodes=[documents, queries], backend=LocalBackend(node_execution=name, map_execution=name))
    given = {"documents": ["a", "b", "c"], "queries": ["d", "e"], "model": "m"}
    found = guarded(lambda: pipeline.run(inputs=given))
    assert found == {"of_documents": [("a", 5), ("b", 5), ("c", 5)], "of_queries": [("d", 5), ("e", 5)]}


def test_batches_in_a_fresh_process() -> None:
    from hypernodes.backend import SubprocessBackend

    @node(output_name="y", batch_over="x", batch_size=4)
    def describe(x: list[int]) -> list[tuple[int, int]]:
        return [(number, len(x)) for number in x]

    cache = MemoryCache()
    pipeline = Pipeline(nodes=[describe], backend=SubprocessBackend(), cache=cache)
    found = pipeline.map(inputs={"x": range(6)}, map_over="x")
    assert found == {"y": [(0, 4), (1, 4), (2, 4), (3, 4), (4, 2), (5, 2)]}
    assert pipeline.with_backend(LocalBackend()).map(inputs={"x": range(7)}, map_over="x")["y"][:6] == found["y"]


def test_a_resource_may_be_shared_or_an_element() -> None:
    @resource
    def model(factor: int) -> Callable[[int], int]:
        return lambda number: factor * number

    @node(output_name="y", batch_over="x")
    def apply(x: list[int], encoder: Callable[[int], int]) -> list[int]:
        return [encoder(number) for number in x]

    @node(output_name="z", batch_over="encoder")
    def call(encoder: list[Callable[[int], int]], k: int) -> list[int]:
        return [own(k) for own in encoder]

    pipeline = Pipeline(nodes=[apply, call]).with_inputs(encoder=model(3), k=7)
    assert pipeline.map(inputs={"x": [1, 2]}, map_over="x") == {"y": [3, 6], "z": [21, 21]}


def test_a_batched_node_travels_with_its_options() -> None:
    double = doubling(Doubler(), batch_weight=abs, batch_limit=50.0, batch_wait=0.5)
    copy = pickle.loads(pickle.dumps(double))
    assert copy.batching == double.batching


# --- while others are still being computed ---------------------------------------------------------------------------


def test_items_wait_for_others_that_are_being_computed() -> None:
    gate = Gate()
    sizes: Log[int] = Log()

    @node(output_name="slow")
    def wait(x: int) -> int:
        if x == 2:
            gate.pass_through()
        if x == 1:
            gate.set()
        return x

    @node(output_name="y", batch_over="slow", batch_size=8, batch_wait=PATIENCE_S)
    def collect(slow: list[int]) -> list[int]:
        sizes.append(len(slow))
        return slow

    pipeline = Pipeline(nodes=[wait, collect], backend=LocalBackend(map_execution="threaded", max_workers=4))
    assert guarded(lambda: pipeline.map(inputs={"x": range(3)}, map_over="x"))["y"] == [0, 1, 2]
    assert sizes == [3]


@pytest.mark.parametrize("name", ["threaded", "async"])
def test_no_stage_waits_for_all_items(name: ExecutionMode) -> None:
    """What follows the first batch runs while an item before it has not got there."""
    gate = Gate()

    @node(output_name="slow")
    def wait(x: int) -> int:
        if x == 2:
            gate.pass_through()
        return x

    @node(output_name="batch", batch_over="slow", batch_size=8, batch_wait=0)
    def collect(slow: list[int]) -> list[int]:
        return [len(slow)] * len(slow)

    @node(output_name="y")
    def follow(batch: int) -> int:
        gate.set()
        return batch

    backend = LocalBackend(map_execution=name, max_workers=4)
    pipeline = Pipeline(nodes=[wait, collect, follow], backend=backend)
    found = guarded(lambda: pipeline.map(inputs={"x": range(3)}, map_over="x"))["y"]
    assert max(found) <= 2


@pytest.mark.parametrize("name", ["threaded", "async"])
def test_nothing_waits_when_no_other_item_can_come(name: ExecutionMode) -> None:
    """The last item of the map is long past the batched node, and waits for the batch to be made."""
    gate = Gate()

    @node(output_name="y", batch_over="x", batch_size=2, batch_wait=PATIENCE_S)
    def collect(x: list[int]) -> list[int]:
        if 2 in x:
            gate.set()
        return x

    @node(output_name="z")
    def follow(y: int) -> int:
        if y == 0:
            gate.pass_through()
        return y

    pipeline = Pipeline(nodes=[collect, follow], backend=LocalBackend(map_execution=name, max_workers=4))
    assert guarded(lambda: pipeline.map(inputs={"x": range(3)}, map_over="x"))["z"] == [0, 1, 2]


def test_batches_are_computed_side_by_side() -> None:
    first, second = Gate(), Gate()

    @node(output_name="y", batch_over="x", batch_size=2)
    def meet(x: list[int]) -> list[int]:
        own, other = (first, second) if 0 in x else (second, first)
        own.set()
        other.pass_through()
        return x

    pipeline = Pipeline(nodes=[meet], backend=LocalBackend(map_execution="threaded", max_workers=2))
    assert guarded(lambda: pipeline.map(inputs={"x": range(4)}, map_over="x"))["y"] == [0, 1, 2, 3]


def test_max_workers_bounds_the_calls_of_batches() -> None:
    from tests.concurrency.kit import Gauge

    gauge = Gauge()

    @node(output_name="y", batch_over="x", batch_size=2)
    def measure(x: list[int]) -> list[int]:
        with gauge:
            return x

    pipeline = Pipeline(nodes=[measure], backend=LocalBackend(map_execution="threaded", max_workers=3))
    assert pipeline.map(inputs={"x": range(60)}, map_over="x")["y"] == list(range(60))
    assert gauge.calls == 30
    assert gauge.peak <= 3


def test_a_cancelled_map_ends_while_items_wait_for_a_batch() -> None:
    gate, begun = Gate(), Gate()

    @node(output_name="slow")
    def wait(x: int) -> int:
        if x == 1:
            begun.set()
            gate.pass_through()
        return x

    @node(output_name="y", batch_over="slow", batch_wait=PATIENCE_S)
    def collect(slow: list[int]) -> list[int]:
        raise AssertionError("not called")

    recorder = Recorder()
    backend = LocalBackend(map_execution="threaded", max_workers=2)
    pipeline = Pipeline(nodes=[wait, collect], backend=backend, callbacks=[recorder])

    async def cancel() -> None:
        task = asyncio.create_task(pipeline.amap(inputs={"x": range(2)}, map_over="x"))
        await asyncio.to_thread(begun.pass_through)
        task.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    guarded(lambda: asyncio.run(cancel()))
    starts = [event for event in recorder.events if event[0] == "map_item_start"]
    assert len(starts) == len([event for event in recorder.events if event[0] == "map_item_end"])


# --- cache -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_edited_item_is_computed_alone(name: ExecutionMode) -> None:
    doubler = Doubler()
    backend = LocalBackend(map_execution=name)
    pipeline = Pipeline(nodes=[doubling(doubler)], cache=MemoryCache(), backend=backend)
    pipeline.map(inputs={"x": range(10)}, map_over="x")
    doubler.sizes.clear()
    assert pipeline.map(inputs={"x": [0, 1, 2, 77, *range(4, 10)]}, map_over="x")["y"][3] == 154
    assert doubler.sizes == [1]


def test_the_size_of_batches_is_no_part_of_a_signature_but_what_is_batched_is() -> None:
    cache, doubler = MemoryCache(), Doubler()
    Pipeline(nodes=[doubling(doubler, batch_size=4)], cache=cache).map(inputs={"x": range(6)}, map_over="x")
    other = Pipeline(nodes=[doubling(doubler, batch_size=3, batch_wait=9)], cache=cache)
    assert other.map(inputs={"x": range(6)}, map_over="x")["y"] == [0, 2, 4, 6, 8, 10]
    assert other.run(inputs={"x": 5}) == {"y": 10}
    assert doubler.sizes == [4, 2]
    assert other.explain(inputs={"x": 5}).runs == 0
    assert Pipeline(nodes=[Node(doubler, "y")], cache=cache).explain(inputs={"x": 5}).runs == 1


@pytest.mark.parametrize("name", NAMES)
def test_equal_items_are_computed_once(name: ExecutionMode) -> None:
    doubler = Doubler()
    backend = LocalBackend(map_execution=name)
    pipeline = Pipeline(nodes=[doubling(doubler)], cache=MemoryCache(), backend=backend)
    assert pipeline.map(inputs={"x": [1, 2, 1, 1, 2, 3, 1]}, map_over="x")["y"] == [2, 4, 2, 2, 4, 6, 2]
    assert doubler.seen == {1: 1, 2: 1, 3: 1}


def test_items_found_in_the_cache_do_not_thin_out_batches() -> None:
    doubler = Doubler()
    pipeline = Pipeline(nodes=[doubling(doubler)], cache=MemoryCache())
    pipeline.map(inputs={"x": range(0, 16, 2)}, map_over="x")
    doubler.sizes.clear()
    assert pipeline.map(inputs={"x": range(16)}, map_over="x")["y"] == [2 * x for x in range(16)]
    assert doubler.sizes == [4, 4]


def test_explain_counts_items_of_batched_nodes() -> None:
    pipeline = Pipeline(nodes=[doubling(Doubler())], cache=MemoryCache())
    pipeline.map(inputs={"x": range(5)}, map_over="x")
    explained = pipeline.explain(inputs={"x": range(7)}, map_over="x")
    assert (explained.hits, explained.runs) == (5, 2)


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_cached", [False, True], ids=["uncached", "cached"])
def test_events_of_each_item_are_those_of_a_node_that_is_not_batched(is_cached: bool) -> None:
    def events(item_node: Node[..., Any]) -> list[list[tuple[Any, ...]]]:
        recorder = Recorder()
        cache = MemoryCache() if is_cached else None
        pipeline = Pipeline(nodes=[item_node], cache=cache, callbacks=[recorder], name="p")
        pipeline.map(inputs={"x": range(3)}, map_over="x", on_error="collect")
        pipeline.map(inputs={"x": range(4)}, map_over="x", on_error="collect")
        return [
            [event for event, context in zip(recorder.events, recorder.contexts, strict=True) if i in context.item_path]
            for i in range(4)
        ]

    def double(x: int) -> int:
        if x == 1:
            raise ValueError("no")
        return 2 * x

    batched = doubling(Doubler(refused=[1]), name="double")
    assert events(batched) == events(Node(double, "y", name="double"))


def test_durations_of_a_batch_are_shared_by_its_items() -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[doubling(Doubler())], callbacks=[recorder])
    pipeline.map(inputs={"x": range(4)}, map_over="x")
    durations = {payload["duration"] for _, _, payload in recorder.of("node_end")}
    assert len(durations) == 1


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", NAMES)
def test_only_the_guilty_item_fails_and_the_others_are_computed_a_few_times(name: ExecutionMode, road: str) -> None:
    doubler = Doubler(refused=[37, 70])
    backend = LocalBackend(map_execution=name)
    pipeline = ways_of(Pipeline(nodes=[doubling(doubler, batch_size=32)], backend=backend), road)
    found = pipeline.map(inputs={"x": range(96)}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [37, 70]
    assert found["y"][36] == 72
    assert max(doubler.seen[x] for x in range(96) if x not in doubler.refused) <= log2(32) + 1
    assert doubler.seen[0] == 1


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", NAMES)
def test_the_error_of_a_map_names_the_item(name: ExecutionMode, road: str) -> None:
    backend = LocalBackend(map_execution=name)
    pipeline = ways_of(Pipeline(nodes=[doubling(Doubler(refused=[6]), name="double")], backend=backend), road)
    with pytest.raises(ValueError, match="6 cannot be doubled") as caught:
        pipeline.map(inputs={"x": range(12)}, map_over="x")
    (note,) = notes_of(caught.value)
    assert "in node 'double'" in note
    assert ", map item 6;" in note


def test_what_a_failed_batch_had_computed_before_is_kept() -> None:
    doubler = Doubler(refused=[6])
    pipeline = Pipeline(nodes=[doubling(doubler, batch_size=4)], cache=MemoryCache())
    with pytest.raises(ValueError, match="6 cannot"):
        pipeline.map(inputs={"x": range(12)}, map_over="x")
    doubler.refused = []
    doubler.seen.clear()
    pipeline.map(inputs={"x": range(12)}, map_over="x")
    assert sorted(doubler.seen) == list(range(6, 12))


@pytest.mark.parametrize("name", NAMES)
def test_retries_are_those_of_a_call(name: ExecutionMode) -> None:
    got: Log[list[int]] = Log()

    @node(output_name="y", batch_over="x", batch_size=4, retries=1, retry_delay=0)
    def flaky(x: list[int]) -> list[int]:
        got.append(list(x))
        if len(got) == 1 or 5 in x:
            raise ConnectionError
        return x

    recorder = Recorder()
    pipeline = Pipeline(nodes=[flaky], backend=LocalBackend(map_execution=name, max_workers=1), callbacks=[recorder])
    found = pipeline.map(inputs={"x": range(8)}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [5]
    assert got[:2] == [[0, 1, 2, 3]] * 2
    assert Counter(map(tuple, got)) == {
        (0, 1, 2, 3): 2,
        (4, 5, 6, 7): 2,
        (4, 5): 2,
        (4,): 1,
        (5,): 2,
        (6, 7): 1,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_time_limit_is_that_of_a_call(name: ExecutionMode) -> None:
    @node(output_name="y", batch_over="x", batch_size=4, timeout=0.2)
    async def sleep(x: list[int]) -> list[int]:
        if 2 in x:
            await asyncio.sleep(3600)
        return x

    pipeline = Pipeline(nodes=[sleep], backend=LocalBackend(map_execution=name))
    found = pipeline.map(inputs={"x": range(4)}, map_over="x", on_error="collect")
    assert [type(one) for one in found["y"]] == [int, int, Failure, int]
    assert isinstance(failures(found)[0].error, NodeTimeoutError)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")], ids=str)
def test_out_of_memory_makes_batches_smaller_for_the_rest_of_the_run(name: ExecutionMode, error: Exception) -> None:
    sizes: Log[int] = Log()

    @node(output_name="y", batch_over="x", batch_size=16, retries=3)
    def encode(x: list[int]) -> list[int]:
        sizes.append(len(x))
        if len(x) > 5:
            raise error
        return x

    pipeline = Pipeline(nodes=[encode], backend=LocalBackend(map_execution=name, max_workers=1))
    with pytest.warns(HyperNodesWarning, match="ran out of memory with a batch of 16 items") as caught:
        assert pipeline.map(inputs={"x": range(64)}, map_over="x")["y"] == list(range(64))
    assert len(caught) == 1
    assert sizes[:2] == [16, 8]
    assert set(sizes[4:]) == {4}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ([1, 2], "was given 3 items and returned 2 results for 'y'"),
        (5, "was given 3 items and returned an int for 'y'"),
        ("abc", "was given 3 items and returned a str for 'y'"),
        ({"a": 1}, "was given 3 items and returned a dict for 'y'"),
        (None, "was given 3 items and returned None for 'y'"),
    ],
    ids=str,
)
def test_a_wrong_number_of_results_says_both_numbers(name: ExecutionMode, returned: Any, problem: str) -> None:
    calls: Log[int] = Log()

    @node(output_name="y", batch_over="x", retries=2)
    def wrong(x: list[int]) -> Any:
        calls.append(len(x))
        return returned

    pipeline = Pipeline(nodes=[wrong], backend=LocalBackend(map_execution=name))
    with pytest.raises(BatchResultError, match=problem) as caught:
        pipeline.map(inputs={"x": range(3)}, map_over="x")
    assert caught.value.expected == 3
    assert calls == [3], "no item is to blame, and no other attempt is better"
    found = pipeline.map(inputs={"x": range(3)}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [0, 1, 2]
    assert len({id(failure.error) for failure in failures(found)}) == 3


def test_several_outputs_that_are_no_tuple_of_lists_are_refused() -> None:
    @node(output_name=("a", "b"), batch_over="x")
    def by_item(x: list[int]) -> list[tuple[int, int]]:
        return [(number, number) for number in x]

    with pytest.raises(BatchResultError, match=r"must return a tuple of 2 values \(a, b\), each with one result per"):
        Pipeline(nodes=[by_item]).map(inputs={"x": range(3)}, map_over="x")


@pytest.mark.parametrize("name", NAMES)
def test_an_exit_in_a_batch_ends_the_run(name: ExecutionMode) -> None:
    doubler = Doubler()

    @node(output_name="y", batch_over="x")
    def leave(x: list[int]) -> list[int]:
        doubler.sizes.append(len(x))
        raise SystemExit(3)

    recorder = Recorder()
    backend = LocalBackend(map_execution=name)
    pipeline = Pipeline(nodes=[leave], backend=backend, callbacks=[recorder])
    with pytest.raises(SystemExit) as caught:
        pipeline.map(inputs={"x": range(3)}, map_over="x", on_error="collect")
    assert doubler.sizes == [3]
    assert "it was raised by a call for a batch of 3 items" in "\n".join(caught.value.__notes__)
    starts, ends = (Counter(c.item_path for _, c, _ in recorder.of(hook)) for hook in ("node_start", "error"))
    assert starts == ends


def test_the_call_of_a_failed_item_can_be_made_again() -> None:
    doubler = Doubler(refused=[2])
    found = Pipeline(nodes=[doubling(doubler)]).map(inputs={"x": range(4)}, map_over="x", on_error="collect")
    (failure,) = failures(found)
    assert failure.inputs == {"x": 2}
    doubler.refused = []
    assert replay(failure) == 4


def test_failed_and_skipped_items_of_earlier_steps_take_no_part_in_batches() -> None:
    doubler = Doubler()

    @node(output_name="x", unless={"given": [3]})
    def check(given: int) -> int:
        if given == 1:
            raise ValueError("one")
        return given

    pipeline = Pipeline(nodes=[check, doubling(doubler, batch_size=2)])
    found = pipeline.map(inputs={"given": range(6)}, map_over="given", on_error="collect")["y"]
    assert found[0::2] == [0, 4, 8]
    assert isinstance(found[1], Failure)
    assert found[3] is SKIPPED
    assert doubler.sizes == [2, 2]


@pytest.mark.parametrize("kind", ["raises", "dies"])
def test_an_item_that_fails_or_kills_its_worker_costs_no_other_item(kind: str) -> None:
    @node(output_name="y", batch_over="x", batch_size=8)
    def double(x: list[int], kind: str) -> list[int]:
        if 13 in x:
            if kind == "dies":
                os._exit(7)
            raise ValueError("13")
        return [2 * number for number in x]

    backend = LocalBackend(map_execution="parallel", max_workers=2)
    pipeline = Pipeline(nodes=[double], backend=backend)
    found = pipeline.map(inputs={"x": range(24), "kind": kind}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [13]
    assert [one for one in found["y"] if not isinstance(one, Failure)] == [2 * x for x in range(24) if x != 13]


# --- what went wrong once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "parallel"])
@pytest.mark.parametrize("road", ROADS)
def test_steps_around_a_batched_node_that_nobody_asked_for(name: ExecutionMode, road: str) -> None:
    @node(output_name="z")
    def before(x: int) -> int:
        return x + 1

    @node(output_name="y", batch_over="z", batch_size=4)
    def double(z: list[int], x: int) -> list[int]:
        return [2 * number for number in z]

    @node(output_name="last")
    def after(y: int) -> int:
        return y

    backend = LocalBackend(map_execution=name, max_workers=2)
    pipeline = ways_of(Pipeline(nodes=[before, double, after], backend=backend), road)
    expected = [2 * x + 2 for x in range(10)]
    given = {"x": range(10)}
    assert pipeline.map(inputs=given, map_over="x", output_name="last") == {"last": expected}
    assert [one["last"] for one in pipeline.map_iter(inputs=given, map_over="x", output_name="last")] == expected
    outer = Pipeline(nodes=[pipeline.as_node({"xs": "x"}, map_over="xs", outputs=["last"])], backend=backend)
    assert outer.run(inputs={"xs": range(10)}) == {"last": expected}


@pytest.mark.parametrize("name", [*NAMES, "parallel"])
@pytest.mark.parametrize("road", ROADS)
def test_one_batched_node_in_two_places_of_a_pipeline(name: ExecutionMode, road: str) -> None:
    one = Pipeline(nodes=[doubling(Doubler())], name="one")
    nodes = [one.as_node({"a": "x"}, {"y": "ya"}, name="first"), one.as_node({"b": "x"}, {"y": "yb"}, name="second")]
    pipeline = ways_of(Pipeline(nodes=nodes, backend=LocalBackend(map_execution=name, max_workers=2)), road)
    found = pipeline.map(inputs={"a": range(7), "b": range(100, 107)}, map_over=["a", "b"])
    assert found == {"ya": [2 * a for a in range(7)], "yb": [2 * b for b in range(100, 107)]}
    assert pipeline.map(inputs={"a": [100], "b": [0]}, map_over=["a", "b"]) == {"ya": [200], "yb": [0]}


@pytest.mark.parametrize("name", NAMES)
def test_an_item_whose_two_calls_fail_in_one_batch_fails_once(name: ExecutionMode) -> None:
    one = Pipeline(nodes=[doubling(Doubler(refused=[1, 101]))], name="one")
    nodes = [one.as_node({"a": "x"}, {"y": "ya"}, name="first"), one.as_node({"b": "x"}, {"y": "yb"}, name="second")]
    recorder = Recorder()
    backend = LocalBackend(map_execution=name)
    pipeline = Pipeline(nodes=nodes, callbacks=[recorder], backend=backend)
    given = {"a": range(4), "b": range(100, 104)}
    found = pipeline.map(inputs=given, map_over=["a", "b"], on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [1]
    assert "first" in failures(found)[0].node_path
    ends = [event[1] for event in recorder.events if event[0] == "map_item_end"]
    assert sorted(ends) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_a_cancelled_error_that_a_function_raises_is_that_of_its_item(name: ExecutionMode) -> None:
    @node(output_name="y", batch_over="x", batch_size=4)
    def cancel(x: list[int]) -> list[int]:
        if 3 in x:
            raise futures.CancelledError("of another future")
        return x

    pipeline = Pipeline(nodes=[cancel], backend=LocalBackend(map_execution=name))
    found = pipeline.map(inputs={"x": range(8)}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [3]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_batch_computed_is_kept_if_what_follows_fails_meanwhile(name: ExecutionMode) -> None:
    """An item that is equal to one of the batch goes on with its result, and fails."""

    @node(output_name="z")
    def follow(y: int, tag: str) -> int:
        if tag == "bad":
            raise ValueError("bad")
        return y

    doubler, recorder = Doubler(), Recorder()
    backend = LocalBackend(map_execution=name, max_workers=1)
    nodes = [doubling(doubler, batch_size=3), follow]
    pipeline = Pipeline(nodes=nodes, cache=MemoryCache(), callbacks=[recorder], backend=backend)
    given = {"x": [1, 1, 2, 3], "tag": ["a", "bad", "a", "a"]}
    with pytest.raises(ValueError, match="bad"):
        pipeline.map(inputs=given, map_over=["x", "tag"])
    starts = Counter(event[1] for event in recorder.events if event[0] == "node_start")
    ends = Counter(event[1] for event in recorder.events if event[0] in ("node_end", "error"))
    assert starts == ends
    doubler.seen.clear()
    pipeline.map(inputs={**given, "tag": "a"}, map_over="x")
    assert not doubler.seen


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_while_a_result_is_observed_loses_no_other_result(name: ExecutionMode) -> None:
    class Interrupting(Recorder):
        def on_node_end(self, node_id: str, outputs: Any, duration: float, ctx: CallbackContext) -> None:
            super().on_node_end(node_id, outputs, duration, ctx)
            if ctx.item_path == (1,):
                raise KeyboardInterrupt

    recorder, cache, doubler = Interrupting(), MemoryCache(), Doubler()
    backend = LocalBackend(map_execution=name)
    pipeline = Pipeline(nodes=[doubling(doubler)], cache=cache, callbacks=[recorder], backend=backend)
    with pytest.raises(KeyboardInterrupt):
        pipeline.map(inputs={"x": range(4)}, map_over="x")
    assert recorder.events.count(("node_end", "Doubler")) == 4
    pipeline.with_callbacks([]).map(inputs={"x": range(4)}, map_over="x")
    assert doubler.sizes == [4]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("road", ROADS)
def test_items_that_fail_elsewhere_take_no_part_in_a_batch(name: ExecutionMode, road: str) -> None:
    """Also if that leaves none for a batch."""

    def refuse(x: int) -> int:
        raise ValueError("never")

    backend = LocalBackend(map_execution=name)
    pipeline = ways_of(Pipeline(nodes=[doubling(Doubler()), Node(refuse, "z")], backend=backend), road)
    found = guarded(lambda: pipeline.map(inputs={"x": range(4)}, map_over="x", on_error="collect"))
    assert len(failures(found)) == 4


def test_duplicates_do_not_thin_out_batches() -> None:
    doubler = Doubler()
    pipeline = Pipeline(nodes=[doubling(doubler, batch_size=8)], cache=MemoryCache())
    given = [x for x in range(16) for _ in range(10)]
    assert pipeline.map(inputs={"x": given}, map_over="x")["y"] == [2 * x for x in given]
    assert doubler.sizes == [8, 8]


def test_batches_in_worker_processes_are_in_the_order_of_the_items() -> None:
    @node(output_name="y", batch_over="x", batch_size=4)
    def describe(x: list[int]) -> list[tuple[int, ...]]:
        return [tuple(x)] * len(x)

    backend = LocalBackend(map_execution="parallel", max_workers=2)
    found = Pipeline(nodes=[describe], backend=backend).map(inputs={"x": range(8)}, map_over="x")["y"]
    assert found[0] == (0, 1, 2, 3)
    assert found[4] == (4, 5, 6, 7)


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "problem"),
    [
        ({"batch_over": "texts"}, InvalidNodeError, "batch_over of node 'f' names 'texts', which is not a parameter"),
        ({"batch_over": "k"}, InvalidNodeError, "batch_over of node 'f' names 'k', which has a default"),
        ({"batch_over": "text", "skip_failures": "text"}, InvalidNodeError, "'text', which is one of skip_failures"),
        ({"batch_over": "text", "batch_size": 0}, ConfigurationError, "a whole number, 1 or more; got 0"),
        ({"batch_over": "text", "batch_size": True}, ConfigurationError, "a whole number, 1 or more; got True"),
        ({"batch_over": "text", "batch_wait": -1}, ConfigurationError, "must be seconds, 0 or more; got -1"),
        ({"batch_over": "text", "batch_weight": len}, ConfigurationError, "needs both batch_weight=.* batch_limit="),
        ({"batch_over": "text", "batch_limit": 5}, ConfigurationError, "needs both batch_weight=.* batch_limit="),
        (
            {"batch_over": "text", "batch_weight": 3, "batch_limit": 5},
            ConfigurationError,
            "batch_weight of node 'f' must be a function",
        ),
        (
            {"batch_over": "text", "batch_weight": len, "batch_limit": 0},
            ConfigurationError,
            "batch_limit of node 'f' must be a number above 0; got 0",
        ),
        ({"batch_size": 3}, ConfigurationError, "batch_size of node 'f' has no use without batch_over="),
        ({"batch_over": 3}, InvalidNodeError, "batch_over of node 'f' must be a parameter or a list of them; got 3"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_when_the_node_is_made(
    options: dict[str, Any], kind: type[Exception], problem: str
) -> None:
    def f(text: list[str], k: int = 3) -> list[str]:
        return text

    with pytest.raises(kind, match=problem):
        Node(f, "y", **options)


def test_a_node_that_yields_its_results_cannot_be_batched() -> None:
    with pytest.raises(InvalidNodeError, match="yields its results"):

        @node(output_name="y", batch_over="x")
        def each(x: list[int]) -> Any:
            yield from x
