"""Generator functions whose elements a mapped pipeline takes one by one, while they are yielded."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import product
from typing import Any

import pytest

from hypernodes import (
    CallbackContext,
    ConfigurationError,
    InvalidNodeError,
    LocalBackend,
    MemoryCache,
    Node,
    Pipeline,
    failures,
    node,
)
from hypernodes.engine import ExecutionMode
from hypernodes.engine.drivers.concurrent import streamed_calls
from hypernodes.engine.workers.threads import DaemonThreads
from tests.concurrency.kit import NAMES, PATIENCE_S, ROADS, Gate, Log, cancel_when, guarded, ways_of
from tests.support import Recorder, notes_of

MODES = list(product(NAMES, NAMES))


def encoding(function: Any = None, **options: Any) -> Any:
    """Return a mapped pipeline that doubles each element."""
    one = Node(function or (lambda element: 2 * element), "code", **options)
    return Pipeline(nodes=[one], name="encoding").as_node(
        {"elements": "element"}, {"code": "codes"}, map_over="elements"
    )


@node(output_name="count")
def count(codes: list[int], elements: list[int]) -> tuple[int, int]:
    return len(codes), len(elements)


@pytest.mark.parametrize("modes", MODES, ids="-".join)
@pytest.mark.parametrize("road", ROADS)
def test_a_mapped_pipeline_starts_while_elements_are_still_yielded(
    modes: tuple[ExecutionMode, ExecutionMode], road: str
) -> None:
    gate = Gate()

    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield 0
        gate.pass_through()
        yield from range(1, size)

    def encode(element: int) -> int:
        gate.set()
        return 2 * element

    backend = LocalBackend(node_execution=modes[0], map_execution=modes[1])
    pipeline = ways_of(Pipeline(nodes=[load, encoding(encode), count], backend=backend), road)
    expected = {"elements": list(range(30)), "codes": list(range(0, 60, 2)), "count": (30, 30)}
    assert guarded(lambda: pipeline.run(inputs={"size": 30})) == expected
    assert pipeline.run(inputs={"size": 30}, output_name="codes") == {"codes": expected["codes"]}
    assert pipeline.run(inputs={"size": 1}) == {"elements": [0], "codes": [0], "count": (1, 1)}


@pytest.mark.parametrize("name", [*NAMES, "parallel"])
@pytest.mark.parametrize("is_batched", [False, True], ids=["single", "batched"])
def test_streams_in_every_mode_inside_the_items_of_a_map(name: ExecutionMode, is_batched: bool) -> None:
    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield from range(size)

    def encode(element: Any) -> Any:
        return [2 * one for one in element] if is_batched else 2 * element

    options: dict[str, Any] = {"batch_over": "element", "batch_size": 4} if is_batched else {}
    backend = LocalBackend(node_execution=name, map_execution=name, max_workers=2) if name != "sequential" else None
    pipeline = Pipeline(nodes=[load, encoding(encode, **options), count], backend=backend)
    sizes = [3, 0, 11, 1]
    found = pipeline.map(inputs={"size": sizes}, map_over="size")
    assert found["codes"] == [list(range(0, 2 * size, 2)) for size in sizes]
    assert found["count"] == [(size, size) for size in sizes]
    assert pipeline.run(inputs={"size": 0}) == {"elements": [], "codes": [], "count": (0, 0)}


@pytest.mark.parametrize("name", NAMES)
def test_no_more_elements_are_made_than_can_be_taken(name: ExecutionMode) -> None:
    made, taken, ahead = Log[int](), Log[int](), Log[int]()

    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        for element in range(size):
            made.append(element)
            yield element

    def encode(element: int) -> int:
        ahead.append(len(made) - len(taken))
        taken.append(element)
        return element

    pipeline = Pipeline(nodes=[load, encoding(encode)], backend=LocalBackend(map_execution=name, max_in_flight=5))
    assert pipeline.run(inputs={"size": 200})["codes"] == list(range(200))
    assert max(ahead) <= (1 if name == "sequential" else 5 + 5 + 1)


@pytest.mark.parametrize("name", NAMES)
def test_one_worker_is_enough(name: ExecutionMode) -> None:
    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield from range(size)

    backend = LocalBackend(node_execution=name, map_execution=name, max_workers=1)
    pipeline = Pipeline(nodes=[load, encoding(), count], backend=backend)
    assert guarded(lambda: pipeline.run(inputs={"size": 100}))["count"] == (100, 100)


@pytest.mark.parametrize("name", NAMES)
def test_two_mapped_pipelines_both_get_every_element(name: ExecutionMode) -> None:
    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield from range(size)

    other = Pipeline(nodes=[Node(lambda element, k: element + k, "sum")]).as_node(
        {"elements": "element", "late": "k"}, {"sum": "sums"}, map_over="elements"
    )
    late = Node(lambda size: 100, "late")
    backend = LocalBackend(node_execution=name, map_execution=name)
    pipeline = Pipeline(nodes=[load, encoding(), late, other], backend=backend)
    found = guarded(lambda: pipeline.run(inputs={"size": 50}))
    assert found["codes"] == list(range(0, 100, 2))
    assert found["sums"] == list(range(100, 150))


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_stays_in_one_thread(name: ExecutionMode) -> None:
    threads = Log[int]()

    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        for element in range(size):
            threads.append(threading.get_ident())
            yield element

    pipeline = Pipeline(nodes=[load, encoding()], backend=LocalBackend(map_execution=name, max_workers=2))
    pipeline.run(inputs={"size": 100})
    assert len(set(threads)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_results_of_items_are_stored_as_they_come_and_the_list_when_it_ends(name: ExecutionMode) -> None:
    encoded, is_broken, reached = Log[int](), [True], Gate()

    class Breaking:
        def __cache_key__(self) -> str:
            return "breaking"

        def __call__(self) -> None:
            if is_broken[0]:
                reached.pass_through()
                raise ConnectionError("the source is gone")

    def load(breaking: Any) -> Iterator[int]:
        yield from range(3)
        breaking()
        yield 3

    def encode(element: int) -> int:
        encoded.append(element)
        if len(encoded) == 3:
            reached.set()
        return 2 * element

    backend = LocalBackend(map_execution=name)
    nodes = [Node(load, "elements", each=True), encoding(encode)]
    pipeline = Pipeline(nodes=nodes, cache=MemoryCache(), backend=backend)
    with pytest.raises(ConnectionError) as caught:
        guarded(lambda: pipeline.run(inputs={"breaking": Breaking()}))
    assert "in node 'load'" in notes_of(caught.value)[0]
    is_broken[0] = False
    encoded.clear()
    found = pipeline.run(inputs={"breaking": Breaking()})
    assert found == {"elements": [0, 1, 2, 3], "codes": [0, 2, 4, 6]}
    assert encoded == [3]
    encoded.clear()
    assert pipeline.run(inputs={"breaking": Breaking()}) == found
    assert not encoded


@pytest.mark.parametrize("name", NAMES)
def test_events_end_when_a_generator_or_an_item_fails(name: ExecutionMode) -> None:
    closed = Log[str]()

    @node(output_name="elements", each=True)
    def load(bad: str) -> Iterator[int]:
        try:
            yield 1
            yield 2
            if bad == "generator":
                raise ValueError("generator")
            yield 3
            yield from range(4, 1000)
        finally:
            closed.append(bad)

    def encode(element: int, bad: str) -> int:
        if bad == "item" and element == 2:
            raise ValueError("item")
        return element

    for bad in ("generator", "item"):
        recorder = Recorder()
        backend = LocalBackend(map_execution=name)
        pipeline = Pipeline(nodes=[load, encoding(encode)], backend=backend, callbacks=[recorder])
        with pytest.raises(ValueError, match=bad) as caught:
            guarded(lambda bad=bad, pipeline=pipeline: pipeline.run(inputs={"bad": bad}))  # type: ignore[misc]
        assert f"in node {'load' if bad == 'generator' else 'encode'!r}" in notes_of(caught.value)[0]
        hooks = [event[0] for event in recorder.events]
        assert hooks.count("node_start") == hooks.count("node_end") + hooks.count("error")
        assert hooks.count("map_item_start") == hooks.count("map_item_end")
        assert hooks.count("map_start") == hooks.count("map_end") == 1
        assert hooks.count("nested_start") == hooks.count("nested_end") == 1
        assert bad in closed


@pytest.mark.parametrize("name", NAMES)
def test_failed_items_are_collected_and_a_failing_generator_is_none_of_them(name: ExecutionMode) -> None:
    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield from range(size)
        if size > 5:
            raise ValueError("too many")

    def invert(element: int) -> float:
        return 1 / element

    one = Pipeline(nodes=[Node(invert, "code")])
    mapped = one.as_node({"elements": "element"}, {"code": "codes"}, map_over="elements", on_error="collect")
    pipeline = Pipeline(nodes=[load, mapped], backend=LocalBackend(map_execution=name))
    found = pipeline.run(inputs={"size": 3})
    assert [failure.item_index for failure in failures(found)] == [0]
    with pytest.raises(ValueError, match="too many"):
        pipeline.run(inputs={"size": 6})


@pytest.mark.parametrize("name", NAMES)
def test_a_cancelled_run_ends_its_generator(name: ExecutionMode) -> None:
    begun, closed = Gate(), Gate()

    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        try:
            yield from range(size)
        finally:
            closed.set()

    def encode(element: int) -> int:
        begun.set()
        return element

    pipeline = Pipeline(nodes=[load, encoding(encode)], backend=LocalBackend(map_execution=name))
    cancel_when(begun, lambda: pipeline.arun(inputs={"size": 10**9}))
    closed.pass_through()


@pytest.mark.parametrize("name", NAMES)
def test_a_list_is_stored_as_it_was_yielded_although_its_consumer_changes_the_elements(name: ExecutionMode) -> None:
    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[list[Any]]:
        for number in range(size):
            yield [number, {"deep": [number]}]

    def change(element: list[Any], factor: int) -> int:
        element.append(100)
        element[1]["deep"].append(100)
        return factor * (len(element) + len(element[1]["deep"]))

    encode = Pipeline(nodes=[Node(change, "code")], name="encoding").as_node(
        {"elements": "element"}, {"code": "codes"}, map_over="elements"
    )
    backend = LocalBackend(map_execution=name, max_workers=2)
    pipeline = Pipeline(nodes=[load, encode], cache=MemoryCache(), backend=backend)
    for factor in (1, 1, 2):
        assert pipeline.run(inputs={"size": 20, "factor": factor}, output_name="codes") == {"codes": [5 * factor] * 20}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("max_in_flight", [1, 3, 9])
def test_a_batch_does_not_wait_for_elements_that_wait_for_it(name: ExecutionMode, max_in_flight: int) -> None:
    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield from range(size)

    def double_all(element: list[int]) -> list[int]:
        return [2 * one for one in element]

    backend = LocalBackend(map_execution=name, max_workers=2, max_in_flight=max_in_flight)
    mapped = encoding(double_all, batch_over="element", batch_size=8)
    pipeline = Pipeline(nodes=[load, mapped], backend=backend)
    codes = list(range(0, 40, 2))
    assert guarded(lambda: pipeline.run(inputs={"size": 20}, output_name="codes")) == {"codes": codes}
    twice = guarded(lambda: pipeline.map(inputs={"size": [20, 0, 20]}, map_over="size", output_name="codes"))
    assert twice == {"codes": [codes, [], codes]}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_generator_is_closed_in_its_own_thread_and_hides_no_error(name: ExecutionMode, is_interrupted: bool) -> None:
    threads, closed = Log[int](), Gate()

    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        threads.append(threading.get_ident())
        try:
            yield from range(size)
        finally:
            threads.append(threading.get_ident())
            closed.set()
            raise RuntimeError("not closed properly")

    def encode(element: int) -> int:
        if element == 3:
            raise KeyboardInterrupt if is_interrupted else KeyError("the item's error")
        return element

    backend = LocalBackend(map_execution=name, max_workers=2)
    pipeline = Pipeline(nodes=[load, encoding(encode)], backend=backend)
    with pytest.raises(KeyboardInterrupt if is_interrupted else KeyError) as caught:
        guarded(lambda: pipeline.run(inputs={"size": 10**9}))
    closed.pass_through()
    assert len(set(threads)) == 1
    if not is_interrupted:
        assert "in node 'encode'" in notes_of(caught.value)[0]


def test_the_thread_of_a_generator_closes_it_after_what_it_is_doing() -> None:
    gate, threads = Gate(), Log[int]()
    executor = DaemonThreads("one", most=1)

    def work() -> None:
        gate.pass_through()
        threads.append(threading.get_ident())

    calls = [executor.submit(work) for _ in range(3)]
    executor.shutdown(wait=False)
    gate.set()
    assert [call.result(PATIENCE_S) for call in calls] == [None] * 3
    assert len(threads) == 3
    assert len(set(threads)) == 1


@pytest.mark.parametrize("name", ["sequential", "async", "threaded"])
def test_an_item_whose_elements_came_first_is_finished_first(name: ExecutionMode) -> None:
    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield from range(size)

    backend = LocalBackend(map_execution=name, max_workers=2)
    pipeline = Pipeline(nodes=[load, encoding()], backend=backend)
    endless = pipeline.map_iter(inputs={"size": [50, 10**9]}, map_over="size", output_name="codes")
    assert guarded(lambda: next(endless)) == {"codes": list(range(0, 100, 2))}
    endless.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_items_is_not_known_while_they_come(name: ExecutionMode) -> None:
    totals: list[int] = []

    class Watch(Recorder):
        def on_map_start(self, total_items: int | None, ctx: CallbackContext) -> None:
            totals.append(-2 if total_items is None else total_items)

    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield from range(size)

    pipeline = Pipeline(nodes=[load, encoding()], backend=LocalBackend(map_execution=name), callbacks=[Watch()])
    pipeline.run(inputs={"size": 3})
    assert totals == [-1]


def test_what_cannot_be_streamed_is_collected() -> None:
    """Pipelines that map over several lists, or are skipped, or need another list, get complete ones."""

    @node(output_name="elements", each=True)
    def load(size: int) -> Iterator[int]:
        yield from range(size)

    product = encoding().pipeline.as_node(
        {"elements": "element"}, {"code": "codes"}, map_over="elements", map_mode="product"
    )
    assert Pipeline(nodes=[load, product]).run(inputs={"size": 2})["codes"] == [0, 2]
    pairs = Pipeline(nodes=[Node(lambda element, other: element + other, "code")]).as_node(
        {"elements": "element", "others": "other"}, {"code": "codes"}, map_over=["elements", "others"]
    )
    assert Pipeline(nodes=[load, pairs]).run(inputs={"size": 2, "others": [5, 6]})["codes"] == [5, 7]
    maybe = Pipeline(nodes=[Node(lambda element: element, "code")]).as_node(
        {"elements": "element"}, {"code": "codes"}, map_over="elements", when="is_wanted"
    )
    assert Pipeline(nodes=[load, maybe]).run(inputs={"size": 2, "is_wanted": True})["codes"] == [0, 1]
    assert list(load(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "kind", "problem"),
    [
        ({"each": 1}, ConfigurationError, "each of node 'f' must be True or False; got 1"),
        ({"each": True, "retries": 1}, ConfigurationError, "it cannot have retries, a timeout or limits as well"),
        ({"each": True, "timeout": 1}, ConfigurationError, "it cannot have retries, a timeout or limits as well"),
        ({"each": True, "max_concurrency": 1}, ConfigurationError, "cannot have retries, a timeout or limits as well"),
        ({"each": True, "batch_over": "x"}, InvalidNodeError, "yields its results"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], kind: type[Exception], problem: str) -> None:
    def f(x: int) -> Iterator[int]:
        yield x

    with pytest.raises(kind, match=problem):
        Node(f, "y", **options)
    with pytest.raises(InvalidNodeError, match="has each=True and several outputs"):
        Node(f, ("y", "z"), each=True)
    with pytest.raises(InvalidNodeError, match="has each=True, but its function does not yield"):
        Node(lambda x: [x], "y", name="g", each=True)


def test_a_generator_that_was_about_to_go_on_is_closed_before_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, parts, closed = threading.Event(), itertools.count(1), Log[str]()

    class Held(DaemonThreads):
        """Threads in which the second part of a generator's work does not begin."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if getattr(args[0], "__name__", "") == "_make_elements" and next(parts) == 2:
                goes_on.set()
                return Future[Any]()
            return super().submit(fn, *args, **kwargs)

    @node(output_name="elements", each=True)
    def load(x: int) -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            time.sleep(0.1)  # without which it might be closed in time, although nobody waits for it
            closed.append("closed")

    def encode(element: int) -> int:
        if element == 2:
            assert goes_on.wait(60)
            raise ValueError(element)
        return element

    monkeypatch.setattr(streamed_calls, "DaemonThreads", Held)
    pipeline = Pipeline(nodes=[load, encoding(encode)], backend=LocalBackend(map_execution="threaded", max_workers=4))
    with pytest.raises(ValueError, match="2"):
        guarded(lambda: pipeline.run(inputs={"x": 1}))
    assert closed == ["closed"]
