"""Threads and coroutines beside the bare pools: trivial items, and items that sleep for a millisecond.

The ideal of a trivial item is a bare pool, that of a sleeping one is the sleep alone, shared by all workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.measure import Case, Suite
from benchmarks.variants import PLAIN, VARIANTS, Mode, Variant
from hypernodes import LocalBackend, Node, Pipeline

SUITE = Suite("Threads and coroutines, beside the bare pools")

ITEMS = 2_000
FEW = 20
THREADS = 8
COROUTINES = 100
BUDGET = 1 / 1.5
SLEEP_S = 0.001


def add(x: int) -> int:
    return x + 1


def sleep(x: int) -> int:
    time.sleep(SLEEP_S)
    return x + 1


async def add_in_loop(x: int) -> int:
    return x + 1


async def sleep_in_loop(x: int) -> int:
    await asyncio.sleep(SLEEP_S)
    return x + 1


def in_threads(function: Callable[[int], int], xs: list[int], threads: int) -> list[int]:
    """Call a function for each item in a pool of threads."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, xs))


def gathered(function: Callable[[int], Awaitable[int]], xs: list[int], limit: int) -> list[int]:
    """Await a coroutine for each item in a new event loop, so many at a time."""

    async def gather() -> list[int]:
        semaphore = asyncio.Semaphore(limit)

        async def one(x: int) -> int:
            async with semaphore:
                return await function(x)

        return await asyncio.gather(*map(one, xs))

    return asyncio.run(gather())


def _case(
    variant: Variant, function: Callable[[int], Any], mode: Mode, workers: int, is_small: bool, ideal_s: float | None
) -> Iterator[Case]:
    xs = list(range(FEW if is_small else ITEMS))
    bare = in_threads if mode == "threaded" else gathered
    with variant.prepare([Node(function, output_name="y")], "x", mode, workers) as act:
        if act({"x": xs})["y"] != [x + 1 for x in xs]:
            raise AssertionError("wrong results")

        def ours() -> object:
            return act({"x": xs})

        def with_pool() -> object:
            return bare(function, xs, workers)

        name = "ThreadPoolExecutor" if mode == "threaded" else "gather with a semaphore"
        if ideal_s is None:
            yield Case(ours, ideal=with_pool, repeats=1 if is_small else 3, units=len(xs))
        else:
            yield Case(ours, ideal=ideal_s * len(xs), peers={name: with_pool}, units=len(xs))


def _add_trivial(
    variant: Variant, mode: Mode, function: Callable[[int], Any], workers: int, what: str, bare: str
) -> None:
    @SUITE.sized_workload(
        f"{ITEMS:,} trivial items, {what}{variant.label}",
        budget=BUDGET if variant is PLAIN else None,
        ideal=bare,
        unit="item",
        family=f"Trivial items, {what}",
        label=variant.label.removeprefix(", ") or "plain",
    )
    def _(is_small: bool) -> Iterator[Case]:
        return _case(variant, function, mode, workers, is_small, None)


def _add_sleeping(
    variant: Variant, mode: Mode, function: Callable[[int], Any], workers: int, what: str, share: float | None
) -> None:
    @SUITE.sized_workload(
        f"{ITEMS:,} items × 1 ms asleep, {what}{variant.label}",
        budget=share,
        unit="item",
        family=f"Items that sleep for 1 ms, {what}",
        label=variant.label.removeprefix(", ") or "plain",
    )
    def _(is_small: bool) -> Iterator[Case]:
        return _case(variant, function, mode, workers, is_small, SLEEP_S / workers)


for _variant in VARIANTS:
    _add_trivial(_variant, "threaded", add, THREADS, f"{THREADS} threads", "ThreadPoolExecutor")
for _variant in VARIANTS:
    _add_trivial(_variant, "async", add_in_loop, COROUTINES, f"{COROUTINES} coroutines", "gather with a semaphore")


@SUITE.sized_workload(
    f"{ITEMS:,} trivial items, {COROUTINES} coroutines, amap()",
    budget=BUDGET,
    ideal="gather with a semaphore",
    unit="item",
    family=f"Trivial items, {COROUTINES} coroutines",
    label="amap()",
)
def _amap(is_small: bool) -> Iterator[Case]:
    xs = list(range(FEW if is_small else ITEMS))
    backend = LocalBackend(map_execution="async", max_workers=COROUTINES)
    pipeline = Pipeline(nodes=[Node(add_in_loop, output_name="y")], backend=backend)

    def ours() -> dict[str, list[Any]]:
        return asyncio.run(pipeline.amap(inputs={"x": xs}, map_over="x"))

    if ours() != {"y": [x + 1 for x in xs]}:
        raise AssertionError("wrong results")
    yield Case(ours, ideal=lambda: gathered(add_in_loop, xs, COROUTINES), repeats=3, units=len(xs))


for _variant in VARIANTS:
    _add_sleeping(_variant, "threaded", sleep, THREADS, f"{THREADS} threads", 0.85)
for _variant in VARIANTS:
    _add_sleeping(_variant, "threaded", sleep, 64, "64 threads", 0.5 if _variant is PLAIN else None)
for _variant in VARIANTS:
    _add_sleeping(_variant, "async", sleep_in_loop, COROUTINES, f"{COROUTINES} coroutines", None)
