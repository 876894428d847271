"""What the tests of the modes share: the ways of running that need no process, and a gauge of concurrency."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from itertools import product
from typing import Any, TypeAlias, TypeVar

import pytest

from hypernodes import MemoryCache, Pipeline
from hypernodes.engine import ExecutionMode
from tests.support import Recorder, end_idle_workers

T = TypeVar("T")
E = TypeVar("E")

Modes: TypeAlias = tuple[ExecutionMode, ExecutionMode]
NAMES: tuple[ExecutionMode, ...] = ("sequential", "async", "threaded")
CONCURRENT: tuple[ExecutionMode, ...] = ("async", "threaded")
MODES = list(product(NAMES, NAMES))  # (node_execution, map_execution)
ROADS = ["plain", "observed", "cached"]  # see `ways_of`
PATIENCE_S = 60.0  # how long something that must happen is waited for; never reached by a test that passes


class Gate(threading.Event):
    """An event that nodes with a cache may refer to."""

    def __cache_key__(self) -> str:
        return "a gate"

    def pass_through(self) -> None:
        """Wait until the gate is open, or fail."""
        assert self.wait(PATIENCE_S), "what was waited for did not happen"


async def wait_for_ever(is_waiting: Gate, seen: list[str]) -> None:
    """Open a gate, wait until the task is cancelled, and note that it could clean up, which takes another turn."""
    is_waiting.set()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        seen.append("cleaned up")


class Log(list[E]):
    """A list that nodes with a cache may write to."""

    def __cache_key__(self) -> str:
        return "a log"


class Gauge:
    """Counts how many calls are under way at a time.

    Attributes:
        peak: The largest number so far.
        calls: Number of calls so far.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.calls = 0
        self._current = 0
        self._lock = threading.Lock()

    def __cache_key__(self) -> str:
        return "a gauge"

    def __enter__(self) -> Gauge:
        with self._lock:
            self.calls += 1
            self._current += 1
            self.peak = max(self.peak, self._current)
        time.sleep(0.0005)  # gives others the time to show up where they should not
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._current -= 1


def guarded(function: Callable[[], T]) -> T:
    """Return what `function` returns; a deadlock becomes a failure instead of a hanging session."""
    outcome: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "still running: a deadlock"
    if errors:
        raise errors[0]
    return outcome[0]


def cancel_when(gate: Gate, start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Await a run in a task, and cancel that when a gate is open."""

    async def cancel() -> None:
        task = asyncio.create_task(start())
        await asyncio.to_thread(gate.pass_through)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    guarded(lambda: asyncio.run(cancel()))


def ways_of(pipeline: Pipeline, road: str) -> Pipeline:
    """Return a pipeline without frames, with frames, or with frames that look into a cache."""
    if road == "observed":
        return pipeline.with_callbacks([Recorder()])
    return pipeline.with_cache(MemoryCache()) if road == "cached" else pipeline


def run_threads() -> list[threading.Thread]:
    """The threads that the library started for runs and that are alive."""
    end_idle_workers()
    return [thread for thread in threads_since(set()) if thread.name.startswith("hypernodes")]


def threads_since(before: set[threading.Thread]) -> list[threading.Thread]:
    """The threads that were not there before, without those that Modal's control plane has in this process.

    A thread that ends idle worker processes belongs to no run, and ends soon after them.
    """
    now = [thread for thread in threading.enumerate() if thread.name != "hypernodes-idle-workers"]
    return [thread for thread in now if thread not in before and not thread.name.startswith("asyncio_")]
