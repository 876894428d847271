"""Worker processes at every grain of work, beside warm loky that is given chunks of a good size.

Items say who computed them and when, so that beside the time stands how busy the workers were: both of two, or the
average of sixteen, whose items sleep, for there are not as many cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from time import perf_counter

import loky

from benchmarks.busy import Span, busy_shares, counting_span, sleeping_span, steps_taking
from benchmarks.measure import Case, Reading, Suite
from benchmarks.variants import NODES_IN_PARALLEL, VARIANTS, Variant
from hypernodes import Node

SUITE = Suite("Parallel maps, at every grain of work")

BUDGET = 1 / 1.15
BUSY = 0.9
CHUNKS = 8  # for each worker: few enough to cost nothing, and an equal number for each

COUNTED = ((10_000, 0.0001), (2_000, 0.0005), (500, 0.002), (64, 0.02))
SLEPT = ((2_048, 0.002), (384, 0.02))

Work = Callable[[], list[Span]]


def _timed(work: Work, workers: int) -> Callable[[], Reading]:
    def measure() -> Reading:
        started_at = perf_counter()
        spans = work()
        elapsed = perf_counter() - started_at
        busy = busy_shares(spans, workers)
        return Reading(elapsed, busy.all if workers == 2 else busy.mean)

    return measure


@contextmanager
def _bare_loky(workers: int) -> Iterator[Executor]:
    executor = loky.ProcessPoolExecutor(workers)
    try:
        yield executor
    finally:
        executor.shutdown()


def _case(
    variant: Variant, items: int, workers: int, function: Callable[..., Span], amount: int | float
) -> Iterator[Case]:
    parameter = "steps" if function is counting_span else "seconds"
    node = Node(function, output_name="span")
    xs = list(range(items))
    chunk = max(1, items // (workers * CHUNKS))
    work = partial(function, **{parameter: amount})
    with (
        variant.prepare([node], "x", "parallel", workers) as act,
        _bare_loky(workers) as bare,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as standard,
    ):

        def ours() -> list[Span]:
            spans: list[Span] = act({"x": xs, parameter: amount})["span"]
            if len(spans) != items:
                raise AssertionError(f"{len(spans)} results of {items} items")
            return spans

        yield Case(
            _timed(ours, workers),
            ideal=_timed(lambda: list(bare.map(work, xs, chunksize=chunk)), workers),
            peers={
                "ProcessPoolExecutor": _timed(lambda: list(standard.map(work, xs, chunksize=chunk)), workers),
            },
            units=items,
        )


def _add_counted(variant: Variant, items: int, seconds: float) -> None:
    @SUITE.sized_workload(
        f"{items:,} items × {seconds * 1e3:g} ms on the CPU, 2 processes{variant.label}",
        budget=BUDGET,
        busy=BUSY,
        ideal="warm loky",
        unit="item",
        family=f"Parallel maps on 2 processes{variant.label}",
        size=seconds * 1e3,
        axis="ms of work an item",
        max_rounds=5,
    )
    def _(is_small: bool) -> Iterator[Case]:
        if is_small:
            return _case(variant, 6, 2, counting_span, 1_000)
        return _case(variant, items, 2, counting_span, steps_taking(seconds))


def _add_slept(variant: Variant, items: int, seconds: float) -> None:
    @SUITE.sized_workload(
        f"{items:,} items × {seconds * 1e3:g} ms asleep, 16 processes{variant.label}",
        budget=BUDGET,
        busy=BUSY,
        ideal="warm loky",
        unit="item",
        family=f"Parallel maps on 16 processes{variant.label}",
        size=seconds * 1e3,
        axis="ms of sleep an item",
        max_rounds=5,
    )
    def _(is_small: bool) -> Iterator[Case]:
        if is_small:
            return _case(variant, 6, 2, sleeping_span, 0.001)
        return _case(variant, items, 16, sleeping_span, seconds)


for _variant in (*VARIANTS, NODES_IN_PARALLEL):
    for _items, _seconds in COUNTED:
        _add_counted(_variant, _items, _seconds)
    for _items, _seconds in SLEPT:
        _add_slept(_variant, _items, _seconds)
