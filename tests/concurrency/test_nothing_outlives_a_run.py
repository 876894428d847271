"""Nothing outlives a run."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, NodeTimeoutError, Pipeline, node
from tests.concurrency.kit import MODES, PATIENCE_S, Gate, Modes, guarded, run_threads, threads_since


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert threads_since(before) == []


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects_are_collected() -> Iterator[None]:
    """Otherwise each collection goes through everything that a session has loaded so far."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@node(output_name="a")
def plain(x: int) -> int:
    if x == 13:
        raise LookupError(x)
    return x


@node(output_name="b")
async def awaited(a: int) -> int:
    await asyncio.sleep(0)
    if a == 14:
        raise LookupError(a)
    return a


@node(output_name="c")
def limited(b: int) -> int:
    return b


inner = Pipeline(nodes=[plain, awaited, node(output_name="c", timeout=5)(limited.func)], name="inner")
elsewhere = Pipeline(nodes=[node("d")(lambda x: x)], name="elsewhere", backend=LocalBackend("threaded"))
outer = Pipeline(nodes=[inner.as_node(input_mapping={"xs": "x"}, map_over="xs"), elsewhere], name="outer")


def use(call: Callable[[Pipeline, Pipeline], Any], modes: Modes) -> Any:
    backend = LocalBackend(*modes, max_workers=2)
    return guarded(lambda: call(inner.with_backend(backend), outer.with_backend(backend)))


CALLS: dict[str, Callable[[Pipeline, Pipeline, int], Any]] = {
    "run": lambda each, whole, x: each.run({"x": x}),
    "run nested": lambda each, whole, x: whole.run({"x": 0, "xs": [x, x]}),
    "map": lambda each, whole, x: each.map({"x": [x, x, x]}, "x"),
    "map nested": lambda each, whole, x: whole.map({"x": [0, 1], "xs": [x, x]}, "x"),
    "map_iter": lambda each, whole, x: list(each.map_iter({"x": iter([x] * 5)}, "x")),
    "arun": lambda each, whole, x: asyncio.run(each.arun({"x": x})),
    "amap": lambda each, whole, x: asyncio.run(each.amap({"x": [x, x, x]}, "x")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("modes", MODES)
def test_no_thread_outlives_a_run(modes: Modes, call: Callable[..., Any]) -> None:
    use(lambda each, whole: call(each, whole, 1), modes)
    assert run_threads() == []


@pytest.mark.parametrize("broken", [13, 14], ids=["plain", "awaited"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("modes", MODES)
def test_no_thread_outlives_a_run_that_failed(modes: Modes, call: Callable[..., Any], broken: int) -> None:
    with pytest.raises(LookupError):
        use(lambda each, whole: call(each, whole, broken), modes)


@pytest.mark.parametrize("modes", MODES)
def test_no_thread_outlives_a_run_inside_a_running_loop(modes: Modes) -> None:
    each = inner.with_backend(LocalBackend(*modes, max_workers=2))

    async def cell() -> list[str]:
        before = set(threading.enumerate())
        each.run({"x": 1})
        each.map({"x": [1, 2]}, "x")
        await each.arun({"x": 1})
        await each.amap({"x": [1, 2]}, "x")
        return [thread.name for thread in threads_since(before)]

    assert asyncio.run(cell()) == []


@pytest.mark.parametrize("modes", MODES)
def test_a_thread_that_took_too_long_ends_when_its_function_returns(modes: Modes) -> None:
    before = set(threading.enumerate())
    release = Gate()

    @node(output_name="y", timeout=0.01)
    def hang(x: int) -> int:
        release.pass_through()
        return x

    with pytest.raises(NodeTimeoutError):
        Pipeline(nodes=[hang], backend=LocalBackend(*modes, max_workers=2)).run({"x": 1})
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("modes", MODES)
def test_no_event_loop_is_left_open(modes: Modes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        inner.with_backend(LocalBackend(*modes, max_workers=2)).map({"x": [1, 2]}, "x")
        gc.collect()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("modes", MODES)
def test_a_run_holds_on_to_none_of_its_values(modes: Modes, is_cached: bool) -> None:
    class Value:
        def __cache_key__(self) -> str:
            return "value"

    @node(output_name="middle", cache=False)
    def make(x: Value) -> Value:
        return Value()

    @node(output_name="y", cache=False)
    def use_it(middle: Value) -> int:
        seen.append(weakref.ref(middle))
        return 1

    seen: list[weakref.ref[Value]] = []
    pipeline = Pipeline(
        nodes=[make, node(output_name="y", cache=False)(use_it.func)],
        backend=LocalBackend(*modes, max_workers=2),
        cache=MemoryCache() if is_cached else None,
    )
    value = Value()
    seen.append(weakref.ref(value))
    pipeline.map({"x": [value, value]}, "x", output_name="y")
    del value
    gc.collect()
    assert [reference() for reference in seen] == [None, None, None]
