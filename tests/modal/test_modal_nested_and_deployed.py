"""Other Modal configurations inside a container, caches in volumes, deployed functions, and cancelled calls."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import modal
import pytest

from hypernodes import ConfigurationError, DiskCache, MemoryCache, Pipeline, node
from hypernodes_modal import ModalBackend, ModalSetupError


@node(output_name="outer")
def outer_process(x: object) -> int:
    return os.getpid()


@node(output_name="inner")
def inner_process(x: object) -> int:
    return os.getpid()


@node(output_name="doubled")
def double(x: int) -> int:
    print("computing", x)
    return 2 * x


def test_a_nested_pipeline_that_asks_for_the_same_runs_in_the_same_container(make_backend, image):
    backend = make_backend(gpu="A10G")
    for own in (backend, ModalBackend(image, gpu="A10G")):
        inner = Pipeline([inner_process], backend=own)
        found = Pipeline([outer_process, inner], backend=backend).run({"x": 1})
        assert found["inner"] == found["outer"]


def test_a_nested_pipeline_that_asks_for_another_configuration_is_called_from_the_container(make_backend, plane):
    cache = MemoryCache()
    own = make_backend(gpu="H100")
    inner = Pipeline([inner_process], name="inner", backend=own).as_node(map_over="x")
    pipeline = Pipeline([outer_process, inner], backend=make_backend(gpu="A10G"), cache=cache)
    found = pipeline.run({"x": [1, 2, 3]})
    (inner_pid,) = set(found["inner"])  # one call for all items
    assert inner_pid != found["outer"]
    assert len(plane.calls) == 2
    assert pipeline.run({"x": [1, 2, 3]}) == found  # what was computed two places away is in the cache here
    assert len(plane.calls) == 2  # so no remote call was made


def test_a_cache_in_a_volume_is_used_by_one_container_after_the_other(make_backend, plane, monkeypatch):
    monkeypatch.setenv("HYPERNODES_CACHE_KEY", "5e" * 32)
    volume = modal.Volume.from_name("results", create_if_missing=True)
    backend = make_backend(volumes={"/results": volume}, cache_location="remote")
    pipeline = Pipeline([double], backend=backend, cache=DiskCache("/results/cache"))
    assert pipeline.map({"x": [1, 2]}, map_over="x") == {"doubled": [2, 4]}
    backend.close()  # another container comes
    assert pipeline.map({"x": [1, 2, 3]}, map_over="x") == {"doubled": [2, 4, 6]}
    assert sorted(plane.output.split("\n")) == ["", "computing 1", "computing 2", "computing 3"]
    assert not Path("/results").exists()


def test_a_cache_in_a_volume_needs_a_volume(image):
    with pytest.raises(ConfigurationError, match="needs the volume that holds the cache"):
        ModalBackend(image, cache_location="remote")
    with pytest.raises(ConfigurationError, match="'local' or 'remote'"):
        ModalBackend(image, cache_location="there")


def test_a_deployed_function_is_found_by_the_name_of_its_app(plane, tmp_path):
    file = tmp_path / "gpu.py"
    file.write_text(
        "import modal, sys\n"
        "from hypernodes.backend import ModalBackend\n"
        "version = f'{sys.version_info.major}.{sys.version_info.minor}'\n"
        "backend = ModalBackend(modal.Image.debian_slim(python_version=version), app_name='jobs')\n"
    )
    deploy = [sys.executable, "-m", "hypernodes_modal", "deploy", f"{file}:backend"]
    done = subprocess.run(deploy, capture_output=True, text=True, check=True)
    assert "ModalBackend.deployed('jobs')" in done.stdout
    assert Pipeline([double], backend=ModalBackend.deployed("jobs")).run({"x": 4}) == {"doubled": 8}
    with pytest.raises(ModalSetupError, match="'no such jobs'"):
        Pipeline([double], backend=ModalBackend.deployed("no such jobs")).run({"x": 4})


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("gpu.py", "must be a file and a name in it"),
        ("missing.py:backend", "there is no file 'missing.py'"),
    ],
)
def test_a_deployment_of_nothing_says_so(backend, message):
    deploy = [sys.executable, "-m", "hypernodes_modal", "deploy", backend]
    done = subprocess.run(deploy, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


def test_cancelling_ends_the_call_and_its_container(make_backend, plane):
    @node(output_name="never")
    async def wait(x: int) -> None:
        print("waiting", flush=True)
        await asyncio.Event().wait()

    pipeline = Pipeline([wait], backend=make_backend())

    async def begin_and_cancel() -> None:
        run = asyncio.create_task(pipeline.arun({"x": 1}))
        while "waiting" not in plane.output:
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(begin_and_cancel())
    (call,) = plane.calls
    assert [given.status for given in call.inputs] != ["SUCCESS"]
