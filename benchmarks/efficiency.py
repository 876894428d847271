"""How much of the time that the work itself takes at best is left over for the work: the engine's modes under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from inspect import Parameter, Signature

import loky

from benchmarks.busy import count, steps_taking
from benchmarks.measure import Case, Suite
from hypernodes import LocalBackend, Node, Pipeline, node

SUITE = Suite("Workers kept busy")

THREADS = 8
COROUTINES = 100
PROCESSES = 2
ITEM_S = 0.01
CPU_ITEM_S = 0.02


@SUITE.workload(f"200 items × 10 ms sleep, threaded, {THREADS} threads", budget=0.9)
def _threads() -> Iterator[Case]:
    def sleep(x: int) -> int:
        time.sleep(ITEM_S)
        return x

    backend = LocalBackend(map_execution="threaded", max_workers=THREADS)
    pipeline = Pipeline(nodes=[Node(sleep, output_name="y")], backend=backend)

    def bare() -> list[int]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(sleep, range(200)))

    yield Case(
        lambda: pipeline.map(inputs={"x": range(200)}, map_over="x"),
        ideal=200 / THREADS * ITEM_S,
        peers={"ThreadPoolExecutor": bare},
    )


@SUITE.workload(f"1,000 items × 10 ms `asyncio.sleep`, async, max_workers={COROUTINES}", budget=0.9)
def _coroutines() -> Iterator[Case]:
    async def sleep(x: int) -> int:
        await asyncio.sleep(ITEM_S)
        return x

    backend = LocalBackend(map_execution="async", max_workers=COROUTINES)
    pipeline = Pipeline(nodes=[Node(sleep, output_name="y")], backend=backend)

    async def gather() -> list[int]:
        limit = asyncio.Semaphore(COROUTINES)

        async def one(x: int) -> int:
            async with limit:
                return await sleep(x)

        return await asyncio.gather(*map(one, range(1000)))

    async def share() -> list[int]:
        results = [0] * 1000
        left = iter(range(1000))

        async def work() -> None:
            for x in left:
                results[x] = await sleep(x)

        await asyncio.gather(*(work() for _ in range(COROUTINES)))
        return results

    yield Case(
        lambda: pipeline.map(inputs={"x": range(1000)}, map_over="x"),
        ideal=1000 / COROUTINES * ITEM_S,
        peers={
            "asyncio with a semaphore": lambda: asyncio.run(gather()),
            f"{COROUTINES} asyncio tasks in a loop each": lambda: asyncio.run(share()),
        },
    )


@node(output_name="y")
def count_in_worker(steps: int) -> int:
    return count(steps)


@SUITE.workload(f"64 items × 20 ms on the CPU, parallel, {PROCESSES} warm processes", budget=0.85)
def _processes() -> Iterator[Case]:
    items = [steps_taking(CPU_ITEM_S)] * 64
    bare = loky.ProcessPoolExecutor(PROCESSES)
    with LocalBackend(map_execution="parallel", max_workers=PROCESSES) as backend:
        pipeline = Pipeline(nodes=[count_in_worker], backend=backend)
        yield Case(
            lambda: pipeline.map(inputs={"steps": items}, map_over="steps"),
            ideal=lambda: [count(steps) for steps in items],
            ideal_divisor=PROCESSES,
            peers={"bare loky": lambda: list(bare.map(count, items))},
        )
    bare.shutdown()


@SUITE.workload(
    f"a second map of 40 items × 20 ms on the CPU, parallel, {PROCESSES} processes, outside of any block",
    ideal="warm loky",
    budget=1 / 1.2,
)
def _second_map() -> Iterator[Case]:
    items = [steps_taking(CPU_ITEM_S)] * 40
    bare = loky.ProcessPoolExecutor(PROCESSES)

    def again() -> dict[str, list[int]]:  # a backend of its own for each map, as in the cells of a notebook
        backend = LocalBackend(map_execution="parallel", max_workers=PROCESSES)
        return Pipeline(nodes=[count_in_worker], backend=backend).map(inputs={"steps": items}, map_over="steps")

    again()
    yield Case(again, ideal=lambda: list(bare.map(count, items)))
    bare.shutdown()
    LocalBackend().close()


# Milliseconds of each node, and what it needs. The longest way through: load, parse, embed, rank, report.
UNBALANCED: dict[str, tuple[int, tuple[str, ...]]] = {
    "load": (20, ()),
    "parse": (80, ("load",)),
    "thumbnail": (30, ("load",)),
    "words": (10, ("parse",)),
    "embed": (120, ("parse",)),
    "counts": (40, ("words",)),
    "index": (60, ("counts",)),
    "rank": (60, ("embed", "index")),
    "archive": (150, ("thumbnail",)),
    "report": (20, ("rank", "counts", "archive")),
}


@SUITE.workload("unbalanced DAG of 10 sleeping nodes, threaded, against its critical path", budget=1 / 1.1)
def _unbalanced() -> Iterator[Case]:
    nodes = [Node(_sleeper(ms / 1000, needs), output_name=name, name=name) for name, (ms, needs) in UNBALANCED.items()]
    pipeline = Pipeline(nodes=nodes, backend=LocalBackend(node_execution="threaded", max_workers=4))
    yield Case(lambda: pipeline.run(inputs={}), ideal=_critical_path_ms("report") / 1000)


def _sleeper(seconds: float, needs: tuple[str, ...]) -> Callable[..., None]:
    def sleep(**values: None) -> None:
        time.sleep(seconds)

    parameters = [Parameter(name, Parameter.KEYWORD_ONLY) for name in needs]
    sleep.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return sleep


def _critical_path_ms(name: str) -> int:
    ms, needs = UNBALANCED[name]
    return ms + max(map(_critical_path_ms, needs), default=0)
