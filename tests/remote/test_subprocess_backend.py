"""The other process: what it prints, how it ends, and what happens here meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hypernodes import (
    CallbackContext,
    ConfigurationError,
    Failure,
    LocalBackend,
    MemoryCache,
    NodeTimeoutError,
    Pipeline,
    PipelineCallback,
    WorkerLostError,
    node,
)
from hypernodes.backend import SubprocessBackend
from hypernodes.remote.channel import Channel
from tests.remote.conftest import Project
from tests.support import Recorder, end_idle_workers, start_python
from tests.worker_processes.observe import members_of_session, processes, wait_until

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are observed through /proc"),
    pytest.mark.slow,
]


@node(output_name="pid")
def get_pid(x: int = 0) -> int:
    return os.getpid()


# --- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("map_execution", ["sequential", "threaded", "async", "parallel"])
def test_events_are_observed_while_later_items_are_still_held_up(tmp_path: Path, map_execution: Any) -> None:
    os.mkfifo(tmp_path / "gate")

    @node(output_name="y")
    def wait(x: int, gate: str) -> int:
        if x == 1:
            with open(gate) as pipe:  # until somebody writes
                pipe.read()
        return x

    class Opener(PipelineCallback):
        def on_map_item_end(self, item_index: int, duration: float, ctx: CallbackContext) -> None:
            if item_index == 0:
                (tmp_path / "gate").write_text("go on")

    backend = SubprocessBackend(map_execution=map_execution, max_workers=2)
    pipeline = Pipeline([wait], backend=backend, callbacks=[Opener()])
    assert pipeline.map({"x": [0, 1], "gate": str(tmp_path / "gate")}, "x") == {"y": [0, 1]}


def test_results_are_in_the_cache_while_later_items_are_still_held_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")

    @node(output_name="y")
    def wait(x: int, gate: str) -> int:
        if x == 1:
            with open(gate) as pipe:
                pipe.read()
        return x

    class Opening(MemoryCache):
        def put_many(self, entries: Any, labels: Any = None) -> None:
            super().put_many(entries, labels)
            if 0 in entries.values():
                (tmp_path / "gate").write_text("go on")

    pipeline = Pipeline([wait], backend=SubprocessBackend(), cache=Opening())
    assert pipeline.map({"x": [0, 1], "gate": str(tmp_path / "gate")}, "x") == {"y": [0, 1]}


def test_callbacks_share_what_they_keep_in_the_context(kept: SubprocessBackend) -> None:
    class Counting(PipelineCallback):
        def on_pipeline_start(self, pipeline_id: str, inputs: Any, ctx: CallbackContext) -> None:
            ctx.set("depths", [ctx.depth])

        def on_node_end(self, node_id: str, outputs: Any, duration: float, ctx: CallbackContext) -> None:
            ctx.get("depths").append((ctx.depth, ctx.hierarchy_path, ctx.parent_pipeline_id))

    class Reading(PipelineCallback):
        depths: Any = None

        def on_pipeline_end(self, pipeline_id: str, outputs: Any, duration: float, ctx: CallbackContext) -> None:
            self.depths = ctx.get("depths")

    reading = Reading()
    inner = Pipeline([get_pid], name="inner")
    Pipeline([inner], name="outer", backend=kept, callbacks=[Counting(), reading]).run({})
    assert reading.depths == [0, (1, ("outer", "inner"), "outer")]


# --- what is printed -------------------------------------------------------------------------------------------------


def test_what_nodes_print_appears_here_in_order(kept: SubprocessBackend, capsys: pytest.CaptureFixture[str]) -> None:
    @node(output_name="y")
    def shout(x: int) -> int:
        import os
        import subprocess
        import sys

        print("first", x)
        sys.stdout.flush()
        os.write(1, b"second\n")
        subprocess.run(["echo", "third"], check=True)
        print("without end", end="")
        print("to the other stream", file=sys.stderr)
        return x

    Pipeline([shout], backend=kept).map({"x": [1, 2]}, "x")
    Pipeline([get_pid], backend=kept).run({})
    captured = capsys.readouterr()
    assert captured.out == "".join(f"first {x}\nsecond\nthird\nwithout end" for x in (1, 2))
    assert captured.err.count("to the other stream\n") == 2


def test_what_nodes_print_can_be_silenced_and_is_still_in_the_error_of_a_lost_worker(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @node(output_name="y")
    def shout(x: int) -> int:
        import os
        import sys

        print("here", flush=True)
        print("there", file=sys.stderr, flush=True)
        if x:
            os._exit(3)
        return x

    silent = Pipeline([shout], backend=SubprocessBackend(show_logs=False))
    silent.run({"x": 0})
    with pytest.raises(WorkerLostError, match="there"):
        silent.run({"x": 1})
    assert tuple(capsys.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("mode", "end"),
    [
        ("map_execution", "with backend: run()"),
        ("node_execution", "run()"),
        ("map_execution", "backend.__enter__(); run()"),
    ],
    ids=["closed", "for one run", "never closed"],
)
def test_worker_processes_there_end_without_complaints(mode: str, end: str, tmp_path: Path) -> None:
    pytest.importorskip("loky")
    (tmp_path / "script.py").write_text(
        "from hypernodes import Pipeline, node\n"
        "from hypernodes.backend import SubprocessBackend\n"
        "@node('y')\n"
        "def f(x): return x\n"
        f"backend = SubprocessBackend({mode}='parallel', max_workers=2)\n"
        "def run(): Pipeline([f], backend=backend).map({'x': [1, 2, 3]}, 'x')\n"
        f"{end}\n"
    )
    process = start_python("script.py", cwd=tmp_path)
    assert process.communicate(timeout=240) == ("", "")  # nor does a resource tracker speak of leaked semaphores
    assert process.returncode == 0


def test_what_is_printed_may_be_anything_and_much(kept: SubprocessBackend) -> None:
    @node(output_name="y")
    def spill(size: int) -> int:
        import os
        import sys

        rest = memoryview(os.urandom(1 << 16) * (size >> 16))
        while rest:
            rest = rest[os.write(1, rest) :]
        sys.stdout.write("א" * 1000)
        return size

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert Pipeline([spill], backend=kept).run({"size": 20 << 20}) == {"y": 20 << 20}
    assert printed.getvalue().endswith("א" * 1000)
    assert len(printed.getvalue()) > 10 << 20


def test_nodes_have_no_standard_input(kept: SubprocessBackend) -> None:
    @node(output_name="read")
    def read(x: int) -> str:
        import sys

        return sys.stdin.read()

    assert Pipeline([read], backend=kept).run({"x": 1}) == {"read": ""}


# --- where it runs ---------------------------------------------------------------------------------------------------


def test_the_other_process_has_the_environment_and_folder_that_it_is_given(tmp_path: Path) -> None:
    @node(output_name="seen")
    def look(x: int) -> tuple[str | None, str]:
        import os

        return os.environ.get("GREETING"), os.getcwd()

    pipeline = Pipeline([look], backend=SubprocessBackend(env={"GREETING": "shalom"}, cwd=tmp_path))
    assert pipeline.run({"x": 1}) == {"seen": ("shalom", str(tmp_path))}


def test_a_process_is_kept_while_the_backend_is_open_and_replaced_when_it_died() -> None:
    backend = SubprocessBackend(keep_workers_s=0)
    pipeline = Pipeline([get_pid], backend=backend)
    one, other = (pipeline.run({})["pid"] for _ in range(2))
    assert one != other
    with backend, backend:
        kept = pipeline.run({})["pid"]
        assert pipeline.run({})["pid"] == kept
        os.kill(kept, signal.SIGKILL)
        assert wait_until(lambda: all(p.pid != kept for p in processes()))
        replaced = pipeline.run({})["pid"]
        assert replaced != kept
        assert pipeline.run({})["pid"] == replaced
    assert wait_until(lambda: not {one, other, kept, replaced} & {p.pid for p in processes()})


def pid_of(backend: SubprocessBackend) -> int:
    return int(Pipeline([get_pid], backend=backend).run({})["pid"])


def test_a_process_stays_after_a_run_for_the_next_one() -> None:
    end_idle_workers()
    first = pid_of(SubprocessBackend())
    assert pid_of(SubprocessBackend()) == first
    with SubprocessBackend() as backend:
        assert pid_of(backend) == first
    assert wait_until(lambda: first not in {p.pid for p in processes()})
    second = pid_of(backend)
    backend.close()
    assert wait_until(lambda: second not in {p.pid for p in processes()})


def test_a_process_ends_when_no_run_has_needed_it_for_a_while() -> None:
    pid = pid_of(SubprocessBackend(env={"KEPT": "shortly"}, keep_workers_s=0.01))
    assert wait_until(lambda: pid not in {p.pid for p in processes()})


def test_a_process_is_used_again_only_where_a_new_one_would_be_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_idle_workers()
    backend = SubprocessBackend()
    found = [pid_of(backend), pid_of(SubprocessBackend(env={"OTHER": "1"})), pid_of(SubprocessBackend(cwd=tmp_path))]
    monkeypatch.setenv("HYPERNODES_TEST", "set")
    found.append(pid_of(backend))
    monkeypatch.chdir(tmp_path)
    found.append(pid_of(backend))
    assert len(set(found)) == len(found)


def test_map_iter_leaves_the_processes_of_others_alone_and_its_own_for_the_next_run() -> None:
    end_idle_workers()
    other = pid_of(SubprocessBackend(env={"OTHER": "1"}))
    backend = SubprocessBackend()
    (found,) = Pipeline([get_pid], backend=backend).map_iter({"x": [1]}, map_over="x")
    assert pid_of(backend) == found["pid"]
    assert pid_of(SubprocessBackend(env={"OTHER": "1"})) == other


def test_ending_a_job_late_does_not_end_the_one_that_the_process_has_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends: list[Any] = []
    when_cancelled = Channel.when_cancelled

    def remember(channel: Channel, end: Any) -> None:
        ends.append(end)
        when_cancelled(channel, end)

    @node(output_name="y")
    def wait_for(path: str) -> int:
        import os
        import time

        open(path + ".begun", "w").close()
        while not os.path.exists(path):
            time.sleep(0.01)
        return os.getpid()

    monkeypatch.setattr(Channel, "when_cancelled", remember)
    end_idle_workers()
    first = pid_of(SubprocessBackend())
    path = str(tmp_path / "go on")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(Pipeline([wait_for], backend=SubprocessBackend()).run, {"path": path})
        assert wait_until(lambda: os.path.exists(path + ".begun"))
        ends[0]()  # as a cancellation does that comes when the outcome is here already
        open(path, "w").close()
        assert running.result() == {"y": first}


def test_a_folder_that_was_made_anew_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @node(output_name="content")
    def read(name: str) -> str:
        return open(name).read()

    pipeline = Pipeline([read], backend=SubprocessBackend())
    folder = tmp_path / "folder"
    for content in ("one", "two"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / "data").write_text(content)
        assert pipeline.run({"name": "data"}) == {"content": content}
        shutil.rmtree(folder)


def test_a_module_that_only_the_process_has_imported_is_imported_again_when_it_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    @node(output_name="y")
    def look(name: str) -> int:
        import importlib

        return importlib.import_module(name).NUMBER  # type: ignore[no-any-return]

    pipeline = Pipeline([look], backend=SubprocessBackend())
    for number in (1, 22, 333):
        (tmp_path / "found_by_name.py").write_text(f"NUMBER = {number}")
        assert pipeline.run({"name": "found_by_name"}) == {"y": number}


def test_a_run_starts_in_the_folder_of_the_process_wherever_the_one_before_went(tmp_path: Path) -> None:
    @node(output_name="folders")
    def go(to: str) -> tuple[str, str]:
        import os

        before = os.getcwd()
        os.chdir(to)
        return before, os.getcwd()

    pipeline = Pipeline([go], backend=SubprocessBackend(cwd=tmp_path))
    expected = (str(tmp_path.resolve()), os.path.realpath("/"))
    assert [pipeline.run({"to": "/"})["folders"] for _ in range(2)] == [expected, expected]


@pytest.mark.parametrize("seconds", [-1, "10", True])
def test_a_time_to_keep_the_process_that_is_no_number_of_seconds_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="keep_workers_s must be seconds, 0 or more"):
        SubprocessBackend(keep_workers_s=seconds)


def test_several_threads_use_one_backend(kept: SubprocessBackend) -> None:
    def run(x: int) -> Any:
        return Pipeline([get_pid], backend=kept).map({"x": range(20)}, "x")["pid"]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(8)))
    assert all(len(set(pids)) == 1 and len(pids) == 20 for pids in found)


def test_a_backend_goes_by_pickle_without_its_processes(kept: SubprocessBackend) -> None:
    Pipeline([get_pid], backend=kept).run({})
    copy = pickle.loads(pickle.dumps(kept))
    assert (copy.python, copy.env, copy.cwd) == (kept.python, kept.env, kept.cwd)
    first = Pipeline([get_pid], backend=copy).run({})["pid"]
    assert first != Pipeline([get_pid], backend=kept).run({})["pid"]


@pytest.mark.parametrize("node_execution", ["sequential", "async", "threaded", "parallel"])
def test_a_nested_pipeline_runs_on_its_own_backend(kept: SubprocessBackend, node_execution: Any) -> None:
    recorder = Recorder()
    inner = Pipeline([get_pid], name="inner", backend=kept)
    each = inner.as_node(name="each", map_over="xs", input_mapping={"xs": "x"}, output_mapping={"pid": "pids"})
    here = LocalBackend(node_execution=node_execution, max_workers=2)
    pipeline = Pipeline([inner, each], name="outer", backend=here, callbacks=[recorder])
    found = pipeline.run({"x": 1, "xs": [1, 2]})
    assert os.getpid() not in {found["pid"], *found["pids"]}
    contexts = [
        ctx.hierarchy_path for event, ctx in zip(recorder.events, recorder.contexts, strict=True) if "node" in event[0]
    ]
    assert set(contexts) == {("outer", "inner")}


def test_a_nested_pipeline_with_the_same_backend_runs_in_place_and_one_with_another_does_not() -> None:
    backend, other = SubprocessBackend(), SubprocessBackend(env={"OTHER": "1"})

    def named(name: str, place: Any) -> Any:
        return Pipeline([get_pid], name=name, backend=place).as_node(output_mapping={"pid": name}, name=name)

    found = Pipeline([get_pid, named("same", backend), named("other", other)], backend=backend).run({})
    assert found["pid"] == found["same"] != found["other"]


# --- how it ends -----------------------------------------------------------------------------------------------------

HELD_UP = """
    import sys, time, os

    @node(output_name="y")
    def wait(x, folder):
        import os, time
        open(os.path.join(folder, f"pid-{os.getpid()}"), "w").close()
        time.sleep(3600)

    backend = SubprocessBackend(map_execution=sys.argv[1], max_workers=2)
    Pipeline([wait], backend=backend).map({"x": [1, 2, 3, 4], "folder": os.getcwd()}, "x")
"""


@pytest.mark.parametrize("map_execution", ["sequential", "parallel"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_caller_is_ended(project: Project, map_execution: str, end: signal.Signals) -> None:
    count = 2 if map_execution == "parallel" else 1
    process = project.start(HELD_UP, map_execution)
    try:
        assert wait_until(lambda: len(list(project.folder.glob("pid-*"))) == count)
        pids = {int(path.name.removeprefix("pid-")) for path in project.folder.glob("pid-*")}
        os.kill(process.pid, end)
        _, errors = process.communicate(timeout=240)  # and not the hour that the nodes sleep
        if end == signal.SIGINT:
            assert "KeyboardInterrupt" in errors
        assert wait_until(lambda: not pids & {p.pid for p in processes()})
        assert wait_until(lambda: not members_of_session(process.pid))
    finally:
        process.kill()
        process.wait()


def test_cancelling_the_task_that_awaits_a_run_ends_the_work(tmp_path: Path) -> None:
    @node(output_name="y")
    def wait(folder: str, x: int = 0) -> None:
        import os
        import time

        open(os.path.join(folder, f"pid-{os.getpid()}"), "w").close()
        time.sleep(60)

    async def cancel_when_begun(run: Any) -> None:
        task = asyncio.ensure_future(run)
        while not list(tmp_path.glob("pid-*")):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    pipeline = Pipeline([wait], backend=SubprocessBackend())
    for run in (
        lambda: pipeline.arun({"folder": str(tmp_path)}),
        lambda: pipeline.amap({"folder": str(tmp_path), "x": [1]}, "x"),
    ):
        asyncio.run(cancel_when_begun(run()))
        (path,) = tmp_path.glob("pid-*")
        assert wait_until(lambda path=path: int(path.name[4:]) not in {p.pid for p in processes()})
        path.unlink()


@node(output_name="y", timeout=0.3)
def stop_its_process(x: int) -> int:
    os.kill(os.getpid(), signal.SIGSTOP if x else 0)
    return x


@node(output_name="y", timeout=0.3)
def hold_the_interpreter(x: int) -> int:
    return sum(itertools.repeat(0)) if x else x


@node(output_name="y", timeout=0.3)
async def hold_interpreter_and_loop(x: int) -> int:
    return sum(itertools.repeat(0)) if x else x


@pytest.mark.parametrize(
    ("slow", "node_execution"),
    [
        (stop_its_process, "sequential"),
        (hold_the_interpreter, "threaded"),
        (hold_interpreter_and_loop, "async"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_time_limit_holds_also_where_the_process_cannot_enforce_it(slow: Any, node_execution: Any) -> None:
    backend = SubprocessBackend(node_execution=node_execution)
    pipeline = Pipeline(nodes=[slow], backend=backend)
    with backend:
        assert pipeline.run(inputs={"x": 0}) == {"y": 0}
        with pytest.raises(NodeTimeoutError, match=f"'{slow.name}' took longer than its timeout of 0.3 s") as caught:
            pipeline.run(inputs={"x": 1})
        assert (caught.value.node_name, caught.value.timeout_s) == (slow.name, 0.3)
        assert not any("transport" in note for note in getattr(caught.value, "__notes__", ()))
        assert pipeline.run(inputs={"x": 0}) == {"y": 0}


def test_a_call_that_is_given_up_in_time_costs_the_process_nothing(tmp_path: Path) -> None:
    @node(output_name="y", timeout=0.1)
    def sleep_long(x: int) -> int:
        threading.Event().wait(3600 if x == 0 else 0)
        return x

    @node(output_name="pid")
    def wait_for_the_grace_of_the_other(y: Any) -> int:
        time.sleep(1.5)  # longer than the caller waits for a process that does not give up
        return os.getpid()

    pipeline = Pipeline(nodes=[sleep_long, wait_for_the_grace_of_the_other], backend=SubprocessBackend())
    found = pipeline.map(inputs={"x": [0, 1]}, map_over="x", on_error="collect")
    assert [type(value) for value in found["pid"]] == [Failure, int]


def test_a_failure_elsewhere_in_the_run_ends_the_work(tmp_path: Path) -> None:
    @node(output_name="y")
    def wait(folder: str) -> None:
        import os
        import time

        open(os.path.join(folder, f"pid-{os.getpid()}"), "w").close()
        time.sleep(60)

    @node(output_name="z")
    def fail(folder: str) -> None:
        assert wait_until(lambda: list(Path(folder).glob("pid-*")))
        raise ValueError("enough")

    inner = Pipeline([wait], name="inner", backend=SubprocessBackend())
    with pytest.raises(ValueError, match="enough"):
        Pipeline([inner, fail], backend=LocalBackend(node_execution="threaded")).run({"folder": str(tmp_path)})
    (path,) = tmp_path.glob("pid-*")
    assert wait_until(lambda: int(path.name[4:]) not in {p.pid for p in processes()})


def test_async_runs_give_what_runs_give(kept: SubprocessBackend) -> None:
    async def both() -> tuple[Any, Any]:
        pipeline = Pipeline([get_pid], backend=kept)
        return await pipeline.arun({}), await pipeline.amap({"x": [1, 2]}, "x")

    one, several = asyncio.run(both())
    assert os.getpid() != one["pid"]
    assert len(several["pid"]) == 2


def test_a_process_that_was_forked_does_not_use_the_processes_of_its_parent(project: Project) -> None:
    out = project.run("""
        import os

        @node(output_name="pid")
        def get_pid(x):
            import os
            return os.getpid()

        with SubprocessBackend() as backend:
            pipeline = Pipeline([get_pid], backend=backend)
            first = pipeline.run({"x": 1})["pid"]
            child = os.fork()
            if child == 0:
                os._exit(0 if pipeline.run({"x": 1})["pid"] != first else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert pipeline.run({"x": 1})["pid"] == first
            print("fine")
    """)
    assert out == "fine\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_was_forked_while_a_thread_used_the_backend_can_use_it(project: Project) -> None:
    out = project.run("""
        import os, pickle, threading

        @node(output_name="y")
        def double(x):
            return 2 * x

        for backend in (SubprocessBackend(), pickle.loads(pickle.dumps(SubprocessBackend()))):
            is_held, is_over = threading.Event(), threading.Event()

            def hold():
                with backend._lock:
                    is_held.set()
                    is_over.wait()

            thread = threading.Thread(target=hold)
            thread.start()
            is_held.wait()
            child = os.fork()
            if child == 0:
                with backend:
                    os._exit(Pipeline([double], backend=backend).run({"x": 3})["y"])
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
            is_over.set()
            thread.join()
        print("fine")
    """)
    assert out == "fine\n"


def test_threads_that_are_left_running_do_not_hold_up_the_end() -> None:
    @node(output_name="y")
    def leave_behind(x: int) -> int:
        import threading

        threading.Thread(target=threading.Event().wait).start()
        return x

    before = own_threads()
    assert Pipeline([leave_behind], backend=SubprocessBackend(keep_workers_s=0)).run({"x": 1}) == {"y": 1}
    assert own_threads() <= before


def own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("hypernodes")}


# --- what nodes leave behind -----------------------------------------------------------------------------------------

CALLERS = """
    import sys, time

    @node(output_name="y")
    def wait(x):
        import time
        time.sleep(60)

    print("READY", flush=True)
    Pipeline([wait], backend=SubprocessBackend(env={"PYTHONSTARTUP": "", "TAG": sys.argv[1]})).run({"x": 1})
"""


def tagged(tag: str) -> list[int]:
    """Return the processes that have something in their environment."""
    found = []
    for process in processes():
        with contextlib.suppress(OSError):
            if tag in Path(f"/proc/{process.pid}/environ").read_text(errors="replace"):
                found.append(process.pid)
    return found


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("begun", ["as soon as it exists", "when it serves"])
def test_nothing_is_left_when_the_caller_is_ended_while_the_worker_starts(
    project: Project, end: signal.Signals, begun: str
) -> None:
    tag = f"tag-{os.urandom(8).hex()}"
    caller = project.start(CALLERS, tag)
    try:
        assert wait_until(lambda: len(tagged(tag)) >= 1)
        (worker, *_) = tagged(tag)
        if begun == "when it serves":
            assert wait_until(lambda: has_threads(worker))
        os.kill(caller.pid, end)
        caller.communicate(timeout=240)
        assert wait_until(lambda: not tagged(tag))
    finally:
        caller.kill()
        caller.wait()


def has_threads(pid: int) -> bool:
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return True


@pytest.mark.parametrize("how", ["program", "fork"])
@pytest.mark.parametrize("is_killed", [False, True])
def test_what_a_node_started_does_not_hold_the_run(tmp_path: Path, how: str, is_killed: bool) -> None:
    @node(output_name="y")
    def leave(x: int, folder: str, how: str, is_killed: bool) -> int:
        import os
        import signal
        import subprocess
        import time

        if how == "program":
            child = subprocess.Popen(["sleep", "300"], start_new_session=True).pid
        else:
            child = os.fork()
            if child == 0:
                os.setsid()
                time.sleep(300)
                os._exit(0)
        with open(os.path.join(folder, "child"), "w") as file:
            file.write(str(child))
        if is_killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    inputs = {"x": 1, "folder": str(tmp_path), "how": how, "is_killed": is_killed}
    pipeline = Pipeline([leave], backend=SubprocessBackend())
    try:
        if is_killed:
            with pytest.raises(WorkerLostError, match="SIGKILL"):
                pipeline.run(inputs)
        else:
            assert pipeline.run(inputs) == {"y": 1}
        child = int((tmp_path / "child").read_text())
        assert child in {process.pid for process in processes()}  # it goes on, and the run is over
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["no cache", "a cache"])
@pytest.mark.parametrize("callbacks", [[], [Recorder()]], ids=["no callbacks", "a callback"])
def test_a_child_that_returns_from_a_node_as_well_answers_nothing_and_ends(
    cache: MemoryCache | None, callbacks: list[Recorder]
) -> None:
    @node(output_name="forked")
    def fork(x: int) -> tuple[int, int]:
        import os

        child = os.fork()
        return (x, child) if child else (-1, 0)

    @node(output_name="y")
    def hand_on(forked: tuple[int, int]) -> tuple[int, int]:
        return forked

    with SubprocessBackend() as backend:
        pipeline = Pipeline([fork, hand_on], backend=backend, cache=cache, callbacks=callbacks)
        results = [pipeline.run({"x": x})["y"] for x in range(3)]
        assert [x for x, _ in results] == [0, 1, 2]
        children = {child for _, child in results}
        assert wait_until(lambda: children.isdisjoint(process.pid for process in processes()))


def test_the_process_flushes_files_and_calls_exit_functions_at_its_end(tmp_path: Path) -> None:
    @node(output_name="y")
    def leave_open(x: int, folder: str, with_thread: bool) -> int:
        import atexit
        import builtins
        import threading
        from pathlib import Path

        builtins.left_open = open(Path(folder) / "open", "w")  # type: ignore[attr-defined]  # noqa: SIM115
        builtins.left_open.write("written")  # type: ignore[attr-defined]
        atexit.register((Path(folder) / "exit").write_text, "called")
        if with_thread:
            threading.Thread(target=threading.Event().wait).start()
        return x

    for with_thread in (False, True):
        folder = tmp_path / str(with_thread)
        folder.mkdir()
        inputs = {"x": 1, "folder": str(folder), "with_thread": with_thread}
        assert Pipeline([leave_open], backend=SubprocessBackend(keep_workers_s=0)).run(inputs) == {"y": 1}
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"open": "written", "exit": "called"}


def test_worker_processes_of_the_process_leave_no_semaphores(project: Project) -> None:
    process = project.start("""
        @node(output_name="y")
        def f(x):
            return x

        elsewhere = SubprocessBackend(map_execution="parallel", max_workers=2)
        with elsewhere:
            print(Pipeline([f], backend=elsewhere).map({"x": [1, 2]}, "x"))
    """)
    assert process.communicate(timeout=120) == ("{'y': [1, 2]}\n", "")


def close(name: str) -> None:
    getattr(sys, name).close()


def detach(name: str) -> None:
    getattr(sys, name).detach()


def close_buffer(name: str) -> None:
    getattr(sys, name).buffer.close()


def wrap(name: str) -> None:
    setattr(sys, name, io.TextIOWrapper(getattr(sys, name).buffer))


def replace(name: str) -> None:
    setattr(sys, name, io.StringIO())


def remove(name: str) -> None:
    setattr(sys, name, None)


def close_descriptor(name: str) -> None:
    os.close({"stdout": 1, "stderr": 2}[name])


def redirect_descriptor(name: str) -> None:
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), {"stdout": 1, "stderr": 2}[name])


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize(
    "change", [close, detach, close_buffer, wrap, replace, remove, close_descriptor, redirect_descriptor]
)
def test_a_job_has_its_standard_streams_whatever_an_earlier_one_did_to_them(
    change: Callable[[str], None], name: str, kept: SubprocessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    @node(output_name="y")
    def spoil(x: int) -> int:
        print("before", file=getattr(sys, name), flush=True)
        change(name)
        return x

    @node(output_name="y")
    def speak(x: int) -> int:
        print("after", x)
        print("after", x, file=sys.stderr)
        return x

    for x in (1, 2):
        assert Pipeline([spoil], backend=kept).run({"x": x}) == {"y": x}
        assert Pipeline([speak], backend=kept).run({"x": x}) == {"y": x}
    printed = capsys.readouterr()._asdict()
    assert printed.pop(name.removeprefix("std")) == "before\nafter 1\nbefore\nafter 2\n"
    assert [*printed.values()] == ["after 1\nafter 2\n"]


def test_a_caller_without_standard_output_gets_its_results(kept: SubprocessBackend) -> None:
    @node(output_name="y")
    def speak(x: int) -> int:
        print("nobody reads this", flush=True)
        return x

    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stdout(closed):
        assert Pipeline([speak], backend=kept).run({"x": 1}) == {"y": 1}


def test_a_large_value_is_held_no_more_than_it_has_to_be(project: Project) -> None:
    out = project.run("""
        import resource, tracemalloc

        @node(output_name="y")
        def give_back(x):
            return x

        size = 64 << 20
        value = bytearray(size)
        tracemalloc.start()
        found = Pipeline([give_back], backend=elsewhere).run({"x": value})["y"]
        print(found == value, round(tracemalloc.get_traced_memory()[1] / size, 1))
    """)
    same, times = out.split()
    assert same == "True"
    assert float(times) <= 2.2  # what arrived, and the value that is made of it
