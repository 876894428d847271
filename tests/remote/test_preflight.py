"""What a run or a map would send, told beforehand."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from hypernodes import MapLengthError, MemoryCache, Pipeline, node
from hypernodes.backend import SubprocessBackend


@node(output_name="pid")
def get_pid(x: int = 0) -> int:
    return os.getpid()


@node(output_name="inverse")
def invert(x: int) -> float:
    return 1 / x


@node(output_name="power")
def raise_to(x: int, exponent: int) -> int:
    return x**exponent


def test_preflight_tells_what_would_travel_and_what_is_wrong(kept: SubprocessBackend) -> None:
    cache = MemoryCache()
    pipeline = Pipeline([get_pid, invert], backend=kept, cache=cache)
    report = kept.preflight(pipeline, {"x": 4})
    assert report.needs_call
    assert set(report.nodes) == {"get_pid", "invert"}
    assert report.cached == ()
    assert report.problems == ()
    assert report.size_bytes > 0
    pipeline.run({"x": 4}, "inverse")
    assert kept.preflight(pipeline, {"x": 4}).cached == ("invert",)
    pipeline.run({"x": 4})
    assert "nothing has to run" in str(kept.preflight(pipeline, {"x": 4}))
    (problem, *_) = kept.preflight(pipeline.with_cache(False), {"x": threading.Lock()}).problems
    assert "input 'x' cannot be sent" in problem


def test_preflight_of_a_map_tells_how_many_items_would_travel(kept: SubprocessBackend) -> None:
    pipeline = Pipeline([raise_to], backend=kept, cache=MemoryCache())
    inputs = {"x": range(1, 101), "exponent": 2}
    report = kept.preflight(pipeline, inputs, map_over="x")
    assert (
        report.needs_call,
        report.items,
        report.cached_items,
        report.nodes,
    ) == (True, 100, 0, ("raise_to",))
    assert report.size_bytes > report.values["x"] > report.values["exponent"] > 0
    pipeline.map({**inputs, "x": range(1, 91)}, "x")
    fewer = kept.preflight(pipeline, inputs, map_over="x")
    assert (fewer.needs_call, fewer.items, fewer.cached_items) == (True, 100, 90)
    assert fewer.values["x"] < report.values["x"]
    assert "from the cache: 90 of 100 items" in str(fewer)
    pipeline.map(inputs, "x")
    done = kept.preflight(pipeline, inputs, map_over="x")
    assert (done.needs_call, done.items, done.cached_items, done.nodes) == (False, 100, 100, ())
    assert "nothing has to run" in str(done)
    every = kept.preflight(
        pipeline, {"x": [1, 2, 3], "exponent": [2, 3]}, map_over=["x", "exponent"], map_mode="product"
    )
    assert (every.items, every.cached_items) == (6, 3)


def test_preflight_of_a_map_refuses_what_a_map_refuses(kept: SubprocessBackend) -> None:
    pipeline = Pipeline([raise_to], backend=kept)
    with pytest.raises(MapLengthError):
        kept.preflight(pipeline, {"x": [1, 2], "exponent": [3]}, map_over=["x", "exponent"])
    assert kept.preflight(pipeline, {"x": [], "exponent": 1}, map_over="x").needs_call is False


def test_preflight_compares_versions_of_python(kept: SubprocessBackend, tmp_path: Path) -> None:
    own = "{}.{}".format(*sys.version_info[:2])
    report = kept.preflight(Pipeline([get_pid]))
    assert (report.python, report.problems) == (own, ())
    assert f"Python there: {own}" in str(report)
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 2.7\n")
    other.chmod(0o755)
    (problem,) = SubprocessBackend(python=other).preflight(Pipeline([get_pid])).problems
    assert problem.startswith(f"Python {own} here and 2.7 at subprocess")
    other.write_text("#!/bin/sh\nexit 1\n")
    unknown = SubprocessBackend(python=other).preflight(Pipeline([get_pid]))
    assert (unknown.python, unknown.problems) == (None, ())
    assert f"compared with {own} here when the job starts" in str(unknown)
