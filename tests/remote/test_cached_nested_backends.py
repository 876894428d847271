"""Nested pipelines with a place of their own, in a run that is cached: where something runs makes no difference."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, Pipeline, node
from tests.remote.transports import InProcess, Silent
from tests.support import Recorder


@node(output_name="texts")
def split(document: str) -> list[str]:
    return document.split()


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip(".,").lower()


@node(output_name="length")
def measure(clean: str) -> int:
    return len(clean)


@node(output_name="total")
def add_up(lengths: list[int]) -> int:
    return sum(lengths)


@node(output_name="doubled")
def double(length: int) -> int:
    return 2 * length


@node(output_name="text")
def read(path: str) -> str:
    return f"Text of {path[:2]}."


@node(output_name="drawn", cache=False)
def draw(text: str) -> str:
    return text[:3]


class Counting:
    """Counts how often something is handed to a backend, whether it is then sent or not."""

    calls = 0

    def run(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        return super().run(*arguments, **named)  # type: ignore[misc]

    def map(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        return super().map(*arguments, **named)  # type: ignore[misc]


class CountingLocal(Counting, LocalBackend):
    pass


class CountingRemote(Counting, InProcess):
    pass


class Forgetful(LocalBackend):
    """Somebody's own backend, which starts a run of its own instead of a part of the one around."""

    def run(self, request: Any) -> Any:
        request.ctx = None
        return super().run(request)

    def map(self, request: Any) -> Any:
        request.ctx = None
        return super().map(request)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(params=[CountingLocal, CountingRemote])
def place(request: pytest.FixtureRequest) -> Any:
    return request.param()


def once(place: Any, **settings: Any) -> list[Any]:
    """A chain of which the middle runs elsewhere."""
    return [read, Pipeline([strip, measure], name="inner", backend=place, **settings), double]


def mapped(place: Any, **settings: Any) -> list[Any]:
    inner = Pipeline([strip, measure], name="inner", backend=place, **settings)
    outputs = {"clean": "cleaned", "length": "lengths"}
    return [split, inner.as_node({"texts": "text"}, outputs, map_over="texts"), add_up]


SHAPES = pytest.mark.parametrize(
    ("nodes", "inputs"), [(once, {"path": "a.txt"}), (mapped, {"document": "In the, beginning"})]
)


# --- the same signatures ---------------------------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("settings", [{}, {"cache": "own"}])
def test_a_cached_run_hands_nothing_over(
    place: Any, nodes: Callable[..., list[Any]], inputs: dict[str, Any], settings: dict[str, Any], recorder: Recorder
) -> None:
    own = {"cache": MemoryCache()} if settings else {}
    pipeline = Pipeline(nodes(place, **own), cache=MemoryCache(), callbacks=[recorder])
    first = pipeline.run(inputs)
    assert place.calls == 1
    recorder.clear()
    assert pipeline.run(inputs) == first
    assert place.calls == 1
    assert recorder.computed == []
    assert pipeline.explain(inputs).is_fully_cached


@SHAPES
@pytest.mark.parametrize("is_first_here", [True, False])
def test_what_one_backend_computed_is_found_for_another(
    place: Any, nodes: Callable[..., list[Any]], inputs: dict[str, Any], is_first_here: bool, recorder: Recorder
) -> None:
    cache = MemoryCache()
    first, second = (nodes(None), nodes(place)) if is_first_here else (nodes(place), nodes(None))
    expected = Pipeline(first, cache=cache).run(inputs)
    before = place.calls
    assert Pipeline(second, cache=cache, callbacks=[recorder]).run(inputs) == expected
    assert place.calls == before
    assert recorder.computed == []


@SHAPES
def test_it_sounds_like_a_cached_run_here(
    place: Any, nodes: Callable[..., list[Any]], inputs: dict[str, Any], recorder: Recorder
) -> None:
    cache = MemoryCache()
    events = []
    for where in (None, place):
        pipeline = Pipeline(nodes(where), cache=cache, callbacks=[recorder], name="outer")
        pipeline.run(inputs)
        recorder.clear()
        pipeline.run(inputs)
        paths = [ctx.hierarchy_path for ctx in recorder.contexts]
        events.append([*zip(recorder.events, paths, strict=True)])
        recorder.clear()
    assert events[0] == events[1]


@SHAPES
def test_without_a_cache_it_is_handed_over_and_what_depends_on_it_is_keyed_by_values(
    place: Any, nodes: Callable[..., list[Any]], inputs: dict[str, Any], recorder: Recorder
) -> None:
    pipeline = Pipeline(nodes(place, cache=False), cache=MemoryCache(), callbacks=[recorder])
    first = pipeline.run(inputs)
    recorder.clear()
    assert pipeline.run(inputs) == first
    assert place.calls == 2
    assert set(recorder.computed) == {"strip", "measure"}
    assert set(recorder.cached) <= {"read", "split", "double", "add_up"}


# --- what changes ----------------------------------------------------------------------------------------------------


@SHAPES
def test_a_changed_node_behind_it_does_not_hand_it_over(
    place: Any, nodes: Callable[..., list[Any]], inputs: dict[str, Any], recorder: Recorder
) -> None:
    @node(output_name="seen")
    def look(length: int = 0, lengths: tuple[int, ...] = ()) -> list[int]:
        return [length, *lengths]

    cache = MemoryCache()
    Pipeline(nodes(place), cache=cache).run(inputs)
    found = Pipeline([*nodes(place)[:-1], look], cache=cache, callbacks=[recorder]).run(inputs, "seen")
    assert place.calls == 1
    assert recorder.computed == ["look"]
    assert sum(found["seen"]) > 0


@SHAPES
def test_a_changed_node_before_it_does_as_here(
    place: Any, nodes: Callable[..., list[Any]], inputs: dict[str, Any], recorder: Recorder
) -> None:
    @node(output_name="text")
    def read_otherwise(path: str) -> str:
        return f"Text of {path[:2]}" + "."

    @node(output_name="texts")
    def split_otherwise(document: str) -> list[str]:
        return document.split(" ")

    computed = []
    for where in (None, place):
        cache = MemoryCache()
        first = Pipeline(nodes(where), cache=cache).run(inputs)
        changed = [read_otherwise if nodes is once else split_otherwise, *nodes(where)[1:]]
        found = Pipeline(changed, cache=cache, callbacks=[recorder]).run(inputs)
        assert found == first
        computed.append(recorder.computed)
        recorder.clear()
    assert computed[0] == computed[1]


def test_only_the_missing_items_are_sent(recorder: Recorder) -> None:
    place = CountingRemote()
    pipeline = Pipeline(mapped(place), cache=MemoryCache(), callbacks=[recorder])
    pipeline.run({"document": "in the beginning"})
    recorder.clear()
    pipeline.run({"document": "in the very beginning"})
    assert len(place.jobs) == 2
    assert recorder.computed == ["split", "strip", "measure", "add_up"]
    pipeline.run({"document": "the in"})  # another list, but nothing that has not been there
    assert len(place.jobs) == 2


def test_only_what_is_missing_of_a_chain_is_sent(recorder: Recorder) -> None:
    place, cache = CountingRemote(), MemoryCache()
    pipeline = Pipeline(once(place), cache=cache, callbacks=[recorder])
    pipeline.run({"path": "a.txt"}, "clean")
    recorder.clear()
    pipeline.run({"path": "a.txt"})
    assert recorder.computed == ["measure", "double"]
    assert len(place.jobs) == 2


def test_an_output_is_identified_though_another_is_not(place: Any, recorder: Recorder) -> None:
    inner = Pipeline([strip, draw], name="inner", backend=place)
    pipeline = Pipeline([read, inner, measure], cache=MemoryCache(), callbacks=[recorder])
    pipeline.run({"path": "a.txt"})
    recorder.clear()
    pipeline.run({"path": "a.txt"})
    assert recorder.computed == ["draw"]
    recorder.clear()
    pipeline.run({"path": "a.txt"}, "length")
    assert recorder.computed == []
    assert place.calls == 2


def test_what_is_only_known_by_its_value_is_found_when_it_is_there(place: Any, recorder: Recorder) -> None:
    inner = Pipeline([strip, measure], name="inner", backend=place).as_node({"drawn": "text"})
    pipeline = Pipeline([read, draw, inner, double], cache=MemoryCache(), callbacks=[recorder])
    first = pipeline.run({"path": "a.txt"})
    recorder.clear()
    assert pipeline.run({"path": "a.txt"}) == first
    assert recorder.computed == ["draw"]
    assert place.calls == 1


def test_backends_in_backends_and_in_items(recorder: Recorder) -> None:
    innermost, middle = CountingRemote(), CountingLocal()
    deep = Pipeline([strip, Pipeline([measure], name="deep", backend=innermost)], name="middle", backend=middle)
    each = Pipeline([read, deep, double], name="each").as_node(
        {"paths": "path"}, {n: f"all {n}" for n in ("text", "clean", "length", "doubled")}, map_over="paths"
    )
    pipeline = Pipeline([each], cache=MemoryCache(), callbacks=[recorder])
    first = pipeline.run({"paths": ["a", "bb"]})
    assert (middle.calls, innermost.calls) == (2, 2)
    recorder.clear()
    assert pipeline.run({"paths": ["a", "bb"]}) == first
    assert recorder.computed == []
    assert pipeline.run({"paths": ["bb", "a", "ccc"]})["all length"][:2] == first["all length"][::-1]
    assert (middle.calls, innermost.calls) == (3, 3)
    assert pipeline.explain({"paths": ["ccc", "a"]}).is_fully_cached


@SHAPES
def test_lists_that_a_backend_made_are_known_item_by_item(
    place: Any, nodes: Callable[..., list[Any]], inputs: dict[str, Any], recorder: Recorder
) -> None:
    whole = Pipeline(nodes(None), name="whole", backend=place)
    pipeline = Pipeline([whole], cache=MemoryCache(), callbacks=[recorder])
    first = pipeline.run(inputs)
    recorder.clear()
    assert pipeline.run(inputs) == first
    assert recorder.computed == []
    assert place.calls == 1


# --- what cannot be relied on ----------------------------------------------------------------------------------------


@SHAPES
def test_a_backend_that_starts_runs_of_its_own_is_keyed_by_values(
    nodes: Callable[..., list[Any]], inputs: dict[str, Any], recorder: Recorder
) -> None:
    pipeline = Pipeline(nodes(Forgetful()), cache=MemoryCache(), callbacks=[recorder])
    first = pipeline.run(inputs)
    recorder.clear()
    assert pipeline.run(inputs) == first
    assert recorder.computed == []


@pytest.mark.parametrize("is_in_a_map", [False, True])
def test_what_was_made_of_a_failure_is_not_taken_for_what_is_made_without(
    place: Any, is_in_a_map: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @node(output_name="inverse")
    def invert(x: int) -> float:
        if x == 2 and "NOT_TODAY" in os.environ:
            raise ValueError("not today")
        return 1 / x

    @node(output_name="count")
    def count(inverses: list[Any]) -> int:
        return sum(isinstance(value, float) for value in inverses)

    @node(output_name="report")
    def report(count: int) -> str:
        return f"{count} of 3"

    each = Pipeline([invert], name="each").as_node(
        {"xs": "x"}, {"inverse": "inverses"}, map_over="xs", on_error="collect"
    )
    inner: Any = Pipeline([each, count], name="inner", backend=place)
    last: Any = report

    @node(output_name="last")
    def gather(reports: list[str]) -> list[str]:
        return list(reports)

    if is_in_a_map:
        rows = Pipeline([inner, report], name="rows")
        inner = rows.as_node({"rows": "xs"}, {n: f"all {n}" for n in rows.outputs}, map_over="rows")
        last = Pipeline([gather]).as_node({"all report": "reports"})
    pipeline = Pipeline([inner, last], cache=MemoryCache())
    inputs = {"rows": [[1, 2, 4]]} if is_in_a_map else {"xs": [1, 2, 4]}
    name = "last" if is_in_a_map else "report"
    monkeypatch.setenv("NOT_TODAY", "1")
    assert "2 of 3" in pipeline.run(inputs, name)[name]
    monkeypatch.delenv("NOT_TODAY")
    assert "3 of 3" in pipeline.run(inputs, name)[name]


# --- a run that is elsewhere itself ----------------------------------------------------------------------------------


@SHAPES
def test_a_cached_remote_run_makes_no_call(
    nodes: Callable[..., list[Any]], inputs: dict[str, Any], recorder: Recorder
) -> None:
    outer, cache = InProcess(), MemoryCache()
    pipeline = Pipeline(nodes(InProcess()), backend=outer, cache=cache, callbacks=[recorder])
    first = pipeline.run(inputs)
    recorder.clear()
    assert pipeline.run(inputs) == first
    assert len(outer.jobs) == 1
    assert recorder.computed == []
    assert Pipeline(nodes(None), cache=cache, callbacks=[recorder]).run(inputs) == first
    assert recorder.computed == []


@SHAPES
@pytest.mark.parametrize("transport", [InProcess, Silent])
def test_a_remote_run_gets_what_was_found_for_backends_inside(
    nodes: Callable[..., list[Any]], inputs: dict[str, Any], transport: Any, recorder: Recorder
) -> None:
    cache = MemoryCache()
    before = Pipeline(nodes(None), cache=cache).run(inputs, ["clean" if nodes is once else "cleaned"])
    pipeline = Pipeline(nodes(InProcess()), backend=transport(), cache=cache, callbacks=[recorder])
    found = pipeline.run(inputs)
    assert before.items() <= found.items()
    assert set(recorder.computed) == {"measure", "double" if nodes is once else "add_up"}


@pytest.mark.parametrize("transport", [InProcess, Silent])
def test_remote_items_find_what_backends_inside_computed(transport: Any, recorder: Recorder) -> None:
    cache = MemoryCache()
    each = Pipeline(once(InProcess()), backend=transport(), cache=cache, callbacks=[recorder])
    Pipeline(once(None), cache=cache).map({"path": ["a", "bb"]}, "path", output_name="length")
    found = each.map({"path": ["a", "bb", "ccc"]}, "path")
    assert found["doubled"] == [2 * length for length in found["length"]]
    assert sorted(recorder.computed) == ["double", "double", "double", "measure", "read", "strip"]
