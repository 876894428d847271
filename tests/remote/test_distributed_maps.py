"""Maps in several jobs at a time: results, events, failures and caches are those of one job."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest

from hypernodes import (
    ConfigurationError,
    ExecutionError,
    Failure,
    MapLengthError,
    MemoryCache,
    NodeTimeoutError,
    Pipeline,
    PipelineCallback,
    RemoteBackend,
    RemoteError,
    SerializationError,
    WorkerDiedError,
    WorkerLostError,
    failures,
    node,
)
from hypernodes.backend import SubprocessBackend
from hypernodes.remote.channel import Channel
from hypernodes.remote.worker import execute
from tests.remote.fatal_items import calls_in, fatal
from tests.remote.transports import InProcess, SeveralAtOnce, Silent
from tests.support import Recorder


@node(output_name="y")
def double(x: int) -> int:
    return 2 * x


@node(output_name="inverse")
def invert(x: int) -> float:
    return 1 / x


def doubled(backend: RemoteBackend, items: Any, *callbacks: PipelineCallback, **settings: Any) -> list[int]:
    pipeline = Pipeline([double], backend=backend, callbacks=list(callbacks), **settings)
    found: list[int] = pipeline.map({"x": items}, "x")["y"]
    return found


# --- dividing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs_at_once", [1, 2, 5])
@pytest.mark.parametrize("chunk_size", [1, 3, 10, 11, "auto"])
def test_results_are_in_item_order(jobs_at_once: int, chunk_size: Any) -> None:
    backend = SeveralAtOnce(jobs_at_once, chunk_size=chunk_size)
    assert doubled(backend, range(10)) == [2 * x for x in range(10)]
    if isinstance(chunk_size, int):
        assert len(backend.jobs) == -(-10 // chunk_size)


def test_one_job_at_a_time_gets_the_whole_map() -> None:
    backend = InProcess()
    doubled(backend, range(1000))
    assert len(backend.jobs) == 1


def test_no_items_need_no_job() -> None:
    backend = SeveralAtOnce()
    assert doubled(backend, []) == []
    assert not backend.jobs


def test_no_more_jobs_are_executed_at_a_time_than_the_backend_takes_and_it_is_asked_again() -> None:
    class Growing(SeveralAtOnce):
        now, most, together = 0, 0, threading.Condition()

        @property
        def jobs_at_once(self) -> int:
            return 1 if len(self.jobs) < 3 else 3

        @jobs_at_once.setter
        def jobs_at_once(self, value: int) -> None:
            pass

        def submit(self, job: bytes, channel: Channel) -> bytes:
            with self.together:
                self.now += 1
                self.most = max(self.most, self.now)
                if len(self.jobs) == 3:  # this one waits until three are under way
                    assert self.together.wait_for(lambda: self.now == 3, timeout=60)
                self.together.notify_all()
            try:
                return super().submit(job, channel)
            finally:
                with self.together:
                    self.now -= 1

    backend = Growing(chunk_size=1)
    assert doubled(backend, range(20)) == [2 * x for x in range(20)]
    assert backend.most == 3


@pytest.mark.parametrize("setting", [0, -1, 2.5, "large", True, [3]])
def test_a_wrong_chunk_size_is_refused_when_the_backend_is_made(setting: Any) -> None:
    with pytest.raises(ConfigurationError, match="chunk_size must be a whole number of at least 1, or"):
        InProcess(chunk_size=setting)
    with pytest.raises(ConfigurationError, match="jobs_at_once must be a whole number of at least 1"):
        SubprocessBackend(jobs_at_once=setting)


def test_batches_stay_whole() -> None:
    seen: list[int] = []

    @node(output_name="y", batch_over="x", batch_size=4)
    def double_all(x: list[int]) -> list[int]:
        seen.append(len(x))
        return [2 * each for each in x]

    backend = SeveralAtOnce(2)
    pipeline = Pipeline([double_all], backend=backend)
    assert pipeline.map({"x": list(range(40))}, "x")["y"] == [2 * x for x in range(40)]


# --- what is shared ---------------------------------------------------------------------------------------------------


def test_code_and_shared_inputs_are_packed_once() -> None:
    packed: list[int] = []

    class Counted:
        def __reduce__(self) -> Any:
            packed.append(1)
            return int, (3,)

    @node(output_name="y")
    def times(x: int, k: int) -> int:
        return x * k

    backend = SeveralAtOnce(2, chunk_size=2)
    pipeline = Pipeline([times], backend=backend)
    assert pipeline.map({"x": range(10), "k": Counted()}, "x")["y"] == [3 * x for x in range(10)]
    assert len(backend.jobs) == 5
    assert len(packed) <= 2  # once to see how large it is


def test_an_object_that_items_share_with_the_other_inputs_stays_the_same_one() -> None:
    class Thing:
        pass

    @node(output_name="is_same")
    def compare(x: Thing, shared: list[Thing]) -> bool:
        return any(x is each for each in shared)

    things = [Thing() for _ in range(4)]
    pipeline = Pipeline([compare], backend=SeveralAtOnce(2, chunk_size=1))
    found = pipeline.map({"x": [*things, Thing()], "shared": things}, "x")["is_same"]
    assert found == [True] * 4 + [False]


LARGE = bytes(3_000_000)


@node(output_name="size")
def measure(x: int, large: Any, k: int) -> int:
    return len(large) * x * k


def measured(backend: RemoteBackend, large: Any, k: int) -> Any:
    return Pipeline([measure], backend=backend).map({"x": range(6), "large": large, "k": k}, "x")["size"]


def test_a_large_input_is_shared_once_also_when_other_inputs_change() -> None:
    backend = SeveralAtOnce(2, chunk_size=1)
    assert measured(backend, LARGE, 1) == [3_000_000 * x for x in range(6)]
    assert max(map(len, backend.jobs)) < 20_000
    assert [key for key, data in backend.shared.items() if len(data) > 100_000] == list(backend.shared)[:1]
    keys = set(backend.shared)
    assert measured(backend, LARGE, 2) == [6_000_000 * x for x in range(6)]
    assert len([key for key in backend.shared.keys() - keys if len(backend.shared[key]) > 100_000]) == 0


def test_large_inputs_and_items_share_what_they_share_here() -> None:
    @node(output_name="position")
    def find(x: list[int], large: list[list[int]], other: dict[str, Any]) -> Any:
        position = next((position for position, each in enumerate(large) if each is x), None)
        return position, other["large"] is large, other["own"] is large[3]

    large = [[number] for number in range(400_000)]
    inputs = {"x": large[5:8], "large": large, "other": {"large": large, "own": large[3], "more": bytes(2_000_000)}}
    backend = SeveralAtOnce(2, chunk_size=1)
    found = Pipeline([find], backend=backend).map(inputs, "x")["position"]
    assert found == [(5, True, True), (6, True, True), (7, True, True)]
    assert len([data for data in backend.shared.values() if len(data) > 1_000_000]) == 2
    assert max(map(len, backend.jobs)) < 20_000


def test_a_large_input_is_sent_with_each_job_where_nothing_can_be_shared() -> None:
    class Unshared(SeveralAtOnce):
        def share(self, key: str, data: bytes) -> Any:
            return None

    backend = Unshared(2, chunk_size=3)
    assert measured(backend, LARGE, 1) == [3_000_000 * x for x in range(6)]
    assert min(map(len, backend.jobs)) > 3_000_000


class Weights:
    """An object of the user's own, whose class is sent with it."""

    def __init__(self, values: bytes) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)


@pytest.mark.parametrize("make", [lambda: SeveralAtOnce(2, chunk_size=1), lambda: SubprocessBackend(jobs_at_once=2)])
def test_a_large_object_of_the_users_own_class_is_shared(make: Any) -> None:
    @node(output_name="is_same")
    def compare(x: Weights, weights: Weights) -> bool:
        return isinstance(x, type(weights))

    with make() as backend:
        assert measured(backend, Weights(LARGE), 1) == [3_000_000 * x for x in range(6)]
        inputs = {"x": [Weights(b""), Weights(b"1")], "weights": Weights(LARGE)}
        assert Pipeline([compare], backend=backend).map(inputs, "x")["is_same"] == [True, True]
        if isinstance(backend, SeveralAtOnce):
            assert max(map(len, backend.jobs)) < 20_000


def test_shared_data_that_is_gone_is_an_error_that_says_so() -> None:
    class Forgetful(SeveralAtOnce):
        def fetch(self, locator: str) -> bytes:
            raise LookupError("it is gone")

    with pytest.raises(RemoteError, match=r"several could not run the job: .*it is gone"):
        measured(Forgetful(2), LARGE, 1)


def test_a_backend_that_shares_and_does_not_fetch_is_told_so() -> None:
    class Incomplete(SeveralAtOnce):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            return execute(job)

    with pytest.raises(RemoteError, match="gave `execute` no `fetch`"):
        measured(Incomplete(2), LARGE, 1)


def test_files_that_processes_share_are_removed_after_the_map(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with SubprocessBackend(jobs_at_once=2, env={"TMPDIR": str(tmp_path)}) as backend:
        assert measured(backend, LARGE, 1) == [3_000_000 * x for x in range(6)]
    assert not list(tmp_path.glob("hypernodes-shared-*"))


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [SeveralAtOnce(3, chunk_size=2), SeveralAtOnce(3)], ids=["fixed", "auto"])
def test_callbacks_observe_one_map(backend: RemoteBackend) -> None:
    expected, observed = Recorder(), Recorder()
    Pipeline([double], name="outer", callbacks=[expected]).map({"x": range(9)}, "x")
    Pipeline([double], name="outer", callbacks=[observed], backend=backend).map({"x": range(9)}, "x")
    assert Counter(map(repr, observed.events)) == Counter(map(repr, expected.events))
    assert observed.events[0] == expected.events[0]
    assert observed.events[-1] == expected.events[-1]


def test_callbacks_are_called_by_one_thread_at_a_time() -> None:
    class Busy(PipelineCallback):
        def __init__(self) -> None:
            self.is_busy = False
            self.overlaps = self.calls = 0

        def on_node_end(self, *_: Any) -> None:
            self.overlaps += self.is_busy
            self.is_busy = True
            self.calls += sum(1 for _ in range(1000)) // 1000
            self.is_busy = False

    busy = Busy()
    doubled(SeveralAtOnce(4, chunk_size=3), range(60), busy)
    assert (busy.calls, busy.overlaps) == (60, 0)


# --- caches -----------------------------------------------------------------------------------------------------------


def test_only_items_that_are_not_cached_are_sent() -> None:
    cache, backend, observed = MemoryCache(), SeveralAtOnce(2, chunk_size=2), Recorder()
    doubled(backend, range(0, 10, 2), cache=cache)
    backend.clear()
    assert doubled(backend, range(10), observed, cache=cache) == [2 * x for x in range(10)]
    assert len(backend.jobs) == 3  # for five items
    assert sorted(context.item_path for _, context, _ in observed.of("map_item_cached")) == [
        (x,) for x in range(0, 10, 2)
    ]
    backend.clear()
    assert doubled(backend, range(10), cache=cache) == [2 * x for x in range(10)]
    assert not backend.jobs


@pytest.mark.parametrize("backend", [SeveralAtOnce(3, chunk_size=1), SeveralAtOnce(2)], ids=["fixed", "auto"])
def test_equal_items_are_computed_once(backend: RemoteBackend) -> None:
    observed = Recorder()
    found = doubled(backend, [1, 2, 1, 1, 2, 3], observed, cache=MemoryCache())
    assert found == [2, 4, 2, 2, 4, 6]
    assert len(observed.of("node_start")) == 3


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("max_in_flight", [None, 2])
def test_equal_items_of_a_stream_are_all_yielded(in_order: bool, max_in_flight: int | None) -> None:
    backend = SeveralAtOnce(3, max_in_flight=max_in_flight)
    pipeline = Pipeline([double], backend=backend, cache=MemoryCache())
    results = pipeline.map_iter({"x": cycle([1, 2, 3])}, "x", in_order=in_order)
    found = [next(results)["y"] for _ in range(60)]
    results.close()
    assert found == [2, 4, 6] * 20 if in_order else set(found) == {2, 4, 6}
    assert len(list(pipeline.map_iter({"x": iter([1] * 500)}, "x"))) == 500


def test_an_item_that_equals_one_that_failed_fails_too() -> None:
    pipeline = Pipeline([invert], backend=SeveralAtOnce(3, chunk_size=1), cache=MemoryCache())
    found = pipeline.map({"x": [0, 1, 0, 1]}, "x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [0, 2]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_has_the_index_of_its_item() -> None:
    pipeline = Pipeline([invert], backend=SeveralAtOnce(3, chunk_size=2), name="outer")
    found = pipeline.map({"x": [1, 2, 4, 0, 5, 0]}, "x", on_error="collect")["inverse"]
    assert [each for each in found if not isinstance(each, Failure)] == [1, 0.5, 0.25, 0.2]
    assert [(each.item_index, each.node_path) for each in found if isinstance(each, Failure)] == [
        (3, ("outer", "invert")),
        (5, ("outer", "invert")),
    ]


def test_an_error_ends_the_map_and_no_further_job_begins() -> None:
    backend = SeveralAtOnce(1, chunk_size=1)
    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline([invert], backend=backend).map({"x": [1, 0, *range(1, 50)]}, "x")
    assert "map item 1;" in "".join(caught.value.__notes__)
    assert len(backend.jobs) == 2


def test_an_error_cancels_the_other_jobs() -> None:
    cancelled = threading.Event()

    numbers = count()

    class Waiting(SeveralAtOnce):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            if next(numbers) == 0:
                channel.when_cancelled(cancelled.set)
                assert cancelled.wait(60)
                raise ConnectionError("the job was ended")
            return super().submit(job, channel)

    with pytest.raises(ZeroDivisionError):
        Pipeline([invert], backend=Waiting(2, chunk_size=1)).map({"x": [0, 0]}, "x")
    assert cancelled.is_set()


def test_an_item_that_cannot_be_sent_is_named() -> None:
    items = [1, 2, threading.Lock(), 4]
    with pytest.raises(SerializationError, match="item 2 of 'x' cannot be sent to several"):
        doubled(SeveralAtOnce(2, chunk_size=1), items)


def test_a_result_that_cannot_be_sent_back_is_named() -> None:
    @node(output_name="y")
    def make(x: int) -> Any:
        return threading.Lock() if x == 5 else x

    with pytest.raises(SerializationError, match="the result 'y' of item 5 cannot be sent back from several"):
        Pipeline([make], backend=SeveralAtOnce(2, chunk_size=3)).map({"x": range(9)}, "x")


def test_results_that_cannot_be_loaded_here_are_an_error() -> None:
    class Unloadable:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    @node(output_name="y")
    def make(x: int) -> Any:
        return Unloadable() if x == 3 else x

    with pytest.raises(RemoteError, match="the result of several cannot be loaded here: ValueError"):
        Pipeline([make], backend=SeveralAtOnce(2, chunk_size=2)).map({"x": range(6)}, "x")


# --- lost workers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def processes() -> Iterator[SubprocessBackend]:
    with SubprocessBackend(jobs_at_once=2, show_logs=False) as backend:
        yield backend


def test_items_of_lost_workers_are_computed_by_others_and_observed_once(
    processes: SubprocessBackend, tmp_path: Path
) -> None:
    observed, cache = Recorder(), MemoryCache()
    pipeline = Pipeline([fatal], backend=processes, callbacks=[observed], cache=cache, name="outer")
    kills = dict.fromkeys((3, 40, 77), 1)
    inputs = {"x": range(100), "kills": kills, "folder": str(tmp_path)}
    assert pipeline.map(inputs, "x")["y"] == [2 * x for x in range(100)]
    for hook in ("map_item_start", "map_item_end", "node_start", "node_end"):
        counted = Counter(repr((event, context.item_path)) for event, context, _ in observed.of(hook))
        assert set(counted.values()) == {1}, hook
        assert len(counted) == 100, hook
    assert calls_in(tmp_path)[3] == 2


def test_an_item_that_ends_every_worker_becomes_a_failure_and_the_others_do_not(
    processes: SubprocessBackend, tmp_path: Path
) -> None:
    observed = Recorder()
    pipeline = Pipeline([fatal], backend=processes, name="outer", callbacks=[observed])
    inputs = {"x": range(60), "kills": {17: 100}, "folder": str(tmp_path)}
    found = pipeline.map(inputs, "x", on_error="collect")["y"]
    (failure,) = [each for each in found if isinstance(each, Failure)]
    assert [each for each in found if each is not failure] == [2 * x for x in range(60) if x != 17]
    assert failure.item_index == 17
    assert isinstance(failure.error, WorkerDiedError)
    assert failure.error.node_names == ("fatal",)
    assert failure.error.item_index == 17
    assert isinstance(failure.error.__cause__, WorkerLostError)
    assert calls_in(tmp_path)[17] <= 6
    starts, ends = observed.of("map_item_start"), observed.of("map_item_end")
    assert len(starts) == len(ends)


def test_an_item_that_ends_every_worker_is_named_by_the_error(processes: SubprocessBackend, tmp_path: Path) -> None:
    pipeline = Pipeline([fatal], backend=processes)
    with pytest.raises(WorkerDiedError, match="for map item 5 alone") as caught:
        pipeline.map({"x": range(10), "kills": {5: 100}, "folder": str(tmp_path)}, "x")
    assert caught.value.item_index == 5


def test_a_call_that_cannot_be_stopped_costs_its_own_item_only(processes: SubprocessBackend) -> None:
    @node(output_name="y", timeout=0.3)
    def wait(x: int) -> int:
        if x == 7:
            sum(range(10**15))  # without letting any other thread run
        return x

    found = Pipeline([wait], backend=processes).map({"x": range(12)}, "x", on_error="collect")["y"]
    (failure,) = [each for each in found if isinstance(each, Failure)]
    assert (failure.item_index, type(failure.error)) == (7, NodeTimeoutError)
    assert "in map item 7 of pipeline" in "".join(failure.error.__notes__)
    assert [each for each in found if each is not failure] == [x for x in range(12) if x != 7]


# --- results as they come ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 3, "auto"])
def test_map_iter_yields_in_item_order_and_reads_no_further_than_it_needs(chunk_size: Any) -> None:
    read = count()
    results = Pipeline([double], backend=SeveralAtOnce(3, chunk_size=chunk_size)).map_iter({"x": read}, "x")
    assert [next(results)["y"] for _ in range(1000)] == [2 * x for x in range(1000)]
    results.close()
    assert next(read) < 30_000


def test_map_iter_keeps_no_more_items_open_than_allowed() -> None:
    read: list[int] = []
    items = (read.append(x) or x for x in count())  # type: ignore[func-returns-value]
    backend = SeveralAtOnce(3, chunk_size=2, max_in_flight=5)
    results = Pipeline([double], backend=backend).map_iter({"x": items}, "x")
    for x in range(20):
        assert next(results) == {"y": 2 * x}
        assert len(read) <= x + 6
    results.close()


def test_map_iter_yields_in_the_order_of_completion_when_asked_to() -> None:
    proceed, numbers = threading.Event(), count()

    class FirstIsLast(SeveralAtOnce):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            if next(numbers) == 0:
                assert proceed.wait(60)
            return super().submit(job, channel)

    backend = FirstIsLast(2, chunk_size=1)
    results = Pipeline([double], backend=backend).map_iter({"x": range(5)}, "x", in_order=False)
    first = [next(results)["y"] for _ in range(4)]
    proceed.set()
    (last,) = results
    assert sorted([*first, last["y"]]) == [0, 2, 4, 6, 8]
    assert last["y"] in (0, 2), "one of the first two"


def test_results_before_an_error_are_yielded_first() -> None:
    found = []
    results = Pipeline([invert], backend=SeveralAtOnce(1, chunk_size=4)).map_iter({"x": [1, 2, 4, 5, 10, 0, 1]}, "x")
    with pytest.raises(ZeroDivisionError):
        found.extend(results)
    assert [each["inverse"] for each in found] == [1, 0.5, 0.25, 0.2, 0.1]


def test_inputs_of_different_lengths_are_found_after_the_results_before() -> None:
    @node(output_name="sum")
    def add(x: int, y: int) -> int:
        return x + y

    found = []
    results = Pipeline([add], backend=SeveralAtOnce(2)).map_iter({"x": iter([1, 2, 3]), "y": iter([1, 2])}, ["x", "y"])
    with pytest.raises(MapLengthError):
        found.extend(results)
    assert found == [{"sum": 2}, {"sum": 4}]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_is_told_that_an_open_iterator_is_its_parents(processes: SubprocessBackend) -> None:
    results = Pipeline([double], backend=processes).map_iter({"x": iter(range(10**6))}, "x")
    assert next(results) == {"y": 0}
    child = os.fork()
    if child == 0:
        status = 1
        try:
            list(results)
        except ExecutionError as error:
            status = 0 if "was forked while an iterator" in str(error) else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert next(results) == {"y": 2}
    results.close()


def test_without_a_thread_for_a_job_the_map_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pipeline = Pipeline([double], backend=SeveralAtOnce(2))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ExecutionError, match="no thread can be started"):
        pipeline.map({"x": range(5)}, "x")


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_nobody_waits_for_stops_between_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    is_over = threading.Event()

    class Given(SeveralAtOnce):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            return execute(job, channel.handle, fetch=self.fetch, should_stop=is_over.is_set)

    @node(output_name="y")
    def call(x: int) -> int:
        sys.begun(x)  # type: ignore[attr-defined]
        return x

    def begun(x: int) -> None:
        calls.append(x)
        if len(calls) == 3:
            is_over.set()
        if len(calls) > 3:
            time.sleep(0.05)  # so that few calls can be made before the next look

    monkeypatch.setattr(sys, "begun", begun, raising=False)
    with pytest.raises(CancelledError):
        Pipeline([call], backend=Given(1, chunk_size=1000)).map({"x": range(1000)}, "x")
    assert len(calls) < 100


def test_cancelling_ends_all_jobs() -> None:
    begun, ended = threading.Semaphore(0), threading.Semaphore(0)

    class Endless(SeveralAtOnce):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            is_over = threading.Event()
            channel.when_cancelled(is_over.set)
            begun.release()
            assert is_over.wait(60)
            ended.release()
            raise ConnectionError("the job was ended")

    async def cancel() -> None:
        pipeline = Pipeline([double], backend=Endless(3, chunk_size=1))
        task = asyncio.create_task(pipeline.amap({"x": range(10)}, "x"))
        for _ in range(3):
            await asyncio.to_thread(begun.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert all(ended.acquire(timeout=60) for _ in range(3))
    assert not begun.acquire(blocking=False)


def test_a_place_that_says_nothing_before_the_outcome_does_as_well() -> None:
    class SeveralSilent(Silent):
        jobs_at_once = 3

    observed = Recorder()
    assert doubled(SeveralSilent(), range(50), observed) == [2 * x for x in range(50)]
    assert len(observed.of("node_end")) == 50
