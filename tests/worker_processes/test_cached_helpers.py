"""Helpers with `functools.cache`, the usual way to load a model once: their caches stay in the processes of workers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypernodes import Backend, LocalBackend, Node, Pipeline
from hypernodes.backend import SubprocessBackend
from tests.support import end_idle_workers
from tests.worker_processes.nodes import note_line, read_lines


def pipeline_with(factor: int, folder: Path, backend: Backend) -> Pipeline:
    """Return a pipeline whose helper, which no process can import, notes each time that it loads something."""
    path = folder / f"loads-{factor}"

    @functools.cache
    def load() -> Callable[[int], int]:
        note_line(path, os.getpid())
        return lambda number: factor * number

    def use(x: int) -> int:
        return load()(x)

    return Pipeline(nodes=[Node(use, "y")], backend=backend)


@pytest.fixture(params=["parallel", "subprocess"])
def backend(request: pytest.FixtureRequest) -> Any:
    end_idle_workers()
    return LocalBackend(map_execution="parallel", max_workers=2) if request.param == "parallel" else SubprocessBackend()


def test_a_cached_helper_keeps_its_cache_from_run_to_run_while_its_code_is_the_same(
    backend: Backend, tmp_path: Path
) -> None:
    for _ in range(3):
        found = pipeline_with(3, tmp_path, backend).map(inputs={"x": range(40)}, map_over="x")
        assert found == {"y": [3 * x for x in range(40)]}
    loads = read_lines(tmp_path / "loads-3")
    assert len(loads) == len(set(loads)), "once in each process"
    assert pipeline_with(4, tmp_path, backend).map(inputs={"x": [1, 2]}, map_over="x") == {"y": [4, 8]}
    assert read_lines(tmp_path / "loads-4")


def test_a_recursive_helper_has_one_cache(backend: Backend) -> None:
    @functools.cache
    def count_paths(n: int) -> int:
        return 1 if n < 2 else count_paths(n - 1) + count_paths(n - 2)

    def paths(n: int) -> int:
        return count_paths(n)

    pipeline = Pipeline(nodes=[Node(paths, "y")], backend=backend)
    assert pipeline.map(inputs={"n": [60, 61]}, map_over="n")["y"] == [2504730781961, 4052739537881]


class Model:
    """Loads what it needs when it is first used."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._factor: int | None = None

    def scale(self, x: int) -> int:
        if self._factor is None:
            note_line(Path(self._path), os.getpid())
            self._factor = 2
        return self._factor * x


@pytest.mark.parametrize("wrap", [lambda model: [model], lambda model: {"a": {"b": (model,)}}], ids=["list", "dict"])
def test_an_object_in_a_small_shared_container_arrives_once_in_each_process(
    wrap: Callable[[Model], Any], tmp_path: Path
) -> None:
    def use(x: int, models: Any) -> int:
        model = models[0] if isinstance(models, list) else models["a"]["b"][0]
        return model.scale(x)  # type: ignore[no-any-return]

    end_idle_workers()
    with LocalBackend(map_execution="parallel", max_workers=2) as backend:
        pipeline = Pipeline(nodes=[Node(use, "y")], backend=backend)
        given = {"x": range(400), "models": wrap(Model(str(tmp_path / "loads")))}
        assert pipeline.map(inputs=given, map_over="x") == {"y": [2 * x for x in range(400)]}
    assert len(read_lines(tmp_path / "loads")) <= 2
