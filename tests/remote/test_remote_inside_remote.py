"""Places inside of places."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hypernodes import MemoryCache, Pipeline, node
from hypernodes.backend import SubprocessBackend
from tests.support import Recorder


@node(output_name="pid")
def get_pid(x: int = 0) -> int:
    return os.getpid()


@node(output_name="inverse")
def invert(x: int) -> float:
    return 1 / x


def test_a_remote_backend_inside_another_reports_and_stores_at_the_caller() -> None:
    recorder, cache = Recorder(), MemoryCache()
    inner = Pipeline([get_pid, invert], name="inner", backend=SubprocessBackend(env={"INNER": "1"}))
    pipeline = Pipeline([inner], name="outer", backend=SubprocessBackend(), cache=cache, callbacks=[recorder])
    found = pipeline.run({"x": 4})
    assert found["inverse"] == 0.25
    assert found["pid"] != os.getpid()
    assert sorted(recorder.computed) == ["get_pid", "invert"]
    assert {ctx.hierarchy_path for _, ctx, _ in recorder.of("node_end")} == {("outer", "inner")}
    recorder.clear()
    assert pipeline.run({"x": 4}) == found
    assert recorder.computed == []


def test_an_error_in_a_remote_backend_inside_another_arrives() -> None:
    inner = Pipeline([invert], name="inner", backend=SubprocessBackend(env={"INNER": "1"}))
    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline([inner], name="outer", backend=SubprocessBackend()).run({"x": 0})
    assert "in node 'invert'" in caught.value.__notes__[0]
    assert "outer → inner" in caught.value.__notes__[0]


def test_a_pipeline_that_is_run_inside_a_node_runs_there(kept: SubprocessBackend) -> None:
    @node(output_name="pids")
    def run_inside(x: int) -> list[Any]:
        return [os.getpid(), Pipeline([get_pid]).run({})["pid"]]

    here, inside = Pipeline([run_inside], backend=kept).run({"x": 1})["pids"]
    assert here == inside != os.getpid()
