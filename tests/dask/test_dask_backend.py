"""`DaskBackend`: connections, settings, what is shared, lost workers and schedulers, and how work is withdrawn."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hypernodes import (
    ConfigurationError,
    Failure,
    MemoryCache,
    Pipeline,
    PipelineCallback,
    RemoteError,
    RemoteVersionError,
    WorkerDiedError,
    node,
)
from tests.remote.fatal_items import fatal
from tests.support import Recorder
from tests.worker_processes.observe import wait_until

if TYPE_CHECKING:
    from distributed import Client

    from hypernodes_dask import DaskBackend


@node(output_name="y")
def double(x: int) -> int:
    return 2 * x


@node(output_name="process_id")
def tell_process(x: int) -> int:
    return os.getpid()


@node(output_name="y")
def wait_for_end(x: int, folder: str) -> int:
    """Wait until there is a file that ends all; each call leaves a file."""
    import time

    open(os.path.join(folder, f"begun-{x}"), "w").close()
    while not os.path.exists(os.path.join(folder, "end")):
        time.sleep(0.01)
    return x


def tasks_of(client: Client) -> list[str]:
    """Return the keys of all tasks that the scheduler knows, but for data."""
    found: list[str] = client.run_on_scheduler(
        lambda dask_scheduler: [key for key, task in dask_scheduler.tasks.items() if task.run_spec is not None]
    )
    return found


# --- settings and connections -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 0}, "chunk_size must be a whole number of at least 1"),
        ({"chunk_size": None}, "chunk_size must be a whole number of at least 1"),
        ({"client": 5}, "client must be a distributed.Client, the address of a scheduler"),
        ({"client": ""}, "client must be a distributed.Client, the address of a scheduler"),
        ({"resources": ["GPU"]}, "resources must be a dict"),
        ({"resources": {"GPU": 0}}, "resources must map names to numbers above 0"),
        ({"retries": -1}, "retries must be a whole number of at least 0"),
        ({"workers": 0}, "workers must be a whole number of at least 1"),
        ({"workers": 2, "client": "tcp://somewhere:8786"}, "workers=2 is for client"),
        ({"map_execution": "fast"}, "map_execution must be"),
    ],
)
def test_wrong_settings_are_refused_when_the_backend_is_made(settings: dict[str, Any], message: str) -> None:
    from hypernodes_dask import DaskBackend

    with pytest.raises(ConfigurationError, match=message):
        DaskBackend(**settings)


def test_no_scheduler_at_an_address_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from hypernodes_dask import DaskBackend, backend

    monkeypatch.setattr(backend, "_CONNECT_S", 0.5)
    with pytest.raises(RemoteError, match=r"there is no Dask scheduler at 'tcp://127.0.0.1:9'"):
        Pipeline([double], backend=DaskBackend("tcp://127.0.0.1:9")).run({"x": 1})


def test_a_client_that_was_given_stays_open(client: Client) -> None:
    from hypernodes_dask import DaskBackend

    with DaskBackend(client) as backend:
        assert Pipeline([double], backend=backend).run({"x": 1}) == {"y": 2}
    assert client.status == "running"
    assert not tasks_of(client)


def test_an_address_connects(cluster: DaskBackend) -> None:
    from hypernodes_dask import DaskBackend

    address = cluster.client.scheduler.address  # type: ignore[union-attr]
    with DaskBackend(address) as backend:
        assert Pipeline([double], backend=backend).map({"x": range(5)}, "x") == {"y": [0, 2, 4, 6, 8]}


def test_the_current_client_is_taken_when_none_is_given(client: Client) -> None:
    from hypernodes_dask import DaskBackend

    with client.as_current():
        assert DaskBackend().client is client


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from hypernodes import Pipeline, node
        from hypernodes.backend import DaskBackend

        class Number:
            def __init__(self, value):
                self.value = value

        @node(output_name="y")
        def double(x):
            return Number(2 * x.value)

        backend = DaskBackend("local", workers=1)
        found = Pipeline([double], backend=backend).map({"x": [Number(1), Number(2)]}, "x")["y"]
        print([each.value for each in found], all(type(each) is Number for each in found))
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("[2, 4] True\n", "", 0)


# --- maps -------------------------------------------------------------------------------------------------------------


def test_all_workers_take_part(cluster: DaskBackend) -> None:
    found = Pipeline([tell_process], backend=cluster).map({"x": range(200)}, "x")["process_id"]
    assert len(set(found)) == 2
    assert os.getpid() not in found


def test_a_large_input_is_sent_to_each_worker_once(cluster: DaskBackend) -> None:
    @node(output_name="size")
    def measure(x: int, large: bytes) -> int:
        return len(large) + x

    large = os.urandom(3_000_000)
    pipeline = Pipeline([measure], backend=cluster)
    assert pipeline.map({"x": range(100), "large": large}, "x")["size"] == [3_000_000 + x for x in range(100)]
    keys = set(cluster._shared)
    assert pipeline.map({"x": range(50), "large": large}, "x")["size"] == [3_000_000 + x for x in range(50)]
    assert set(cluster._shared) == keys, "what is shared stays for the runs that follow"


def test_jobs_wait_for_workers_that_have_what_they_need(client: Client) -> None:
    from hypernodes_dask import DaskBackend

    backend = DaskBackend(client, resources={"GPU": 1})
    assert backend.jobs_at_once == 1, "none has it"
    run = asyncio.run(_cancelled_soon(Pipeline([double], backend=backend)))
    assert run == "cancelled"


async def _cancelled_soon(pipeline: Pipeline) -> str:
    task = asyncio.create_task(pipeline.amap({"x": range(5)}, "x"))
    await asyncio.sleep(0.3)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"
    return "done"


def test_the_dashboard_shows_the_names_of_nodes(client: Client, tmp_path: Path) -> None:
    from hypernodes_dask import DaskBackend

    async def look() -> list[str]:
        pipeline = Pipeline([tell_process, wait_for_end], backend=DaskBackend(client))
        task = asyncio.create_task(pipeline.arun({"x": 1, "folder": str(tmp_path)}))
        await asyncio.to_thread(wait_until, lambda: bool(tasks_of(client)))
        found = tasks_of(client)
        (tmp_path / "end").touch()
        await task
        return found

    (key,) = asyncio.run(look())
    assert key.startswith("tell_process·wait_for_end-")


def test_modules_that_a_job_brought_do_not_stay_in_the_workers(
    cluster: DaskBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brought_along.py").write_text("def triple(x):\n    return 3 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    from brought_along import triple  # type: ignore[import-not-found]

    @node(output_name="y")
    def use(x: int) -> int:
        return triple(x)  # type: ignore[no-any-return]

    assert Pipeline([use], backend=cluster).map({"x": range(20)}, "x")["y"] == [3 * x for x in range(20)]
    assert not any(cluster.client.run(lambda: "brought_along" in __import__("sys").modules).values())


def test_a_callback_may_run_a_pipeline_on_the_same_cluster(cluster: DaskBackend) -> None:
    inner = Pipeline([double], backend=cluster, cache=MemoryCache())
    found: list[Any] = []

    class Nested(PipelineCallback):
        def on_node_end(self, *_: Any) -> None:
            found.append(inner.map({"x": range(3)}, "x"))

    pipeline = Pipeline([double], backend=cluster, callbacks=[Nested()], cache=MemoryCache())
    assert pipeline.map({"x": range(2)}, "x")["y"] == [0, 2]
    assert found == [{"y": [0, 2, 4]}] * 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_callback_ends_the_map(cluster: DaskBackend, kind: type[BaseException]) -> None:
    class Interrupting(PipelineCallback):
        def on_node_end(self, *_: Any) -> None:
            raise kind

    pipeline = Pipeline([double], backend=cluster, callbacks=[Interrupting()])
    with pytest.raises(kind):
        pipeline.map({"x": range(4)}, "x")
    assert pipeline.with_callbacks([]).map({"x": range(4)}, "x")["y"] == [0, 2, 4, 6]


def test_a_forked_process_is_told_that_it_cannot_connect(cluster: DaskBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    from hypernodes_dask import backend

    assert cluster.client.status == "running"
    monkeypatch.setattr(backend, "_connected_in", os.getpid() + 1)
    with pytest.raises(RemoteError, match="was forked from one that was connected to a Dask scheduler"):
        Pipeline([double], backend=cluster).run({"x": 1})


# --- lost workers and schedulers --------------------------------------------------------------------------------------


def test_items_of_lost_workers_are_computed_by_others_and_observed_once(cluster: DaskBackend, tmp_path: Path) -> None:
    observed = Recorder()
    pipeline = Pipeline([fatal], backend=cluster, callbacks=[observed], cache=MemoryCache())
    inputs = {"x": range(100), "kills": {20: 1, 70: 1}, "folder": str(tmp_path)}
    assert pipeline.map(inputs, "x")["y"] == [2 * x for x in range(100)]
    for hook in ("map_item_start", "map_item_end", "node_start", "node_end"):
        counted = Counter(context.item_path for _, context, _ in observed.of(hook))
        assert set(counted.values()) == {1}, hook
        assert len(counted) == 100, hook


def test_an_item_that_ends_every_worker_becomes_a_failure(cluster: DaskBackend, tmp_path: Path) -> None:
    pipeline = Pipeline([fatal], backend=cluster)
    inputs = {"x": range(20), "kills": {7: 100}, "folder": str(tmp_path)}
    found = pipeline.map(inputs, "x", on_error="collect")["y"]
    (failure,) = [each for each in found if isinstance(each, Failure)]
    assert (failure.item_index, type(failure.error)) == (7, WorkerDiedError)
    assert [each for each in found if each is not failure] == [2 * x for x in range(20) if x != 7]


def test_a_lost_scheduler_is_a_clear_error_and_what_was_computed_stays(tmp_path: Path) -> None:
    from hypernodes_dask import DaskBackend

    @node(output_name="y")
    def double_or_end(x: int, scheduler: int, mark: str) -> int:
        if x == 30 and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(scheduler, signal.SIGKILL)
        return 2 * x

    cache, observed = MemoryCache(), Recorder()
    command = [sys.executable, "-m", "dask", "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file"]
    file = tmp_path / "scheduler.json"
    quiet = {**os.environ, "DASK_LOGGING__DISTRIBUTED": "critical"}
    with subprocess.Popen([*command, file], env=quiet, stderr=subprocess.DEVNULL) as scheduler:
        assert wait_until(file.exists)
        worker = [sys.executable, "-m", "dask", "worker", "--scheduler-file", file, "--no-dashboard", "--no-nanny"]
        with subprocess.Popen([*worker, "--nthreads", "1"], env=quiet, stderr=subprocess.DEVNULL) as process:
            import dask
            from distributed import Client

            hasty = dask.config.set({"distributed.comm.timeouts.connect": "1s"})
            with hasty, Client(scheduler_file=str(file)) as client:
                pipeline = Pipeline([double_or_end], backend=DaskBackend(client, chunk_size=10), cache=cache)
                inputs = {"x": range(50), "scheduler": scheduler.pid, "mark": str(tmp_path / "mark")}
                with pytest.raises(RemoteError, match="the connection to the Dask scheduler was lost"):
                    pipeline.map(inputs, "x")
            process.kill()
    found = pipeline.with_backend(None).with_callbacks([observed]).map(inputs, "x")["y"]
    assert found == [2 * x for x in range(50)]
    assert len(observed.of("node_start")) <= 40


def test_a_scheduler_that_is_lost_while_new_workers_are_checked_is_a_clear_error(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed.comm import CommClosedError

    from hypernodes_dask import DaskBackend

    def lose(backend: DaskBackend, client: Client) -> None:
        raise CommClosedError("connection reset by peer")

    monkeypatch.setattr(DaskBackend, "_check_workers", lose)
    with pytest.raises(RemoteError, match="the connection to the Dask scheduler was lost"):
        Pipeline([double], backend=DaskBackend(client)).run({"x": 1})


def test_a_worker_with_other_versions_is_named_before_anything_runs(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypernodes_dask import DaskBackend, backend

    monkeypatch.setattr(backend, "_own_version", lambda name: "0.0.1")
    with pytest.raises(RemoteVersionError, match=r"hypernodes-core 0.0.1 here and .* at the Dask worker tcp://"):
        Pipeline([double], backend=DaskBackend(client)).run({"x": 1})


def test_a_worker_with_another_python_is_named_before_anything_runs(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypernodes_dask import DaskBackend

    versions = {"workers": {"tcp://a:1": {"host": {"python": "3.9.1.final.0"}}}}
    monkeypatch.setattr(client, "get_versions", lambda: versions)
    with pytest.raises(RemoteVersionError, match=r"and 3\.9 at dask. Nothing was sent. Start the Dask workers with"):
        Pipeline([double], backend=DaskBackend(client)).run({"x": 1})


# --- withdrawing work -------------------------------------------------------------------------------------------------


def test_cancelling_leaves_no_task_and_frees_the_workers(cluster: DaskBackend, tmp_path: Path) -> None:
    def executes_what_nobody_waits_for() -> bool:
        import threading

        return any(thread.name == "hypernodes-stop" for thread in threading.enumerate())

    async def cancel() -> None:
        pipeline = Pipeline([wait_for_end], backend=cluster)
        task = asyncio.create_task(pipeline.amap({"x": range(100), "folder": str(tmp_path)}, "x"))
        await asyncio.to_thread(wait_until, lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        asyncio.run(cancel())
        assert wait_until(lambda: not tasks_of(cluster.client))
        assert wait_until(lambda: not any(cluster.client.run(executes_what_nobody_waits_for).values()))
    finally:
        (tmp_path / "end").touch()
    assert Pipeline([double], backend=cluster).map({"x": range(10)}, "x")["y"] == [2 * x for x in range(10)]
    assert len(list(tmp_path.glob("begun-*"))) == 2, "no further call was begun"


def test_a_map_that_goes_on_after_close_opens_no_other_connection() -> None:
    from hypernodes_dask import DaskBackend

    backend = DaskBackend("local", workers=1, chunk_size=1)
    results = Pipeline([double], backend=backend).map_iter({"x": iter(range(10**9))}, "x")
    assert next(results) == {"y": 0}
    backend.close()
    with pytest.raises(RemoteError):
        list(islice(results, 10**6))
    assert backend._client is None


def test_leaving_a_map_iter_loop_withdraws_its_jobs(cluster: DaskBackend) -> None:
    for number, row in enumerate(Pipeline([double], backend=cluster).map_iter({"x": iter(range(10**9))}, "x")):
        assert row == {"y": 2 * number}
        if number == 50:
            break
    assert wait_until(lambda: not tasks_of(cluster.client))
