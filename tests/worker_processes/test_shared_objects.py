"""Objects in small containers that items share arrive once in each worker process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypernodes import LocalBackend, Node, Pipeline
from tests.support import end_idle_workers
from tests.worker_processes.nodes import note_line, read_lines


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
