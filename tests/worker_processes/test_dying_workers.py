"""A worker process that dies never hangs a run, and costs only what it was computing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest

from hypernodes import Backend, LocalBackend, MemoryCache, Node, Pipeline, WorkerDiedError, failures, node
from hypernodes.backend import SubprocessBackend
from hypernodes.engine.workers import stopped_processes
from tests.support import Recorder
from tests.worker_processes.nodes import die_if_told, note_line, read_lines, tell_process
from tests.worker_processes.observe import processes, wait_until, workers


@pytest.fixture(params=["items", "nodes"])
def backend(request: pytest.FixtureRequest) -> LocalBackend:
    return request.getfixturevalue(f"{request.param}_backend")  # type: ignore[no-any-return]


def inputs(count: int, victims: dict[int, str], folder: Path) -> dict[str, object]:
    return {"x": range(count), "victims": victims, "folder": str(folder)}


@pytest.mark.parametrize("how", ["once", "exit once"])
def test_what_was_in_flight_is_computed_again(how: str, backend: LocalBackend, tmp_path: Path) -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[die_if_told], backend=backend, callbacks=[recorder])
    found = pipeline.map(inputs=inputs(12, {5: how}, tmp_path), map_over="x")
    assert found == {"y": [10 * x for x in range(12)]}
    assert len(read_lines(tmp_path / "call-5")) == 2
    assert all(len(read_lines(tmp_path / f"call-{x}")) <= 2 for x in range(12))
    assert sorted(event[1] for event in recorder.events if event[0] == "map_item_end") == list(range(12))
    assert recorder.computed == ["die_if_told"] * 12


def test_a_death_takes_nothing_else_with_it(items_backend: LocalBackend, tmp_path: Path) -> None:
    def die_beside_another(x: int, folder: str) -> int:
        path = Path(folder) / f"call-{x}"
        note_line(path, os.getpid())
        if x == 0 and len(read_lines(path)) == 1:
            assert wait_until((Path(folder) / "call-1").exists)
            os._exit(3)
        if x == 1:
            assert wait_until(lambda: read_lines(Path(folder) / "call-0"))
            dead = int(read_lines(Path(folder) / "call-0")[0])
            assert wait_until(lambda: dead not in {process.pid for process in processes()})
        return x

    pipeline = Pipeline(nodes=[Node(die_beside_another, output_name="y")], backend=items_backend)
    assert pipeline.map(inputs={"x": [0, 1], "folder": str(tmp_path)}, map_over="x") == {"y": [0, 1]}
    assert len(read_lines(tmp_path / "call-0")) == 2
    assert len(read_lines(tmp_path / "call-1")) == 1


def test_an_item_that_always_kills_its_worker_is_named(backend: LocalBackend, tmp_path: Path) -> None:
    cache = MemoryCache()
    pipeline = Pipeline(nodes=[die_if_told], backend=backend, cache=cache, name="prep")
    with pytest.raises(WorkerDiedError, match="'die_if_told' for map item 3") as caught:
        pipeline.map(inputs=inputs(12, {3: "always"}, tmp_path), map_over="x")
    assert caught.value.item_index == 3
    assert caught.value.node_names == ("die_if_told",)
    assert 1 <= len(read_lines(tmp_path / "call-3")) <= 4
    assert len(cache) >= 1  # what was done before is kept


def test_the_other_items_are_kept_when_failures_are_collected(backend: LocalBackend, tmp_path: Path) -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[die_if_told], backend=backend, cache=MemoryCache(), callbacks=[recorder])
    given = inputs(12, {3: "always"}, tmp_path)
    found = pipeline.map(inputs=given, map_over="x", on_error="collect")
    (failure,) = failures(found)
    assert failure.item_index == 3
    assert isinstance(failure.error, WorkerDiedError)
    assert found["y"] == [10 * x if x != 3 else failure for x in range(12)]

    recorder.clear()
    pipeline.map(inputs=given, map_over="x", on_error="collect")
    assert recorder.cached_items == [x for x in range(12) if x != 3]


def test_a_node_that_always_kills_its_worker_is_named(nodes_backend: LocalBackend, tmp_path: Path) -> None:
    pipeline = Pipeline(nodes=[die_if_told], backend=nodes_backend)
    with pytest.raises(WorkerDiedError, match="'die_if_told'") as caught:
        pipeline.run(inputs={"x": 1, "victims": {1: "always"}, "folder": str(tmp_path)})
    assert caught.value.item_index is None


def test_workers_killed_between_runs_are_replaced(backend: LocalBackend) -> None:
    pipeline = Pipeline(nodes=[tell_process], backend=backend)
    (first,) = pipeline.map(inputs={"x": [1]}, map_over="x")["process_id"]
    for process in workers():
        os.kill(process.pid, signal.SIGKILL)
    found = pipeline.map(inputs={"x": [1, 2, 3]}, map_over="x")["process_id"]
    assert first not in found


def test_a_single_call_is_made_though_all_idle_workers_were_killed(items_backend: LocalBackend) -> None:
    @node(output_name="process")
    def work_for_a_while(x: int) -> int:
        time.sleep(0.005)
        return os.getpid()

    pipeline = Pipeline(nodes=[work_for_a_while], backend=items_backend)
    for _ in range(3):
        before: set[int] = set()
        while len(before) < 2:  # until both are up
            before = set(pipeline.map(inputs={"x": range(40)}, map_over="x")["process"])
        for process_id in before:
            os.kill(process_id, signal.SIGKILL)
        (after,) = pipeline.map(inputs={"x": [1]}, map_over="x")["process"]
        assert after not in before


def test_what_workers_were_computing_when_they_were_killed_is_computed_again(tmp_path: Path) -> None:
    def wait_on_first_call(x: int, folder: str) -> int:
        path = Path(folder) / f"call-{x}"
        note_line(path, os.getpid())
        if len(read_lines(path)) == 1:
            note_line(Path(folder) / "waiting", os.getpid())
            wait_until(lambda: False, 60)
        return x

    def kill_both() -> None:
        wait_until(lambda: len(set(read_lines(tmp_path / "waiting"))) == 2)
        for process_id in set(read_lines(tmp_path / "waiting")):
            os.kill(int(process_id), signal.SIGKILL)

    killer = Thread(target=kill_both)
    killer.start()
    backend = LocalBackend(map_execution="parallel", max_workers=2)
    pipeline = Pipeline(nodes=[Node(wait_on_first_call, output_name="y")], backend=backend)
    found = pipeline.map(inputs={"x": [0, 1], "folder": str(tmp_path)}, map_over="x")
    killer.join()
    assert found == {"y": [0, 1]}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the state of processes from /proc")
@pytest.mark.parametrize(
    "make_backend",
    [
        lambda: LocalBackend(map_execution="parallel", max_workers=1),
        lambda: LocalBackend(node_execution="parallel", max_workers=1),
        SubprocessBackend,
    ],
    ids=["items", "nodes", "subprocess"],
)
def test_a_stopped_worker_is_said_to_be_stopped_once_and_goes_on_when_it_is_continued(
    make_backend: Callable[[], Backend],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopped_processes, "LOOK_S", 0.05)

    @node(output_name="y")
    def stop(x: int, path: Path) -> int:
        path.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        return x + 1

    path = tmp_path / "pid"

    def go_on() -> None:
        assert wait_until(lambda: "is stopped" in caplog.text)
        os.kill(int(path.read_text()), signal.SIGCONT)

    with make_backend() as backend, ThreadPoolExecutor(1) as executor:
        done = executor.submit(go_on)
        found = Pipeline(nodes=[stop], backend=backend).map(inputs={"x": [1], "path": path}, map_over="x")
        done.result()
    assert found == {"y": [2]}
    (said,) = [record.getMessage() for record in caplog.records if "is stopped" in record.getMessage()]
    assert f"kill -CONT {path.read_text()}" in said
