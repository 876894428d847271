"""Where the system allows no more threads, a run has fewer of them, or says why it has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from hypernodes import ExecutionError, LocalBackend, Node, Pipeline

MESSAGE = r"no thread can be started \(can't start new thread\): the limit of threads and processes"


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that sets how many threads may still be started."""
    start = threading.Thread.start

    def set_limit(number: int) -> None:
        left = iter(range(number))

        def start_or_fail(thread: threading.Thread) -> None:
            if next(left, None) is None:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_fail)

    return set_limit


def add_one(x: int) -> int:
    return x + 1


PIPELINE = Pipeline(nodes=[Node(add_one, output_name="y")])


@pytest.mark.parametrize("mode", ["threaded", "parallel"])
@pytest.mark.parametrize("parameter", ["node_execution", "map_execution"])
def test_a_run_without_a_thread_says_why(mode: str, parameter: str, allow: Callable[[int], None]) -> None:
    allow(0)
    backend = LocalBackend(**{parameter: mode}, max_workers=2)  # type: ignore[arg-type]
    with pytest.raises(ExecutionError, match=MESSAGE):
        PIPELINE.with_backend(backend).map(inputs={"x": range(4)}, map_over="x")


def test_a_run_for_a_coroutine_without_a_thread_says_why(allow: Callable[[int], None]) -> None:
    allow(0)
    with pytest.raises(ExecutionError, match=MESSAGE):
        asyncio.run(PIPELINE.amap(inputs={"x": range(4)}, map_over="x"))


def test_a_run_without_a_thread_for_its_event_loop_says_why(allow: Callable[[int], None]) -> None:
    async def add_one_async(x: int) -> int:
        return x + 1

    pipeline = Pipeline(nodes=[Node(add_one_async, output_name="y")])

    async def run_inside() -> None:
        pipeline.with_backend(LocalBackend("async")).run(inputs={"x": 1})  # the loop of this thread is running

    allow(0)
    with pytest.raises(ExecutionError, match=MESSAGE):
        asyncio.run(run_inside())


@pytest.mark.parametrize("mode", ["threaded", "parallel"])
@pytest.mark.parametrize("parameter", ["node_execution", "map_execution"])
def test_a_run_makes_do_with_the_threads_that_start(
    mode: str, parameter: str, allow: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    allow(1)
    backend = LocalBackend(**{parameter: mode}, max_workers=4)  # type: ignore[arg-type]
    found = PIPELINE.with_backend(backend).map(inputs={"x": range(50)}, map_over="x")
    assert found == {"y": list(range(1, 51))}
    what = {"threaded": "1 thread(s) for the calls of a run", "parallel": "1 of 4 worker processes"}[mode]
    if parameter == "node_execution":  # one node at a time needs no second worker
        assert caplog.records == []
        return
    (record,) = caplog.records
    assert record.name == "hypernodes"
    assert record.getMessage().startswith(f"only {what}: no thread can be started")
