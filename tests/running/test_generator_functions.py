"""Nodes that are generator functions: their result is the list of what they yield, for every reader, in every mode."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, NodeTimeoutError, Pipeline, SubprocessBackend, failures, node
from tests.semantics.modes import MODES, REMOTE_MODES, Modes, local_backend
from tests.support import Recorder


@node(output_name="lines")
def read(count: int) -> Iterator[str]:
    for number in range(count):
        if number == 3:
            raise LookupError("no more lines")
        yield f"line {number}"


@node(output_name="number")
def count_lines(lines: list[str]) -> int:
    return len(lines)


@node(output_name="first")
def take_first(lines: list[str]) -> str:
    return lines[0]


PIPELINE = Pipeline([read, count_lines, take_first], name="reading")
EXPECTED = {"lines": ["line 0", "line 1"], "number": 2, "first": "line 0"}


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("is_observed", [False, True])
def test_all_readers_get_the_list(modes: Modes, is_cached: bool, is_observed: bool) -> None:
    pipeline = PIPELINE.with_backend(local_backend(modes)).with_cache(MemoryCache() if is_cached else None)
    pipeline = pipeline.with_callbacks([Recorder()] if is_observed else None)
    for _ in range(2):
        assert pipeline.run({"count": 2}) == EXPECTED
        assert pipeline.map({"count": [2, 1]}, "count")["lines"] == [["line 0", "line 1"], ["line 0"]]


@pytest.mark.parametrize("modes", REMOTE_MODES)
def test_an_error_while_it_yields_is_one_of_the_node(modes: Modes) -> None:
    pipeline = PIPELINE.with_backend(local_backend(modes))
    with pytest.raises(LookupError, match="no more lines") as caught:
        pipeline.run({"count": 5})
    assert caught.value.__notes__[0].startswith("in node 'read'")
    (failure,) = failures(pipeline.map({"count": [1, 5]}, "count", on_error="collect"))
    assert (failure.item_index, failure.node_path[-1]) == (1, "read")
    with pytest.raises(LookupError):
        failure.replay()


@pytest.mark.slow
@pytest.mark.parametrize("modes", REMOTE_MODES)
def test_it_is_the_same_in_another_process(modes: Modes) -> None:
    node_execution, map_execution = modes
    with SubprocessBackend(node_execution=node_execution, map_execution=map_execution) as backend:
        pipeline = PIPELINE.with_backend(backend).with_cache(MemoryCache())
        assert pipeline.run({"count": 2}) == EXPECTED
        assert pipeline.map({"count": [2, 1]}, "count")["number"] == [2, 1]
        assert not backend.preflight(pipeline, {"count": 2}).needs_call


def test_a_list_can_be_mapped_over_and_is_cached_with_its_items() -> None:
    @node(output_name="shout")
    def shout(line: str) -> str:
        return line.upper()

    pipeline = Pipeline([read, shout.as_node({"lines": "line"}, map_over="lines")], cache=MemoryCache())
    assert pipeline.run({"count": 2})["shout"] == ["LINE 0", "LINE 1"]
    assert pipeline.explain({"count": 2}).is_fully_cached


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def test_a_decorator_around_a_generator_function_makes_no_difference() -> None:
    @node(output_name="lines")
    @logged
    def read_logged(count: int) -> Iterator[str]:
        yield from "abc"[:count]

    assert Pipeline([read_logged, count_lines, take_first]).run({"count": 2})["lines"] == ["a", "b"]


def test_several_outputs_are_what_it_yields_one_after_the_other() -> None:
    @node(output_name=("low", "high"))
    def bounds(x: int) -> Iterator[int]:
        yield x - 1
        yield x + 1

    assert Pipeline([bounds]).run({"x": 5}) == {"low": 4, "high": 6}


def test_retries_and_time_limits_hold_while_it_yields() -> None:
    attempts: list[int] = []

    @node(output_name="numbers", retries=1, retry_delay=0, cache=False)
    def fail_once(x: int) -> Iterator[int]:
        yield x
        attempts.append(x)
        if len(attempts) == 1:
            raise ConnectionError
        yield x + 1

    assert Pipeline([fail_once]).run({"x": 1}) == {"numbers": [1, 2]}

    ended = threading.Event()

    @node(output_name="numbers", timeout=0.05)
    def yield_until_it_ends(x: int) -> Iterator[int]:
        while not ended.wait(0.01):
            yield x

    try:
        with pytest.raises(NodeTimeoutError):
            Pipeline([yield_until_it_ends], backend=LocalBackend(node_execution="threaded")).run({"x": 1})
    finally:
        ended.set()


def test_a_call_by_hand_gives_the_generator() -> None:
    generator = read(2)
    assert next(generator) == "line 0"  # type: ignore[call-overload]
