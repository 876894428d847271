"""Results handed out one by one while the map goes on, from inputs that are read as needed."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hypernodes import (
    Failure,
    LocalBackend,
    MapInputError,
    MapLengthError,
    MemoryCache,
    MissingInputError,
    Pipeline,
    UnknownInputError,
    node,
)
from hypernodes.engine import ExecutionMode
from tests.concurrency.kit import CONCURRENT, MODES, PATIENCE_S, Gate, Modes, guarded, run_threads
from tests.support import Recorder, run_python

CONCURRENT_MODES: list[Modes] = [("async", "async"), ("threaded", "threaded")]


@node(output_name="y")
def double(x: int, k: int = 2) -> int:
    if x == 113:  # far from where the tests of windows read
        raise LookupError(x)
    return k * x


@node(output_name="z")
async def show(y: int) -> str:
    return str(y)


pipeline = Pipeline(nodes=[double, show], name="shown")


@pytest.fixture(autouse=True)
def no_threads_of_other_tests() -> Iterator[None]:
    yield
    for thread in run_threads():
        thread.join(PATIENCE_S)


class Source:
    """A generator of 0, 1, 2, …

    Attributes:
        read: How many values have been taken from it.
        is_closed: Whether it was told that nobody wants more.
    """

    def __init__(self, stop: int | None = None) -> None:
        self.read = 0
        self.is_closed = False
        self._stop = stop

    def values(self) -> Iterator[int]:
        try:
            for value in itertools.count() if self._stop is None else range(self._stop):
                self.read += 1
                yield value
        finally:
            self.is_closed = True


# --- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("modes", MODES)
def test_every_item_is_yielded_once_with_all_outputs_by_name(modes: Modes, in_order: bool) -> None:
    backend = LocalBackend(*modes, max_workers=3)
    found = list(pipeline.with_backend(backend).map_iter({"x": iter(range(12)), "k": 3}, "x", in_order=in_order))
    expected = [{"y": 3 * x, "z": str(3 * x)} for x in range(12)]
    assert (found if in_order else sorted(found, key=lambda row: row["y"])) == expected


@pytest.mark.parametrize("map_execution", CONCURRENT)
def test_results_come_in_item_order_though_the_first_item_ends_last(map_execution: ExecutionMode) -> None:
    others_are_done = threading.Barrier(4)

    @node(output_name="y")
    def end_late(x: int) -> int:
        if x < 4:
            others_are_done.wait(10)
        return x

    stream = Pipeline(nodes=[end_late], backend=LocalBackend(map_execution=map_execution, max_workers=4))
    assert [found["y"] for found in stream.map_iter({"x": range(9)}, "x")] == list(range(9))


@pytest.mark.parametrize("map_execution", CONCURRENT)
def test_results_come_as_they_are_done_when_order_does_not_matter(map_execution: ExecutionMode) -> None:
    """The first item ends only after the caller has seen the second."""
    was_seen = Gate()

    @node(output_name="y")
    def be_late(x: int) -> int:
        if x == 0:
            was_seen.pass_through()
        return x

    stream = Pipeline(nodes=[be_late], backend=LocalBackend(map_execution=map_execution, max_workers=2)).map_iter(
        {"x": [0, 1]}, "x", in_order=False
    )
    assert next(stream) == {"y": 1}
    was_seen.set()
    assert list(stream) == [{"y": 0}]


@pytest.mark.parametrize("modes", MODES)
def test_map_iter_gives_every_combination_of_a_product(modes: Modes) -> None:
    stream = pipeline.with_backend(LocalBackend(*modes, max_workers=2)).map_iter(
        {"x": iter([1, 2]), "k": iter([10, 100])}, ["x", "k"], map_mode="product", output_name="y"
    )
    assert list(stream) == [{"y": 10}, {"y": 100}, {"y": 20}, {"y": 200}]


def test_map_iter_over_no_items_gives_no_results() -> None:
    assert list(pipeline.map_iter({"x": iter(())}, "x")) == []


def test_an_item_of_a_stream_may_contain_a_stream_of_its_own() -> None:
    @node(output_name="sum")
    def add_up(n: int) -> int:
        return sum(found["y"] for found in pipeline.map_iter({"x": range(n)}, "x"))

    outer = Pipeline(nodes=[add_up], backend=LocalBackend(map_execution="threaded", max_workers=2))
    assert [found["sum"] for found in outer.map_iter({"n": range(4)}, "n")] == [0, 0, 2, 6]


def test_two_streams_can_be_read_in_turns() -> None:
    backend = LocalBackend(map_execution="threaded", max_workers=2)
    left, right = (pipeline.with_backend(backend).map_iter({"x": range(6)}, "x", output_name="y") for _ in range(2))
    assert list(zip(left, right, strict=True)) == [({"y": 2 * x}, {"y": 2 * x}) for x in range(6)]


# --- a bounded window ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("modes", MODES)
def test_map_iter_reads_inputs_as_needed(modes: Modes, in_order: bool) -> None:
    source = Source()
    stream = pipeline.with_backend(LocalBackend(*modes, max_workers=2)).map_iter(
        {"x": source.values()}, "x", in_order=in_order
    )
    assert source.read == 0
    for number in range(1, 11):
        next(stream)
        assert source.read <= number + 14
    stream.close()


def test_a_sequential_map_iter_reads_no_more_than_it_yields() -> None:
    source = Source()
    stream = pipeline.map_iter({"x": source.values()}, "x")
    for number in range(1, 11):
        next(stream)
        assert source.read == number


@pytest.mark.parametrize("map_execution", CONCURRENT)
def test_a_slow_first_item_does_not_let_the_others_pile_up(map_execution: ExecutionMode) -> None:
    source, release = Source(), Gate()
    enough = Gate()

    @node(output_name="y")
    def hold_up(x: int) -> int:
        if x == 0:
            release.pass_through()
        if x == 5:
            enough.set()
        return x

    backend = LocalBackend(map_execution=map_execution, max_workers=2)
    stream = Pipeline(nodes=[hold_up], backend=backend).map_iter({"x": source.values()}, "x")

    def let_go() -> None:
        enough.pass_through()
        time.sleep(0.03)  # for what should not be: a window without bounds would go on reading
        release.set()

    helper = threading.Thread(target=let_go)
    helper.start()
    assert next(stream) == {"y": 0}
    helper.join()
    assert source.read <= 20
    stream.close()


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_observed", [False, True])
def test_a_source_may_depend_on_the_results_before_it(modes: Modes, is_observed: bool) -> None:
    """A crawl: with one worker, a value is read only when all results before it have been taken."""
    links = {page: [2 * page, 2 * page + 1] if page < 8 else [] for page in range(1, 16)}
    to_visit = deque([1])

    @node(output_name="found")
    def fetch(page: int) -> list[int]:
        return links[page]

    def pages() -> Iterator[int]:
        while to_visit:
            yield to_visit.popleft()

    backend = LocalBackend(*modes, max_workers=1)
    crawl = Pipeline(nodes=[fetch], backend=backend, callbacks=[Recorder()] if is_observed else [])
    visited = 0
    for result in crawl.map_iter({"page": pages()}, "page"):
        visited += 1
        to_visit.extend(result["found"])
    assert visited == 15


@pytest.mark.parametrize("modes", [(n, m) for n, m in MODES if m != "sequential"])
def test_values_that_have_been_read_are_computed_while_the_source_is_slow(modes: Modes) -> None:
    is_computed = Gate()

    @node(output_name="y")
    def compute(x: int) -> int:
        is_computed.set()
        return x

    def slow_source() -> Iterator[int]:
        yield 0
        is_computed.pass_through()
        yield 1

    stream = Pipeline(nodes=[compute], backend=LocalBackend(*modes, max_workers=4)).map_iter({"x": slow_source()}, "x")
    assert [found["y"] for found in stream] == [0, 1]


@pytest.mark.parametrize("modes", [(n, m) for n, m in MODES if m != "sequential"])
@pytest.mark.parametrize("kind", [list, iter])
def test_results_are_handed_out_while_the_next_item_is_computed(modes: Modes, kind: Callable[[Any], Any]) -> None:
    release = Gate()

    @node(output_name="y")
    def hold_up_the_second(x: int) -> int:
        if x == 1:
            release.pass_through()
        return x

    backend = LocalBackend(*modes, max_workers=1)
    stream = Pipeline(nodes=[hold_up_the_second], backend=backend).map_iter({"x": kind(range(6))}, "x")
    assert next(stream) == {"y": 0}
    release.set()
    assert [found["y"] for found in stream] == [1, 2, 3, 4, 5]


MEASURE = """if True:
    import resource, sys
    from hypernodes import LocalBackend, Pipeline, node

    @node(output_name="y")
    def increment(x):
        return x + 1

    count = int(sys.argv[2])
    stream = Pipeline(nodes=[increment], backend=LocalBackend(map_execution=sys.argv[1], max_workers=2))
    sum(found["y"] for found in stream.map_iter({"x": range(10)}, "x"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = sum(found["y"] for found in stream.map_iter({"x": (x for x in range(count))}, "x"))
    assert total == count * (count + 1) // 2
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
KIB_PER_UNIT = 1  # of ru_maxrss on Linux


@pytest.mark.parametrize(("map_execution", "count"), [("sequential", 100_000), ("threaded", 10_000)])
def test_a_long_stream_needs_little_memory(map_execution: str, count: int) -> None:
    """A million items within 200 MB; here fewer, with as much less room."""
    grown_kib = int(run_python("-c", MEASURE, map_execution, str(count))) * KIB_PER_UNIT
    assert grown_kib < max(200_000 * count / 1_000_000, 5_000)


def test_results_that_were_taken_are_not_held() -> None:
    class Result:
        alive = 0

        def __init__(self) -> None:
            Result.alive += 1

        def __del__(self) -> None:
            Result.alive -= 1

    @node(output_name="y", cache=False)
    def make(x: int) -> Result:
        return Result()

    backend = LocalBackend(map_execution="threaded", max_workers=2)
    stream = Pipeline(nodes=[make], backend=backend, cache=MemoryCache()).map_iter({"x": range(200)}, "x")
    for _ in range(150):
        next(stream)
    gc.collect()
    assert Result.alive <= 14
    stream.close()


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
def test_a_failure_comes_after_the_results_before_it(modes: Modes) -> None:
    backend = LocalBackend(*modes, max_workers=1)
    stream = pipeline.with_backend(backend).map_iter({"x": itertools.count(110)}, "x", output_name="y")
    assert [next(stream)["y"] for _ in range(3)] == [220, 222, 224]
    with pytest.raises(LookupError, match="113") as caught:
        next(stream)
    assert "map item 3" in caught.value.__notes__[0]
    assert next(stream, "over") == "over"
    assert run_threads() == []


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("modes", MODES)
def test_a_stream_that_collects_goes_on(modes: Modes, in_order: bool) -> None:
    backend = LocalBackend(*modes, max_workers=2)
    stream = pipeline.with_backend(backend).map_iter({"x": range(100, 120)}, "x", on_error="collect", in_order=in_order)
    found = list(stream)
    (failed,) = [row for row in found if isinstance(row["y"], Failure)]
    assert failed["y"] is failed["z"]
    assert failed["y"].item_index == 13
    assert len(found) == 20


@pytest.mark.parametrize("modes", [("sequential", "sequential"), *CONCURRENT_MODES])
def test_an_error_of_the_generator_surfaces(modes: Modes) -> None:
    def give_up() -> Iterator[int]:
        yield from range(3)
        raise OSError("no more")

    stream = pipeline.with_backend(LocalBackend(*modes)).map_iter({"x": give_up()}, "x")
    with pytest.raises(OSError, match="no more"):
        list(stream)
    assert run_threads() == []


@pytest.mark.parametrize("modes", [("sequential", "sequential"), ("async", "async"), ("threaded", "threaded")])
@pytest.mark.parametrize(("first", "second"), [(3, 5), (5, 3), (0, 1)])
def test_generators_of_different_lengths_are_refused_when_it_shows(modes: Modes, first: int, second: int) -> None:
    stream = pipeline.with_backend(LocalBackend(*modes)).map_iter(
        {"x": iter(range(first)), "k": iter(range(second))}, ["x", "k"]
    )
    with pytest.raises(MapLengthError, match=f"one of them ends after {min(first, second)} values"):
        list(stream)


@pytest.mark.parametrize(
    "modes", [*MODES, pytest.param(("sequential", "parallel"), marks=pytest.mark.slow)], ids="-".join
)
@pytest.mark.parametrize("in_order", [True, False])
def test_a_failed_input_is_raised_and_never_a_result(modes: Modes, in_order: bool) -> None:
    """As from a map that collected failures."""
    failed = Failure(LookupError("upstream"), "", 1, ("upstream",))
    stream = Pipeline(nodes=[double], backend=LocalBackend(*modes, max_workers=1)).map_iter(
        {"x": (x for x in [0, failed, 2])}, "x", in_order=in_order
    )
    found = []
    with pytest.raises(LookupError, match="upstream"):
        found += iter(stream)
    assert found in ([], [{"y": 0}])
    collected = Pipeline(nodes=[double], backend=LocalBackend(*modes, max_workers=1)).map_iter(
        {"x": [0, failed, 2]}, "x", on_error="collect"
    )
    assert list(collected) == [{"y": 0}, {"y": failed}, {"y": 4}]


def test_lists_of_different_lengths_are_refused_before_anything_runs() -> None:
    with pytest.raises(MapLengthError, match="'x' has 2, 'k' has 1"):
        pipeline.map_iter({"x": [1, 2], "k": [1]}, ["x", "k"])


def test_wrong_inputs_are_refused_before_anything_is_read() -> None:
    source = Source()
    with pytest.raises(MissingInputError):
        Pipeline(nodes=[node("y")(lambda x, w: x)]).map_iter({"x": source.values()}, "x")
    with pytest.raises(UnknownInputError):
        pipeline.map_iter({"x": source.values(), "nonsense": 1}, "x")
    with pytest.raises(MapInputError):
        pipeline.map_iter({"x": "text"}, "x")
    with pytest.raises(MapInputError):
        pipeline.map_iter({"x": 5}, "x")
    assert source.read == 0


# --- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
def test_what_a_stream_computed_is_cached_even_if_nobody_reads_on(modes: Modes) -> None:
    recorder = Recorder()
    cached = Pipeline(
        nodes=[double], backend=LocalBackend(*modes, max_workers=2), cache=MemoryCache(), callbacks=[recorder]
    )
    stream = cached.map_iter({"x": itertools.count()}, "x")
    for _ in range(3):
        next(stream)
    stream.close()
    recorder.clear()
    assert guarded(lambda: list(cached.map_iter({"x": range(3)}, "x"))) == [{"y": 0}, {"y": 2}, {"y": 4}]
    assert recorder.computed == []
    assert recorder.cached_items == [0, 1, 2]


def test_the_number_of_items_is_announced_when_it_is_known() -> None:
    recorder = Recorder()
    observed = pipeline.with_callbacks([recorder])
    list(observed.map_iter({"x": [1, 2]}, "x"))
    list(observed.map_iter({"x": iter([1, 2])}, "x"))
    found: list[Any] = [event for event in recorder.events if event[0] == "map_start"]
    assert found[0] == ("map_start", 2)
    assert found[1][1] in (-1, None)
