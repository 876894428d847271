"""What has been computed is kept: as it was returned, soon, and whatever happens next."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from hypernodes import MISS, Cache, CallbackContext, LocalBackend, MemoryCache, Node, Pipeline, PipelineCallback, node
from hypernodes.cache.record import is_record_key
from hypernodes.engine import state as run_state
from tests.concurrency.kit import PATIENCE_S, Log
from tests.worker_processes.observe import wait_until


class PicklingCache(Cache):
    """A third party's cache, which keeps values as they are when they are put."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def get(self, key: str) -> Any:
        return pickle.loads(self.entries[key]) if key in self.entries else MISS

    def put(self, key: str, value: Any) -> None:
        self.entries[key] = pickle.dumps(value)

    def contains(self, key: str) -> bool:
        return key in self.entries

    def delete(self, key: str) -> None:
        self.entries.pop(key, None)

    def clear(self) -> None:
        self.entries.clear()


class PreparingCache(PicklingCache):
    """The same, with values that can wait to be put."""

    def prepare(self, value: Any) -> tuple[Any, bool]:
        return pickle.PickleBuffer(pickle.dumps(value)), True

    def put(self, key: str, value: Any) -> None:
        self.entries[key] = bytes(value) if type(value) is pickle.PickleBuffer else pickle.dumps(value)


@node(output_name="rows")
def load(n: int) -> list[int]:
    return list(range(n))


@node(output_name="last")
def take_last(rows: list[int]) -> int:
    return rows.pop()


@pytest.mark.parametrize("make_cache", [PicklingCache, PreparingCache])
def test_what_is_kept_is_what_was_returned_whatever_the_next_node_does_to_it(make_cache: Callable[[], Cache]) -> None:
    pipeline = Pipeline(nodes=[load, take_last], cache=make_cache())
    sizes = [3, 4, 5, 6, 7, 8, 5]
    assert pipeline.map({"n": sizes}, map_over="n", output_name="last") == {"last": [n - 1 for n in sizes]}
    assert pipeline.map({"n": sizes}, map_over="n", output_name="rows") == {"rows": [list(range(n)) for n in sizes]}


def test_a_result_that_is_about_to_be_kept_is_given_as_it_was_returned() -> None:
    """Two items compute the same list, and each of them changes it."""

    def take(rows: list[int], which: str) -> tuple[str, int]:
        return which, rows.pop()

    pipeline = Pipeline(nodes=[load, Node(take, output_name="taken")], cache=PreparingCache())
    for n in range(3, 30):
        found = pipeline.map({"n": n, "which": ["a", "b", "c"]}, map_over="which", output_name="taken")
        assert found == {"taken": [("a", n - 1), ("b", n - 1), ("c", n - 1)]}


def test_equal_elements_of_a_list_that_a_mapped_node_made_are_not_one_object() -> None:
    def change(lists: list[list[int]]) -> list[list[int]]:
        lists[0].append(-1)
        return lists

    mapped = Pipeline(nodes=[load]).as_node(map_over="n", output_mapping={"rows": "lists"})
    last = Node(change, output_name="changed", cache=False)
    pipeline = Pipeline(nodes=[mapped, last], cache=PicklingCache())
    for _ in range(2):
        assert pipeline.run({"n": [1, 1, 1]}, "changed") == {"changed": [[0, -1], [0], [0]]}


class InterruptedCache(MemoryCache):
    """The first time it is to keep something, Ctrl-C is pressed."""

    is_interrupted = False

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        if not self.is_interrupted:
            self.is_interrupted = True
            raise KeyboardInterrupt
        super().put_many(entries, labels)


def test_an_interrupt_while_something_is_being_kept_does_not_lose_it() -> None:
    cache = InterruptedCache()
    pipeline = Pipeline(nodes=[load], cache=cache)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run({"n": 3})
    assert len(cache) == 1


class Immediately(Executor):
    """Makes calls when they are submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class InterruptsAtTheFirstResult(PipelineCallback):
    is_first = True

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        if self.is_first:
            self.is_first = False
            raise KeyboardInterrupt


def test_results_that_are_there_when_the_run_is_interrupted_are_kept() -> None:
    cache = MemoryCache()
    backend = LocalBackend(map_execution="threaded", max_workers=4, executor=Immediately())
    pipeline = Pipeline(nodes=[load], cache=cache, backend=backend, callbacks=[InterruptsAtTheFirstResult()])
    with pytest.raises(KeyboardInterrupt):
        pipeline.map({"n": [1, 2, 3, 4, 5]}, map_over="n")
    assert len(cache) == 4


def test_a_result_is_kept_while_something_else_goes_on_for_long() -> None:
    cache = MemoryCache()

    @node(output_name="quick")
    def give(x: int) -> int:
        return x

    def wait(x: int) -> bool:
        return wait_until(lambda: len(cache) > 0, PATIENCE_S)

    long = Node(wait, output_name="was_kept", cache=False)
    backend = LocalBackend(node_execution="threaded", max_workers=2)
    pipeline = Pipeline(nodes=[give, long], cache=cache, backend=backend)
    assert pipeline.run({"x": 1}) == {"quick": 1, "was_kept": True}


class CountingCache(MemoryCache):
    """A cache that nodes may look at."""

    results = 0

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        self.results += sum(not is_record_key(key) for key in entries)
        super().put_many(entries, labels)

    def __cache_key__(self) -> str:
        return "a cache"


@pytest.mark.parametrize("callbacks", [[], [PipelineCallback()]], ids=["unobserved", "observed"])
def test_a_result_that_took_long_is_kept_before_a_call_that_is_quick_as_a_rule(
    callbacks: list[PipelineCallback],
) -> None:
    """Or it would be lost with the process if that call, for once, does not end."""
    cache = CountingCache()
    kept = Log[int]()

    def work(x: int) -> int:
        end = time.perf_counter() + (0.03 if x == 3 else 0)
        while time.perf_counter() < end:
            pass
        return x

    def look(y: int) -> int:
        kept.append(cache.results)
        return y

    pipeline = Pipeline(nodes=[Node(work, "y"), Node(look, "z")], cache=cache, callbacks=callbacks)
    pipeline.map({"x": [0, 1, 2, 3]}, map_over="x")
    assert kept[3] == 7  # two results of each item before, and what took long


def test_a_nested_pipeline_on_a_backend_of_its_own_finds_what_was_just_computed() -> None:
    calls = Log[int]()

    def square(x: int) -> int:
        calls.append(x)
        return x * x

    inner = Pipeline(nodes=[Node(square, output_name="y")], backend=LocalBackend(node_execution="threaded"))
    nested = inner.as_node(input_mapping={"around": "x"}, output_mapping={"y": "z"})

    @node(output_name="around", cache=False)
    def pass_on(y: int, x: int) -> int:
        return x

    pipeline = Pipeline(nodes=[Node(square, output_name="y"), pass_on, nested], cache=MemoryCache())
    items = list(range(5))
    assert pipeline.map({"x": items}, map_over="x", output_name="z") == {"z": [x * x for x in items]}
    assert calls == items


@pytest.mark.parametrize("modes", [("sequential", "sequential"), ("sequential", "threaded")], ids="-".join)
def test_the_same_item_again_after_more_results_than_are_remembered_is_not_computed_again(
    modes: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many items are looked up ahead, the second of two equal ones before the first was computed."""
    monkeypatch.setattr(run_state, "_RECENT", 4)
    calls = Log[int]()

    def square(x: int) -> int:
        calls.append(x)
        return x * x

    backend = LocalBackend(*modes, max_workers=1)
    pipeline = Pipeline(nodes=[Node(square, output_name="y")], cache=MemoryCache(), backend=backend)
    items = [*range(100), *range(20, 100)]
    assert pipeline.map({"x": items}, map_over="x") == {"y": [x * x for x in items]}
    assert sorted(calls) == list(range(100))


def test_results_of_a_chunk_from_a_worker_process_are_stored_together() -> None:
    class CountingCache(MemoryCache):
        writes = 0

        def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
            self.writes += 1
            super().put_many(entries, labels)

    cache = CountingCache()
    backend = LocalBackend(map_execution="parallel", max_workers=2)
    pipeline = Pipeline(nodes=[Node(lambda x: 2 * x, output_name="y")], cache=cache, backend=backend)
    assert pipeline.map(inputs={"x": range(2000)}, map_over="x")["y"] == list(range(0, 4000, 2))
    assert len(cache) == 2000
    assert cache.writes < 2000 / 4
