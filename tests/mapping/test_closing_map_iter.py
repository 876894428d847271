"""Iterators that are closed before their last result: by hand, by leaving the loop, by Ctrl-C, at the program's end."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, Pipeline, node
from hypernodes.engine import ExecutionMode
from hypernodes.engine.workers import coroutines
from tests.concurrency.kit import CONCURRENT, MODES, PATIENCE_S, Gate, Log, Modes, guarded, run_threads, wait_for_ever
from tests.support import Recorder, start_python

MAPS_SIDE_BY_SIDE: list[Modes] = [(n, m) for n, m in MODES if m != "sequential"]


@pytest.fixture(autouse=True)
def no_threads_of_other_tests() -> Iterator[None]:
    yield
    for thread in run_threads():
        thread.join(PATIENCE_S)


@node(output_name="y")
def double(x: int) -> int:
    return 2 * x


class Slow:
    """A node whose first call returns at once, and all others when they are released.

    Attributes:
        started: The items whose calls have begun.
        ended: The items whose calls have returned.
        is_under_way: Opens when a call has begun that waits.
        release: Lets the calls return.
    """

    def __init__(self) -> None:
        self.started: Log[int] = Log()
        self.ended: Log[int] = Log()
        self.is_under_way, self.release = Gate(), Gate()

    def node(self) -> Any:
        @node(output_name="y")
        def hold(x: int) -> int:
            self.started.append(x)
            if x:
                self.is_under_way.set()
                self.release.pass_through()
            self.ended.append(x)
            return x

        return hold


# --- by hand ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MAPS_SIDE_BY_SIDE)
def test_closing_early_waits_for_no_call_under_way_and_starts_no_others(modes: Modes) -> None:
    slow = Slow()
    stream: Any = Pipeline(nodes=[slow.node()], backend=LocalBackend(*modes, max_workers=3)).map_iter(
        {"x": itertools.count()}, "x", in_order=False
    )
    next(stream)
    slow.is_under_way.pass_through()
    guarded(stream.close)
    assert slow.ended == [0]
    slow.release.set()
    for thread in run_threads():
        thread.join(PATIENCE_S)
    assert len(slow.started) <= 4
    assert sorted(slow.ended) == sorted(slow.started)
    assert next(stream, "over") == "over"


@pytest.mark.parametrize("modes", MAPS_SIDE_BY_SIDE)
def test_closing_early_cancels_coroutines_which_may_clean_up(modes: Modes) -> None:
    is_waiting = Gate()
    seen: list[str] = []

    @node(output_name="y")
    async def wait(x: int) -> int:
        if x:
            await wait_for_ever(is_waiting, seen)
        return x

    stream: Any = Pipeline(nodes=[wait], backend=LocalBackend(*modes, max_workers=2)).map_iter(
        {"x": itertools.count()}, "x", in_order=False
    )
    next(stream)
    is_waiting.pass_through()
    guarded(stream.close)
    assert set(seen) == {"cleaned up"}
    assert run_threads() == []


def test_closing_early_does_not_wait_long_for_a_coroutine_that_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coroutines, "_CLEANUP_S", 0.01)
    is_blocking, release = Gate(), Gate()

    @node(output_name="y")
    async def block(x: int) -> int:
        if x:
            is_blocking.set()
            release.pass_through()
        return x

    backend = LocalBackend(map_execution="async", max_workers=2)
    stream: Any = Pipeline(nodes=[block], backend=backend).map_iter({"x": itertools.count()}, "x")
    next(stream)
    is_blocking.pass_through()
    guarded(stream.close)
    assert [thread.name for thread in run_threads()] == ["hypernodes-event-loop"]
    release.set()


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("kind", ["node", "nested", "delegated"])
def test_closing_early_reports_the_end_of_everything(modes: Modes, kind: str) -> None:
    slow, recorder = Slow(), Recorder()
    step, name, wrap = slow.node(), "x", lambda x: x
    if kind != "node":
        each = Pipeline(nodes=[step], name="each", backend=LocalBackend() if kind == "delegated" else None)
        step, name, wrap = each.as_node(input_mapping={"xs": "x"}, map_over="xs"), "xs", lambda x: [x]
    observed = Pipeline(nodes=[step], callbacks=[recorder], backend=LocalBackend(*modes, max_workers=2))
    stream: Any = observed.map_iter({name: map(wrap, itertools.count())}, name)
    next(stream)
    if modes[1] != "sequential":
        slow.is_under_way.pass_through()
    guarded(stream.close)
    hooks = [event[0] for event in recorder.events]
    assert hooks[-1] == "map_end"
    if kind == "delegated":  # it reports its own end when its call has returned
        slow.release.set()
        for thread in run_threads():
            thread.join(PATIENCE_S)
        hooks = [event[0] for event in recorder.events]
    for start, end in (("map_item_start", "map_item_end"), ("nested_start", "nested_end"), ("map_start", "map_end")):
        assert hooks.count(start) == hooks.count(end)
    assert hooks.count("node_start") == hooks.count("node_end") + hooks.count("error")
    slow.release.set()


@pytest.mark.parametrize("map_execution", CONCURRENT)
def test_results_of_calls_that_end_after_closing_are_neither_reported_nor_cached(map_execution: ExecutionMode) -> None:
    slow, recorder = Slow(), Recorder()
    backend = LocalBackend(map_execution=map_execution, max_workers=2)
    cached = Pipeline(nodes=[slow.node()], backend=backend, cache=MemoryCache(), callbacks=[recorder])
    stream: Any = cached.map_iter({"x": itertools.count()}, "x")
    next(stream)
    slow.is_under_way.pass_through()
    stream.close()
    slow.release.set()
    for thread in run_threads():
        thread.join(PATIENCE_S)
    assert recorder.events[-1] == ("map_end",)
    recorder.clear()
    assert list(cached.map_iter({"x": [0, 1]}, "x")) == [{"y": 0}, {"y": 1}]
    assert recorder.cached_items == [0]


# --- by leaving the loop, and by doing nothing --------------------------------------------------------------------


def test_an_iterator_that_nobody_refers_to_is_closed() -> None:
    backend = LocalBackend(map_execution="threaded", max_workers=2)
    for _ in Pipeline(nodes=[double], backend=backend).map_iter({"x": itertools.count(20)}, "x"):
        break
    gc.collect()
    for thread in run_threads():
        thread.join(PATIENCE_S)
    assert run_threads() == []


def test_an_iterator_that_is_never_read_starts_nothing() -> None:
    read: list[int] = []
    stream = Pipeline(nodes=[double], backend=LocalBackend(map_execution="threaded")).map_iter(
        {"x": (read.append(x) or x for x in itertools.count())},  # type: ignore[func-returns-value]
        "x",
    )
    assert run_threads() == []
    assert read == []
    del stream


# --- at the end of the program ------------------------------------------------------------------------------------

NODES = """
import asyncio, time
from hypernodes import Node, PipelineCallback

def sleep(x):
    if x:
        time.sleep(3600)
    return x

async def sleep_async(x):
    if x:
        await asyncio.sleep(3600)
    return x

class Printer(PipelineCallback):
    def on_map_end(self, duration, ctx):
        print("map ended", flush=True)
"""
SCRIPT = """
import sys, threading
from nodes import Printer, Node, sleep, sleep_async
from hypernodes import ExecutionError, LocalBackend, Pipeline

def start():
    backend = LocalBackend(map_execution=sys.argv[1], max_workers=2)
    function = {"def": sleep, "async def": sleep_async}[sys.argv[2]]
    return Pipeline(nodes=[Node(function, "y")], backend=backend, callbacks=[Printer()]).map_iter({"x": range(9)}, "x")

if __name__ == "__main__":
    results = start()
    print(next(results), flush=True)
"""
BODY = """
    import time
    for found in start():
        print("in the body", flush=True)
        for _ in range(36_000):  # Python notices an interrupt in the moment before a sleep only after it
            time.sleep(0.1)
"""
FORK = """
    import gc, os, warnings
    results = start()
    next(results)
    warnings.simplefilter("ignore")  # of Python: a fork beside threads
    child = os.fork()
    if child == 0:
        del results
        gc.collect()
        sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
READ_IN_FORK = """
    import os, warnings
    results = start()
    next(results)
    warnings.simplefilter("ignore")  # of Python: a fork beside threads
    child = os.fork()
    if child == 0:
        try:
            list(results)
        except ExecutionError as error:
            print(error, flush=True)
        sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
KINDS = [
    ("sequential", "async def"),
    ("async", "def"),
    ("async", "async def"),
    ("threaded", "def"),
    pytest.param("parallel", "def", marks=pytest.mark.slow),
    pytest.param("parallel", "async def", marks=pytest.mark.slow),
]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "nodes.py").write_text(textwrap.dedent(NODES))
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    return tmp_path / "script.py"


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what a process wrote; one that does not end fails the test."""
    try:
        return process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()


@pytest.mark.parametrize(("map_execution", "kind"), KINDS)
def test_a_program_ends_though_an_iterator_is_still_open(map_execution: str, kind: str, script: Path) -> None:
    process = start_python(str(script), map_execution, kind)
    assert finished(process) == ("{'y': 0}\nmap ended\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize(("map_execution", "kind"), KINDS)
def test_ctrl_c_in_the_body_of_the_loop_ends_the_program(map_execution: str, kind: str, script: Path) -> None:
    script.write_text(SCRIPT[: SCRIPT.index("    results =")] + BODY)
    process = start_python(str(script), map_execution, kind)
    assert process.stdout is not None
    assert process.stdout.readline() == "in the body\n"
    process.send_signal(signal.SIGINT)
    out, err = finished(process)
    assert out == "map ended\n"
    assert err.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("map_execution", CONCURRENT)
def test_a_forked_process_leaves_the_iterators_of_its_parent_alone(map_execution: str, script: Path) -> None:
    script.write_text(SCRIPT[: SCRIPT.index("    results =")] + FORK)
    assert finished(start_python(str(script), map_execution, "def")) == ("7\nmap ended\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("map_execution", CONCURRENT)
def test_a_forked_process_that_reads_an_iterator_of_its_parent_is_told_to_open_its_own(
    map_execution: str, script: Path
) -> None:
    script.write_text(SCRIPT[: SCRIPT.index("    results =")] + READ_IN_FORK)
    out, err = finished(start_python(str(script), map_execution, "def"))
    assert err == ""
    message, *rest = out.splitlines()
    assert message.startswith("this process was forked while an iterator of `map_iter` was open")
    assert message.endswith("call `map_iter` again here")
    assert rest == ["7", "map ended"]


THREAD = """
    results = start()
    is_begun = threading.Event()

    def take():
        first = next(results)
        is_begun.set()
        threading.main_thread().join()
        print(first, *results, flush=True)

    threading.Thread(target=take).start()
    is_begun.wait()
"""


@pytest.mark.parametrize("map_execution", ["threaded", pytest.param("parallel", marks=pytest.mark.slow)])
def test_a_thread_that_outlives_the_main_one_gets_all_results(map_execution: str, script: Path) -> None:
    (script.parent / "nodes.py").write_text(NODES.replace("time.sleep(3600)", "time.sleep(0.01)"))
    script.write_text(SCRIPT[: SCRIPT.index("    results =")].replace("range(9)", "range(3)") + THREAD)
    out, err = finished(start_python(str(script), map_execution, "def"))
    assert (out, err) == ("map ended\n{'y': 0} {'y': 1} {'y': 2}\n", "")
