"""Whatever awaitable a function returns is awaited: the result of a node is never a coroutine."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any

import pytest

from hypernodes import ExecutionError, InvalidNodeError, LocalBackend, MemoryCache, Node, NodeTimeoutError, Pipeline
from hypernodes.backend import Backend, SubprocessBackend
from hypernodes.engine.cancellation import RunRegistry, current_registry
from tests.concurrency.kit import MODES, Modes
from tests.support import Recorder


async def add_one(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **by_keyword: Any) -> Any:
        return function(*arguments, **by_keyword)

    return wrapper


def synchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **by_keyword: Any) -> Any:
        return asyncio.run(function(*arguments, **by_keyword))

    return wrapper


class Caller:
    def __call__(self, x: int) -> Coroutine[Any, Any, int]:
        return add_one(x)


async def return_another(x: int) -> Any:
    return add_one(x)


async def return_a_task(x: int) -> Any:
    return asyncio.ensure_future(add_one(x))


def scaled(x: int, *, by: int = 1) -> Coroutine[Any, Any, int]:
    return add_one(x * by)


KINDS: dict[str, Callable[..., Any]] = {
    "wraps": logged(add_one),
    "wraps twice": logged(logged(add_one)),
    "wraps and runs it": synchronous(add_one),
    "lambda": lambda x: add_one(x),
    "partial": functools.partial(lambda x, k: add_one(x + k), k=0),
    "keyword-only": scaled,
    "object": Caller(),
    "coroutine of a coroutine": return_another,
    "task of a coroutine": return_a_task,
}


EACH = [Node(function, f"y{number}", name=kind, cache=False) for number, (kind, function) in enumerate(KINDS.items())]


def found(x: int) -> dict[str, int]:
    return {node.outputs[0]: x + 1 for node in EACH}


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize(
    "settings", [{}, {"callbacks": [Recorder()]}, {"cache": MemoryCache()}], ids=["plain", "observed", "cached"]
)
def test_what_a_function_of_any_kind_returns_is_awaited(modes: Modes, settings: Any) -> None:
    backend = LocalBackend(*modes, max_workers=4)
    ten_times = Node(lambda y3: 10 * y3, "z", name="ten times")
    pipeline = Pipeline(nodes=[*EACH, ten_times], backend=backend, **settings)
    mapped = Pipeline(nodes=[pipeline.as_node(map_over="x")], backend=backend)
    for _ in range(2):  # the second time it is known what the functions return
        assert pipeline.run({"x": 1}) == {**found(1), "z": 20}
        assert pipeline.map({"x": [1, 2]}, "x") == {**{name: [2, 3] for name in found(0)}, "z": [20, 30]}
        assert list(pipeline.map_iter({"x": [1, 2]}, "x")) == [{**found(1), "z": 20}, {**found(2), "z": 30}]
        assert mapped.run({"x": [1, 2]}, output_name="z") == {"z": [20, 30]}
        assert asyncio.run(pipeline.arun({"x": 1}, output_name="z")) == {"z": 20}
        assert asyncio.run(pipeline.amap({"x": [1, 2]}, "x", output_name="z")) == {"z": [20, 30]}


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_function_returns_is_awaited_when_it_is_alone(modes: Modes, kind: str) -> None:
    pipeline = Pipeline(nodes=[Node(KINDS[kind], "y")], backend=LocalBackend(*modes, max_workers=2))
    for _ in range(2):
        assert pipeline.map({"x": [1, 2]}, "x") == {"y": [2, 3]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        LocalBackend("parallel", max_workers=2),
        LocalBackend(map_execution="parallel", max_workers=2),
        SubprocessBackend(),
    ],
    ids=["nodes", "items", "another process"],
)
def test_it_is_awaited_in_other_processes(place: Backend) -> None:
    pipeline = Pipeline(nodes=EACH, backend=place)
    assert pipeline.run({"x": 1}) == found(1)
    assert pipeline.map({"x": [1, 2, 3, 4]}, "x") == {name: [2, 3, 4, 5] for name in found(0)}


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("kind", [tuple, list])
def test_each_part_of_several_outputs_is_awaited(modes: Modes, kind: Callable[..., Any]) -> None:
    split = Node(lambda x: kind([add_one(x), x, add_one(-x)]), ("a", "b", "c"), name="split")
    pipeline = Pipeline(nodes=[split], backend=LocalBackend(*modes))
    assert pipeline.run({"x": 1}) == {"a": 2, "b": 1, "c": 0}
    assert pipeline.map({"x": [1, 2]}, "x", output_name="a") == {"a": [2, 3]}


@pytest.mark.parametrize("modes", MODES)
def test_awaiting_is_part_of_the_attempt_and_of_the_time_limit(modes: Modes) -> None:
    attempts: list[int] = []

    async def fail_once(x: int) -> int:
        attempts.append(x)
        if len(attempts) == 1:
            raise LookupError
        return x

    async def wait_forever(x: int) -> int:
        await asyncio.Event().wait()
        return x

    backend = LocalBackend(*modes)
    retried = Pipeline(nodes=[Node(logged(fail_once), "y", retries=1, retry_delay=0)], backend=backend)
    assert retried.run({"x": 1}) == {"y": 1}
    assert len(attempts) == 2
    limited = Pipeline(nodes=[Node(logged(wait_forever), "y", timeout=0.01)], backend=backend)
    with pytest.raises(NodeTimeoutError):
        limited.run({"x": 1})
    with pytest.raises(NodeTimeoutError):
        limited.map({"x": [1]}, "x")


@pytest.mark.parametrize("modes", MODES)
def test_an_error_of_what_is_awaited_has_its_note_and_is_collected(modes: Modes) -> None:
    async def refuse(x: int) -> int:
        if x == 1:
            raise LookupError(x)
        return x

    pipeline = Pipeline(nodes=[Node(lambda x: refuse(x), "y", name="refusing")], backend=LocalBackend(*modes))
    found = pipeline.map({"x": [1, 0]}, "x", on_error="collect")["y"]
    assert isinstance(found[0].error, LookupError)
    assert "in node 'refusing'" in found[0].error.__notes__[0]
    assert found[1] == 0


def test_coroutines_of_one_run_share_an_event_loop_also_before_it_is_known_that_there_are_any() -> None:
    async def get_loop(x: int) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def is_same(loop: asyncio.AbstractEventLoop) -> bool:
        return loop is asyncio.get_running_loop()

    nodes = [Node(lambda x: get_loop(x), "loop", name="a"), Node(lambda loop: is_same(loop), "same", name="b")]
    assert Pipeline(nodes=nodes).run({"x": 1}, output_name="same") == {"same": True}


def test_other_objects_that_can_be_awaited_are_values() -> None:
    """The references of Ray and of Dask are."""

    class Reference:
        def __await__(self) -> Any: ...

    reference = Reference()
    assert Pipeline(nodes=[Node(lambda x: reference, "y", name="refer")]).run({"x": 1}) == {"y": reference}


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_a_function_may_return_now_a_value_and_now_a_coroutine(modes: Modes, on_error: Any) -> None:
    pipeline = Pipeline(nodes=[Node(lambda x: add_one(x) if x == 2 else x, "y")], backend=LocalBackend(*modes))
    for xs, ys in (([0, 1, 2], [0, 1, 3]), ([0, 2, 1], [0, 3, 1]), ([2, 0, 1], [3, 0, 1])):
        assert pipeline.map({"x": xs}, "x", on_error=on_error) == {"y": ys}
    assert [pipeline.run({"x": x})["y"] for x in (0, 2, 1)] == [0, 3, 1]


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_cached", [False, True])
def test_what_plain_functions_return_is_awaited_in_the_loop_of_the_caller(modes: Modes, is_cached: bool) -> None:
    async def loop_of(x: int) -> int:
        return id(asyncio.get_running_loop())

    pipeline = Pipeline(
        nodes=[Node(lambda x: loop_of(x), "loop")],
        backend=LocalBackend(*modes, max_workers=2),
        cache=MemoryCache() if is_cached else None,
    )

    async def main() -> None:
        here = id(asyncio.get_running_loop())
        assert await pipeline.amap({"x": [1, 2, 3]}, "x") == {"loop": [here] * 3}

    asyncio.run(main())


@pytest.mark.parametrize("modes", [modes for modes in MODES if modes[1] != "sequential"])
def test_items_whose_coroutines_share_a_lock_take_turns(modes: Modes) -> None:
    async def take(x: int, turn: asyncio.Semaphore) -> int:
        async with turn:
            await asyncio.sleep(0)
        return x

    pipeline = Pipeline(nodes=[Node(lambda x, turn: take(x, turn), "y")], backend=LocalBackend(*modes, max_workers=3))
    assert pipeline.map({"x": range(6), "turn": asyncio.Semaphore(1)}, "x") == {"y": [*range(6)]}


@pytest.mark.parametrize("modes", [modes for modes in MODES if modes[1] != "sequential"])
def test_a_failure_ends_what_is_awaited_for_other_items(modes: Modes) -> None:
    async def wait_forever() -> None:
        await asyncio.Event().wait()

    def wait_or_fail(x: int) -> Any:
        if x:
            raise LookupError(x)
        return wait_forever()

    pipeline = Pipeline(nodes=[Node(wait_or_fail, "y")], backend=LocalBackend(*modes, max_workers=2))
    with pytest.raises(LookupError):
        pipeline.map({"x": [0, 1]}, "x")


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("options", [{}, {"retries": 1}])
def test_a_coroutine_that_is_not_awaited_because_the_run_is_cancelled_is_closed(
    options: dict[str, Any], observed: bool
) -> None:
    runs, made = RunRegistry(), []

    def make(x: int) -> Coroutine[Any, Any, int]:
        made.append(add_one(x))
        runs.cancel()
        return made[-1]

    pipeline = Pipeline(nodes=[Node(make, "y", **options)], callbacks=[Recorder()] if observed else [])
    token = current_registry.set(runs)
    try:
        with pytest.raises(CancelledError):
            pipeline.run({"x": 1})
    finally:
        current_registry.reset(token)
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


@pytest.mark.parametrize("modes", MODES)
def test_a_coroutine_as_an_input_is_for_the_node_to_await(modes: Modes) -> None:
    async def await_it(x: Any) -> int:
        return await x + 1  # type: ignore[no-any-return]

    for function in (await_it, lambda x: asyncio.run(x) + 1):
        pipeline = Pipeline(nodes=[Node(function, "y")], backend=LocalBackend(*modes))
        assert [pipeline.run({"x": add_one(1)})["y"] for _ in range(2)] == [3, 3]


@pytest.mark.parametrize("modes", MODES)
def test_other_results_beside_a_coroutine_are_left_alone(modes: Modes) -> None:
    class Connection:
        is_open = True

        def close(self) -> None:
            self.is_open = False

    connect = Node(lambda x: (add_one(x), Connection()), ("y", "connection"), name="connect", timeout=60)
    use = Node(lambda connection: connection.is_open, "was_open", name="use")
    found = Pipeline(nodes=[connect, use], backend=LocalBackend(*modes)).run({"x": 1})
    assert (found["y"], found["was_open"], found["connection"].is_open) == (2, True, True)


async def count(x: int) -> AsyncIterator[int]:
    yield x


def test_an_async_generator_is_refused_by_name() -> None:
    with pytest.raises(InvalidNodeError, match=r"node 'count' is an async generator.*return a list"):
        Node(count, "y")


@pytest.mark.parametrize("modes", MODES)
def test_an_async_generator_that_is_returned_is_refused_by_name(modes: Modes) -> None:
    pipeline = Pipeline(nodes=[Node(lambda x: count(x), "y", name="counting")], backend=LocalBackend(*modes))
    with pytest.raises(ExecutionError, match="node 'counting' returned an async generator"):
        pipeline.run({"x": 1})
    with pytest.raises(ExecutionError, match="node 'counting' returned an async generator"):
        pipeline.map({"x": [1]}, "x")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect.markcoroutinefunction is new in 3.12")
def test_a_function_marked_as_a_coroutine_function_is_one() -> None:
    def marked(x: int) -> Any:
        assert asyncio.get_running_loop()
        return add_one(x)

    assert Pipeline(nodes=[Node(inspect.markcoroutinefunction(marked), "y")]).run({"x": 1}) == {"y": 2}
