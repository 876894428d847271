"""What starts when, and how much at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from subprocess import TimeoutExpired
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, Pipeline, node
from hypernodes.engine import ExecutionMode
from tests.concurrency.kit import CONCURRENT, MODES, PATIENCE_S, Gate, Gauge, Log, Modes, guarded, run_threads
from tests.support import start_python

# --- a step starts as soon as its own inputs exist ----------------------------------------------------------------


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_a_slow_sibling_does_not_hold_back_an_unrelated_chain(node_execution: ExecutionMode) -> None:
    chain_is_done = Gate()

    @node(output_name="slow")
    def be_slow(x: int) -> bool:
        return chain_is_done.wait(PATIENCE_S)

    @node(output_name="a")
    def first(x: int) -> int:
        return x + 1

    @node(output_name="b")
    def second(a: int) -> int:
        return a + 1

    @node(output_name="c")
    def third(b: int) -> int:
        chain_is_done.set()
        return b + 1

    pipeline = Pipeline(nodes=[be_slow, first, second, third], backend=LocalBackend(node_execution, max_workers=2))
    assert pipeline.run({"x": 0}) == {"slow": True, "a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_a_chain_inside_a_nested_pipeline_does_not_wait_for_a_step_around_it(node_execution: ExecutionMode) -> None:
    chain_is_done = Gate()

    @node(output_name="slow")
    def be_slow(x: int) -> bool:
        return chain_is_done.wait(PATIENCE_S)

    @node(output_name="a")
    def first(x: int) -> int:
        return x + 1

    @node(output_name="b")
    def second(a: int) -> int:
        return a + 1

    @node(output_name="c")
    def third(b: int) -> int:
        chain_is_done.set()
        return b + 1

    inner = Pipeline(nodes=[first, second], name="inner")
    pipeline = Pipeline(nodes=[be_slow, inner, third], backend=LocalBackend(node_execution, max_workers=2))
    assert pipeline.run({"x": 0})["slow"] is True


@pytest.mark.parametrize("modes", [(n, m) for n, m in MODES if m != "sequential"])
def test_a_slow_item_does_not_hold_back_the_others(modes: Modes) -> None:
    done: list[int] = []
    others_are_done = Gate()

    @node(output_name="a")
    def first(x: int) -> int:
        if x == 0:
            others_are_done.pass_through()
        return x

    @node(output_name="b")
    def second(a: int) -> int:
        done.append(a)
        if len(done) >= 5:  # not ==, since another thread may append in between
            others_are_done.set()
        return a

    pipeline = Pipeline(nodes=[first, second], backend=LocalBackend(*modes, max_workers=2))
    assert pipeline.map({"x": range(6)}, map_over="x")["b"] == [0, 1, 2, 3, 4, 5]
    assert done[-1] == 0


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_a_step_starts_while_a_mapped_node_beside_it_is_under_way(node_execution: ExecutionMode) -> None:
    is_beside = Gate()

    @node(output_name="y")
    def item(x: int) -> int:
        is_beside.pass_through()
        return x

    @node(output_name="beside")
    def stand_beside(z: int) -> int:
        is_beside.set()
        return z

    mapped = Pipeline(nodes=[item], name="inner").as_node(input_mapping={"xs": "x"}, map_over="xs")
    backend = LocalBackend(node_execution, node_execution, max_workers=3)
    pipeline = Pipeline(nodes=[mapped, stand_beside], backend=backend)
    assert pipeline.run({"xs": [1, 2], "z": 3}) == {"y": [1, 2], "beside": 3}


@pytest.mark.parametrize("modes", [(n, n) for n in CONCURRENT])
def test_the_same_result_is_computed_once_when_two_items_ask_for_it_at_the_same_time(modes: Modes) -> None:
    calls = Log[int]()
    other_item_has_begun = Gate()

    @node(output_name="common")
    def compute_common(k: int) -> int:
        calls.append(k)
        other_item_has_begun.pass_through()
        return k

    @node(output_name="own", cache=False)
    def compute_own(x: int) -> int:
        if x == 1:
            other_item_has_begun.set()
        return x

    pipeline = Pipeline(
        nodes=[compute_common, compute_own], backend=LocalBackend(*modes, max_workers=3), cache=MemoryCache()
    )
    assert pipeline.map({"x": [0, 1], "k": 7}, map_over="x")["common"] == [7, 7]
    assert calls == [7]


# --- how much at a time -------------------------------------------------------------------------------------------


def deep_pipeline(gauge: Gauge, **settings: Any) -> Pipeline:
    """Calls before, inside and after maps in maps, plain functions and coroutines."""

    @node(output_name="left")
    def make_left(k: int) -> int:
        with gauge:
            return k

    @node(output_name="right")
    async def make_right(k: int) -> int:
        with gauge:
            return k

    @node(output_name="cell")
    def make_cell(x: int, y: int, left: int) -> int:
        with gauge:
            return x * y + left

    @node(output_name="shown")
    async def show(cell: int) -> str:
        with gauge:
            return str(cell)

    @node(output_name="width")
    def measure(shown: list[str], right: int) -> int:
        with gauge:
            return sum(map(len, shown)) + right

    cells = Pipeline(nodes=[make_cell, show], name="cells")
    rows = Pipeline(nodes=[cells.as_node(input_mapping={"ys": "y"}, map_over="ys"), measure], name="rows")
    return Pipeline(nodes=[make_left, make_right, rows.as_node(input_mapping={"xs": "x"}, map_over="xs")], **settings)


DEEP_INPUTS = {"k": 1, "xs": [1, 2, 3], "ys": [1, 2, 3, 4]}
DEEP_CALLS = 2 + 3 * (4 * 2 + 1)


def deep_result() -> dict[str, Any]:
    return deep_pipeline(Gauge()).run(DEEP_INPUTS)


@pytest.mark.parametrize("max_workers", [1, 2, 3])
@pytest.mark.parametrize("modes", MODES)
def test_max_workers_bounds_the_calls_of_the_whole_run_at_any_depth(modes: Modes, max_workers: int) -> None:
    gauge = Gauge()
    pipeline = deep_pipeline(gauge, backend=LocalBackend(*modes, max_workers=max_workers))
    assert guarded(lambda: pipeline.run(DEEP_INPUTS)) == deep_result()
    assert gauge.calls == DEEP_CALLS
    assert gauge.peak <= max_workers


@pytest.mark.parametrize("max_workers", [1, 2, 3])
@pytest.mark.parametrize("modes", MODES)
def test_max_workers_bounds_the_calls_of_a_map_of_nested_maps(modes: Modes, max_workers: int) -> None:
    gauge = Gauge()
    pipeline = deep_pipeline(gauge, backend=LocalBackend(*modes, max_workers=max_workers))
    inputs = {**DEEP_INPUTS, "k": [1, 2, 3]}
    found = guarded(lambda: pipeline.map(inputs, map_over="k", output_name="width"))
    assert found == deep_pipeline(Gauge()).map(inputs, map_over="k", output_name="width")
    assert gauge.calls == 3 * DEEP_CALLS
    assert gauge.peak <= max_workers


@pytest.mark.parametrize("max_workers", [2, 3])
@pytest.mark.parametrize("modes", [(n, m) for n, m in MODES if m != "sequential"])
def test_all_workers_are_used_by_the_innermost_items(modes: Modes, max_workers: int) -> None:
    together = threading.Barrier(max_workers)

    @node(output_name="y")
    def meet(x: int) -> int:
        together.wait(PATIENCE_S)
        return x

    inner = Pipeline(nodes=[meet], name="inner").as_node(input_mapping={"xs": "x"}, map_over="xs")
    outer = Pipeline(nodes=[inner], name="outer").as_node(input_mapping={"rows": "xs"}, map_over="rows")
    pipeline = Pipeline(nodes=[outer], backend=LocalBackend(*modes, max_workers=max_workers))
    rows = [[0] for _ in range(2 * max_workers)]  # one item each: the workers have to be filled across the maps
    assert pipeline.run({"rows": rows}) == {"y": rows}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("modes", [modes for modes in MODES if modes != ("sequential", "sequential")])
def test_a_run_on_the_callers_own_executor_ends_and_leaves_the_executor_usable(modes: Modes, size: int) -> None:
    gauge = Gauge()
    with ThreadPoolExecutor(size, thread_name_prefix="own") as executor:
        pipeline = deep_pipeline(gauge, backend=LocalBackend(*modes, executor=executor))
        assert guarded(lambda: pipeline.run(DEEP_INPUTS)) == deep_result()
        assert executor.submit(lambda: "alive").result(PATIENCE_S) == "alive"


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_plain_functions_are_called_on_the_callers_own_executor(node_execution: ExecutionMode) -> None:
    @node(output_name="thread_name")
    def tell(x: int) -> str:
        return threading.current_thread().name

    with ThreadPoolExecutor(2, thread_name_prefix="own") as executor:
        backend = LocalBackend(node_execution, node_execution, executor=executor)
        names = Pipeline(nodes=[tell], backend=backend).map({"x": range(4)}, map_over="x")["thread_name"]
    assert all(name.startswith("own") for name in names)


def test_max_workers_bounds_the_calls_on_a_larger_executor_too() -> None:
    gauge = Gauge()
    with ThreadPoolExecutor(4) as executor:
        backend = LocalBackend("threaded", "threaded", max_workers=2, executor=executor)
        deep_pipeline(gauge, backend=backend).run(DEEP_INPUTS)
    assert gauge.peak <= 2


def test_a_map_opens_only_as_many_threads_as_it_has_workers() -> None:
    names: set[str] = set()

    @node(output_name="y")
    def note_thread(x: int) -> int:
        names.add(threading.current_thread().name)
        return x

    Pipeline(nodes=[note_thread], backend=LocalBackend(map_execution="threaded", max_workers=3)).map(
        {"x": range(100)}, map_over="x"
    )
    assert len(names) <= 3


def test_nested_pipelines_with_a_backend_of_their_own_do_not_collect_idle_threads() -> None:
    peak = 0

    @node(output_name="y")
    def look(x: int) -> int:
        nonlocal peak
        peak = max(peak, len(run_threads()))
        return x

    inner = Pipeline(nodes=[look], name="inner", backend=LocalBackend())
    pipeline = Pipeline(nodes=[inner], backend=LocalBackend(map_execution="threaded", max_workers=2))
    assert pipeline.map({"x": range(60)}, map_over="x")["y"] == list(range(60))
    assert 1 <= peak <= 12


# --- what a map gives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [(n, m) for n, m in MODES if m != "sequential"])
def test_results_come_in_input_order_though_the_items_end_in_the_opposite_order(modes: Modes) -> None:
    ended: list[int] = []
    turn = [Gate() for _ in range(5)]
    turn[4].set()

    @node(output_name="y")
    def end_after_the_next(x: int) -> int:
        turn[x].pass_through()
        ended.append(x)
        if x:
            turn[x - 1].set()
        return 10 * x

    pipeline = Pipeline(nodes=[end_after_the_next], backend=LocalBackend(*modes, max_workers=5))
    assert pipeline.map({"x": range(5)}, map_over="x") == {"y": [0, 10, 20, 30, 40]}
    assert ended == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("modes", MODES)
def test_product_order_is_the_same_in_every_mode(modes: Modes) -> None:
    @node(output_name="pair")
    def pair(x: int, y: str) -> str:
        return f"{x}{y}"

    pipeline = Pipeline(nodes=[pair], backend=LocalBackend(*modes, max_workers=3))
    found = pipeline.map({"x": [1, 2], "y": ["a", "b"]}, map_over=["x", "y"], map_mode="product")
    assert found == {"pair": ["1a", "1b", "2a", "2b"]}


@pytest.mark.parametrize("modes", MODES)
def test_shared_inputs_are_the_very_object_in_every_item(modes: Modes) -> None:
    @node(output_name="seen")
    def see(x: int, shared: object) -> object:
        return shared

    @node(output_name="seen_late")
    async def see_late(seen: object, shared: object) -> tuple[object, object]:
        return seen, shared

    one = Pipeline(nodes=[see, see_late], name="one")
    mapped = one.as_node(input_mapping={"xs": "x"}, map_over="xs")
    shared = object()
    backend = LocalBackend(*modes, max_workers=3)
    assert all(
        found is shared for found in one.with_backend(backend).map({"x": range(4), "shared": shared}, "x")["seen"]
    )
    found = Pipeline(nodes=[mapped], backend=backend).run({"xs": range(4), "shared": shared})
    assert all(entry[0] is entry[1] is shared for entry in found["seen_late"])


# --- several runs at a time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
def test_a_pipeline_can_be_run_inside_a_node_of_another_one_with_the_same_backend(modes: Modes) -> None:
    backend = LocalBackend(*modes, max_workers=1)

    @node(output_name="square")
    def square(x: int) -> int:
        return x * x

    @node(output_name="cube")
    async def cube(x: int, square: int) -> int:
        return x * square

    inner = Pipeline(nodes=[square, cube], backend=backend, name="inner")

    @node(output_name="cubes")
    def run_inner(n: int) -> list[int]:
        return [*inner.map({"x": range(n)}, map_over="x")["cube"], inner.run({"x": n})["cube"]]

    @node(output_name="again")
    async def run_inner_in_a_coroutine(n: int) -> list[int]:
        return [inner.run({"x": n})["cube"], (await inner.arun({"x": n}))["cube"]]

    outer = Pipeline(nodes=[run_inner, run_inner_in_a_coroutine], backend=backend, name="outer")
    expected = {"cubes": [0, 1, 8, 27], "again": [27, 27]}
    assert guarded(lambda: outer.run({"n": 3})) == expected
    assert guarded(lambda: outer.map({"n": [3, 3]}, map_over="n")["again"]) == [[27, 27], [27, 27]]


def test_a_pipeline_inside_a_node_may_use_the_callers_only_worker() -> None:
    """In a process of its own, because a deadlock would keep the executor's thread, and so this process, alive."""
    source = """if True:
        from concurrent.futures import ThreadPoolExecutor
        from hypernodes import LocalBackend, Pipeline, node

        executor = ThreadPoolExecutor(1)
        backend = LocalBackend("threaded", "threaded", executor=executor)
        inner = Pipeline(nodes=[node("y")(lambda x: x + 1)], backend=backend)
        outer = Pipeline(nodes=[node("z")(lambda x: inner.run({"x": x})["y"])], backend=backend)
        print(outer.run({"x": 1}))
    """
    process = start_python("-c", source)
    try:
        out, err = process.communicate(timeout=240)
    except TimeoutExpired:
        process.kill()
        process.communicate()
        pytest.fail("a deadlock")
    assert out.strip() == "{'z': 2}", err


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_cached", [False, True])
def test_sixteen_threads_run_one_pipeline_at_the_same_time(modes: Modes, is_cached: bool) -> None:
    together = threading.Barrier(16)
    pipeline = deep_pipeline(
        Gauge(), backend=LocalBackend(*modes, max_workers=2), cache=MemoryCache() if is_cached else None
    )

    def call(number: int) -> dict[str, Any]:
        together.wait(PATIENCE_S)
        return pipeline.run({**DEEP_INPUTS, "k": number % 4}, output_name="width")

    expected = deep_pipeline(Gauge()).map({**DEEP_INPUTS, "k": range(4)}, "k", output_name="width")["width"]

    def call_all() -> list[dict[str, Any]]:
        with ThreadPoolExecutor(16) as threads:
            return list(threads.map(call, range(16)))

    assert guarded(call_all) == [{"width": expected[number % 4]} for number in range(16)]


@pytest.mark.parametrize("call", [lambda p: p.run({"x": 1}), lambda p: p.map({"x": [1, 2]}, "x")])
def test_a_run_that_has_nothing_to_do_concurrently_still_gives_its_result(call: Callable[[Pipeline], Any]) -> None:
    empty = Pipeline(nodes=[node("y")(lambda x: x)], backend=LocalBackend("threaded", "threaded"))
    assert call(empty) in ({"y": 1}, {"y": [1, 2]})
    assert empty.map({"x": []}, "x") == {"y": []}
