"""Nodes that are coroutines, and callers that are."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from queue import SimpleQueue
from subprocess import TimeoutExpired
from typing import Any

import pytest

from hypernodes import LocalBackend, Pipeline, PipelineCallback, node
from hypernodes.engine import ExecutionMode
from hypernodes.engine.workers.coroutines import Coroutines
from hypernodes.engine.workers.event_loop import LoopHere
from tests.concurrency.kit import CONCURRENT, MODES, PATIENCE_S, Gate, Modes, guarded, run_threads, wait_for_ever
from tests.support import Recorder, notes_of, start_python

# --- coroutines side by side --------------------------------------------------------------------------------------


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_async_nodes_are_awaited_side_by_side(node_execution: ExecutionMode) -> None:
    together = asyncio.Barrier(3)

    def meet(name: str) -> Any:
        @node(output_name=name)
        async def wait_for_the_others(x: int) -> str:
            await asyncio.wait_for(together.wait(), PATIENCE_S)
            return name

        return wait_for_the_others

    pipeline = Pipeline(nodes=[meet("a"), meet("b"), meet("c")], backend=LocalBackend(node_execution, max_workers=3))
    assert pipeline.run({"x": 1}) == {"a": "a", "b": "b", "c": "c"}


@pytest.mark.parametrize("modes", [(n, m) for n, m in MODES if m != "sequential"])
def test_the_items_of_a_map_are_awaited_side_by_side(modes: Modes) -> None:
    together = asyncio.Barrier(5)

    @node(output_name="y")
    async def meet(x: int) -> int:
        await asyncio.wait_for(together.wait(), PATIENCE_S)
        return 2 * x

    pipeline = Pipeline(nodes=[meet], backend=LocalBackend(*modes, max_workers=5))
    assert pipeline.map({"x": range(10)}, map_over="x") == {"y": list(range(0, 20, 2))}


def test_a_hundred_coroutines_are_awaited_at_a_time_by_default() -> None:
    together = asyncio.Barrier(100)

    @node(output_name="y")
    async def meet(x: int) -> int:
        await asyncio.wait_for(together.wait(), PATIENCE_S)
        return x

    pipeline = Pipeline(nodes=[meet], backend=LocalBackend(map_execution="async"))
    assert pipeline.map({"x": range(200)}, map_over="x") == {"y": list(range(200))}


@pytest.mark.parametrize("max_workers", [1, 2, 3])
def test_max_workers_bounds_the_coroutines_under_way(max_workers: int) -> None:
    current = peak = 0
    together = asyncio.Barrier(max_workers)

    @node(output_name="y")
    async def count(x: int) -> int:
        nonlocal current, peak
        current += 1
        peak = max(peak, current)
        await asyncio.wait_for(together.wait(), PATIENCE_S)
        current -= 1
        return x

    Pipeline(nodes=[count], backend=LocalBackend(map_execution="async", max_workers=max_workers)).map(
        {"x": range(18)}, map_over="x"
    )
    assert peak == max_workers


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_a_plain_function_does_not_block_the_coroutines(node_execution: ExecutionMode) -> None:
    coroutine_went_on = threading.Event()

    @node(output_name="blocked")
    def block(x: int) -> bool:
        return coroutine_went_on.wait(PATIENCE_S)

    @node(output_name="awaited")
    async def go_on(x: int) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        coroutine_went_on.set()
        return x

    pipeline = Pipeline(nodes=[block, go_on], backend=LocalBackend(node_execution, max_workers=2))
    assert pipeline.run({"x": 1}) == {"blocked": True, "awaited": 1}


@node(output_name="a")
async def increment(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@node(output_name="b")
def double(a: int) -> int:
    return 2 * a


@node(output_name=("c", "d"))
async def split(b: int, *, k: int = 3) -> tuple[int, int]:
    await asyncio.sleep(0)
    return b + k, b - k


mixed = Pipeline(nodes=[increment, double, split], name="mixed")


def test_coroutines_go_on_while_plain_functions_keep_the_run_busy() -> None:
    done = 0

    @node(output_name="number")
    def count(x: int) -> int:
        nonlocal done
        done += 1
        return x

    @node(output_name="seen")
    async def look() -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return done

    items = Pipeline(nodes=[count]).as_node(map_over="x")
    pipeline = Pipeline(nodes=[look, items], backend=LocalBackend("async", "threaded", max_workers=2))
    assert pipeline.run(inputs={"x": range(5_000)}, output_name=["seen", "number"])["seen"] < 5_000


def test_the_loop_in_the_calling_thread_turns_however_much_there_is_to_get() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        for _ in range(3):
            turns += 1
            await asyncio.sleep(0)

    loop = LoopHere()
    news: SimpleQueue[int] = SimpleQueue()
    for number in range(3):
        news.put(number)
    task = loop.loop.create_task(count())
    assert [loop.get(news, PATIENCE_S) for _ in range(3)] == [0, 1, 2]
    assert turns == 3
    task.cancel()
    loop.close()


@pytest.mark.parametrize("modes", MODES)
def test_async_nodes_work_in_every_mode(modes: Modes) -> None:
    pipeline = mixed.with_backend(LocalBackend(*modes, max_workers=2))
    assert pipeline.run({"x": 1}) == {"a": 2, "b": 4, "c": 7, "d": 1}
    assert pipeline.map({"x": [1, 2]}, map_over="x", output_name=["c", "d"]) == {"c": [7, 9], "d": [1, 3]}
    assert [found["c"] for found in pipeline.map_iter({"x": [1, 2]}, map_over="x")] == [7, 9]


@pytest.mark.parametrize("modes", MODES)
def test_all_coroutines_of_a_run_share_one_event_loop(modes: Modes) -> None:
    """A session that one node opens can be used by the others."""

    @node(output_name="session")
    async def open_session() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @node(output_name="is_same")
    async def use_session(x: int, session: asyncio.AbstractEventLoop) -> bool:
        return asyncio.get_running_loop() is session

    @node(output_name="is_same_later", timeout=PATIENCE_S)
    async def use_session_later(is_same: list[bool], session: asyncio.AbstractEventLoop) -> bool:
        return asyncio.get_running_loop() is session

    each = Pipeline(nodes=[use_session], name="each").as_node(input_mapping={"xs": "x"}, map_over="xs")
    pipeline = Pipeline(nodes=[open_session, each, use_session_later], backend=LocalBackend(*modes, max_workers=2))
    found = pipeline.run({"xs": [1, 2]}, output_name=["is_same", "is_same_later"])
    assert found == {"is_same": [True, True], "is_same_later": True}


# --- the event loop of the caller, and of other runs --------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_here", [True, False])
def test_the_event_loop_of_the_calling_thread_stays_set(modes: Modes, is_here: bool) -> None:
    """As for a program that calls `asyncio.get_event_loop().run_until_complete(...)` before and after a run."""

    def run_between() -> bool:
        own = asyncio.new_event_loop()
        asyncio.set_event_loop(own)
        try:
            mixed.with_backend(LocalBackend(*modes, max_workers=2)).run({"x": 1})
            mixed.with_backend(LocalBackend(*modes, max_workers=2)).map({"x": [1]}, "x")
            return asyncio.get_event_loop() is own and own.run_until_complete(increment(1)) == 2
        finally:
            asyncio.set_event_loop(None)
            own.close()

    assert run_between() if is_here else guarded(run_between)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_map", [False, True])
def test_a_lock_that_belongs_to_the_loop_of_an_earlier_run_is_explained(modes: Modes, is_map: bool) -> None:
    lock = asyncio.Lock()

    @node(output_name="y")
    async def hold(x: int) -> int:
        async def wait() -> None:
            async with lock:
                await asyncio.sleep(0)

        await asyncio.gather(wait(), wait())  # only a lock that is waited for belongs to a loop
        return x

    pipeline = Pipeline(nodes=[hold], backend=LocalBackend(*modes, max_workers=1))
    pipeline.run({"x": 1})
    with pytest.raises(RuntimeError, match="different event loop") as caught:
        pipeline.map({"x": [1]}, "x") if is_map else pipeline.run({"x": 1})
    where, hint = notes_of(caught.value)
    assert "in node 'hold'" in where
    assert "a run has an event loop of its own" in hint


# --- inside a running loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
def test_everything_can_be_called_where_a_loop_is_running(modes: Modes) -> None:
    """As in a cell of a notebook."""
    pipeline = mixed.with_backend(LocalBackend(*modes, max_workers=2))

    async def cell() -> list[Any]:
        return [
            pipeline.run({"x": 1}, output_name="c"),
            pipeline.map({"x": [1, 2]}, map_over="x", output_name="c"),
            [found["c"] for found in pipeline.map_iter({"x": [1, 2]}, map_over="x")],
            await pipeline.arun({"x": 1}, output_name="c"),
            await pipeline.amap({"x": [1, 2]}, map_over="x", output_name="c"),
        ]

    expected = [{"c": 7}, {"c": [7, 9]}, [7, 9], {"c": 7}, {"c": [7, 9]}]
    assert guarded(lambda: asyncio.run(cell())) == expected


@pytest.mark.parametrize("modes", MODES)
def test_async_callers_have_their_coroutines_in_their_own_loop(modes: Modes) -> None:
    @node(output_name="loop")
    async def which_loop(x: int) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    pipeline = Pipeline(nodes=[which_loop], backend=LocalBackend(*modes, max_workers=2))

    async def call() -> bool:
        own = asyncio.get_running_loop()
        once = await pipeline.arun({"x": 1})
        each = await pipeline.amap({"x": [1, 2]}, map_over="x")
        return [once["loop"], *each["loop"]] == [own, own, own]

    assert guarded(lambda: asyncio.run(call()))


@pytest.mark.parametrize("modes", MODES)
def test_the_callers_loop_goes_on_while_it_awaits_a_run(modes: Modes) -> None:
    loop_went_on = Gate()

    @node(output_name="y")
    def block(x: int) -> bool:
        return loop_went_on.wait(PATIENCE_S)

    pipeline = Pipeline(nodes=[block], backend=LocalBackend(*modes))

    async def open_gate() -> None:
        await asyncio.sleep(0)
        loop_went_on.set()

    async def call() -> Any:
        return (await asyncio.gather(pipeline.arun({"x": 1}), open_gate()))[0]

    assert asyncio.run(call()) == {"y": True}


def test_runs_awaited_together_go_on_side_by_side() -> None:
    async def call() -> Any:
        together = asyncio.Barrier(3)

        @node(output_name="y")
        async def meet(x: int) -> int:
            await asyncio.wait_for(together.wait(), PATIENCE_S)
            return x

        pipeline = Pipeline(nodes=[meet])
        return await asyncio.gather(*(pipeline.arun({"x": x}) for x in range(3)))

    assert asyncio.run(call()) == [{"y": 0}, {"y": 1}, {"y": 2}]


def test_async_callers_get_the_original_error_with_its_note() -> None:
    @node(output_name="y")
    async def refuse(x: int) -> int:
        raise LookupError(x)

    pipeline = Pipeline(nodes=[refuse], name="refusing")
    with pytest.raises(LookupError) as caught:
        asyncio.run(pipeline.amap({"x": [5]}, map_over="x"))
    assert caught.traceback[-1].name == "refuse"
    assert "in node 'refuse'" in caught.value.__notes__[0]
    assert "map item 0" in caught.value.__notes__[0]


@pytest.mark.parametrize("modes", [("sequential", "sequential"), ("threaded", "threaded")])
def test_an_async_caller_gets_a_stop_iteration(modes: Modes) -> None:
    """It cannot be put into an asyncio future, nor leave a coroutine, as it is."""

    @node(output_name="y")
    def stop(x: int) -> int:
        raise StopIteration(x)

    pipeline = Pipeline(nodes=[stop], backend=LocalBackend(*modes))

    async def call() -> Any:
        return await asyncio.wait_for(pipeline.arun({"x": 1}), PATIENCE_S)

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(call())
    assert isinstance(caught.value.__cause__, StopIteration)


# --- cancelling ---------------------------------------------------------------------------------------------------


async def cancelled_while(started: asyncio.Event, run: Awaitable[Any], release: Callable[[], Any]) -> bool:
    """Cancel `run` once it has started; return whether it ends without `release` having to be called."""
    task = asyncio.ensure_future(run)
    await asyncio.wait_for(started.wait(), PATIENCE_S)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=PATIENCE_S)
    release()
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.cancelled()
    return bool(done)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_map", [False, True])
def test_cancelling_cancels_the_awaited_nodes_and_leaves_nothing_behind(modes: Modes, is_map: bool) -> None:
    seen: list[str] = []

    async def call() -> bool:
        started, forever = asyncio.Event(), asyncio.Event()

        @node(output_name="y")
        async def wait_forever(x: int) -> int:
            started.set()
            try:
                await forever.wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                await asyncio.sleep(0)
                seen.append("cleaned up")
                raise
            return x

        pipeline = Pipeline(nodes=[wait_forever], backend=LocalBackend(*modes, max_workers=1))
        run = pipeline.amap({"x": [1, 2]}, map_over="x") if is_map else pipeline.arun({"x": 1})
        ended_by_itself = await cancelled_while(started, run, forever.set)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return ended_by_itself

    assert asyncio.run(call())
    assert seen == ["cancelled", "cleaned up"]
    assert run_threads() == []


@pytest.mark.parametrize("modes", MODES)
def test_cancelling_an_awaited_map_starts_no_further_items(modes: Modes) -> None:
    computed: list[int] = []

    async def call() -> None:
        loop = asyncio.get_running_loop()
        started, gate = asyncio.Event(), Gate()

        @node(output_name="y")
        def compute(x: int) -> int:
            computed.append(x)
            loop.call_soon_threadsafe(started.set)
            gate.pass_through()
            return x

        pipeline = Pipeline(nodes=[compute], backend=LocalBackend(*modes, max_workers=1))
        task = asyncio.ensure_future(pipeline.amap({"x": range(50)}, map_over="x"))
        await asyncio.wait_for(started.wait(), PATIENCE_S)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)  # the cancellation is under way before the call that cannot be stopped returns
        gate.set()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.cancelled()

    asyncio.run(call())
    assert computed == [0]


def test_cancelling_still_tells_callbacks_that_everything_has_ended() -> None:
    recorder = Recorder()

    async def call() -> None:
        started, forever = asyncio.Event(), asyncio.Event()

        @node(output_name="y")
        async def wait_forever(x: int) -> int:
            started.set()
            await forever.wait()
            return x

        inner = Pipeline(nodes=[wait_forever], name="inner").as_node(input_mapping={"xs": "x"}, map_over="xs")
        pipeline = Pipeline(nodes=[inner], name="outer", backend=LocalBackend("async"), callbacks=[recorder])
        await cancelled_while(started, pipeline.arun({"xs": [1]}), forever.set)

    asyncio.run(call())
    hooks = [event[0] for event in recorder.events]
    assert hooks == [
        "pipeline_start",
        "nested_start",
        "map_start",
        "map_item_start",
        "node_start",
        "error",
        "map_item_end",
        "map_end",
        "nested_end",
        "pipeline_end",
    ]


def test_a_time_limit_around_a_run_ends_it() -> None:
    async def call() -> None:
        @node(output_name="y")
        async def wait_forever(x: int) -> int:
            await asyncio.Event().wait()
            return x

        pipeline = Pipeline(nodes=[wait_forever], backend=LocalBackend("async"))
        async with asyncio.timeout(0.01):
            await pipeline.arun({"x": 1})

    with pytest.raises(TimeoutError):
        guarded(lambda: asyncio.run(call()))


@pytest.mark.parametrize("node_execution", CONCURRENT)
@pytest.mark.parametrize("is_async_caller", [False, True])
def test_a_coroutine_cancelled_by_a_failure_beside_it_may_clean_up(
    node_execution: ExecutionMode, is_async_caller: bool
) -> None:
    seen: list[str] = []
    started, is_cleaning = Gate(), Gate()

    @node(output_name="a")
    async def wait_forever(x: int) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_cleaning.set()
            await asyncio.sleep(0.02)  # longer than a run takes that does not wait for it
            seen.append("cleaned up")
        return x

    @node(output_name="b")
    def refuse(x: int) -> int:
        started.pass_through()
        raise LookupError(x)

    class Waiter(PipelineCallback):
        def on_pipeline_end(self, *event: Any) -> None:
            is_cleaning.pass_through()

    backend = LocalBackend(node_execution, max_workers=2)
    pipeline = Pipeline(nodes=[wait_forever, refuse], backend=backend, callbacks=[Waiter()])

    async def call() -> None:
        try:
            await pipeline.arun({"x": 1})
        finally:
            seen.append("run ended")

    with pytest.raises(LookupError):
        asyncio.run(call()) if is_async_caller else pipeline.run({"x": 1})
    assert seen[:1] == ["cleaned up"]


@pytest.mark.parametrize("modes", [("sequential", "sequential"), ("sequential", "async"), ("sequential", "threaded")])
def test_leaving_the_interpreter_from_a_coroutine_surfaces_as_it_is(modes: Modes) -> None:
    @node(output_name="y")
    async def leave(x: int) -> int:
        raise SystemExit(3)

    pipeline = Pipeline(nodes=[leave], backend=LocalBackend(*modes, max_workers=2))
    with pytest.raises(SystemExit, match="3"):
        guarded(lambda: pipeline.run({"x": 1}))


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_leaving_the_interpreter_from_a_coroutine_beside_others_does_so(node_execution: ExecutionMode) -> None:
    """In a process of its own, because a run that hangs would hang this one."""
    source = f"""if True:
        import sys
        from hypernodes import LocalBackend, Pipeline, node

        async def leave(x):
            sys.exit(3)

        Pipeline(nodes=[node("y")(leave)], backend=LocalBackend({node_execution!r})).run({{"x": 1}})
    """
    process = start_python("-c", source)
    try:
        process.communicate(timeout=240)
    except TimeoutExpired:
        process.kill()
        process.communicate()
    assert process.returncode == 3


# --- context variables --------------------------------------------------------------------------------------------

who: ContextVar[str] = ContextVar("who", default="nobody")


@node(output_name="plain")
def ask(x: int) -> str:
    return who.get()


@node(output_name="awaited")
async def ask_in_a_coroutine(x: int) -> str:
    await asyncio.sleep(0)
    return who.get()


asking = Pipeline(nodes=[ask, ask_in_a_coroutine], name="asking")


@pytest.mark.parametrize("modes", MODES)
def test_context_variables_of_the_caller_are_visible_in_nodes(modes: Modes) -> None:
    mapped = asking.as_node(input_mapping={"xs": "x"}, map_over="xs")
    backend = LocalBackend(*modes, max_workers=2)
    token = who.set("somebody")
    try:
        assert asking.with_backend(backend).run({"x": 1}) == {"plain": "somebody", "awaited": "somebody"}
        found = Pipeline(nodes=[mapped], backend=backend).run({"xs": [1, 2]})
        assert found == {"plain": ["somebody"] * 2, "awaited": ["somebody"] * 2}
    finally:
        who.reset(token)


@pytest.mark.parametrize("modes", MODES)
def test_context_variables_of_each_async_caller_stay_its_own(modes: Modes) -> None:
    pipeline = asking.with_backend(LocalBackend(*modes, max_workers=2))

    async def call(name: str) -> dict[str, Any]:
        who.set(name)
        return await pipeline.arun({"x": 1})

    async def call_both() -> list[dict[str, Any]]:
        return await asyncio.gather(call("a"), call("b"))

    assert asyncio.run(call_both()) == [{"plain": "a", "awaited": "a"}, {"plain": "b", "awaited": "b"}]


@pytest.mark.parametrize("modes", [modes for modes in MODES if modes != ("sequential", "sequential")])
def test_what_a_node_sets_in_its_context_does_not_leak_into_the_caller(modes: Modes) -> None:
    @node(output_name="y")
    async def pretend(x: int) -> int:
        who.set("an impostor")
        return x

    Pipeline(nodes=[pretend], backend=LocalBackend(*modes)).map({"x": [1, 2]}, map_over="x")
    assert who.get() == "nobody"


# --- coroutines that take item after item --------------------------------------------------------------------------


async def of_items(function: Any, count: int, is_awaited: bool, **settings: Any) -> list[Any]:
    """Map over numbers with two coroutines at a time, in the loop of this caller or in one of the run."""
    pipeline = Pipeline([node(output_name="y")(function)], backend=LocalBackend(map_execution="async", max_workers=2))
    if is_awaited:
        return (await pipeline.amap({"x": range(count)}, map_over="x", **settings))["y"]
    return (await asyncio.to_thread(lambda: pipeline.map({"x": range(count)}, map_over="x", **settings)))["y"]


@pytest.mark.parametrize("is_awaited", [True, False], ids=["amap", "map"])
def test_each_item_is_a_task_with_context_variables_of_its_own(is_awaited: bool) -> None:
    tasks: set[Any] = set()

    async def look(x: int) -> tuple[str, bool]:
        before = who.get()
        who.set(f"item {x}")
        if x % 3 == 0:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        is_new = task not in tasks
        tasks.add(task)
        return before, is_new

    assert asyncio.run(of_items(look, 300, is_awaited)) == [("nobody", True)] * 300


@pytest.mark.parametrize("is_awaited", [True, False], ids=["amap", "map"])
def test_a_time_limit_inside_an_item_ends_that_item_only(is_awaited: bool) -> None:
    async def limited(x: int) -> int:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(PATIENCE_S if x == 5 else 0)
        return x

    found = asyncio.run(of_items(limited, 20, is_awaited, on_error="collect"))
    assert [type(y.error) for y in found if not isinstance(y, int)] == [TimeoutError]
    assert [y for y in found if isinstance(y, int)] == [x for x in range(20) if x != 5]


@pytest.mark.parametrize("is_awaited", [True, False], ids=["amap", "map"])
def test_an_item_may_raise_what_looks_like_a_cancellation(is_awaited: bool) -> None:
    async def pretend(x: int) -> int:
        await asyncio.sleep(0)
        if x == 5:
            raise asyncio.CancelledError("mine")
        return x

    with pytest.raises(asyncio.CancelledError, match="mine") as caught:
        asyncio.run(of_items(pretend, 20, is_awaited))
    assert any("map item 5;" in note for note in caught.value.__notes__)


def test_items_that_wait_for_nothing_leave_turns_to_the_callers_loop() -> None:
    """Each takes 2 ms of the loop, and something else in it must not wait for all of them."""
    turns = 0

    async def compute(x: int) -> int:
        busy_until = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < busy_until:
            pass
        return turns

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> list[int]:
        counting = asyncio.create_task(count_turns())
        found = await of_items(compute, 50, is_awaited=True)
        counting.cancel()
        return found

    found = asyncio.run(main())
    assert len(set(found)) >= 25


@pytest.mark.parametrize("is_awaited", [True, False], ids=["amap", "map"])
@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_an_item_whose_task_is_cancelled_by_its_own_code_is_not_lost(is_awaited: bool, on_error: str) -> None:
    async def set_a_deadline(x: int) -> int:
        if x == 5:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(PATIENCE_S)
        return x

    with pytest.raises(asyncio.CancelledError) as caught:  # which ends a map also with "collect"
        asyncio.run(of_items(set_a_deadline, 20, is_awaited, on_error=on_error))
    assert any("map item 5;" in note for note in caught.value.__notes__)


def test_an_interrupt_in_an_item_is_raised_and_nothing_else_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    async def interrupt(x: int) -> int:
        await asyncio.sleep(0)
        if x == 3:
            raise KeyboardInterrupt
        await asyncio.sleep(0)
        return x

    pipeline = Pipeline([node(output_name="y")(interrupt)], backend=LocalBackend(map_execution="async", max_workers=2))
    with pytest.raises(KeyboardInterrupt):
        pipeline.map({"x": range(10)}, map_over="x")
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_a_coroutine_that_only_its_event_loop_knows_is_not_collected() -> None:
    """An event loop refers to its tasks weakly, and this one waits for something that nobody else has."""
    coroutines = Coroutines()
    is_waiting = Gate()
    seen: list[str] = []
    coroutines.submit(wait_for_ever(is_waiting, seen), lambda outcome: None)
    is_waiting.pass_through()
    gc.collect()
    assert seen == []
    coroutines.close()
    assert seen == ["cleaned up"]
