"""How often Modal is called, what its container gets, and how long it stays."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import modal
import pytest

from hypernodes import MemoryCache, Pipeline, node
from hypernodes_modal import ModalBackend
from tests.support import Recorder


@node(output_name="doubled")
def double(x: int) -> int:
    return 2 * x


@node(output_name="total")
def add_up(all_doubled: list[int]) -> int:
    return sum(all_doubled)


@node(output_name="pid")
def process_id(x: int) -> int:
    return os.getpid()


@node(output_name="found")
def look_around(names: list[str], path: str) -> tuple[list[str | None], list[str]]:
    return [os.environ.get(name) for name in names], sorted(os.listdir(path)) if path else []


def spawned(plane):
    """How often a remote function was called."""
    return plane.rpc_counts["FunctionMap"]


# --- one call -----------------------------------------------------------------------------------------------------


def test_run_is_one_remote_call_also_with_a_mapped_node(warm_backend, plane):
    mapped = Pipeline([double]).as_node(
        input_mapping={"xs": "x"}, output_mapping={"doubled": "all_doubled"}, map_over="xs"
    )
    pipeline = Pipeline([mapped, add_up], backend=warm_backend)
    assert pipeline.run({"xs": list(range(100))}, "total") == {"total": 9900}
    assert spawned(plane) == 1
    assert [len(call.inputs) for call in plane.calls] == [1]


def test_a_map_of_a_thousand_items_is_one_remote_call(warm_backend, plane):
    pipeline = Pipeline([double], backend=warm_backend)
    assert pipeline.map({"x": range(1000)}, map_over="x") == {"doubled": [2 * x for x in range(1000)]}
    assert spawned(plane) == 1
    assert [len(call.inputs) for call in plane.calls] == [1]


def test_what_the_cache_holds_whole_makes_no_request_at_all(warm_backend, plane):
    pipeline = Pipeline([double], backend=warm_backend, cache=MemoryCache())
    first = pipeline.map({"x": range(50)}, map_over="x"), pipeline.run({"x": 77})
    before = len([record for record in plane.rpcs if record.caller == "client" and "Heartbeat" not in record.name])
    assert (pipeline.map({"x": range(50)}, map_over="x"), pipeline.run({"x": 77})) == first
    after = len([record for record in plane.rpcs if record.caller == "client" and "Heartbeat" not in record.name])
    assert after == before


def test_only_items_that_the_cache_lacks_are_computed(warm_backend, plane):
    recorder = Recorder()
    pipeline = Pipeline([double], backend=warm_backend, cache=MemoryCache(), callbacks=[recorder])
    pipeline.map({"x": range(50)}, map_over="x")
    recorder.clear()
    assert pipeline.map({"x": range(53)}, map_over="x") == {"doubled": [2 * x for x in range(53)]}
    assert len(recorder.computed) == 3
    assert spawned(plane) == 2


def test_queues_of_a_call_are_removed_after_it(modal_loopback, backend):
    Pipeline([double], backend=backend, callbacks=[Recorder()]).run({"x": 1})
    assert modal_loopback.rpc_counts["QueueGetOrCreate"] == 2
    asked = [record.name for record in modal_loopback.rpcs if record.name.startswith("Queue")]
    assert asked.count("QueueDelete") == 2 or modal_loopback.queue_ids == []


def test_without_a_cache_or_callbacks_there_are_no_queues(warm_backend, plane):
    Pipeline([double], backend=warm_backend).run({"x": 1})
    assert plane.rpc_counts["QueueGetOrCreate"] == 0


def test_large_inputs_and_results_travel(warm_backend, plane):
    @node(output_name="reversed")
    def turn_round(data: bytes) -> bytes:
        return data[::-1]

    data = os.urandom(5_000_000)
    pipeline = Pipeline([turn_round], backend=warm_backend, cache=MemoryCache())  # an entry is larger than a queue's
    assert pipeline.run({"data": data}) == {"reversed": data[::-1]}
    assert pipeline.run({"data": data}) == {"reversed": data[::-1]}
    assert spawned(plane) == 1


# --- images and code ----------------------------------------------------------------------------------------------


def test_an_image_without_any_package_is_enough(make_backend):
    own_python = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = make_backend(image=modal.Image.debian_slim(python_version=own_python))
    assert Pipeline([double], backend=backend).run({"x": 21}) == {"doubled": 42}


def test_an_image_may_end_in_local_files(make_backend, image, tmp_path):
    (tmp_path / "words.txt").write_text("to be")
    backend = make_backend(image=image.add_local_dir(tmp_path, "/data"))
    found = Pipeline([look_around], backend=backend).run({"names": [], "path": "/data"})
    assert found == {"found": ([], ["words.txt"])}


def test_nodes_use_what_the_image_installs_and_nothing_else(make_backend, image):
    @node(output_name="mean")
    def mean(values: list[float]) -> float:
        import numpy

        return float(numpy.mean(values))

    pytest.importorskip("numpy")
    pipeline = Pipeline([mean])
    with_it = make_backend(image=image.uv_pip_install("numpy"))
    assert pipeline.with_backend(with_it).run({"values": [1.0, 2.0]}) == {"mean": 1.5}
    with pytest.raises(ModuleNotFoundError, match="numpy") as caught:
        pipeline.with_backend(make_backend()).run({"values": [1.0, 2.0]})
    assert "backend: modal" in caught.value.__notes__[0]


def test_modules_of_a_project_come_along(warm_backend, plane, project):
    job = project(
        {
            "retrieval/__init__.py": "",
            "retrieval/text.py": """
                import helpers

                def clean(text):
                    return helpers.squeeze(text).lower()
                """,
            "helpers.py": """
                def squeeze(text):
                    return " ".join(text.split())
                """,
            "retrieval/job.py": """
                from dataclasses import dataclass

                from hypernodes import Pipeline, node

                from .text import clean

                @dataclass(frozen=True)
                class Document:
                    text: str

                @node(output_name="document")
                def load(text):
                    from . import text as late
                    return Document(late.clean(text))

                @node(output_name="words")
                def split(document):
                    return clean(document.text).split()

                pipeline = Pipeline([load, split])
                """,
        },
        "retrieval.job",
    )
    outputs = job.pipeline.with_backend(warm_backend).run({"text": "To  BE"})
    assert outputs == {"document": job.Document("to be"), "words": ["to", "be"]}
    assert type(outputs["document"]) is job.Document


def test_secrets_and_volumes_reach_the_nodes(make_backend, modal_loopback):
    volume = modal.Volume.from_name("weights", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_file(__file__, "/model.bin")
    backend = make_backend(secrets=[modal.Secret.from_dict({"TOKEN": "t-123"})], volumes={"/weights": volume})
    found = Pipeline([look_around], backend=backend).run({"names": ["TOKEN"], "path": "/weights"})
    assert found == {"found": (["t-123"], ["model.bin"])}


def test_a_list_of_gpus_is_asked_for_in_order(make_backend, modal_loopback):
    backend = make_backend(gpu=["H100:2", "A10G"])
    assert Pipeline([double], backend=backend).run({"x": 1}) == {"doubled": 2}
    assert [notice for notice in modal_loopback.notices if "H100" in notice]


def test_function_options_reach_modal(make_backend, modal_loopback, wait_for):
    backend = make_backend(function_options={"single_use_containers": True})
    pipeline = Pipeline([process_id], backend=backend)
    assert pipeline.run({"x": 1}) != pipeline.run({"x": 1})


def test_the_engine_in_the_container_has_its_settings(make_backend):
    @node(output_name="met")
    def meet(x: int) -> int:
        import threading

        import __main__

        gate = __main__.__dict__.setdefault("gate", threading.Barrier(3))
        return gate.wait(timeout=30) * 0 + x  # opens only when three items run at the same time

    backend = make_backend(map_execution="threaded", max_workers=3)
    assert Pipeline([meet], backend=backend).map({"x": [1, 2, 3]}, map_over="x") == {"met": [1, 2, 3]}


# --- the app and its container ------------------------------------------------------------------------------------


def test_the_container_stays_warm_until_the_backend_is_closed(modal_loopback, image):
    backend = ModalBackend(image)
    pipeline = Pipeline([process_id], backend=backend)
    assert pipeline.run({"x": 1}) == pipeline.run({"x": 2})
    assert [container.state for container in modal_loopback.containers] == ["ready"]
    backend.close()
    backend.close()
    assert modal_loopback.rpc_counts["AppClientDisconnect"] == 1
    first, second = pipeline.run({"x": 1}), pipeline.run({"x": 1})  # it opens again
    assert first == second
    assert len(modal_loopback.containers) == 2
    backend.close()


def test_the_outermost_with_closes(modal_loopback, image):
    backend = ModalBackend(image)
    with backend:
        with backend:
            Pipeline([double], backend=backend).run({"x": 1})
        assert modal_loopback.rpc_counts["AppClientDisconnect"] == 0
    assert modal_loopback.rpc_counts["AppClientDisconnect"] == 1


def test_a_backend_that_is_forgotten_is_closed(modal_loopback, image):
    backend = ModalBackend(image)
    Pipeline([double]).with_backend(backend).run({"x": 1})
    del backend
    assert modal_loopback.rpc_counts["AppClientDisconnect"] == 1


def test_an_app_that_was_stopped_from_outside_is_opened_again(modal_loopback, backend):
    pipeline = Pipeline([double], backend=backend)
    assert pipeline.run({"x": 1}) == {"doubled": 2}
    modal_loopback.stop_apps()
    assert pipeline.run({"x": 2}) == {"doubled": 4}


def test_threads_share_the_app(modal_loopback, backend):
    pipeline = Pipeline([double], backend=backend, callbacks=[Recorder()])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: pipeline.run({"x": x})["doubled"], range(8)))
    assert found == [2 * x for x in range(8)]
    assert modal_loopback.rpc_counts["AppCreate"] == 1
    assert spawned(modal_loopback) == 8


def test_it_runs_where_an_event_loop_runs_without_warnings(warm_backend, plane):
    pipeline = Pipeline([double], backend=warm_backend, callbacks=[Recorder()], cache=MemoryCache())

    async def cell() -> tuple[object, object]:
        return pipeline.run({"x": 1}), await pipeline.arun({"x": 2})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(cell()) == ({"doubled": 2}, {"doubled": 4})


def run_script(source: str, tmp_path: Path, plane, *arguments: str) -> str:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(source), encoding="utf-8")
    completed = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, **plane.environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""
    return completed.stdout


HEADER = """
import modal, os, sys
from hypernodes import Pipeline, node
from hypernodes_modal import ModalBackend

@node(output_name="doubled")
def double(x: int) -> int:
    print("doubling", x)
    return 2 * x

image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2]))
backend = ModalBackend(image, show_logs="--logs" in sys.argv)
pipeline = Pipeline([double], backend=backend)
"""


def test_a_script_that_ends_without_closing_leaves_no_container(modal_loopback, tmp_path, wait_for):
    assert "{'doubled': 2}" in run_script(HEADER + "print(pipeline.run({'x': 1}))", tmp_path, modal_loopback)
    wait_for(lambda: {container.state for container in modal_loopback.containers} == {"ended"})
    assert [container.end_reason for container in modal_loopback.containers] == ["app stopped"]


def test_what_containers_print_is_shown_when_asked_for(modal_loopback, tmp_path):
    script = HEADER + "with backend: pipeline.run({'x': 1})"
    assert "doubling 1" not in run_script(script, tmp_path, modal_loopback)
    assert "doubling 1" in run_script(script, tmp_path, modal_loopback, "--logs")


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
    assert printed.split("\n")[:3] == ["{'doubled': 2}", "{'doubled': 4}", "{'doubled': 6}"]
    assert modal_loopback.rpc_counts["AppCreate"] == 2


def test_a_thread_of_the_program_may_make_the_first_call(modal_loopback, backend):
    found = []
    thread = threading.Thread(target=lambda: found.append(Pipeline([double], backend=backend).run({"x": 1})))
    thread.start()
    thread.join()
    assert found == [{"doubled": 2}]
