"""No process and no thread outlives a run, except the workers that were asked to."""

from __future__ import annotations

import asyncio
import errno
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from hypernodes import ExecutionError, LocalBackend, Node, Pipeline, PipelineExecutionEngine, node
from hypernodes.engine.workers import process_pool
from hypernodes.engine.workers.worker_process import WorkerProcess
from tests.concurrency.kit import PATIENCE_S, threads_since
from tests.support import end_idle_workers
from tests.worker_processes import nodes
from tests.worker_processes.conftest import Scripts
from tests.worker_processes.observe import wait_until, workers


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    gc.collect()
    before = {thread for thread in threading.enumerate() if thread.name != "hypernodes-idle-workers"}
    assert workers() == []
    yield
    end_idle_workers()
    assert workers() == []
    assert threads_since(before) == []


def pids(backend: Any) -> set[int]:
    pipeline = Pipeline(nodes=[nodes.tell_process], backend=backend)
    return set(pipeline.map(inputs={"x": range(8)}, map_over="x")["process_id"])


@pytest.mark.parametrize("modes", [("sequential", "parallel"), ("parallel", "sequential"), ("threaded", "parallel")])
def test_no_worker_is_left_after_a_run(modes: Any) -> None:
    assert pids(LocalBackend(*modes, max_workers=2, keep_workers_s=0))
    assert workers() == []


def test_no_worker_is_left_after_a_run_that_failed() -> None:
    backend = LocalBackend(map_execution="parallel", max_workers=2, keep_workers_s=0)
    with pytest.raises(TypeError):
        Pipeline(nodes=[nodes.double], backend=backend).map(inputs={"x": [1, None]}, map_over="x")
    assert workers() == []


def test_no_worker_is_left_after_a_run_whose_worker_died(tmp_path: Path) -> None:
    backend = LocalBackend(map_execution="parallel", max_workers=2, keep_workers_s=0)
    Pipeline(nodes=[nodes.die_if_told], backend=backend).map(
        inputs={"x": range(4), "victims": {1: "always"}, "folder": str(tmp_path)}, map_over="x", on_error="collect"
    )
    assert workers() == []


@pytest.mark.parametrize("modes", [("sequential", "parallel"), ("parallel", "sequential")])
@pytest.mark.parametrize("is_kept", [False, True])
def test_cancelling_ends_the_calls_in_worker_processes(modes: Any, is_kept: bool, tmp_path: Path) -> None:
    @node(output_name="y")
    def sleep_long(x: int, folder: str) -> int:
        (Path(folder) / f"asleep-{x}").touch()
        time.sleep(60 if x else 0)
        (Path(folder) / f"awake-{x}").touch()
        return x

    async def cancel_while_asleep(pipeline: Pipeline) -> None:
        inputs = {"x": [1, 2], "folder": str(tmp_path)}
        task = asyncio.create_task(pipeline.amap(inputs=inputs, map_over="x"))
        while not any(tmp_path.iterdir()):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    backend = LocalBackend(*modes, max_workers=2)
    pipeline = Pipeline(nodes=[sleep_long], backend=backend)
    with backend if is_kept else nullcontext():
        asyncio.run(cancel_while_asleep(pipeline))
        assert list(tmp_path.glob("awake-*")) == []
        assert pipeline.map(inputs={"x": [0], "folder": str(tmp_path)}, map_over="x") == {"y": [0]}


async def cancel_when(happens: threading.Event, function: Node[..., Any]) -> None:
    """Map one item in a worker process, and cancel that when something happens."""
    backend = LocalBackend(map_execution="parallel", max_workers=1)
    task = asyncio.create_task(Pipeline(nodes=[function], backend=backend).amap({"x": [1]}, map_over="x"))
    await asyncio.to_thread(happens.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_cancelling_ends_a_call_that_is_just_being_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    send, is_about_to_send = WorkerProcess.call, threading.Event()

    def send_after_the_end(process: WorkerProcess, *arguments: Any) -> Any:
        is_about_to_send.set()
        assert wait_until(lambda: process.has_ended)
        return send(process, *arguments)

    monkeypatch.setattr(WorkerProcess, "call", send_after_the_end)
    asyncio.run(cancel_when(is_about_to_send, nodes.sleep_long))


def test_cancelling_before_a_worker_process_exists_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, kill = process_pool.thread_limits, process_pool._Driver.kill
    is_preparing, was_killed = threading.Event(), threading.Event()

    def prepare_until_killed(size: int) -> dict[str, str]:
        is_preparing.set()
        assert was_killed.wait(PATIENCE_S)
        return prepare(size)

    def kill_and_tell(driver: Any) -> None:
        kill(driver)
        was_killed.set()

    monkeypatch.setattr(process_pool, "thread_limits", prepare_until_killed)
    monkeypatch.setattr(process_pool._Driver, "kill", kill_and_tell)
    asyncio.run(cancel_when(is_preparing, nodes.double))


def test_no_worker_is_left_after_a_stream_that_is_closed_early() -> None:
    backend = LocalBackend(map_execution="parallel", max_workers=2, keep_workers_s=0)
    stream = Pipeline(nodes=[nodes.double], backend=backend).map_iter(inputs={"x": iter(int, 1)}, map_over="x")
    assert next(stream) == {"doubled": 0}
    stream.close()  # type: ignore[attr-defined]
    assert workers() == []


def test_an_open_backend_keeps_its_workers_between_runs() -> None:
    with LocalBackend(map_execution="parallel", max_workers=1) as backend:
        first = pids(backend)
        assert pids(backend) == first
        assert {process.pid for process in workers()} == first
    assert workers() == []


def test_an_open_engine_keeps_its_workers_until_the_outermost_with_ends() -> None:
    engine = PipelineExecutionEngine(map_execution="parallel", max_workers=1)
    backend = LocalBackend(engine=engine)
    with engine:
        first = pids(backend)
        with backend:
            assert pids(backend) == first
        assert pids(backend) == first
    assert workers() == []
    assert pids(backend) != first


def test_an_open_backend_has_no_workers_before_it_needs_them() -> None:
    with LocalBackend(map_execution="parallel", max_workers=2):
        assert workers() == []


def test_an_error_in_the_with_block_ends_the_workers() -> None:
    def fail_inside() -> None:
        with LocalBackend(map_execution="parallel", max_workers=2) as backend:
            pids(backend)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert workers() == []


def test_a_pool_of_the_callers_own_is_used_and_left_alone() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        for modes in (("sequential", "parallel"), ("parallel", "sequential")):
            backend = LocalBackend(*modes, max_workers=2, executor=executor)  # type: ignore[arg-type]
            assert pids(backend) <= {process.pid for process in workers()}
        assert executor.submit(pow, 2, 3).result() == 8


def test_a_run_without_a_process_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(BaseProcess, "start", refuse)
    with pytest.raises(ExecutionError, match=r"no worker process can be started \(BlockingIOError: .*\). The limit of"):
        pids(LocalBackend(map_execution="parallel", max_workers=2))


LIMITS = """
import os, users_module
from hypernodes import LocalBackend, Pipeline

if __name__ == "__main__":
    backend = LocalBackend(map_execution="parallel", max_workers=10**6)
    print(Pipeline(nodes=[users_module.tell], backend=backend).map({"x": [1]}, map_over="x")["limits"])
    print([os.environ.get(name) for name in users_module.NAMES])
"""
TELL_LIMITS = """
import os
from hypernodes import node

NAMES = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]

@node(output_name="limits")
def tell(x):
    return [os.environ.get(name) for name in NAMES]
"""


@pytest.mark.parametrize("kind", ["scripts", "scripts_without_loky"])
def test_workers_share_the_cores_between_the_threads_of_libraries(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    scripts: Scripts = request.getfixturevalue(kind)
    scripts.write(TELL_LIMITS, "users_module.py")
    script = scripts.write(LIMITS)
    assert scripts.run(script) == "[['1', '1']]\n[None, None]\n"
    scripts.environ["OMP_NUM_THREADS"] = "3"
    assert scripts.run(script) == "[['3', None]]\n['3', None]\n"


DAEMONIC = """
import multiprocessing
from hypernodes import LocalBackend, Node, Pipeline

def run(answers):
    backend = LocalBackend(map_execution="parallel")
    try:
        answers.put(Pipeline(nodes=[Node(abs, output_name="y")], backend=backend).map({"x": [-1]}, map_over="x"))
    except BaseException as error:
        answers.put((type(error).__name__, str(error), getattr(error, "__notes__", [])))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=run, args=(answers,), daemon=True)
    process.start()
    print(answers.get())
    process.join()
"""


def test_a_daemonic_process_is_told_that_it_cannot_have_workers(tmp_path: Path) -> None:
    script = tmp_path / "daemonic.py"
    script.write_text(DAEMONIC)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.startswith("('ConfigurationError', '\"parallel\" needs worker processes, but this is a daemonic")
    assert done.stdout.rstrip().endswith("[])")
