"""Maps divided among the workers of a Dask cluster, beside plain `client.map` and `ProcessPoolExecutor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from time import sleep
from typing import TYPE_CHECKING, Any

from benchmarks.functions import add
from benchmarks.measure import Case, Suite
from benchmarks.peers import measured_by_peers
from hypernodes import Node, Pipeline

if TYPE_CHECKING:
    from hypernodes_dask import DaskBackend

SUITE = Suite("Maps on a Dask cluster of 2 workers")


def rest(x: int, seconds: float) -> int:
    sleep(seconds)
    return x


@contextmanager
def _cluster() -> Iterator[DaskBackend]:
    from hypernodes_dask import DaskBackend

    with DaskBackend("local", workers=2) as backend:
        yield backend


def _case(
    function: Callable[..., int], items: int, chunk: int, share_of_ideal: float = 1.0, **shared: Any
) -> Iterator[Case]:
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    seconds = shared.get("seconds", 0.0)
    with _cluster() as backend, pool, measured_by_peers("map_on_cluster", size=items, seconds=seconds) as peers:
        pipeline = Pipeline([Node(function, "y")], backend=backend)
        work, client = partial(function, **shared), backend.client
        yield Case(
            lambda: pipeline.map({"x": range(items), **shared}, "x"),
            ideal=lambda: client.gather(client.map(work, range(int(items * share_of_ideal)), pure=False)),
            ideal_divisor=share_of_ideal,
            peers={"ProcessPoolExecutor": lambda: list(pool.map(work, range(items), chunksize=chunk)), **peers},
            units=items,
        )


@SUITE.sized_workload(
    "2,000 items × 10 ms asleep", budget=0.9, ideal="plain client.map", unit="item", max_rounds=5, is_large=True
)
def _(is_small: bool) -> Iterator[Case]:
    yield from _case(rest, 6 if is_small else 2_000, 50, seconds=0.01)


@SUITE.sized_workload(
    "100,000 trivial items", budget=10, ideal="10 × client.map of 10,000", unit="item", max_rounds=3, is_large=True
)
def _(is_small: bool) -> Iterator[Case]:
    yield from _case(add, 10 if is_small else 100_000, 1_000, share_of_ideal=0.1)
