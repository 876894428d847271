"""Limits: how many calls are made at a time, or in a minute, by all nodes and runs that share them."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

from hypernodes import (
    CallbackContext,
    ConfigurationError,
    ExecutionError,
    Failure,
    InvalidNodeError,
    Limit,
    LocalBackend,
    MemoryCache,
    Node,
    NodeTimeoutError,
    Pipeline,
    PipelineExecutionEngine,
    failures,
    ifelse,
    node,
)
from hypernodes.backend import SubprocessBackend
from hypernodes.engine import ExecutionMode, limits
from hypernodes.engine.limits import Request
from tests.concurrency.kit import CONCURRENT, NAMES, Gate, Gauge, Log, cancel_when, guarded
from tests.support import Recorder

MODES = list(product(NAMES, NAMES))


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(limits, "now", made)
    return made


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Each test begins with unused limits; after it nothing waits, and nothing is used."""
    limits._waiting.clear()
    limits._usages.clear()
    yield
    assert not limits._waiting
    assert not [usage.name for usage in limits._usages.values() if usage.running]


def take(limit: Limit, clock: Clock, weight: float = 1.0, lasts_s: float = 0.0) -> float:
    """Make a call as soon as a limit allows; return when it began."""
    request = Request([(limit.usage, weight)], lambda: None)
    permit = request.submit()
    while permit is None:
        left_s = request.look_again()
        permit = request.permit
        if permit is None:
            assert left_s is not None
            clock.time_s += left_s
    permit.begin()
    began_at = clock.time_s
    clock.time_s += lasts_s
    permit.release()
    return began_at


# --- rates, on a clock of their own ----------------------------------------------------------------------------------


def test_no_minute_has_more_calls_than_allowed_and_nearly_all_of_them_are_made(clock: Clock) -> None:
    limit, draw = Limit("requests", per_minute=500), random.Random(1)
    times = [take(limit, clock, lasts_s=draw.expovariate(50)) for _ in range(10_000)]
    assert all(later - earlier >= 60 - 1e-6 for earlier, later in zip(times, times[500:], strict=False))
    assert (times[-1] - times[0]) * 500 / 60 * 0.98 <= 10_000


def test_weights_are_added_up(clock: Clock) -> None:
    limit, draw = Limit("tokens", per_minute=1000), random.Random(2)
    calls = [(weight, take(limit, clock, weight, lasts_s=0.1)) for weight in draw.choices(range(1, 200), k=2000)]
    for first, (_, began_at) in enumerate(calls):
        within = [weight for weight, other in calls[first:] if other < began_at + 60]
        assert sum(within) <= 1000
    assert sum(weight for weight, _ in calls) >= 0.85 * (calls[-1][1] - calls[0][1]) * 1000 / 60


def test_both_rates_of_a_limit_hold(clock: Clock) -> None:
    limit = Limit("both", per_second=2, per_minute=60)
    times = [take(limit, clock) for _ in range(200)]
    assert all(later - earlier >= 1 - 1e-6 for earlier, later in zip(times, times[2:], strict=False))
    assert all(later - earlier >= 60 - 1e-6 for earlier, later in zip(times, times[60:], strict=False))


def test_less_than_one_call_in_a_second_is_one_in_several_seconds(clock: Clock) -> None:
    limit = Limit("slow", per_second=0.25)
    times = [take(limit, clock) for _ in range(4)]
    assert [round(later - earlier, 6) for earlier, later in pairwise(times)] == [4, 4, 4]


def test_a_call_counts_from_the_moment_at_which_it_begins(clock: Clock) -> None:
    limit = Limit("late", per_second=1)
    permit = Request([(limit.usage, 1.0)], lambda: None).submit()
    assert permit is not None
    clock.time_s += 0.5
    permit.begin()
    permit.release()
    waiting = Request([(limit.usage, 1.0)], lambda: None)
    assert waiting.submit() is None
    assert waiting.look_again() == pytest.approx(1.0)
    waiting.withdraw()


def test_a_call_that_is_not_made_counts_nothing(clock: Clock) -> None:
    limit = Limit("unused", per_minute=1)
    permit = Request([(limit.usage, 1.0)], lambda: None).submit()
    assert permit is not None
    permit.release()
    assert take(limit, clock) == 1000.0


def test_a_call_that_may_not_have_begun_counts_until_it_has(clock: Clock) -> None:
    limit = Limit("waiting for a worker", per_second=1)
    first = Request([(limit.usage, 1.0)], lambda: None).submit()
    assert first is not None
    clock.time_s += 100
    second = Request([(limit.usage, 1.0)], lambda: None)
    assert second.submit() is None
    assert second.look_again() is None, "time does not bring it"
    first.begin()
    assert second.look_again() == pytest.approx(1.0)
    first.release()
    clock.time_s += 1
    second.look_again()
    assert second.permit is not None
    second.withdraw()


def test_calls_that_begin_in_another_order_are_waited_for_as_long_as_needed(clock: Clock) -> None:
    limit = Limit("order", per_second=3)
    permits = [Request([(limit.usage, 1.0)], lambda: None).submit() for _ in range(3)]
    for permit in reversed(permits):
        assert permit is not None
        permit.begin()
        permit.release()
        clock.time_s += 0.2
    heavy = Request([(limit.usage, 3.0)], lambda: None)
    assert heavy.submit() is None
    assert heavy.look_again() == pytest.approx(0.8)
    heavy.withdraw()


def test_what_was_used_counts_also_if_the_object_that_stood_for_the_limit_is_gone(clock: Clock) -> None:
    times = [take(Limit("short-lived", per_second=2), clock) for _ in range(6) if gc.collect() is not None]
    assert [round(time_s - times[0], 6) for time_s in times] == [0, 0, 1, 1, 2, 2]


def test_weights_below_one_count_for_rates_below_one(clock: Clock) -> None:
    limit = Limit("tenths", per_second=0.5)
    times = [take(limit, clock, 0.1) for _ in range(20)]
    assert all(later - earlier >= 1 - 1e-6 for earlier, later in zip(times, times[5:], strict=False))


def test_a_call_that_needs_two_limits_gets_its_turn_although_others_need_one(clock: Clock) -> None:
    a, b = Limit("a", concurrency=1), Limit("b", concurrency=1)
    held = {limit: Request([(limit.usage, 1.0)], lambda: None).submit() for limit in (a, b)}
    both = Request([(a.usage, 1.0), (b.usage, 1.0)], lambda: None)
    assert both.submit() is None
    for turn in range(100):
        limit = (a, b)[turn % 2]
        request = Request([(limit.usage, 1.0)], lambda: None)
        request.submit()
        permit = held[limit]
        assert permit is not None
        permit.release()
        held[limit] = request.permit
        if both.permit is not None or request.permit is None:
            request.withdraw()
            break
    for permit in held.values():
        if permit is not None:
            permit.release()
    assert both.permit is not None
    assert turn < 30
    both.withdraw()


def test_runs_take_turns(clock: Clock) -> None:
    """One of them has a thousand calls to make, the other ones come later and have a few."""
    limit = Limit("turns", per_second=1)
    order: list[str] = []
    waiting: dict[str, Request] = {}

    def ask(run: str) -> None:
        request = waiting[run] = Request([(limit.usage, 1.0)], lambda: None)
        if request.submit() is not None:
            serve(run)

    def serve(run: str) -> None:
        order.append(run)
        permit = waiting.pop(run).permit
        assert permit is not None
        permit.begin()
        permit.release()

    for _ in range(12):
        for run in ("a", "b", "c"):
            if run not in waiting:
                ask(run)
        clock.time_s += 1
        next(iter(waiting.values())).look_again()
        for run in [run for run, request in waiting.items() if request.permit is not None]:
            serve(run)
    for request in waiting.values():
        request.withdraw()
    counts = Counter(order)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_heavy_call_is_not_passed_by_light_ones_that_came_later(clock: Clock) -> None:
    limit = Limit("heavy", per_minute=100)
    take(limit, clock, 60)
    heavy = Request([(limit.usage, 90.0)], lambda: None)
    light = Request([(limit.usage, 1.0)], lambda: None)
    assert heavy.submit() is None
    assert light.submit() is None
    clock.time_s += 60
    heavy.look_again()
    assert heavy.permit is not None
    assert light.permit is not None
    heavy.withdraw()
    light.withdraw()


def test_a_call_that_waits_for_one_limit_holds_up_no_call_that_needs_another(clock: Clock) -> None:
    used_up, free = Limit("used up", concurrency=1), Limit("free", concurrency=1)
    held = Request([(used_up.usage, 1.0)], lambda: None).submit()
    assert held is not None
    both = Request([(free.usage, 1.0), (used_up.usage, 1.0)], lambda: None)
    other = Request([(free.usage, 1.0)], lambda: None)
    assert both.submit() is None
    assert both.limit_names == ("used up",)
    permit = other.submit()
    assert permit is not None
    permit.release()
    held.release()
    assert both.permit is not None
    both.withdraw()


# --- calls at a time, in every mode ----------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES, ids="-".join)
@pytest.mark.parametrize("road", ["plain", "observed", "cached"])
def test_no_more_calls_of_a_node_are_made_at_a_time_than_it_allows(
    modes: tuple[ExecutionMode, ExecutionMode], road: str
) -> None:
    gauge = Gauge()

    @node(output_name="y", max_concurrency=2)
    def measure(x: int) -> int:
        with gauge:
            return x

    backend = LocalBackend(node_execution=modes[0], map_execution=modes[1])
    pipeline = Pipeline(
        nodes=[measure],
        backend=backend,
        callbacks=[Recorder()] if road == "observed" else None,
        cache=MemoryCache() if road == "cached" else None,
    )
    assert pipeline.map(inputs={"x": range(20)}, map_over="x") == {"y": list(range(20))}
    assert pipeline.run(inputs={"x": 77}) == {"y": 77}
    assert gauge.calls == 21
    assert gauge.peak <= 2


@pytest.mark.parametrize("name", CONCURRENT)
def test_nodes_and_runs_share_a_limit(name: ExecutionMode) -> None:
    gauge = Gauge()

    @node(output_name="y", limit="api")
    def ask(x: int) -> int:
        with gauge:
            return x

    @node(output_name="z", limit="api")
    async def check(y: int) -> int:
        with gauge:
            return y

    def run() -> None:
        backend = LocalBackend(map_execution=name, max_workers=8, limits=[Limit("api", concurrency=3)])
        pipeline = Pipeline(nodes=[ask, check], backend=backend)
        assert pipeline.map(inputs={"x": range(15)}, map_over="x")["z"] == list(range(15))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    guarded(lambda: [thread.join() for thread in threads])
    assert gauge.calls == 90
    assert gauge.peak <= 3


def test_other_names_and_numbers_are_other_limits() -> None:
    assert Limit("a", concurrency=1).usage is Limit("a", concurrency=1).usage
    assert Limit("a", concurrency=1).usage is not Limit("b", concurrency=1).usage
    first, second = Limit("a", concurrency=1), Limit("a", concurrency=2)
    assert first.usage is not second.usage
    assert pickle.loads(pickle.dumps(first)).usage is first.usage
    assert first == Limit("a", concurrency=1) != second
    assert repr(Limit("a", concurrency=1, per_minute=5)) == "Limit('a', concurrency=1, per_minute=5)"


def test_a_mapped_node_with_a_mode_of_its_own_has_the_limits_around_it() -> None:
    gauge, calls = Gauge(), Log[int]()

    @node(output_name="y", limit="around")
    def ask(x: int) -> int:
        with gauge:
            return x

    limit = Limit("around", concurrency=2)
    for inner in (
        ask.as_node({"xs": "x"}, map_over="xs", map_execution="threaded", max_workers=4),
        Pipeline(nodes=[ask], backend=LocalBackend(map_execution="async")).as_node({"xs": "x"}, map_over="xs"),
    ):
        for backend in (LocalBackend(limits=[limit]), LocalBackend(node_execution="threaded", limits=[limit])):
            assert Pipeline(nodes=[inner], backend=backend).run(inputs={"xs": range(9)})["y"] == list(range(9))
        first = Node(calls.append, "first")
        with pytest.raises(ConfigurationError, match="names limit 'around'"):
            Pipeline(nodes=[first, inner]).run(inputs={"xs": [1], "object": 1})
    assert not calls
    assert gauge.peak <= 2


def test_a_remote_nested_pipeline_has_the_limits_around_it() -> None:
    asking = Node(total, "y", limit="around")
    inner = Pipeline(nodes=[asking], backend=SubprocessBackend()).as_node({"texts": "text"}, map_over="texts")
    pipeline = Pipeline(nodes=[inner], backend=LocalBackend(limits=[Limit("around", concurrency=2)]))
    assert pipeline.run(inputs={"texts": [["a", "bc"], []]}) == {"y": [3, 0]}
    with pytest.raises(ConfigurationError, match="names limit 'around'"):
        pipeline.with_backend(LocalBackend()).run(inputs={"texts": []})


@pytest.mark.parametrize("name", NAMES)
def test_a_run_inside_a_call_that_holds_all_of_its_limit_is_refused(name: ExecutionMode) -> None:
    backend = LocalBackend(map_execution=name, limits=[Limit("nested", concurrency=1)])

    @node(output_name="z", limit="nested")
    def inside(y: int) -> int:
        return y

    @node(output_name="y", limit="nested")
    def outside(x: int) -> int:
        found = Pipeline(nodes=[inside], backend=backend).map(inputs={"y": [x]}, map_over="y")
        return len(found)

    with pytest.raises(ExecutionError, match="of which the call that started this run holds all 1"):
        guarded(lambda: Pipeline(nodes=[outside], backend=backend).map(inputs={"x": [1]}, map_over="x"))


def test_copies_of_a_node_on_other_conditions_share_its_limit() -> None:
    gauge = Gauge()

    def ask(x: int) -> int:
        with gauge:
            return x

    one, other = Node(ask, "y", max_concurrency=1), Node(lambda x: -x, "y")
    pipeline = Pipeline(nodes=[*ifelse("first", one, other)], backend=LocalBackend(map_execution="threaded"))
    both = Pipeline(nodes=[*ifelse("second", one, other)], backend=LocalBackend(map_execution="threaded"))
    threads = [
        threading.Thread(target=lambda p=p, name=name: p.map(inputs={"x": range(20), name: True}, map_over="x"))  # type: ignore[misc]
        for p, name in ((pipeline, "first"), (both, "second"))
    ]
    for thread in threads:
        thread.start()
    guarded(lambda: [thread.join() for thread in threads])
    assert (gauge.calls, gauge.peak) == (40, 1)


def test_calls_that_wait_occupy_no_worker() -> None:
    gate = Gate()

    @node(output_name="y", max_concurrency=1)
    def limited(x: int) -> int:
        if x == 0:
            gate.pass_through()
        return x

    @node(output_name="z")
    def free(x: int) -> int:
        if x == 3:
            gate.set()
        return x

    backend = LocalBackend(node_execution="threaded", map_execution="threaded", max_workers=2)
    pipeline = Pipeline(nodes=[limited, free], backend=backend)
    assert guarded(lambda: pipeline.map(inputs={"x": range(4)}, map_over="x"))["y"] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["parallel", "threaded"])
def test_a_permit_is_given_back_however_a_call_ends(name: ExecutionMode, tmp_path: Path) -> None:
    @node(output_name="y", limit="ends", retries=1, retry_delay=0, timeout=60)
    def end(x: int, folder: str) -> int:
        marker = Path(folder) / f"{x}"
        is_first = not marker.exists()
        marker.touch()
        if x == 1:
            raise ValueError("always")
        if x == 2 and is_first:
            raise ValueError("once")
        if x == 3 and is_first and folder.endswith("parallel"):
            os._exit(3)
        return x

    folder = tmp_path / name
    folder.mkdir()
    limit = Limit("ends", concurrency=1)
    backend = LocalBackend(map_execution=name, max_workers=2, limits=[limit])
    pipeline = Pipeline(nodes=[end], backend=backend)
    given = {"x": range(6), "folder": str(folder)}
    found = guarded(lambda: pipeline.map(inputs=given, map_over="x", on_error="collect"))
    assert [failure.item_index for failure in failures(found)] == [1]
    assert limit.usage.running == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_permit_is_kept_as_long_as_a_call_that_took_too_long_goes_on(name: ExecutionMode) -> None:
    gate, ended = Gate(), Gate()
    limit = Limit("late", concurrency=1)

    @node(output_name="y", limit="late", timeout=0.1)
    def block(x: int) -> int:
        gate.pass_through()
        ended.set()
        return x

    backend = LocalBackend(map_execution=name, limits=[limit])
    with pytest.raises(NodeTimeoutError):
        Pipeline(nodes=[block], backend=backend).map(inputs={"x": [1]}, map_over="x")
    assert limit.usage.running == 1
    gate.set()
    ended.pass_through()
    guarded(lambda: _until(lambda: limit.usage.running == 0))


def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        threading.Event().wait(0.001)


@pytest.mark.parametrize("name", NAMES)
def test_a_coroutine_that_is_returned_too_late_gives_its_permit_back(name: ExecutionMode) -> None:
    gate, limit = Gate(), Limit("too late", concurrency=1)

    async def later(x: int) -> int:
        return x

    def ask(x: int) -> Any:
        if x == 0:
            gate.pass_through()
        return later(x)

    asking = Node(ask, "y", limit="too late", timeout=0.1)
    pipeline = Pipeline(nodes=[asking], backend=LocalBackend(map_execution=name, limits=[limit]))
    with pytest.raises(NodeTimeoutError):
        pipeline.map(inputs={"x": [0]}, map_over="x")
    gate.set()
    assert guarded(lambda: pipeline.map(inputs={"x": [1]}, map_over="x")) == {"y": [1]}


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_while_waiting_is_observed_gives_the_permit_back(name: ExecutionMode) -> None:
    limit = Limit("interrupted", concurrency=1)
    held = Request([(limit.usage, 1.0)], lambda: None).submit()
    assert held is not None

    class Interrupting(Recorder):
        def on_node_limited(self, node_id: str, limit_names: Any, ctx: CallbackContext) -> None:
            raise KeyboardInterrupt

    asking = Node(lambda x: x, "y", limit="interrupted")
    backend = LocalBackend(map_execution=name, limits=[limit])
    pipeline = Pipeline(nodes=[asking], backend=backend, callbacks=[Interrupting()])
    with pytest.raises(KeyboardInterrupt):
        pipeline.map(inputs={"x": [0]}, map_over="x")
    held.release()
    assert guarded(lambda: pipeline.map(inputs={"x": [1]}, map_over="x")) == {"y": [1]}


@pytest.mark.parametrize("name", NAMES)
def test_what_an_ordinary_function_returns_to_be_awaited_keeps_the_permit(name: ExecutionMode) -> None:
    current: Log[int] = Log()
    peaks: Log[int] = Log()

    async def later(x: int) -> int:
        current.append(x)
        peaks.append(len(current))
        await asyncio.sleep(0)
        current.remove(x)
        return x

    def ask(x: int) -> Any:
        return later(x)

    backend = LocalBackend(map_execution=name)
    pipeline = Pipeline(nodes=[Node(ask, "y", max_concurrency=1)], backend=backend)
    assert pipeline.map(inputs={"x": range(5)}, map_over="x") == {"y": [0, 1, 2, 3, 4]}
    assert max(peaks) == 1


@pytest.mark.parametrize("name", NAMES)
def test_waiting_is_an_event(name: ExecutionMode) -> None:
    limit = Limit("events", concurrency=1)
    seen: list[tuple[str, tuple[str, ...], tuple[int, ...]]] = []
    held = Request([(limit.usage, 1.0)], lambda: None).submit()
    assert held is not None

    class Watch(Recorder):
        def on_node_limited(self, node_id: str, limit_names: Any, ctx: CallbackContext) -> None:
            seen.append((node_id, tuple(limit_names), ctx.item_path))
            held.release()

    @node(output_name="y", limit="events")
    def ask(x: int) -> int:
        return x

    backend = LocalBackend(map_execution=name, limits=[limit])
    pipeline = Pipeline(nodes=[ask], backend=backend, callbacks=[Watch()])
    assert guarded(lambda: pipeline.map(inputs={"x": [5]}, map_over="x")) == {"y": [5]}
    assert seen == [("ask", ("events",), (0,))]


@pytest.mark.parametrize("name", NAMES)
def test_a_map_that_waits_for_a_limit_is_cancelled_at_once(name: ExecutionMode) -> None:
    limit, waiting = Limit("held", concurrency=1), Gate()
    held = Request([(limit.usage, 1.0)], lambda: None).submit()
    assert held is not None

    class Watch(Recorder):
        def on_node_limited(self, node_id: str, limit_names: Any, ctx: CallbackContext) -> None:
            waiting.set()

    @node(output_name="y", limit="held")
    def ask(x: int) -> int:
        raise AssertionError("not called")

    backend = LocalBackend(map_execution=name, limits=[limit])
    pipeline = Pipeline(nodes=[ask], backend=backend, callbacks=[Watch()])
    cancel_when(waiting, lambda: pipeline.amap(inputs={"x": range(3)}, map_over="x"))
    held.release()
    assert limit.usage.running == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_paused_iterator_holds_up_no_other_run(name: ExecutionMode) -> None:
    @node(output_name="y", limit="paused")
    def ask(x: int) -> int:
        return x

    backend = LocalBackend(map_execution=name, limits=[Limit("paused", concurrency=1)])
    pipeline = Pipeline(nodes=[ask], backend=backend)
    iterator = iter(pipeline.map_iter(inputs={"x": range(50)}, map_over="x"))
    assert next(iterator) == {"y": 0}
    assert guarded(lambda: pipeline.map(inputs={"x": range(5)}, map_over="x")) == {"y": [0, 1, 2, 3, 4]}
    assert [one["y"] for one in iterator] == list(range(1, 50))


def test_limits_hold_in_a_fresh_process() -> None:
    @node(output_name="y", limit="there")
    def ask(x: int) -> int:
        return x

    limit = Limit("there", concurrency=1, per_second=1000)
    backend = SubprocessBackend(map_execution="threaded", limits=[limit])
    pipeline = Pipeline(nodes=[ask], backend=backend)
    assert pipeline.map(inputs={"x": range(5)}, map_over="x") == {"y": [0, 1, 2, 3, 4]}
    with pytest.raises(ConfigurationError, match="which the backend 'subprocess' does not have: it has none"):
        pipeline.with_backend(SubprocessBackend()).map(inputs={"x": [1]}, map_over="x")


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_call_is_weighed_by_its_arguments(name: ExecutionMode) -> None:
    limit = Limit("tokens", per_minute=1000)

    @node(output_name="y", limit={"tokens": lambda prompt, factor: factor * len(prompt)})
    def ask(prompt: str, model: str, factor: int = 2) -> int:
        return len(prompt)

    backend = LocalBackend(map_execution=name, limits=[limit])
    pipeline = Pipeline(nodes=[ask], backend=backend)
    given = {"prompt": ["a" * 10, "b" * 20], "model": "m"}
    assert pipeline.map(inputs=given, map_over="prompt") == {"y": [10, 20]}
    assert limit.usage.rates[0].used(limits.now()) == 60


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_one_call_and_is_weighed_as_one(name: ExecutionMode) -> None:
    requests, tokens = Limit("requests", per_minute=3), Limit("tokens of batches", per_minute=100)

    @node(output_name="y", batch_over="text", batch_size=4, limit={"requests": None, "tokens of batches": total})
    def encode(text: list[str]) -> list[int]:
        return [len(one) for one in text]

    backend = LocalBackend(map_execution=name, limits=[requests, tokens])
    pipeline = Pipeline(nodes=[encode], backend=backend)
    assert pipeline.map(inputs={"text": ["ab"] * 12}, map_over="text") == {"y": [2] * 12}
    assert [limit.usage.rates[0].used(limits.now()) for limit in (requests, tokens)] == [3, 24]


def total(text: list[str]) -> int:
    return sum(map(len, text))


@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_weighs_too_much_fails_and_says_so(name: ExecutionMode) -> None:
    @node(output_name="y", limit={"few": len}, retries=3)
    def ask(prompt: str) -> int:
        return len(prompt)

    backend = LocalBackend(map_execution=name, limits=[Limit("few", per_minute=10)])
    pipeline = Pipeline(nodes=[ask], backend=backend)
    given = {"prompt": ["abc", "d" * 11, "e"]}
    found = pipeline.map(inputs=given, map_over="prompt", on_error="collect")
    assert [type(one) for one in found["y"]] == [int, Failure, int]
    problem = (
        r"a call of node 'ask' counts 11 for limit 'few', which allows 10 at most \(Limit\('few', per_minute=10\)\)"
    )
    with pytest.raises(ConfigurationError, match=problem):
        pipeline.map(inputs=given, map_over="prompt")
    for wrong in (-1, "3", True, 10**400):
        weighed = Node(len, "y", limit={"few": partial(_returning, wrong)})
        with pytest.raises(ConfigurationError, match="weight for limit 'few' of node 'len' must be a number"):
            Pipeline(nodes=[weighed], backend=backend).map(inputs={"obj": ["a"]}, map_over="obj")


def _returning(value: Any, obj: Any) -> Any:
    return value


# --- delays that an error asks for ----------------------------------------------------------------------------------


class BusyError(Exception):
    def __init__(self, retry_after: Any) -> None:
        super().__init__(f"busy for {retry_after}")
        self.retry_after = retry_after


@pytest.mark.parametrize("name", NAMES)
def test_the_delay_that_an_error_asks_for_is_that_before_the_next_attempt(name: ExecutionMode) -> None:
    attempts: Log[int] = Log()

    @node(output_name="y", retries=2, retry_delay=0, retry_after=lambda error: getattr(error, "retry_after", None))
    def ask(x: int) -> int:
        attempts.append(x)
        if len(attempts) == 1:
            raise BusyError(0.015625)
        if len(attempts) == 2:
            raise ConnectionError
        return x

    delays: list[float] = []

    class Watch(Recorder):
        def on_node_retry(self, node_id: str, attempt: int, error: Any, delay: float, ctx: CallbackContext) -> None:
            delays.append(delay)

    pipeline = Pipeline(nodes=[ask], backend=LocalBackend(map_execution=name), callbacks=[Watch()])
    assert pipeline.map(inputs={"x": [7]}, map_over="x") == {"y": [7]}
    assert delays == [0.015625, 0.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("asked", [-1, "soon", True, float("nan"), pytest.param(10**400, id="huge")], ids=str)
def test_what_is_no_delay_is_refused(name: ExecutionMode, asked: Any) -> None:
    @node(output_name="y", retries=2, retry_after=lambda error: error.retry_after)
    def ask(x: int) -> int:
        raise BusyError(asked)

    pipeline = Pipeline(nodes=[ask], backend=LocalBackend(map_execution=name))
    with pytest.raises(ConfigurationError, match="retry_after of node 'ask' must return seconds") as caught:
        pipeline.map(inputs={"x": [7]}, map_over="x")
    assert isinstance(caught.value.__cause__, BusyError)


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "limit 'api' needs concurrency=, per_second= or per_minute="),
        ({"concurrency": 0}, "concurrency of limit 'api' must be a whole number, 1 or more; got 0"),
        ({"concurrency": 1.5}, "concurrency of limit 'api' must be a whole number, 1 or more; got 1.5"),
        ({"per_minute": 0}, "per_minute of limit 'api' must be a number above 0; got 0"),
        ({"per_second": -1}, "per_second of limit 'api' must be a number above 0; got -1"),
        ({"per_second": "5"}, "per_second of limit 'api' must be a number above 0; got '5'"),
        ({"per_second": 10**400}, "per_second of limit 'api' must be a number above 0"),
    ],
    ids=str,
)
def test_wrong_numbers_are_refused_when_the_limit_is_made(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Limit("api", **options)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["api"], "limits must be a list of Limit objects; got 'api'"),
        ("api", "limits must be a list of Limit objects; got 'a'"),
        (3, "limits must be a list of Limit objects; got 3"),
        ([Limit("a", concurrency=1), Limit("a", concurrency=2)], "limits has two limits named 'a'"),
    ],
    ids=str,
)
def test_wrong_limits_are_refused_when_the_engine_is_made(given: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        PipelineExecutionEngine(limits=given)
    with pytest.raises(ConfigurationError, match="either engine= or the settings"):
        LocalBackend(engine=PipelineExecutionEngine(), limits=[])


def test_one_limit_needs_no_list() -> None:
    assert PipelineExecutionEngine(limits=Limit("a", concurrency=1)).limits == (Limit("a", concurrency=1),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "kind", "problem"),
    [
        ({"max_concurrency": 0}, ConfigurationError, "max_concurrency of node 'f' must be a whole number, 1"),
        (
            {"max_concurrency": True},
            ConfigurationError,
            "max_concurrency of node 'f' must be a whole number, 1",
        ),
        ({"limit": 3}, ConfigurationError, "limit of node 'f' must be the name of a limit, several names, or a dict"),
        ({"limit": [3]}, ConfigurationError, "limit of node 'f' must name limits by strings; got 3"),
        ({"limit": {"api": 3}}, ConfigurationError, "the weight for limit 'api' of node 'f' must be a function; got 3"),
        (
            {"limit": {"api": lambda promt: 1}},
            InvalidNodeError,
            r"of node 'f' takes 'promt' \(did you mean 'prompt'\?\); it gets arguments of the node by the names of its",
        ),
        ({"retry_after": float}, ConfigurationError, "retry_after of node 'f' has no use without retries="),
        (
            {"retry_after": 5, "retries": 1},
            ConfigurationError,
            "retry_after of node 'f' must be a function of the error",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_options_are_refused_when_the_node_is_made(
    options: dict[str, Any], kind: type[Exception], problem: str
) -> None:
    def f(prompt: str, model: str) -> str:
        return prompt

    with pytest.raises(kind, match=problem):
        Node(f, "y", **options)


@pytest.mark.parametrize("is_nested", [False, True], ids=["top", "nested"])
def test_a_limit_that_nobody_defined_is_refused_before_anything_runs(is_nested: bool) -> None:
    calls: Log[int] = Log()

    @node(output_name="y")
    def first(x: int) -> int:
        calls.append(x)
        return x

    @node(output_name="z", limit="opnai")
    def ask(y: int) -> int:
        return y

    inner: Any = Pipeline(nodes=[ask]).as_node({"ys": "y"}, map_over="ys") if is_nested else ask
    pipeline = Pipeline(
        nodes=[first, inner], backend=LocalBackend(limits=[Limit(n, concurrency=1) for n in ("db", "openai")])
    )
    with pytest.raises(ConfigurationError, match=r"'opnai'.*it has 'db', 'openai' \(did you mean 'openai'\?\)"):
        pipeline.run(inputs={"x": 1, "ys": [1]} if is_nested else {"x": 1})
    assert not calls


def test_a_node_travels_with_its_limits() -> None:
    ask = Node(total, "y", limit={"tokens": total, "api": None}, max_concurrency=3, retries=1, retry_after=abs)  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(ask))
    assert copy.limiting == ask.limiting
    assert copy.retry_after is abs
