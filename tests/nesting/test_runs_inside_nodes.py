"""Runs inside of runs: they end when what is around them does, and never wait for a worker that waits for them."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, Node, Pipeline, failures, node
from hypernodes.engine import ExecutionMode
from tests.concurrency.kit import CONCURRENT, MODES, PATIENCE_S, Gate, Modes, guarded, run_threads
from tests.support import Recorder


def endless(begun: Gate, **settings: Any) -> tuple[Pipeline, list[int]]:
    """A pipeline that maps over as many items as there are, and what it has computed."""
    seen: list[int] = []

    @node(output_name="y")
    def count(x: int) -> int:
        seen.append(x)
        if len(seen) >= 10:  # not ==, since another thread may append in between
            begun.set()
        time.sleep(0.001)
        return x

    return Pipeline(nodes=[count], name="endless", **settings), seen


@pytest.mark.parametrize("inner_mode", ["sequential", "threaded"])
@pytest.mark.parametrize("mode", CONCURRENT)
def test_a_nested_pipeline_with_a_backend_of_its_own_ends_when_another_node_fails(
    mode: ExecutionMode, inner_mode: ExecutionMode
) -> None:
    begun = Gate()
    # With node_execution, because a plain sequential map that nothing observes is a bare loop.
    inner, seen = endless(begun, backend=LocalBackend("threaded", inner_mode, max_workers=2))

    @node(output_name="z")
    def fail(k: int) -> int:
        begun.pass_through()
        raise LookupError(k)

    mapped = inner.as_node(input_mapping={"xs": "x"}, map_over="xs")
    pipeline = Pipeline(nodes=[mapped, fail], backend=LocalBackend(mode, max_workers=2))
    with pytest.raises(LookupError):
        guarded(lambda: pipeline.run({"xs": range(100_000), "k": 1}))
    assert len(seen) < 5_000
    assert run_threads() == []


def test_only_the_item_that_failed_loses_its_nested_pipelines() -> None:
    first_has_begun, second_may_go_on = Gate(), Gate()

    @node(output_name="y")
    def wait(item: int) -> int:
        first_has_begun.set()
        if item == 1:
            second_may_go_on.pass_through()
        return item

    @node(output_name="z")
    def fail_once(item: int) -> int:
        first_has_begun.pass_through()
        if item == 0:
            raise LookupError(item)
        second_may_go_on.set()
        return item

    inner = Pipeline(nodes=[wait], name="inner", backend=LocalBackend("threaded"))
    pipeline = Pipeline(nodes=[inner, fail_once], backend=LocalBackend("threaded", "threaded", max_workers=4))
    found = guarded(lambda: pipeline.map({"item": [0, 1]}, map_over="item", on_error="collect"))
    (failure,) = failures(found)
    assert isinstance(failure.error, LookupError)
    assert found["y"][1] == found["z"][1] == 1


@pytest.mark.parametrize("is_nested", [True, False], ids=["nested", "inside a node"])
def test_control_c_ends_the_runs_inside_too(is_nested: bool) -> None:
    begun = Gate()
    inner, seen = endless(begun, backend=LocalBackend(map_execution="threaded", max_workers=2))

    @node(output_name="y")
    def run_inner(xs: range) -> list[int]:
        return inner.map({"x": xs}, map_over="x")["y"]

    part: Any = inner.as_node(input_mapping={"xs": "x"}, map_over="xs") if is_nested else run_inner
    pipeline = Pipeline(nodes=[part], backend=LocalBackend("threaded", max_workers=2))

    def interrupt() -> None:
        begun.wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        pipeline.run({"xs": range(1_000_000)})
    thread.join()
    assert begun.is_set()
    deadline = time.monotonic() + PATIENCE_S
    while run_threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert run_threads() == []
    assert len(seen) < 100_000


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("mode", CONCURRENT)
def test_maps_inside_nodes_share_the_callers_executor_at_any_depth(mode: ExecutionMode, size: int) -> None:
    with ThreadPoolExecutor(size) as executor:
        backend = LocalBackend(mode, mode, executor=executor)
        increment = Pipeline(nodes=[node("y")(lambda x: x + 1)], backend=backend)
        middle = Pipeline(nodes=[node("ys")(lambda n: increment.map({"x": range(n)}, "x")["y"])], backend=backend)
        outer = Pipeline(nodes=[node("all")(lambda m: middle.map({"n": range(m)}, "n")["ys"])], backend=backend)
        found = guarded(lambda: outer.map({"m": [1, 2, 3]}, "m")["all"])
    assert found == [[[]], [[], [1]], [[], [1], [1, 2]]]


def test_a_time_limit_is_kept_inside_a_node_on_the_callers_only_worker() -> None:
    release = Gate()
    with ThreadPoolExecutor(1) as executor:
        backend = LocalBackend("threaded", executor=executor)

        @node(output_name="y", timeout=0.05)
        def hang(x: int) -> int:
            release.pass_through()
            return x

        inner = Pipeline(nodes=[hang], backend=backend)
        outer = Pipeline(nodes=[node("z")(lambda x: inner.run({"x": x})["y"])], backend=backend)
        with pytest.raises(TimeoutError):
            guarded(lambda: outer.run({"x": 1}))
        release.set()


def test_a_run_that_begins_when_all_is_over_does_not_go_on() -> None:
    """A nested pipeline that is handed over in the moment in which another node fails."""
    numbers = itertools.count()

    @node(output_name="y")
    def count(x: int) -> int:
        return next(numbers)

    inner = Pipeline(nodes=[count], name="inner", backend=LocalBackend("threaded"))

    from hypernodes.engine.cancellation import RunRegistry, current_registry

    runs = RunRegistry()
    runs.cancel()
    token = current_registry.set(runs)
    try:
        with pytest.raises(CancelledError):
            inner.run({"x": 1})
    finally:
        current_registry.reset(token)
    assert next(numbers) == 0


# --- cancelling ---------------------------------------------------------------------------------------------------


class Waiting:
    """Makes the innermost run of a test wait for ever, and knows whether it was ended.

    Attributes:
        has_begun: Opens when the innermost node has been called.
        is_over: Opens when the innermost run has ended.
    """

    def __init__(self) -> None:
        self.has_begun, self.is_over, self._release = Gate(), Gate(), Gate()

    def inside(self, kind: str) -> Callable[[int], object]:
        """Return a function that runs a pipeline of this kind, which does not end by itself."""

        async def wait(x: int) -> int:
            self.has_begun.set()
            await asyncio.Event().wait()
            return x

        def wait_in_thread(x: int) -> int:
            self.has_begun.set()
            self._release.pass_through()
            return x

        def retry(x: int) -> int:
            self.has_begun.set()
            raise LookupError(x)

        def count(x: int) -> int:
            self.has_begun.set()
            return x

        steps = {
            "a time limit": node(output_name="y", timeout=PATIENCE_S)(wait_in_thread),
            "a delay": node(output_name="y", retries=9, retry_delay=PATIENCE_S)(retry),
            "many items": node(output_name="y")(count),
        }
        backend = {"threads": LocalBackend("threaded"), "a loop": LocalBackend(map_execution="async")}.get(kind)
        pipeline = Pipeline(nodes=[steps.get(kind, node(output_name="y")(wait))], backend=backend)
        if kind == "observed":
            pipeline = pipeline.with_callbacks([Recorder()])
        if kind == "cached":
            pipeline = pipeline.with_cache(MemoryCache())

        def run(x: int) -> object:
            try:
                if kind == "many items":
                    return [found["y"] for found in pipeline.map_iter({"x": itertools.count()}, "x")]
                return pipeline.map({"x": [x]}, "x") if kind == "a loop" else pipeline.run({"x": x})
            finally:
                self.is_over.set()

        return run

    def release(self) -> None:
        self._release.set()


INSIDE = ["in order", "observed", "cached", "threads", "a loop", "a time limit", "a delay", "many items"]


@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_map", [False, True])
def test_cancelling_an_awaited_run_ends_the_runs_that_its_nodes_started(modes: Modes, kind: str, is_map: bool) -> None:
    waiting = Waiting()
    outer = Pipeline(nodes=[Node(waiting.inside(kind), "z", name="outer")], backend=LocalBackend(*modes, max_workers=2))

    async def call() -> None:
        task = asyncio.ensure_future(outer.amap({"x": [1]}, "x") if is_map else outer.arun({"x": 1}))
        await asyncio.to_thread(waiting.has_begun.pass_through)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    guarded(lambda: asyncio.run(call()))
    waiting.is_over.pass_through()
    waiting.release()


@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("map_execution", CONCURRENT)
def test_closing_an_iterator_ends_the_runs_that_its_nodes_started(map_execution: ExecutionMode, kind: str) -> None:
    waiting = Waiting()
    run = waiting.inside(kind)
    backend = LocalBackend(map_execution=map_execution, max_workers=2)
    outer = Pipeline(nodes=[Node(lambda x: run(x) if x else 0, "z", name="outer")], backend=backend)
    stream: Any = outer.map_iter({"x": range(9)}, "x")
    next(stream)
    waiting.has_begun.pass_through()
    guarded(stream.close)
    waiting.is_over.pass_through()
    waiting.release()
