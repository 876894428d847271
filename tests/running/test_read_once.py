"""What can be read only once is refused where it would be read twice: the second reader would get nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypernodes import (
    DependencyError,
    ExecutionError,
    HyperNodesError,
    HyperNodesWarning,
    LocalBackend,
    MapInputError,
    MemoryCache,
    Pipeline,
    failures,
    node,
)
from hypernodes.read_once import held_iterator
from tests.concurrency.kit import MODES, Modes
from tests.support import Recorder


@node(output_name="lines")
def read(count: int) -> Iterator[str]:
    return (line for line in "abc"[:count])


@node(output_name="lines", name="read")
def read_lazily(count: int) -> Iterator[str]:
    return map(str.lower, "ABC"[:count])


@node(output_name=("lines", "size"), name="read")
def read_both(count: int) -> tuple[Iterator[str], int]:
    return iter("abc"[:count]), count


@node(output_name="number")
def count_lines(lines: Iterator[str]) -> int:
    return len(list(lines))


@node(output_name="longest")
def find_longest(lines: Iterator[str]) -> str:
    return max(lines, key=len)


@node(output_name="shout")
def shout(line: str) -> str:
    return line.upper()


READERS = [count_lines, find_longest]
MESSAGE = r"node 'read' returned a \w+ for 'lines', which can be read only once, but .* need it\. Return list\(\.\.\.\)"
WAYS: dict[str, Callable[[Pipeline], Pipeline]] = {
    "silent": lambda pipeline: pipeline,
    "observed": lambda pipeline: pipeline.with_callbacks([Recorder()]),
    "cached": lambda pipeline: pipeline.with_cache(MemoryCache()),
    "threaded": lambda pipeline: pipeline.with_backend(LocalBackend("threaded", "threaded")),
    "async": lambda pipeline: pipeline.with_backend(LocalBackend("async", "async")),
}


@pytest.fixture(params=WAYS)
def go(request: pytest.FixtureRequest) -> Callable[[Pipeline], Pipeline]:
    """A way of running pipelines."""
    return WAYS[request.param]


@pytest.mark.parametrize("reader", [read, read_lazily, read_both], ids=["generator", "map", "one of two outputs"])
def test_a_result_that_two_nodes_read_is_refused_in_the_name_of_its_node(go: Any, reader: Any) -> None:
    pipeline = go(Pipeline(nodes=[reader, *READERS], name="p"))
    with pytest.raises(ExecutionError, match=MESSAGE) as caught:
        pipeline.run({"count": 3})
    assert caught.value.node_name == "read"
    assert set(caught.value.readers) == {"count_lines", "find_longest"}
    assert caught.value.__notes__[0].startswith(f"in node 'read' ({reader.location}) of pipeline p")


def test_the_items_of_a_map_are_refused_too(go: Any) -> None:
    pipeline = go(Pipeline(nodes=[read_lazily, *READERS]))
    with pytest.raises(ExecutionError, match=MESSAGE):
        pipeline.map({"count": [2, 3]}, map_over="count")
    found = failures(pipeline.map({"count": [2, 3]}, map_over="count", on_error="collect"))
    assert [(failure.item_index, failure.node_path[-1]) for failure in found] == [(0, "read"), (1, "read")]
    with pytest.raises(ExecutionError, match=MESSAGE):
        asyncio.run(pipeline.amap({"count": [2, 3]}, map_over="count"))


@pytest.mark.parametrize("mode", ["sequential", "async", "threaded"])
def test_what_a_coroutine_returns_is_refused_likewise(mode: Any) -> None:
    @node(output_name="lines", name="read")
    async def read_awaited(count: int) -> Iterator[str]:
        return iter("abc"[:count])

    @node(output_name="number")
    async def count_awaited(lines: Iterator[str]) -> int:
        return len(list(lines))

    @node(output_name="longest")
    async def find_awaited(lines: Iterator[str], number: int) -> str:
        return max(lines, key=len, default="")

    pipeline = Pipeline(nodes=[read_awaited, count_awaited, find_awaited], backend=LocalBackend(mode, mode))
    with pytest.raises(ExecutionError, match=MESSAGE):
        pipeline.run({"count": 3})
    with pytest.raises(ExecutionError, match=MESSAGE):
        pipeline.map({"count": [2, 3] * 4}, map_over="count")


@pytest.mark.filterwarnings("ignore:the result of node 'read' is not cached")
def test_one_reader_may_take_an_iterator(go: Any) -> None:
    assert go(Pipeline(nodes=[read, count_lines])).run({"count": 3}, "number") == {"number": 3}
    assert go(Pipeline(nodes=[read, count_lines])).run({"count": 3})["number"] == 3
    assert go(Pipeline(nodes=[count_lines])).run({"lines": iter("ab")}) == {"number": 2}


def test_the_caller_counts_as_a_reader_of_what_it_asks_for(go: Any) -> None:
    with pytest.raises(ExecutionError, match="'the caller' and 'count_lines' need it"):
        go(Pipeline(nodes=[read, count_lines])).run({"count": 3}, ["lines", "number"])


def test_an_input_that_two_nodes_read_is_refused_before_anything_runs(go: Any) -> None:
    pipeline = go(Pipeline(nodes=READERS, name="p"))
    with pytest.raises(DependencyError) as caught:
        pipeline.run({"lines": (line for line in "ab")})
    assert str(caught.value) == (
        "input 'lines' of pipeline 'p' is a generator, which can be read only once, but 'count_lines' and "
        "'find_longest' need it. Pass list(lines)"
    )
    assert caught.value.input_name == "lines"
    with pytest.raises(DependencyError, match=r"Pass list\(lines\)"):
        asyncio.run(pipeline.arun({"lines": iter("ab")}))
    with pytest.raises(DependencyError, match=r"input 'lines\[1\]' .* is a \w+, which"):
        pipeline.map({"lines": ["ab", iter("ab")]}, map_over="lines")


def test_readers_inside_nested_pipelines_count(go: Any) -> None:
    inner = Pipeline(nodes=[find_longest], name="inner")
    with pytest.raises(DependencyError, match=r"'find_longest' and 'count_lines' need it"):
        go(Pipeline(nodes=[inner, count_lines])).run({"lines": iter("ab")})
    apart = inner.with_backend(LocalBackend())
    with pytest.raises(HyperNodesError, match="which can be read only once"):
        go(Pipeline(nodes=[read_lazily, apart, count_lines])).run({"count": 3})


def test_what_the_items_of_a_map_share_is_read_by_each_of_them(go: Any) -> None:
    @node(output_name="joined")
    def join(k: int, lines: Iterator[str]) -> str:
        return str(k) + "".join(lines)

    with pytest.raises(DependencyError, match=r"'lines' .* but every item needs it\. Pass list\(lines\)"):
        go(Pipeline(nodes=[join])).map({"k": [1, 2], "lines": iter("ab")}, map_over="k")
    mapped = Pipeline(nodes=[join], name="joining").as_node(map_over="k")
    with pytest.raises(DependencyError, match="every item of 'joining' needs it"):
        go(Pipeline(nodes=[mapped])).run({"k": [1, 2], "lines": iter("ab")})
    with pytest.raises(ExecutionError, match=MESSAGE.replace("need it", "needs it")):
        go(Pipeline(nodes=[read_lazily, mapped])).run({"k": [1, 2], "count": 2})
    with pytest.raises(DependencyError, match=r"'lines\[0\]' .* but every combination needs it"):
        go(Pipeline(nodes=[join])).map({"k": [1, 2], "lines": [iter("ab")]}, ["k", "lines"], map_mode="product")


def test_what_a_mapped_pipeline_maps_over_becomes_a_list_for_the_others(go: Any) -> None:
    each = Pipeline(nodes=[shout], name="each").as_node({"lines": "line"}, map_over="lines")
    assert go(Pipeline(nodes=[each, count_lines])).run({"lines": iter("ab")}) == {"shout": ["A", "B"], "number": 2}
    with pytest.raises(ExecutionError, match=MESSAGE):
        go(Pipeline(nodes=[read, each, count_lines])).run({"count": 3})


def test_a_file_is_refused_where_two_nodes_read_it_and_allowed_where_they_write(tmp_path: Path, go: Any) -> None:
    (tmp_path / "lines").write_text("a\nb\n")
    pipeline = go(Pipeline(nodes=READERS))
    with open(tmp_path / "lines") as file, pytest.raises(DependencyError, match=r"is an open file \(TextIOWrapper\)"):
        pipeline.run({"lines": file})

    @node(output_name="first", cache_ignore="log")
    def write(log: Any) -> int:
        return log.write("a")  # type: ignore[no-any-return]

    @node(output_name="second", cache_ignore=("log", "numbers"))
    def write_again(log: Any, numbers: Iterator[int]) -> int:
        return log.write("b") + next(numbers)  # type: ignore[no-any-return]

    @node(output_name="third", cache_ignore="numbers")
    def draw(numbers: Iterator[int]) -> int:
        return next(numbers)

    with open(tmp_path / "log", "w") as file:
        found = go(Pipeline(nodes=[write, write_again, draw])).run({"log": file, "numbers": itertools.count()})
    assert found["first"] + found["second"] + found["third"] == 3


def test_a_node_that_failed_because_nothing_was_left_is_not_blamed() -> None:
    @node(output_name="number", name="count_lines")
    def use_up(lines: Iterator[str]) -> int:
        return len(list(lines))

    pipeline = Pipeline(nodes=[read_lazily, use_up, find_longest])
    with pytest.raises(ExecutionError, match=MESSAGE):
        pipeline.run({"count": 3})


@node(output_name="parts")
def split(count: int) -> dict[str, Any]:
    return {"size": count, "letters": ("abc", iter("abc"[:count]))}


@node(output_name="first")
def take_first(parts: Any) -> Any:
    return parts["size"]


@node(output_name="rest")
def take_rest(parts: Any) -> Any:
    return list(parts["letters"][1])


HELD = (
    r"a dict that holds a str_\w*iterator, parts\['letters'\]\[1\], which can be read only once, and .* gets? it: "
    r"all but the first find nothing"
)


def test_a_result_that_holds_an_iterator_is_warned_of_where_two_nodes_get_it(go: Any) -> None:
    pipeline = go(Pipeline(nodes=[split, take_first, take_rest]))
    with pytest.warns(HyperNodesWarning, match="node 'split' returned " + HELD) as caught:
        assert pipeline.run({"count": 2})["rest"] == ["a", "b"]
    code = split.func.__code__
    [warning] = [each for each in caught if "all but the first" in str(each.message)]
    assert (warning.filename, warning.lineno) == (code.co_filename, code.co_firstlineno)
    with pytest.warns(HyperNodesWarning, match=HELD):
        pipeline.map({"count": [1, 2]}, "count")


@pytest.mark.filterwarnings("ignore:the result of node 'split' is not cached")
def test_one_reader_may_take_what_holds_an_iterator(go: Any) -> None:
    assert go(Pipeline(nodes=[split, take_rest])).run({"count": 2}, "rest") == {"rest": ["a", "b"]}


def test_an_input_that_holds_an_iterator_is_warned_of_where_two_nodes_or_items_get_it(go: Any) -> None:
    pipeline = go(Pipeline(nodes=[take_first, take_rest]))
    parts = {"size": 1, "letters": ["abc", iter("a")]}
    with pytest.warns(HyperNodesWarning, match="input 'parts' of pipeline .* is " + HELD) as caught:
        pipeline.run({"parts": parts})
    assert {each.filename for each in caught if "all but the first" in str(each.message)} == {__file__}

    @node(output_name="joined")
    def join(k: int, parts: Any) -> Any:
        return k

    with pytest.warns(HyperNodesWarning, match="input 'parts' .* every item gets it"):
        go(Pipeline(nodes=[join])).map({"k": [1, 2], "parts": parts}, "k")
    with pytest.warns(HyperNodesWarning, match=r"input 'parts\[0\]' .* a dict that holds"):
        pipeline.map({"parts": [parts, parts]}, "parts")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1, iter("a")], "[1]"),
        ([{"a": (1, map(str, "a"))}], None),
        (([1], {"a": iter("a")}), "[1]['a']"),
        ([iter("a") for _ in range(1000)], "[0]"),
        ([*range(1000), iter("a")], None),
        ({"a": 1, "b": [1] * 1000, "c": {1}}, None),
        ({"endless": itertools.count()}, None),
        ([[]], None),
        ("text", None),
    ],
    ids=["list", "three deep", "two deep", "many", "late", "none", "endless", "empty", "no container"],
)
def test_which_containers_are_looked_into(value: Any, path: str | None) -> None:
    held = held_iterator(value)
    assert (None if held is None else held.path) == path


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_map_over_a_set_is_refused_since_its_order_is_arbitrary(go: Any, kind: Any) -> None:
    each = Pipeline(nodes=[shout], name="each")
    with pytest.raises(MapInputError, match=rf"'line', which is a {kind.__name__}, .* pass sorted\(line\)"):
        go(each).map({"line": kind("ab")}, map_over="line")
    with pytest.raises(MapInputError, match=r"pass sorted\(lines\)"):
        go(Pipeline(nodes=[each.as_node({"lines": "line"}, map_over="lines")])).run({"lines": kind("ab")})
    assert go(each).map({"line": {"a": 1, "b": 2}.keys()}, map_over="line") == {"shout": ["A", "B"]}


@pytest.mark.parametrize("modes", MODES)
def test_each_item_of_a_map_is_looked_at(modes: Modes) -> None:
    @node(output_name="numbers")
    def make(x: int) -> Any:
        return iter([x]) if x == 2 else [x]

    @node(output_name="total")
    def add(numbers: Any) -> int:
        return sum(numbers)

    @node(output_name="largest")
    def find_largest(numbers: Any) -> int:
        return max(numbers)

    pipeline = Pipeline(nodes=[make, add, find_largest], backend=LocalBackend(*modes))
    with pytest.raises(ExecutionError, match="node 'make' returned a list_iterator for 'numbers'"):
        pipeline.map({"x": [0, 1, 2]}, "x")
