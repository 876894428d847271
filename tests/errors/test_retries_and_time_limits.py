"""Calls that are made again, and calls that take too long."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hypernodes import (
    CallbackContext,
    Failure,
    LocalBackend,
    MemoryCache,
    NodeTimeoutError,
    Pipeline,
    PipelineCallback,
    failures,
    node,
)
from hypernodes.engine import ExecutionMode, timing
from hypernodes.engine.workers import calling_thread
from tests.concurrency.kit import CONCURRENT, MODES, Gate, Log, Modes, guarded
from tests.support import Recorder, notes_of


class RetryRecorder(Recorder):
    """Observes attempts, too."""

    def on_node_retry(
        self, node_id: str, attempt: int, error: BaseException, delay: float, ctx: CallbackContext
    ) -> None:
        self._note(ctx, "node_retry", node_id, attempt, error=error, delay=delay)

    @property
    def delays(self) -> list[float]:
        return [payload["delay"] for _, _, payload in self.of("node_retry")]


class Clock:
    """A clock that stands in for the scheduler's: it moves when it is told to, and at each look if it is in haste.

    Attributes:
        now: Seconds.
        haste: Seconds that pass with each look.
    """

    def __init__(self, haste: float = 0.0) -> None:
        self.now = 0.0
        self.haste = haste

    def __call__(self) -> float:
        self.now += self.haste
        return self.now


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays pass at once."""
    monkeypatch.setattr(timing, "monotonic", Clock(haste=1000.0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time stands still unless the test moves it."""
    found = Clock()
    monkeypatch.setattr(timing, "monotonic", found)
    return found


@pytest.fixture
def without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)


class Flaky:
    """Raises so many times per argument, then gives it back."""

    def __init__(self, times: int, error: type[BaseException] = ConnectionError) -> None:
        self.times = times
        self.error = error
        self.calls: dict[int, int] = {}

    def __cache_key__(self) -> str:
        return "flaky"

    def __call__(self, x: int) -> int:
        self.calls[x] = self.calls.get(x, 0) + 1
        if self.calls[x] <= self.times:
            raise self.error(f"call {self.calls[x]}")
        return x


# --- retries ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("modes", MODES)
def test_a_call_is_made_again_until_it_succeeds(modes: Modes, is_async: bool) -> None:
    flaky = Flaky(times=2)

    @node(output_name="y", retries=2)
    def fetch(x: int) -> int:
        return flaky(x)

    @node(output_name="y", retries=2, name="fetch")
    async def fetch_async(x: int) -> int:
        return flaky(x)

    recorder = RetryRecorder()
    pipeline = Pipeline(
        nodes=[fetch_async if is_async else fetch], callbacks=[recorder], backend=LocalBackend(*modes, max_workers=2)
    )
    assert pipeline.map({"x": [1, 2]}, map_over="x") == {"y": [1, 2]}
    assert flaky.calls == {1: 3, 2: 3}
    for index in (0, 1):
        events = [e for e, c in zip(recorder.events, recorder.contexts, strict=True) if c.item_path == (index,)]
        assert events == [
            ("map_item_start", index),
            ("node_start", "fetch"),
            ("node_retry", "fetch", 1),
            ("node_retry", "fetch", 2),
            ("node_end", "fetch"),
            ("map_item_end", index),
        ]


@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize("modes", MODES)
def test_the_error_of_the_last_attempt_surfaces(modes: Modes) -> None:
    flaky = Flaky(times=5)

    @node(output_name="y", retries=2)
    def fetch(x: int) -> int:
        return flaky(x)

    recorder = RetryRecorder()
    pipeline = Pipeline(nodes=[fetch], callbacks=[recorder], backend=LocalBackend(*modes))
    with pytest.raises(ConnectionError, match="call 3") as caught:
        pipeline.run({"x": 1})
    assert flaky.calls == {1: 3}
    assert len(notes_of(caught.value)) == 1
    assert [event[0] for event in recorder.events[-3:]] == ["node_retry", "error", "pipeline_end"]


@pytest.mark.usefixtures("in_haste", "without_jitter")
@pytest.mark.parametrize("modes", [("sequential", "sequential"), ("async", "async"), ("threaded", "threaded")])
def test_retry_delays_double_from_attempt_to_attempt(modes: Modes) -> None:
    flaky = Flaky(times=4)

    @node(output_name="y", retries=4, retry_delay=0.25)
    def fetch(x: int) -> int:
        return flaky(x)

    recorder = RetryRecorder()
    Pipeline(nodes=[fetch], callbacks=[recorder], backend=LocalBackend(*modes)).run({"x": 1})
    assert recorder.delays == [0.25, 0.5, 1.0, 2.0]


@pytest.mark.usefixtures("in_haste")
def test_delays_are_varied_by_a_quarter_so_that_callers_do_not_come_back_in_step() -> None:
    flaky = Flaky(times=1)

    @node(output_name="y", retries=1, retry_delay=2)
    def fetch(x: int) -> int:
        return flaky(x)

    recorder = RetryRecorder()
    Pipeline(nodes=[fetch], callbacks=[recorder]).map({"x": range(50)}, map_over="x")
    assert all(1.5 <= delay <= 2.5 for delay in recorder.delays)
    assert len(set(recorder.delays)) > 10


def test_the_delay_before_a_retry_is_really_waited_for() -> None:
    flaky = Flaky(times=1)

    @node(output_name="y", retries=1, retry_delay=0.02)
    def fetch(x: int) -> int:
        return flaky(x)

    started_at = time.monotonic()
    Pipeline(nodes=[fetch]).run({"x": 1})
    assert time.monotonic() - started_at >= 0.015


@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize("retry_on", [ConnectionError, OSError, (ValueError, ConnectionError), Exception])
def test_a_call_is_made_again_after_the_exceptions_it_names(retry_on: Any) -> None:
    flaky = Flaky(times=1)

    @node(output_name="y", retries=1, retry_on=retry_on)
    def fetch(x: int) -> int:
        return flaky(x)

    assert Pipeline(nodes=[fetch]).run({"x": 1}) == {"y": 1}


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, SystemExit])
def test_exceptions_that_retry_on_does_not_name_surface_at_once(error: type[BaseException]) -> None:
    flaky = Flaky(times=1, error=error)

    @node(output_name="y", retries=5, retry_on=(ConnectionError, ValueError))
    def fetch(x: int) -> int:
        return flaky(x)

    with pytest.raises(error):
        Pipeline(nodes=[fetch]).run({"x": 1})
    assert flaky.calls == {1: 1}


@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize("modes", [("sequential", "sequential"), ("threaded", "threaded")])
def test_what_came_of_a_retried_call_is_cached(modes: Modes) -> None:
    flaky = Flaky(times=1)

    @node(output_name="y", retries=1)
    def fetch(x: int) -> int:
        return flaky(x)

    pipeline = Pipeline(nodes=[fetch], cache=MemoryCache(), backend=LocalBackend(*modes))
    assert pipeline.run({"x": 1}) == pipeline.run({"x": 1}) == {"y": 1}
    assert flaky.calls == {1: 2}


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_other_work_goes_on_during_the_delay(node_execution: ExecutionMode, clock: Clock) -> None:
    """The delay does not occupy the only worker: what ends it is another call."""
    flaky = Flaky(times=1)

    @node(output_name="y", retries=1, retry_delay=0.01)
    def fetch(x: int) -> int:
        return flaky(x)

    @node(output_name="z")
    def let_time_pass(x: int) -> int:
        clock.now = 1000.0
        return x

    pipeline = Pipeline(nodes=[fetch, let_time_pass], backend=LocalBackend(node_execution, max_workers=1))
    assert guarded(lambda: pipeline.run({"x": 1})) == {"y": 1, "z": 1}


def test_a_failure_elsewhere_ends_the_delay() -> None:
    @node(output_name="y", retries=1, retry_delay=3600)
    def fetch(x: int) -> int:
        raise ConnectionError(x)

    has_failed = Gate()

    @node(output_name="z")
    def refuse(x: int) -> int:
        has_failed.pass_through()
        raise LookupError(x)

    class Watcher(PipelineCallback):
        def on_node_retry(self, node_id: str, attempt: int, error: BaseException, delay: float, ctx: Any) -> None:
            has_failed.set()

    pipeline = Pipeline(nodes=[fetch, refuse], backend=LocalBackend("threaded"), callbacks=[Watcher()])
    with pytest.raises(LookupError):
        guarded(lambda: pipeline.run({"x": 1}))


def test_a_failure_elsewhere_gives_the_retried_node_its_end_event() -> None:
    recorder = RetryRecorder()
    has_failed = Gate()

    class Watcher(PipelineCallback):
        def on_node_retry(self, node_id: str, attempt: int, error: BaseException, delay: float, ctx: Any) -> None:
            has_failed.set()

    @node(output_name="y", retries=1, retry_delay=60)
    def fetch(x: int) -> int:
        raise ConnectionError(x)

    @node(output_name="z")
    def refuse(x: int) -> int:
        has_failed.pass_through()
        raise LookupError(x)

    pipeline = Pipeline(nodes=[fetch, refuse], backend=LocalBackend("threaded"), callbacks=[recorder, Watcher()])
    with pytest.raises(LookupError):
        pipeline.run({"x": 1})
    assert sorted(event[1] for event in recorder.events if event[0] == "error") == ["fetch", "refuse"]


def test_a_failure_elsewhere_also_ends_those_that_wait_for_a_retried_result() -> None:
    """Two items ask for one result; while its next attempt is due, a third item fails."""
    has_failed = Gate()
    attempts = Log[int]()

    class Watcher(PipelineCallback):
        def on_node_retry(self, node_id: str, attempt: int, error: BaseException, delay: float, ctx: Any) -> None:
            has_failed.set()

    @node(output_name="y", retries=1, retry_delay=60, retry_on=ConnectionError)
    def fetch(x: int) -> int:
        if x == 2:
            has_failed.pass_through()
            raise LookupError(x)
        attempts.append(x)
        raise ConnectionError(x)

    pipeline = Pipeline(
        nodes=[fetch],
        backend=LocalBackend(map_execution="threaded", max_workers=3),
        cache=MemoryCache(),
        callbacks=[Watcher()],
    )
    with pytest.raises(LookupError):
        guarded(lambda: pipeline.map({"x": [1, 1, 2]}, map_over="x"))
    assert attempts == [1]


@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize("modes", MODES)
def test_an_item_is_collected_only_after_its_last_attempt(modes: Modes) -> None:
    flaky = Flaky(times=2)

    @node(output_name="y", retries=1)
    def fetch(x: int) -> int:
        return flaky(x) if x else x

    pipeline = Pipeline(nodes=[fetch], backend=LocalBackend(*modes))
    found = pipeline.map({"x": [0, 1, 0]}, map_over="x", on_error="collect")
    assert [isinstance(value, Failure) for value in found["y"]] == [False, True, False]
    assert flaky.calls == {1: 2}


# --- time limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
def test_a_coroutine_that_takes_too_long_is_stopped(modes: Modes) -> None:
    seen: list[str] = []

    @node(output_name="y", timeout=0.02)
    async def hang(x: int) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("stopped")
            raise
        return x

    recorder = Recorder()
    pipeline = Pipeline(nodes=[hang], backend=LocalBackend(*modes), callbacks=[recorder], name="hanging")
    with pytest.raises(NodeTimeoutError, match=r"'hang' took longer than its timeout of 0\.02 s") as caught:
        guarded(lambda: pipeline.run({"x": 1}))
    assert (caught.value.node_name, caught.value.timeout_s) == ("hang", 0.02)
    assert isinstance(caught.value, TimeoutError)
    assert "of pipeline hanging" in caught.value.__notes__[0]
    assert seen == ["stopped"]
    assert [event[0] for event in recorder.events] == ["pipeline_start", "node_start", "error", "pipeline_end"]


@pytest.mark.parametrize("modes", MODES)
def test_a_function_that_takes_too_long_is_left_behind(modes: Modes) -> None:
    release = Gate()

    @node(output_name="y", timeout=0.02)
    def hang(x: int) -> int:
        release.pass_through()
        return x

    pipeline = Pipeline(nodes=[hang], backend=LocalBackend(*modes, max_workers=1))
    try:
        with pytest.raises(NodeTimeoutError):
            guarded(lambda: pipeline.run({"x": 1}))
    finally:
        release.set()


@pytest.mark.parametrize("modes", MODES)
def test_other_work_goes_on_when_the_only_worker_hangs(modes: Modes, clock: Clock) -> None:
    release = Gate()

    @node(output_name="y", timeout=4)
    def hang(x: int) -> int:
        if x == 1:
            clock.now += 5
            release.pass_through()
        return x

    @node(output_name="z")
    def go_on(y: int) -> int:
        return 10 * y

    pipeline = Pipeline(nodes=[hang, go_on], backend=LocalBackend(*modes, max_workers=1))
    try:
        found = guarded(lambda: pipeline.map({"x": [0, 1, 2, 3]}, map_over="x", on_error="collect"))
    finally:
        release.set()
    (failure,) = failures(found)
    assert isinstance(failure.error, NodeTimeoutError)
    assert failure.item_index == 1
    assert [value for value in found["z"] if value is not failure] == [0, 20, 30]


@pytest.mark.usefixtures("without_jitter")
@pytest.mark.parametrize("modes", MODES)
def test_a_call_that_took_too_long_is_made_again(modes: Modes, clock: Clock) -> None:
    release = Gate()
    attempts: list[int] = []

    @node(output_name="y", timeout=4, retries=1, retry_delay=0)
    def hang_once(x: int) -> int:
        attempts.append(x)
        if len(attempts) == 1:
            clock.now += 5
            release.pass_through()
        return x

    pipeline = Pipeline(nodes=[hang_once], backend=LocalBackend(*modes, max_workers=1))
    try:
        assert guarded(lambda: pipeline.run({"x": 1})) == {"y": 1}
    finally:
        release.set()
    assert attempts == [1, 1]


@pytest.mark.parametrize("modes", [("sequential", "sequential"), ("async", "async"), ("threaded", "threaded")])
def test_a_timeout_of_the_functions_own_is_not_taken_for_the_limit(modes: Modes) -> None:
    @node(output_name="y", timeout=5)
    async def give_up(x: int) -> int:
        raise TimeoutError("of my own")

    pipeline = Pipeline(nodes=[give_up], backend=LocalBackend(*modes))
    with pytest.raises(TimeoutError, match="of my own") as caught:
        pipeline.run({"x": 1})
    assert type(caught.value) is TimeoutError


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_a_call_that_took_too_long_and_could_not_be_stopped_has_failed(
    modes: Modes, is_async: bool, raises: bool, clock: Clock
) -> None:
    """A coroutine that blocks its event loop, or a function that holds the interpreter's lock."""

    def block(x: int) -> int:
        if x == 1:
            clock.now += 5
            if raises:
                raise LookupError(x)
        return x

    async def block_async(x: int) -> int:
        return block(x)

    limited = node(output_name="y", timeout=4)(block_async if is_async else block)
    pipeline = Pipeline(nodes=[limited], backend=LocalBackend(*modes, max_workers=1))
    with pytest.raises(NodeTimeoutError, match="took longer than its timeout of 4 s"):
        pipeline.run({"x": 1})
    found = pipeline.map({"x": [0, 1, 2]}, "x", on_error="collect")["y"]
    assert isinstance(found[1].error, NodeTimeoutError)
    assert (found[0], found[2]) == (0, 2)


def test_a_call_that_ends_while_it_is_looked_at_has_not_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended between a look and the question whether it had ended; here there is a look at every moment."""
    monkeypatch.setattr(calling_thread, "CHECK_INTERVAL_S", 0.0)

    @node(output_name="y", timeout=60)
    def compute(x: int) -> int:
        return x

    assert Pipeline(nodes=[compute]).map({"x": range(200)}, "x") == {"y": list(range(200))}


def test_each_attempt_has_the_whole_time_limit(clock: Clock) -> None:
    """The limit of the first attempt comes while the second one is under way."""
    looked_again = Gate()
    first_limit_is_over = Gate()
    attempts: list[int] = []

    @node(output_name="y", timeout=4, retries=1, retry_delay=0)
    def fetch(x: int) -> int:
        attempts.append(x)
        if len(attempts) == 1:
            clock.now = 3.0
            raise ConnectionError(x)
        clock.now = 5.0  # two seconds into the second attempt
        first_limit_is_over.set()
        looked_again.pass_through()
        return x

    @node(output_name="a")
    def wake_the_scheduler(x: int) -> int:
        first_limit_is_over.pass_through()
        return x

    @node(output_name="b")
    def tell_that_it_looked(a: int) -> int:
        looked_again.set()
        return a

    pipeline = Pipeline(
        nodes=[fetch, wake_the_scheduler, tell_that_it_looked], backend=LocalBackend("threaded", max_workers=3)
    )
    assert guarded(lambda: pipeline.run({"x": 1}))["y"] == 1


def test_waiting_for_the_callers_executor_does_not_count_towards_the_time_limit(clock: Clock) -> None:
    """One worker, a limit of four seconds; the second call has run for two when four have passed since the start."""
    all_handed_over, is_over, looked_again = Gate(), Gate(), Gate()

    @node(output_name="first", timeout=4)
    def take_three_seconds(x: int) -> int:
        all_handed_over.pass_through()
        clock.now = 3.0
        return x

    @node(output_name="second", timeout=4)
    def take_two_seconds(x: int) -> int:
        clock.now = 5.0
        is_over.set()
        looked_again.pass_through()
        return x

    @node(output_name="a")
    async def wake_the_scheduler(x: int) -> int:
        all_handed_over.set()
        while not is_over.is_set():
            await asyncio.sleep(0.001)
        return x

    @node(output_name="b")
    async def tell_that_it_looked(a: int) -> int:
        looked_again.set()
        return a

    with ThreadPoolExecutor(1) as executor:
        backend = LocalBackend("threaded", executor=executor, max_workers=3)
        nodes = [take_three_seconds, take_two_seconds, wake_the_scheduler, tell_that_it_looked]
        pipeline = Pipeline(nodes=nodes, backend=backend)
        assert guarded(lambda: pipeline.run({"x": 1}))["second"] == 1


def test_a_call_that_nobody_waits_for_any_more_is_not_begun() -> None:
    """It was still waiting for the caller's executor when another one failed."""
    begun: list[int] = []

    @node(output_name="y", timeout=0.02)
    def note(x: int) -> int:
        begun.append(x)
        return x

    @node(output_name="z")
    async def fail(x: int) -> int:
        raise LookupError(x)

    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(release.wait)
        pipeline = Pipeline(nodes=[note, fail], backend=LocalBackend("threaded", executor=executor, max_workers=2))
        try:
            with pytest.raises(LookupError):
                guarded(lambda: pipeline.run({"x": 1}))
        finally:
            release.set()
    assert begun == []


def test_time_limits_of_calls_that_are_done_hold_on_to_nothing() -> None:
    """Otherwise a long stream grows by every item until the limits come."""

    class Result:
        pass

    @node(output_name="y", timeout=60)
    def make(x: int) -> Result:
        return Result()

    pipeline = Pipeline(nodes=[make], backend=LocalBackend(map_execution="threaded", max_workers=2))
    stream = pipeline.map_iter({"x": range(100)}, "x")
    results = [weakref.ref(next(stream)["y"]) for _ in range(90)]
    gc.collect()
    assert sum(result() is not None for result in results) < 20


def test_inputs_are_as_they_were_for_the_second_attempt() -> None:
    seen: list[Mapping[str, Any]] = []

    @node(output_name="y", retries=1, retry_delay=0)
    def fetch(x: int, options: dict[str, int]) -> int:
        seen.append(options)
        if len(seen) == 1:
            raise ConnectionError(x)
        return x

    options = {"a": 1}
    Pipeline(nodes=[fetch]).run({"x": 1, "options": options})
    assert seen[0] is seen[1] is options
