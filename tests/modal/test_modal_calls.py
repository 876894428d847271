"""How often Modal is called, and what its container gets."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from typing import Any

import modal
import pytest

from hypernodes import MemoryCache, Pipeline, RemoteError, node, resource
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


def test_a_short_job_says_everything_with_its_outcome(warm_backend, plane, monkeypatch):
    """One request makes the queue; with a cache, one asks whether a container was there before."""
    monkeypatch.setattr("hypernodes_modal.message_relay._SHORT_JOB_S", 30.0)  # however busy this machine is
    recorder = Recorder()
    Pipeline([double], backend=warm_backend).run({"x": 1})
    observed: dict[str, Any] = {"callbacks": [recorder]}
    for settings, asked in (observed, []), (observed | {"cache": MemoryCache()}, ["QueueLen"]):
        plane.forget()
        recorder.clear()
        assert Pipeline([double], backend=warm_backend, **settings).run({"x": 1}) == {"doubled": 2}
        assert recorder.computed == ["double"]
        requests = [record.name for record in plane.rpcs if record.name.startswith("Queue")]
        assert [name for name in requests if name != "QueueHeartbeat"] == ["QueueGetOrCreate", *asked]


def test_the_caller_stops_listening_without_a_word(warm_backend, plane):
    @node(output_name="late")
    def take_a_while(x: int) -> int:
        import time

        time.sleep(0.5)
        return x

    recorder = Recorder()
    assert Pipeline([take_a_while], backend=warm_backend, callbacks=[recorder]).run({"x": 1}) == {"late": 1}
    assert recorder.computed == ["take_a_while"]
    asked = [(record.caller == "client", record.name) for record in plane.rpcs]
    assert (True, "QueueGet") in asked  # it listened,
    assert (False, "QueuePut") in asked  # was told something,
    assert (True, "QueuePut") not in asked  # and needed no sign that nothing more would come


def test_the_queue_of_a_call_is_given_up_after_it(warm_backend, plane):
    Pipeline([double], backend=warm_backend, callbacks=[Recorder()]).run({"x": 1})
    assert plane.rpc_counts["QueueGetOrCreate"] == 1
    beats = plane.rpc_counts["QueueHeartbeat"]
    Pipeline([double], backend=warm_backend).run({"x": 1})
    assert plane.rpc_counts["QueueHeartbeat"] == beats


def test_without_a_cache_or_callbacks_there_is_no_queue(warm_backend, plane):
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
    assert 'image.uv_pip_install("numpy==' in caught.value.__notes__[-1]


def test_a_package_that_the_image_lacks_is_named_with_its_node_and_the_line_to_add(warm_backend):
    numpy = pytest.importorskip("numpy")

    @node(output_name="mean")
    def mean(values: list[float]) -> float:
        return float(numpy.mean(values))

    with pytest.raises(RemoteError, match=r"no module 'numpy'.* is used by 'mean' \(test_modal_calls.py:") as caught:
        Pipeline([mean], backend=warm_backend).run({"values": [1.0, 2.0]})
    assert str(caught.value).endswith(f'image.uv_pip_install("numpy=={numpy.__version__}")')
    assert len(traceback.format_exception(caught.value)) < 12


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


def test_secrets_and_volumes_reach_the_nodes(make_backend, plane):
    volume = modal.Volume.from_name("weights", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_file(__file__, "/model.bin")
    backend = make_backend(secrets=[modal.Secret.from_dict({"TOKEN": "t-123"})], volumes={"/weights": volume})
    found = Pipeline([look_around], backend=backend).run({"names": ["TOKEN"], "path": "/weights"})
    assert found == {"found": (["t-123"], ["model.bin"])}


def test_a_list_of_gpus_is_asked_for_in_order(make_backend, plane):
    backend = make_backend(gpu=["H100:2", "A10G"])
    assert Pipeline([double], backend=backend).run({"x": 1}) == {"doubled": 2}
    assert [notice for notice in plane.notices if "H100" in notice]


def test_function_options_reach_modal(make_backend):
    backend = make_backend(function_options={"single_use_containers": True})
    pipeline = Pipeline([process_id], backend=backend)
    assert pipeline.run({"x": 1}) != pipeline.run({"x": 1})


def test_the_engine_in_the_container_has_its_settings(make_backend):
    @node(output_name="met")
    def meet(x: int) -> int:
        import threading

        gate = vars(threading).setdefault("gate_of_this_test", threading.Barrier(3))
        return gate.wait(timeout=30) * 0 + x  # opens only when three items run at the same time

    backend = make_backend(map_execution="threaded", max_workers=3)
    assert Pipeline([meet], backend=backend).map({"x": [1, 2, 3]}, map_over="x") == {"met": [1, 2, 3]}


def test_a_resource_is_made_once_in_a_container_also_over_three_runs(warm_backend):
    @resource
    def counter():
        import builtins

        builtins.made = getattr(builtins, "made", 0) + 1
        return builtins.made

    @node(output_name="y")
    def take(x, counter):
        return x, counter

    pipeline = Pipeline([take], backend=warm_backend)
    for _ in range(3):
        found = pipeline.map({"x": [1, 2], "counter": counter()}, map_over="x")
        assert found == {"y": [(1, 1), (2, 1)]}


def test_a_cached_helper_is_called_once_in_a_container_over_three_runs(warm_backend):
    class Model:
        def __init__(self, made):
            self.made = made

    @functools.cache
    def load(name):
        import builtins

        builtins.loaded = getattr(builtins, "loaded", 0) + 1
        return Model(builtins.loaded)

    @node(output_name="y")
    def take(x):
        return x, load("small").made, isinstance(load("small"), Model)

    pipeline = Pipeline([take], backend=warm_backend)
    for _ in range(3):
        assert pipeline.map({"x": [1, 2]}, map_over="x") == {"y": [(1, 1, True), (2, 1, True)]}
    load.cache_clear()
    assert pipeline.run({"x": 1}) == {"y": (1, 2, True)}
