"""Batched nodes: what they add to a hand-written loop over chunks, and how well calls like those of a GPU are used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.functions import BATCH, OVERLAPPED_ITEMS, encode_batch, prepare_item
from benchmarks.measure import Case, Suite
from benchmarks.peers import measured_by_peers
from hypernodes import LocalBackend, MemoryCache, Node, Pipeline

SUITE = Suite("Batched nodes")

ITEMS = 100_000
CACHED_ITEMS = 10_000
THREADS = 8


def same(x: list[int]) -> list[int]:
    return x


def same_item(x: int) -> int:
    return x


def _chunk_by_chunk(items: list[int]) -> list[int]:
    found: list[int] = []
    for first in range(0, len(items), BATCH):
        found += same(items[first : first + BATCH])
    return found


@SUITE.workload(
    f"{ITEMS:,} items, a batched node of no work, batches of {BATCH}",
    ideal="a loop over chunks",
    unit="item",
    limit_s=1e-6,
)
def _no_work() -> Iterator[Case]:
    pipeline = Pipeline(nodes=[Node(same, "y", batch_over="x", batch_size=BATCH)])
    items = list(range(ITEMS))
    yield Case(
        lambda: pipeline.map(inputs={"x": items}, map_over="x"),
        ideal=lambda: _chunk_by_chunk(items),
        units=ITEMS,
    )


def _pair() -> tuple[Pipeline, Pipeline]:
    """Return the same pipeline with a batched node and with one that is not."""
    batched = Node(same, "y", batch_over="x", batch_size=BATCH)
    return Pipeline(nodes=[batched]), Pipeline(nodes=[Node(same_item, "y")])


@SUITE.workload(
    f"{CACHED_ITEMS:,} items, batched, with an empty cache in memory",
    ideal="the same node, not batched",
    unit="item",
    budget=1 / 1.2,
)
def _cold() -> Iterator[Case]:
    batched, single = _pair()
    yield Case(_computed_anew(batched), ideal=_computed_anew(single), units=CACHED_ITEMS)


def _computed_anew(pipeline: Pipeline) -> Callable[[], object]:
    return lambda: pipeline.with_cache(MemoryCache()).map(inputs={"x": range(CACHED_ITEMS)}, map_over="x")


@SUITE.workload(
    f"{CACHED_ITEMS:,} items, batched, all in a cache in memory",
    ideal="the same node, not batched",
    unit="item",
    budget=1 / 1.2,
)
def _warm() -> Iterator[Case]:
    batched, single = [pipeline.with_cache(MemoryCache()) for pipeline in _pair()]
    for pipeline in (batched, single):
        pipeline.map(inputs={"x": range(CACHED_ITEMS)}, map_over="x")
    yield Case(
        lambda: batched.map(inputs={"x": range(CACHED_ITEMS)}, map_over="x"),
        ideal=lambda: single.map(inputs={"x": range(CACHED_ITEMS)}, map_over="x"),
        units=CACHED_ITEMS,
    )


@SUITE.workload(
    f"{OVERLAPPED_ITEMS:,} items of 1 ms in {THREADS} threads, then 10 ms + 0.1 ms an item in batches of {BATCH}, "
    "one at a time",
    budget=0.95,
    max_rounds=3,
)
def _overlapping() -> Iterator[Case]:
    nodes = [
        Node(prepare_item, "prepared"),
        Node(encode_batch, "encoded", batch_over="prepared", batch_size=BATCH, max_concurrency=1),
    ]
    backend = LocalBackend(map_execution="threaded", max_workers=THREADS + 1)
    pipeline = Pipeline(nodes=nodes, backend=backend)
    batches = OVERLAPPED_ITEMS // BATCH
    first_s = BATCH * 0.001 / THREADS  # until there is a batch
    with measured_by_peers("map_in_batches", size=OVERLAPPED_ITEMS, threads=THREADS) as peers:
        yield Case(
            lambda: pipeline.map(inputs={"x": range(OVERLAPPED_ITEMS)}, map_over="x", output_name="encoded"),
            ideal=first_s + batches * (0.010 + BATCH * 0.0001),
            peers={"ThreadPoolExecutor": _by_hand, **peers},
        )


def _by_hand() -> list[float]:
    found: list[float] = []
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: list[int] = []
        for prepared in pool.map(prepare_item, range(OVERLAPPED_ITEMS)):
            waiting.append(prepared)
            if len(waiting) == BATCH:
                found += encode_batch(waiting)
                waiting = []
    return found


@SUITE.workload(
    f"{OVERLAPPED_ITEMS:,} items, of which 1 in 1,000 fails, in batches of {BATCH}, collected", ideal="none fails"
)
def _poisoned() -> Iterator[Case]:
    def pipeline_with(poison: int) -> Pipeline:
        def check(x: list[int]) -> list[int]:
            time.sleep(0.001)
            if poison and any(number % poison == poison - 1 for number in x):
                raise ValueError("poisoned")
            return x

        return Pipeline(nodes=[Node(check, "y", batch_over="x", batch_size=BATCH)])

    poisoned, healthy = pipeline_with(1000), pipeline_with(0)

    def run(pipeline: Pipeline) -> object:
        return pipeline.map(inputs={"x": range(OVERLAPPED_ITEMS)}, map_over="x", on_error="collect")

    yield Case(lambda: run(poisoned), ideal=lambda: run(healthy))
