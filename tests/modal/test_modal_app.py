"""How long the app and its container stay, and from where a backend can be used."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import modal
import pytest

from hypernodes import MemoryCache, Pipeline, node
from hypernodes_modal import ModalBackend
from hypernodes_modal.loopback import ModalLoopback
from tests.support import Recorder


@node(output_name="doubled")
def double(x: int) -> int:
    return 2 * x


@node(output_name="pid")
def process_id(x: int) -> int:
    return os.getpid()


@pytest.fixture
def backend(modal_loopback: ModalLoopback, image: modal.Image) -> Iterator[ModalBackend]:
    with ModalBackend(image) as made:
        yield made


def test_the_container_stays_warm_until_the_backend_is_closed(modal_loopback, image):
    backend = ModalBackend(image)
    pipeline = Pipeline([process_id], backend=backend)
    assert pipeline.run({"x": 1}) == pipeline.run({"x": 2})
    assert [each.state for each in modal_loopback.containers if each.state != "ended"] == ["ready"]
    backend.close()
    backend.close()
    first, second = pipeline.run({"x": 1}), pipeline.run({"x": 1})  # it opens again
    assert first == second
    assert modal_loopback.rpc_counts["AppCreate"] == 2
    backend.close()


def test_the_outermost_with_block_closes_the_app(modal_loopback, image):
    backend = ModalBackend(image)
    with backend:
        with backend:
            Pipeline([double], backend=backend).run({"x": 1})
        before = modal_loopback.rpc_counts["AppClientDisconnect"]
    assert modal_loopback.rpc_counts["AppClientDisconnect"] == before + 1


def test_a_backend_that_is_forgotten_is_closed(modal_loopback, image, wait_for):
    backend = ModalBackend(image)
    Pipeline([double]).with_backend(backend).run({"x": 1})
    del backend
    gc.collect()
    wait_for(lambda: {container.state for container in modal_loopback.containers} == {"ended"})


def test_an_app_that_was_stopped_from_outside_is_opened_again(modal_loopback, backend):
    pipeline = Pipeline([double], backend=backend)
    assert pipeline.run({"x": 1}) == {"doubled": 2}
    modal_loopback.stop_apps()
    assert pipeline.run({"x": 2}) == {"doubled": 4}


def test_threads_share_the_modal_app(modal_loopback, backend):
    pipeline = Pipeline([double], backend=backend, callbacks=[Recorder()])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: pipeline.run({"x": x})["doubled"], range(8)))
    assert found == [2 * x for x in range(8)]
    assert modal_loopback.rpc_counts["AppCreate"] == 1
    assert modal_loopback.rpc_counts["FunctionMap"] == 8


def test_modal_runs_where_an_event_loop_runs_without_warnings(backend):
    pipeline = Pipeline([double], backend=backend, callbacks=[Recorder()], cache=MemoryCache())

    async def cell() -> tuple[object, object]:
        return pipeline.run({"x": 1}), await pipeline.arun({"x": 2})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(cell()) == ({"doubled": 2}, {"doubled": 4})


def run_script(source: str, tmp_path: Path, plane: ModalLoopback, *arguments: str) -> str:
    """Run a script of the user's to its end; return what it printed."""
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        cwd=tmp_path,
        env={**os.environ, **plane.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, complaints = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert (process.returncode, complaints) == (0, "")
    return printed


HEADER = """
import modal, os, sys
from hypernodes import Pipeline, node
from hypernodes_modal import ModalBackend

@node(output_name="doubled")
def double(x: int) -> int:
    print("doubling", x)
    return 2 * x

image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2]))
backend = ModalBackend(image, **({"show_logs": False} if "--quiet" in sys.argv else {}))
pipeline = Pipeline([double], backend=backend)
"""


def test_a_script_that_ends_without_closing_leaves_no_container(modal_loopback, tmp_path, wait_for):
    assert "{'doubled': 2}" in run_script(HEADER + "print(pipeline.run({'x': 1}))", tmp_path, modal_loopback)
    wait_for(lambda: {container.state for container in modal_loopback.containers} == {"ended"})
    assert {container.end_reason for container in modal_loopback.containers} == {"app stopped"}


@pytest.mark.parametrize(
    ("options", "shown"), [([], ("doubling 1\n", "doubting 1\n")), (["--quiet"], ("", ""))], ids=["shown", "unwanted"]
)
def test_what_nodes_print_is_shown_where_they_print_it_unless_it_is_not_wanted(
    modal_loopback, tmp_path, options, shown
):
    both = 'print("doubling", x); print("doubting", x, file=__import__("sys").stderr)'
    script = HEADER.replace('print("doubling", x)', both)
    process = subprocess.run(
        [sys.executable, "-c", script + "with backend: pipeline.run({'x': 1})", *options],
        env=os.environ | modal_loopback.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (process.stdout, process.stderr) == shown  # and nothing else of Modal's client


def test_worker_processes_in_a_container_add_nothing_to_what_is_shown(modal_loopback, tmp_path):
    header = HEADER.replace("version_info[:2]))", 'version_info[:2])).uv_pip_install("loky")')
    header = header.replace("ModalBackend(image,", 'ModalBackend(image, map_execution="parallel", max_workers=2,')
    header = header.replace('print("doubling", x)', '__import__("sys").stdout.write(f"doubling {x}\\n")')  # at once
    printed = run_script(header + "with backend: pipeline.map({'x': [1, 2]}, map_over='x')", tmp_path, modal_loopback)
    assert sorted(printed.splitlines()) == ["doubling 1", "doubling 2"]


def test_a_program_that_shows_the_output_of_modals_client_keeps_it(modal_loopback, tmp_path):
    script = HEADER + "with modal.enable_output(), backend: pipeline.run({'x': 1})"
    printed = run_script(script, tmp_path, modal_loopback)
    assert "doubling 1" in printed
    assert "Created objects" in printed


def test_a_forked_process_opens_an_app_of_its_own(modal_loopback, tmp_path):
    script = HEADER + textwrap.dedent(
        """
        print(pipeline.run({'x': 1}), flush=True)
        if (child := os.fork()) == 0:
            print(pipeline.run({'x': 2}), flush=True)
            backend.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(pipeline.run({'x': 3}), flush=True)
        backend.close()
        """
    )
    with_no_warning = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + script
    printed = run_script(with_no_warning, tmp_path, modal_loopback)
    results = re.findall(r"\{'doubled': \d\}", printed)  # between what the nodes print
    assert results == ["{'doubled': 2}", "{'doubled': 4}", "{'doubled': 6}"]
    assert modal_loopback.rpc_counts["AppCreate"] == 2


def test_a_thread_of_the_program_may_make_the_first_call(modal_loopback, backend):
    found = []
    thread = threading.Thread(target=lambda: found.append(Pipeline([double], backend=backend).run({"x": 1})))
    thread.start()
    thread.join()
    assert found == [{"doubled": 2}]
