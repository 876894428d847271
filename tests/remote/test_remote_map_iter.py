"""Iterating over a map at a remote place: a chunk of items at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from hypernodes import Failure, MapInputError, MapLengthError, MemoryCache, Pipeline, node
from hypernodes.backend import SubprocessBackend
from hypernodes.remote import chunks
from tests.remote.transports import InProcess
from tests.support import Recorder


@node(output_name="inverse")
def invert(x: int) -> float:
    return 1 / x


@node(output_name="sum")
def add(x: int, y: int) -> int:
    return x + y


class Clock:
    """A clock that goes forward by a step each time it is looked at."""

    step_s = 0.0
    _now = 0.0

    def __call__(self) -> float:
        self._now += self.step_s
        return self._now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which chunks grow, in place of the real one: tests must not depend on how busy the machine is."""
    made = Clock()
    monkeypatch.setattr(chunks, "monotonic", made)
    return made


def test_a_remote_map_iter_reads_an_endless_input_as_far_as_results_are_taken(clock: Clock) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for x in itertools.count(1):
            read.append(x)
            yield x

    place = InProcess()
    results = Pipeline([invert], backend=place).map_iter({"x": numbers()}, "x")
    assert read == []
    assert next(results) == {"inverse": 1.0}
    assert len(read) == 8
    assert [next(results)["inverse"] for _ in range(8)] == [1 / x for x in range(2, 10)]
    assert len(place.jobs) == 2
    assert len(read) == 24


@pytest.mark.parametrize(("seconds_per_chunk", "sizes"), [(2.0, [8, 8, 8, 8]), (5.0, [8, 4, 2, 1, 1])])
def test_chunks_of_a_remote_map_iter_that_take_long_do_not_grow(
    clock: Clock, seconds_per_chunk: float, sizes: list[int]
) -> None:
    clock.step_s = seconds_per_chunk
    found, last = [], 0
    read = itertools.count(1)
    results = Pipeline([invert], backend=InProcess()).map_iter({"x": read}, "x")
    for size in sizes:
        assert [next(results)["inverse"] for _ in range(size)]
        last, before = next(read), last
        found.append(last - before - 1)
    assert found == sizes


def test_chunks_of_a_remote_map_iter_grow_and_events_are_those_of_one_map(clock: Clock) -> None:
    place, recorder = InProcess(), Recorder()
    pipeline = Pipeline([invert], backend=place, callbacks=[recorder])
    found = [result["inverse"] for result in pipeline.map_iter({"x": range(1, 1001)}, "x")]
    assert found == [1 / x for x in range(1, 1001)]
    assert len(place.jobs) < 10
    assert [event for event in recorder.events if event[0] in ("map_start", "map_end")] == [
        ("map_start", 1000),
        ("map_end",),
    ]
    assert [event[1] for event in recorder.events if event[0] == "map_item_start"] == list(range(1000))


def test_cached_items_of_a_remote_map_iter_are_not_sent_and_keep_their_index() -> None:
    place, recorder = InProcess(), Recorder()
    pipeline = Pipeline([invert], backend=place, cache=MemoryCache(), callbacks=[recorder])
    pipeline.map({"x": range(1, 40, 2)}, "x")
    place.jobs.clear()
    recorder.clear()
    found = [result["inverse"] for result in pipeline.map_iter({"x": range(1, 40)}, "x")]
    assert found == [1 / x for x in range(1, 40)]
    assert recorder.cached_items == list(range(0, 39, 2))
    assert [event[1] for event in recorder.events if event[0] == "map_item_start"] == list(range(1, 39, 2))
    place.jobs.clear()
    assert list(pipeline.map_iter({"x": range(1, 40)}, "x")) == [{"inverse": value} for value in found]
    assert place.jobs == []


def test_failures_in_a_remote_map_iter_are_collected_or_raised_with_their_index() -> None:
    pipeline = Pipeline([invert], backend=InProcess())
    values = [1] * 20 + [0, 2]
    found = [result["inverse"] for result in pipeline.map_iter({"x": values}, "x", on_error="collect")]
    assert isinstance(found[20], Failure)
    assert found[20].item_index == 20
    assert found[21] == 0.5
    recorder = Recorder()
    results = pipeline.with_callbacks([recorder]).map_iter({"x": values}, "x")
    with pytest.raises(ZeroDivisionError) as caught:
        list(results)
    assert "map item 20" in caught.value.__notes__[0]
    assert recorder.events[-1] == ("map_end",)


def test_a_remote_map_iter_takes_products_and_empty_inputs() -> None:
    pipeline = Pipeline([add], backend=InProcess())
    found = pipeline.map_iter({"x": [1, 2], "y": range(10, 30, 10)}, ["x", "y"], map_mode="product")
    assert list(found) == [{"sum": 11}, {"sum": 21}, {"sum": 12}, {"sum": 22}]
    assert list(pipeline.map_iter({"x": [], "y": 1}, "x")) == []


@pytest.mark.parametrize(
    ("inputs", "error"), [({"x": [1, 2], "y": [1]}, MapLengthError), ({"x": 1, "y": [1]}, MapInputError)]
)
def test_wrong_inputs_of_a_remote_map_iter_are_refused_before_anything_is_sent(
    inputs: Any, error: type[Exception]
) -> None:
    place = InProcess()
    with pytest.raises(error):
        next(Pipeline([add], backend=place).map_iter(inputs, ["x", "y"]))
    assert place.jobs == []


def test_inputs_of_a_remote_map_iter_that_turn_out_to_be_of_different_lengths_are_an_error() -> None:
    results = Pipeline([add], backend=InProcess()).map_iter({"x": iter([1, 2]), "y": iter([1])}, ["x", "y"])
    with pytest.raises(MapLengthError, match="ends after 1"):
        list(results)


def test_one_process_serves_all_chunks_of_a_remote_map_iter() -> None:
    @node(output_name="pid")
    def get_pid(x: int) -> int:
        import os

        return os.getpid()

    results = Pipeline([get_pid], backend=SubprocessBackend()).map_iter({"x": range(30)}, "x")
    assert len({result["pid"] for result in results}) == 1


def test_closing_a_remote_map_iter_ends_the_map() -> None:
    recorder = Recorder()
    results = Pipeline([invert], backend=InProcess(), callbacks=[recorder]).map_iter({"x": itertools.count(1)}, "x")
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert recorder.events[-1] == ("map_end",)
