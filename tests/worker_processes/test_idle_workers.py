"""Worker processes that stay after a run, for the next one."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hypernodes import ConfigurationError, LocalBackend, Node, Pipeline, PipelineExecutionEngine
from hypernodes.engine.workers import idle_workers
from hypernodes.engine.workers.process_pool import ProcessPool
from tests.support import end_idle_workers
from tests.worker_processes import nodes
from tests.worker_processes.conftest import Scripts
from tests.worker_processes.observe import processes, wait_until, workers


def parallel(**settings: Any) -> LocalBackend:
    return LocalBackend(map_execution="parallel", **{"max_workers": 1, **settings})


def pid_of(backend: LocalBackend) -> int:
    """Return the id of the one process that runs some items."""
    found = Pipeline([nodes.tell_process], backend=backend).map({"x": range(4)}, map_over="x")["process_id"]
    assert len(set(found)) == 1
    return int(found[0])


def test_a_run_uses_the_processes_of_the_run_before() -> None:
    backend = parallel()
    first = pid_of(backend)
    assert pid_of(backend) == first
    assert pid_of(parallel()) == first, "whatever the backend"
    assert pid_of(LocalBackend(engine=PipelineExecutionEngine(map_execution="parallel", max_workers=1))) == first
    assert [process.pid for process in workers()] == [first]


def test_a_run_that_failed_leaves_processes_that_can_be_used() -> None:
    first = pid_of(parallel())
    with pytest.raises(TypeError):
        Pipeline([nodes.double], backend=parallel()).map({"x": [1, None]}, map_over="x")
    assert pid_of(parallel()) == first


def test_a_process_that_died_is_replaced_in_the_next_run() -> None:
    first = pid_of(parallel())
    os.kill(first, 9)
    assert wait_until(lambda: first not in [process.pid for process in processes()])
    assert pid_of(parallel()) != first


def test_one_process_does_work_that_follows_upon_the_work_before() -> None:
    pool = ProcessPool(size=2)
    user = SimpleNamespace(settings=b"")
    order = pickle.dumps(bytes), b"done"
    following: Future[bytes] = Future()

    def go_on(_: Future[bytes]) -> None:  # in the thread that drives the process, which has not turned to the queue
        pool.submit(user, *order).add_done_callback(lambda last: following.set_result(last.result()))

    pool.submit(user, *order).add_done_callback(go_on)
    assert following.result(timeout=60) == b"done"
    assert len(workers()) == 1
    pool.close()


@pytest.mark.parametrize("close", [lambda backend: backend.close(), lambda _: end_idle_workers()])
def test_closing_a_backend_ends_idle_processes(close: Any) -> None:
    backend = parallel()
    pid_of(backend)
    close(backend)
    assert workers() == []


def test_processes_end_when_nobody_has_needed_them_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then the thread that ends them, which stays for a minute in case more come."""
    monkeypatch.setattr(idle_workers, "_WATCH_S", 0.02)
    pid_of(parallel(keep_workers_s=0.01))
    assert wait_until(lambda: workers() == [])
    assert wait_until(lambda: "hypernodes-idle-workers" not in [thread.name for thread in threading.enumerate()])


def test_processes_do_not_stay_where_they_are_not_to() -> None:
    pid_of(parallel(keep_workers_s=0))
    assert workers() == []


def test_a_block_takes_idle_processes_and_ends_them() -> None:
    first = pid_of(parallel())
    with parallel() as backend:
        assert pid_of(backend) == first
    assert workers() == []


def test_a_run_that_needs_another_number_of_processes_ends_the_idle_ones() -> None:
    first = pid_of(parallel())
    Pipeline([nodes.double], backend=parallel(max_workers=2)).map({"x": range(20)}, map_over="x")
    assert first not in [process.pid for process in workers()]


def test_of_runs_side_by_side_the_processes_of_one_stay() -> None:
    both_run = threading.Barrier(2)

    def run(_: int) -> int:
        stream = Pipeline([nodes.tell_process], backend=parallel()).map_iter({"x": range(4)}, map_over="x")
        found = next(stream)["process_id"]
        both_run.wait()
        list(stream)
        return int(found)

    with ThreadPoolExecutor(2) as threads:
        used = set(threads.map(run, range(2)))
    assert len(used) == 2
    assert wait_until(lambda: len(workers()) == 1)
    assert pid_of(parallel()) in used


# --- what a new process would have ------------------------------------------------------------------------------


def surroundings_in_worker(x: int) -> tuple[str, str | None, list[str]]:
    return os.getcwd(), os.environ.get("HYPERNODES_TEST"), sys.path


def test_a_changed_folder_environment_or_path_reaches_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline([Node(surroundings_in_worker, "found")], backend=parallel())

    def found() -> Any:
        return pipeline.map({"x": [1]}, map_over="x")["found"][0]

    found()
    monkeypatch.chdir(tmp_path)
    assert found()[0] == str(tmp_path)
    monkeypatch.setenv("HYPERNODES_TEST", "set")
    assert found()[1] == "set"
    monkeypatch.delenv("HYPERNODES_TEST")
    assert found()[1] is None
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    assert str(tmp_path / "more") in found()[2]


@pytest.mark.parametrize("is_block", [False, True], ids=["idle", "block"])
@pytest.mark.parametrize("where", ["imported by the caller", "imported in the node"])
def test_an_edited_module_is_imported_again(
    is_block: bool, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is sent by name, or imports a module that this process has not imported at all."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"edited_{is_block}_{where.replace(' ', '_')}"
    if where == "imported by the caller":
        source = "def shift(x):\n    return x + {}\n"
    else:
        source = f"def shift(x):\n    import {name}_aid\n    return x + {name}_aid.OFFSET\n"
        (tmp_path / f"{name}.py").write_text(source)
    backend = parallel()

    def write(offset: int) -> None:
        if where == "imported by the caller":
            (tmp_path / f"{name}.py").write_text(source.format(offset))
        else:
            (tmp_path / f"{name}_aid.py").write_text(f"OFFSET = {offset}\n")

    def shifted() -> int:
        module = importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name)
        pipeline = Pipeline([Node(module.shift, "shifted")], backend=backend)
        return int(pipeline.map({"x": [0]}, map_over="x")["shifted"][0])

    write(1)
    importlib.invalidate_caches()
    if is_block:
        backend.__enter__()
    try:
        assert shifted() == 1
        write(20)
        assert shifted() == 20
        assert shifted() == 20
        write(300)
        assert shifted() == 300
    finally:
        if is_block:
            backend.__exit__(None, None, None)
        del sys.modules[name]


def tell_loaded_files(x: int) -> list[str]:
    from hypernodes.engine.workers import process_main

    return list(process_main._loaded)


@pytest.mark.parametrize("is_block", [False, True], ids=["idle", "block"])
def test_the_values_of_a_run_are_released_after_it(is_block: bool) -> None:
    large = bytes(20_000_000)
    pipeline = Pipeline([Node(lambda x, large: tell_loaded_files(x), "files", name="tell")], backend=parallel())
    if is_block:
        pipeline.effective_backend.__enter__()  # type: ignore[attr-defined]
    try:
        first = pipeline.map({"x": [1], "large": large}, map_over="x")["files"][0]
        second = pipeline.map({"x": [1], "large": large}, map_over="x")["files"][0]
    finally:
        if is_block:
            pipeline.effective_backend.__exit__(None, None, None)  # type: ignore[attr-defined]
    assert first
    assert second
    assert set(first).isdisjoint(second)


# --- the end of the program, and forks ----------------------------------------------------------------------------

SCRIPT = """
    import os
    from hypernodes import LocalBackend, Pipeline, node

    @node(output_name="process_id")
    def tell_process(x):
        return os.getpid()

    def pids():
        backend = LocalBackend(map_execution="parallel", max_workers=1)
        return Pipeline([tell_process], backend=backend).map({"x": [1, 2]}, map_over="x")["process_id"]

    if __name__ == "__main__":
        first = pids()
        END
"""


def test_idle_processes_end_with_the_program(scripts: Scripts) -> None:
    out = scripts.run(scripts.write(SCRIPT.replace("END", "print(first[0])")))
    assert wait_until(lambda: int(out) not in [process.pid for process in processes()])


def test_a_forked_process_starts_its_own_and_leaves_those_of_its_parent_alone(scripts: Scripts) -> None:
    end = """
        child = os.fork()
        if child == 0:
            own = pids()
            os._exit(0 if set(own).isdisjoint(first) and set(pids()) == set(own) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert set(pids()) == set(first)
        print("done")
    """
    assert (
        scripts.run("-W", "ignore::DeprecationWarning", scripts.write(SCRIPT.replace("        END\n", end))) == "done\n"
    )


@pytest.mark.parametrize("seconds", [-1, "10", True, float("nan"), float("inf")])
def test_a_time_to_keep_workers_that_is_no_number_of_seconds_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="keep_workers_s must be seconds, 0 or more"):
        parallel(keep_workers_s=seconds)
