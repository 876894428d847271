"""Warnings point at the line of the caller, from wherever in the library they come."""

from __future__ import annotations

import asyncio
import inspect
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypernodes import CacheWarning, LocalBackend, MemoryCache, Pipeline, node
from hypernodes.backend import SubprocessBackend
from hypernodes.extension import Channel
from tests.remote.transports import InProcess


class Opaque:
    def __cache_key__(self) -> str:
        raise TypeError("nobody can tell")


opaque = Opaque()


@node(output_name="y")
def hold(x: int) -> int:
    return x if opaque else 0


@node(output_name="z")
def give(y: int) -> Any:
    return (number for number in range(y))


@node(output_name="z", name="give")
async def give_awaited(y: int) -> Any:
    return iter(range(y))


Line = tuple[str, int]


def lines_of(call: Callable[[], Any]) -> set[Line]:
    """Return the lines that the warnings of a call point at."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        call()
    assert shown
    assert {warning.category for warning in shown} == {CacheWarning}
    return {(warning.filename, warning.lineno) for warning in shown}


def here(offset: int = 0) -> Line:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return __file__, frame.f_back.f_lineno + offset


MODES = [(mode, mode) for mode in ("sequential", "async", "threaded")]
BACKENDS = [LocalBackend(*modes) for modes in MODES] + [InProcess()]


@pytest.mark.parametrize("backend", BACKENDS, ids=["sequential", "async", "threaded", "remote"])
def test_runs_and_maps_of_all_kinds(backend: Any) -> None:
    pipeline = Pipeline(nodes=[hold], cache=MemoryCache(), backend=backend)
    found: list[tuple[set[Line], Line]] = [
        (lines_of(lambda: pipeline.run({"x": 1})), here()),
        (lines_of(lambda: pipeline.map({"x": [1, 2]}, "x")), here()),
        (lines_of(lambda: list(pipeline.map_iter({"x": [1, 2]}, "x"))), here()),
    ]
    for shown, line in found:
        assert shown == {line}


@pytest.mark.parametrize("nodes", [[give], [give_awaited]], ids=["def", "async def"])
@pytest.mark.parametrize("modes", MODES, ids=[mode for mode, _ in MODES])
def test_runs_and_maps_that_are_awaited(modes: Any, nodes: Any) -> None:
    pipeline = Pipeline(nodes=nodes, cache=MemoryCache(), backend=LocalBackend(*modes))
    expected: list[Line] = []

    async def await_both() -> None:
        expected.append(here(1))
        await pipeline.arun({"y": 1})
        expected.append(here(1))
        await pipeline.amap({"y": [1, 2]}, "y")

    assert lines_of(lambda: asyncio.run(await_both())) == set(expected)


def test_a_run_inside_a_node_points_at_the_node() -> None:
    inner = Pipeline(nodes=[hold], cache=MemoryCache())
    expected: list[Line] = []

    @node(output_name="inner")
    def start(x: int) -> int:
        expected.append(here(1))
        return inner.run({"x": x})["y"]  # type: ignore[no-any-return]

    for mode in ("sequential", "threaded"):
        outer = Pipeline(nodes=[start], backend=LocalBackend(mode))  # type: ignore[arg-type]
        assert lines_of(lambda outer=outer: outer.run({"x": 1})) == set(expected)  # type: ignore[misc]


def test_a_warning_of_another_process() -> None:
    pipeline = Pipeline(nodes=[hold, give], cache=MemoryCache(), backend=SubprocessBackend())
    assert lines_of(lambda: pipeline.run({"x": 1}, "y")) == {here()}


class HandlesInAThread(InProcess):
    """Gives the channel a message that cannot be read, in a thread of its own."""

    def submit(self, job: bytes, channel: Channel) -> bytes:
        thread = threading.Thread(target=channel.handle, args=(b"what?",))
        thread.start()
        thread.join()
        return super().submit(job, channel)


def test_a_warning_that_a_thread_of_a_backend_causes() -> None:
    plain = Pipeline(nodes=[node("y")(lambda x: x)], cache=MemoryCache(), backend=HandlesInAThread())
    assert lines_of(lambda: plain.run({"x": 1})) == {here()}
    expected: list[Line] = []

    async def await_it() -> None:
        expected.append(here(1))
        await plain.arun({"x": 2})

    assert lines_of(lambda: asyncio.run(await_it())) == set(expected)


def test_the_disk_cache(tmp_path: Path) -> None:
    from hypernodes_cache import DiskCache

    (tmp_path / "cache.db").mkdir()
    cache = DiskCache(path=tmp_path)
    assert lines_of(lambda: cache.put("a", 1)) == {here()}


def test_a_warning_is_shown_once_for_a_line() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            Pipeline(nodes=[hold], cache=MemoryCache()).run({"x": 1})
    assert len(shown) == 1
