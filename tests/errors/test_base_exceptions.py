"""What is no `Exception` ends a run, with its type and a note, in every mode and place, also under `collect`."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hypernodes import Failure, LocalBackend, MemoryCache, Node, Pipeline
from hypernodes.backend import Backend, SubprocessBackend
from tests.concurrency.kit import MODES, Modes
from tests.support import Recorder, notes_of


class OwnError(BaseException):
    """One that nobody expects."""


KINDS: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("mine"),
    "GeneratorExit": lambda: GeneratorExit("mine"),
    "asyncio.CancelledError": lambda: asyncio.CancelledError("mine"),
    "concurrent.futures.CancelledError": lambda: concurrent.futures.CancelledError("mine"),
    "own": lambda: OwnError("mine"),
    "base group": lambda: BaseExceptionGroup("both", [SystemExit(3), ValueError()]),
    "group": lambda: ExceptionGroup("both", [TypeError(), ValueError()]),
}


def failing(kind: str, is_async: bool, **options: Any) -> Node[..., Any]:
    def fail(x: int) -> int:
        if x == 1:
            raise KINDS[kind]()
        return x

    async def fail_async(x: int) -> int:
        await asyncio.sleep(0)
        return fail(x)

    return Node(fail_async if is_async else fail, "y", name="fail", **options)


def check(kind: str, run: Callable[[], Any], where: str) -> None:
    """Check that `run` raises an exception of this kind with one note, which names the node and says where."""
    expected = KINDS[kind]()
    with pytest.raises(type(expected)) as caught:
        run()
    assert type(caught.value) is type(expected)
    assert str(caught.value) == str(expected)
    (note,) = notes_of(caught.value)
    assert note.startswith("in node 'fail'")
    assert where in note


def check_everywhere(kind: str, node: Node[..., Any], backend: Backend, **settings: Any) -> None:
    pipeline = Pipeline(nodes=[node], name="failing", backend=backend, **settings)
    mapped = pipeline.with_backend(None).as_node(map_over="x", on_error="collect")
    nested = Pipeline(nodes=[mapped], name="outer", backend=backend, **settings)
    check(kind, lambda: pipeline.run({"x": 1}), "pipeline failing; ")
    check(kind, lambda: asyncio.run(pipeline.arun({"x": 1})), "pipeline failing; ")
    check(kind, lambda: pipeline.map({"x": [0, 1, 2]}, "x"), "map item 1")
    check(kind, lambda: list(pipeline.map_iter({"x": iter([0, 1, 2])}, "x")), "map item 1")
    if not isinstance(KINDS[kind](), Exception):
        check(kind, lambda: pipeline.map({"x": [0, 1, 2]}, "x", on_error="collect"), "map item 1")
        check(kind, lambda: list(pipeline.map_iter({"x": [0, 1, 2]}, "x", on_error="collect")), "map item 1")
        check(kind, lambda: nested.run({"x": [0, 1, 2]}), "map item 1")
        return
    for found in (pipeline.map({"x": [0, 1, 2]}, "x", on_error="collect"), nested.run({"x": [0, 1, 2]})):
        first, second, third = found["y"]
        assert (first, third) == (0, 2)
        assert isinstance(second, Failure)
        assert type(second.error) is type(KINDS[kind]())
        assert len(notes_of(second.error)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_async", [False, True])
def test_it_is_the_same_in_every_mode(modes: Modes, kind: str, is_async: bool) -> None:
    backend = LocalBackend(*modes, max_workers=2)
    check_everywhere(kind, failing(kind, is_async), backend)
    check_everywhere(kind, failing(kind, is_async), backend, cache=MemoryCache())
    recorder = Recorder()
    check_everywhere(kind, failing(kind, is_async), backend, callbacks=[recorder])
    reported = {type(payload["error"]) for _, _, payload in recorder.of("error")}
    assert reported - {concurrent.futures.CancelledError} == {type(KINDS[kind]())} - {concurrent.futures.CancelledError}
    hooks = [event[0] for event in recorder.events]
    for begin, end in (("map_start", "map_end"), ("map_item_start", "map_item_end"), ("nested_start", "nested_end")):
        assert hooks.count(begin) == hooks.count(end)
    assert hooks.count("node_start") == hooks.count("node_end") + hooks.count("error")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modes", MODES)
def test_one_of_several_at_a_time_ends_the_run(modes: Modes, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(x: int) -> int:
        await asyncio.sleep(0)
        raise KINDS[kind]()

    pipeline = Pipeline(nodes=[Node(fail, "y")], name="failing", backend=LocalBackend(*modes, max_workers=4))
    check(kind, lambda: pipeline.map({"x": range(4)}, "x"), "map item ")
    check(kind, lambda: list(pipeline.map_iter({"x": range(4)}, "x")), "map item ")
    check(kind, lambda: asyncio.run(pipeline.amap({"x": range(4)}, "x")), "map item ")
    assert caplog.messages == []  # asyncio logs errors that nobody took


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_async", [False, True])
def test_it_is_the_same_with_retries_and_a_time_limit(kind: str, is_async: bool) -> None:
    for modes in MODES[::4]:
        backend = LocalBackend(*modes, max_workers=2)
        check_everywhere(kind, failing(kind, is_async, retries=1, retry_delay=0, timeout=60), backend)


PLACES = {
    "nodes": LocalBackend("parallel", max_workers=1),
    "items": LocalBackend(map_execution="parallel", max_workers=1),
    "another process": SubprocessBackend(),
    "threads of another process": SubprocessBackend(node_execution="threaded", map_execution="threaded"),
}


@pytest.fixture(scope="module", params=PLACES.values(), ids=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A place with a process that all these exceptions are raised in, one after the other."""
    with request.param as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_in_other_processes(place: Backend, kind: str) -> None:
    is_async = place in (PLACES["items"], PLACES["another process"])  # each kind of function in each kind of process
    check_everywhere(kind, failing(kind, is_async), place)
