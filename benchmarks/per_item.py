"""CPU time of an item of three trivial nodes, whatever a user asked for: no option may make a map slower by itself.

"In a remote job" is what the other process spends on it, from unpacking the job to packing the outcome; the ideal there
is a job with one node that makes the calls in a loop. All other rows count the CPU time of this process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks import functions
from benchmarks.measure import Case, Reading, Suite
from hypernodes import CallbackContext, LocalBackend, MemoryCache, Node, Pipeline, PipelineCallback, node
from hypernodes.backend import SubprocessBackend

SUITE = Suite("CPU time of a trivial item, whatever was asked for")

ITEMS = 2_000
REMOTE_ITEMS = 10_000
FEW = 20
UNCACHED_S = 5e-6
CACHED_S = 25e-6

Columns = dict[str, list[int]]
Work = Callable[[list[int]], Any]
Map = Callable[[Pipeline], Work]


class OnlyPipelines(PipelineCallback):
    """Observes the whole run, and none of its items."""

    def on_pipeline_end(
        self, pipeline_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext
    ) -> None:
        pass


class CountCalls(PipelineCallback):
    """Counts the calls of nodes."""

    calls = 0

    def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        self.calls += 1


def by_hand(values: Sequence[int]) -> Columns:
    """Do what the three nodes do, in a loop."""
    added, doubled, subtracted = [], [], []
    for x in values:
        first = functions.add(x)
        second = functions.double(first)
        third = functions.subtract(second)
        added.append(first)
        doubled.append(second)
        subtracted.append(third)
    return {"add": added, "double": doubled, "subtract": subtracted}


# --- the ways to map ------------------------------------------------------------------------------------------------


def _map(pipeline: Pipeline) -> Work:
    return lambda values: pipeline.map(inputs={"x": values}, map_over="x")


def _collect(pipeline: Pipeline) -> Work:
    return lambda values: pipeline.map(inputs={"x": values}, map_over="x", on_error="collect")


def _amap(pipeline: Pipeline) -> Work:
    return lambda values: asyncio.run(pipeline.amap(inputs={"x": values}, map_over="x"))


def _map_iter(pipeline: Pipeline) -> Work:
    return lambda values: list(pipeline.map_iter(inputs={"x": values}, map_over="x"))


def _around(pipeline: Pipeline, **settings: Any) -> Pipeline:
    """Return a pipeline in which the given one is a mapped node, and which has its backend."""
    inner = pipeline.with_backend(None)
    return Pipeline(nodes=[inner.as_node(map_over="x", **settings)], backend=pipeline.effective_backend)


def _mapped_node(pipeline: Pipeline) -> Work:
    outer = _around(pipeline)
    return lambda values: outer.run(inputs={"x": values})


def _collect_mapped_node(pipeline: Pipeline) -> Work:
    outer = _around(pipeline, on_error="collect")
    return lambda values: outer.run(inputs={"x": values})


def _arun_mapped_node(pipeline: Pipeline) -> Work:
    outer = _around(pipeline)
    return lambda values: asyncio.run(outer.arun(inputs={"x": values}))


def _check(found: Any, values: list[int]) -> None:
    """Make sure that what is measured is the work that is meant."""
    if isinstance(found, list):
        found = {name: [item[name] for item in found] for name in found[0]}
    if found != by_hand(values):
        raise AssertionError("other results than those of the loop")


def _three(retries: int = 0) -> list[Node[..., Any]]:
    first, *others = functions.THREE
    return [
        Node(first, output_name=first.__name__, retries=retries),
        *(Node(function, output_name=function.__name__) for function in others),
    ]


# --- nothing is cached ----------------------------------------------------------------------------------------------


def _add_uncached(label: str, way: Map, make: Callable[[], Pipeline]) -> None:
    @SUITE.sized_workload(
        f"{label}, {ITEMS:,} items of 3 nodes",
        limit_s=UNCACHED_S,
        is_cpu=True,
        ideal="hand-written loop",
        unit="item",
        family="CPU time of a trivial item",
        label=label,
    )
    def _(is_small: bool) -> Iterator[Case]:
        values = list(range(FEW if is_small else ITEMS))
        act = way(make())
        _check(act(values), values)
        yield Case(lambda: act(values), ideal=lambda: by_hand(values), repeats=1 if is_small else 5, units=len(values))


def _plain() -> Pipeline:
    return Pipeline(nodes=_three())


for _label, _way, _make in (
    ("map()", _map, _plain),
    ('map(on_error="collect")', _collect, _plain),
    ("map(), a node with retries=1", _map, lambda: Pipeline(nodes=_three(retries=1))),
    ("amap()", _amap, _plain),
    ("map_iter()", _map_iter, _plain),
    ("map(), a callback that overrides nothing", _map, lambda: _plain().with_callbacks([PipelineCallback()])),
    ("map(), a callback that observes pipelines only", _map, lambda: _plain().with_callbacks([OnlyPipelines()])),
    ("a mapped node", _mapped_node, _plain),
    ('a mapped node, on_error="collect"', _collect_mapped_node, _plain),
    ("arun() of a mapped node", _arun_mapped_node, _plain),
):
    _add_uncached(_label, _way, _make)


# --- in a remote job ------------------------------------------------------------------------------------------------


@node(output_name="clock")
def read_clock() -> tuple[int, float]:
    return os.getpid(), time.process_time()


@node(output_name="columns")
def loop(xs: list[int]) -> Columns:
    return by_hand(xs)


class _Remote:
    """A warm process that says how much CPU time it spent on a job."""

    def __init__(self, backend: SubprocessBackend) -> None:
        self._clock = Pipeline(nodes=[read_clock], backend=backend)

    def timed(self, act: Callable[[], object]) -> Callable[[], Reading]:
        def measure() -> Reading:
            process, before_s = self._clock.run()["clock"]
            act()
            same, after_s = self._clock.run()["clock"]
            if process != same:
                raise AssertionError("the job went to another process than the clock")
            return Reading(after_s - before_s)

        return measure


def _add_remote(label: str, way: Map, make: Callable[[], Pipeline]) -> None:
    @SUITE.sized_workload(
        f"{label}, {REMOTE_ITEMS:,} items of 3 nodes",
        limit_s=UNCACHED_S,
        is_cpu=True,
        ideal="a job with a hand-written loop",
        unit="item",
        family="CPU time of a trivial item in a remote job",
        label=label,
    )
    def _(is_small: bool) -> Iterator[Case]:
        values = list(range(FEW if is_small else REMOTE_ITEMS))
        with SubprocessBackend() as backend:
            remote = _Remote(backend)
            act = way(make().with_backend(backend))
            hand_written = Pipeline(nodes=[loop], backend=backend)
            _check(act(values), values)
            yield Case(
                remote.timed(lambda: act(values)),
                ideal=remote.timed(lambda: hand_written.run(inputs={"xs": values})),
                units=len(values),
            )


_add_remote("map() in a remote job", _map, _plain)
_add_remote("a mapped node in a remote job", _mapped_node, _plain)
_add_remote('map(on_error="collect") in a remote job', _collect, _plain)


# --- everything is cached -------------------------------------------------------------------------------------------


@contextmanager
def _here() -> Iterator[LocalBackend]:
    yield LocalBackend()


@contextmanager
def _threads() -> Iterator[LocalBackend]:
    yield LocalBackend(map_execution="threaded", max_workers=8)


@contextmanager
def _coroutines() -> Iterator[LocalBackend]:
    yield LocalBackend(map_execution="async", max_workers=100)


@contextmanager
def _processes() -> Iterator[LocalBackend]:
    with LocalBackend(map_execution="parallel", max_workers=2) as backend:
        yield backend


@contextmanager
def _subprocess() -> Iterator[SubprocessBackend]:
    with SubprocessBackend() as backend:
        yield backend


def _add_cached(label: str, way: Map, make_backend: Any) -> None:
    @SUITE.sized_workload(
        f"{label}, all in memory, {ITEMS:,} items of 3 nodes",
        limit_s=CACHED_S,
        is_cpu=True,
        ideal="3 look-ups in a dict",
        unit="item",
        family="CPU time of a trivial item that is cached in memory",
        label=label,
    )
    def _(is_small: bool) -> Iterator[Case]:
        values = list(range(FEW if is_small else ITEMS))
        keys = [[f"{x:063x}{place}" for place in "abc"] for x in values]
        held = dict.fromkeys((key for item in keys for key in item), 1)
        with make_backend() as backend:
            pipeline = Pipeline(nodes=_three(), backend=backend, cache=MemoryCache())
            act = way(pipeline)
            _check(act(values), values)
            counter = CountCalls()
            _check(way(pipeline.with_callbacks([counter]))(values), values)
            if counter.calls:
                raise AssertionError(f"{counter.calls} calls of nodes, though all is cached")
            yield Case(
                lambda: act(values),
                ideal=lambda: [[held[key] for key in item] for item in keys],
                repeats=1 if is_small else 5,
                units=len(values),
            )


for _label, _way, _make_backend in (
    ("map()", _map, _here),
    ('map(on_error="collect")', _collect, _here),
    ("amap()", _amap, _here),
    ("map_iter()", _map_iter, _here),
    ("a mapped node", _mapped_node, _here),
    ("map() on 8 threads", _map, _threads),
    ("map() of coroutines", _map, _coroutines),
    ("map() on 2 processes", _map, _processes),
    ("map() for a subprocess", _map, _subprocess),
):
    _add_cached(_label, _way, _make_backend)
