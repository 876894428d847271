"""Runs of several threads share the workers of an open backend, and nothing that happens to one reaches another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from hypernodes import LocalBackend, Node, Pipeline, PipelineCallback, WorkerDiedError
from tests.worker_processes.conftest import Scripts
from tests.worker_processes.nodes import note_line, read_lines, tell_process
from tests.worker_processes.observe import wait_until, workers


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


def wait_for_word(x: int, folder: str) -> int:
    """Note the call, and return when the test says so."""
    note_line(Path(folder) / f"call-{x}", os.getpid())
    assert wait_until((Path(folder) / "go").exists)
    return 10 * x


def start_waiting(threads: ThreadPoolExecutor, backend: LocalBackend, folder: Path) -> Future[Any]:
    """Start a run of one item, and wait until a worker computes it."""
    pipeline = Pipeline(nodes=[Node(wait_for_word, output_name="y")], backend=backend)
    found = threads.submit(pipeline.map, {"x": [7], "folder": str(folder)}, map_over="x")
    assert wait_until((folder / "call-7").exists)
    return found


def finish_waiting(found: Future[Any], folder: Path) -> None:
    """Let the run go on: it has its result, and has called the node once."""
    (folder / "go").touch()
    assert found.result() == {"y": [70]}
    assert len(read_lines(folder / "call-7")) == 1


@pytest.mark.parametrize("modes", [("sequential", "parallel"), ("parallel", "sequential")])
def test_threads_that_start_runs_at_once_share_the_workers(modes: Any, threads: ThreadPoolExecutor) -> None:
    start = Barrier(8)

    def run(_: int) -> set[int]:
        start.wait()
        return set(pipeline.map(inputs={"x": range(4)}, map_over="x")["process_id"])

    with LocalBackend(*modes, max_workers=2) as backend:
        pipeline = Pipeline(nodes=[tell_process], backend=backend)
        found = set().union(*threads.map(run, range(8)))
        assert len(found) <= 2
        assert len(workers()) <= 2
    assert workers() == []


class Exits(PipelineCallback):
    def on_node_end(self, *arguments: Any) -> None:
        raise SystemExit


def exit_in_callback(pipeline: Pipeline) -> None:
    with pytest.raises(SystemExit):
        pipeline.with_callbacks([Exits()]).map(inputs={"x": range(20)}, map_over="x")


def die_twice(pipeline: Pipeline) -> None:
    def die(x: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return x

    with pytest.raises(WorkerDiedError, match="'die' for map item 0"):
        pipeline.__class__(nodes=[Node(die, output_name="y")], backend=pipeline.backend).map({"x": [0]}, map_over="x")


def close_a_stream(pipeline: Pipeline) -> None:
    stream: Any = pipeline.map_iter(inputs={"x": iter(int, 1)}, map_over="x")
    next(stream)
    stream.close()


@pytest.mark.parametrize("disturb", [exit_in_callback, die_twice, close_a_stream])
def test_a_run_that_ends_badly_leaves_the_calls_of_another_alone(
    disturb: Callable[[Pipeline], None], threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with LocalBackend(map_execution="parallel", max_workers=2) as backend:
        found = start_waiting(threads, backend, tmp_path)
        disturb(Pipeline(nodes=[tell_process], backend=backend))
        finish_waiting(found, tmp_path)
    assert workers() == []


def test_a_backend_that_is_closed_ends_its_workers_with_the_run_that_uses_them(
    threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with LocalBackend(map_execution="parallel", max_workers=2) as backend:
        found = start_waiting(threads, backend, tmp_path)
    assert len(workers()) == 1
    finish_waiting(found, tmp_path)
    assert workers() == []


FORK = """
import os, sys, threading, warnings
import hypernodes.locks
from hypernodes import LocalBackend, MemoryCache, Pipeline, node
from hypernodes.backend import SubprocessBackend
warnings.simplefilter("ignore")  # Python's own, of forks beside threads

@node("y")
def add_one(x):
    return x + 1

def run():
    assert pipeline.map(inputs={"x": [1, 2]}, map_over="x") == {"y": [2, 3]}
    assert cached.map(inputs={"x": [1, 2, 4]}, map_over="x") == {"y": [2, 3, 5]}
    SubprocessBackend().preflight(cached, inputs={"x": 1})

backend = LocalBackend(map_execution="parallel", max_workers=1)
backend.__enter__()
pipeline = Pipeline(nodes=[add_one], backend=backend)
cached = Pipeline(nodes=[add_one], cache=MemoryCache())
run()

def hold_all_locks():
    for lock in list(hypernodes.locks._locks):
        lock.acquire()
    are_held.set()
    may_release.wait()
    for lock in list(hypernodes.locks._locks):
        lock.release()

are_held, may_release = threading.Event(), threading.Event()
thread = threading.Thread(target=hold_all_locks)
thread.start()
are_held.wait()
child = os.fork()
if child == 0:
    run()
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
may_release.set()
thread.join()
run()
backend.close()
print("both ran")
"""


def test_a_forked_process_runs_whatever_the_threads_of_its_parent_were_doing(scripts: Scripts) -> None:
    assert scripts.run(scripts.write(FORK)) == "both ran\n"
