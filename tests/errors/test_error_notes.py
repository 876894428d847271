"""What a node raises surfaces as it is, with a note saying where it happened."""

from __future__ import annotations

import dataclasses
import traceback
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, Node, Pipeline, node
from tests.support import Recorder, notes_of


class OwnError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


@node(output_name="checked")
def check(x: int, limit: int = 2) -> int:
    if x > limit:
        raise OwnError(x)
    return x


@node(output_name="doubled")
def double(checked: int) -> int:
    return 2 * checked


inner = Pipeline(nodes=[check, double], name="inner")

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "bare": {},
    "observed": {"callbacks": [Recorder()]},
    "cached": {"cache": MemoryCache()},
}


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


@pytest.mark.parametrize(
    "modes", [{}, {"node_execution": "threaded"}, {"map_execution": "threaded"}, {"node_execution": "async"}]
)
def test_an_exception_that_refuses_attributes_keeps_its_type_and_gets_its_note(modes: Any) -> None:
    @node(output_name="y")
    def fail(x: int) -> int:
        raise FrozenError(x)

    pipeline = Pipeline([fail], backend=LocalBackend(**modes))
    for start in (lambda: pipeline.run({"x": 3}), lambda: pipeline.map({"x": [3]}, map_over="x")):
        with pytest.raises(FrozenError) as caught:
            start()
        assert caught.value.code == 3
        assert "in node 'fail'" in note_of(caught.value)


@pytest.fixture(params=list(CONFIGURATIONS))
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The note is the same whichever way the engine takes."""
    return CONFIGURATIONS[request.param]


def note_of(error: BaseException) -> str:
    (note,) = notes_of(error)
    return note


def test_the_original_exception_surfaces_with_its_attributes_and_traceback(settings: dict[str, Any]) -> None:
    with pytest.raises(OwnError) as caught:
        Pipeline(nodes=[check], **settings).run({"x": 3})
    assert type(caught.value) is OwnError
    assert caught.value.code == 3
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "check"
    assert frames[-1].line == "raise OwnError(x)"


def test_the_note_names_pipeline_node_location_inputs_and_backend(settings: dict[str, Any]) -> None:
    with pytest.raises(OwnError) as caught:
        Pipeline(nodes=[check], name="p", **settings).run({"x": 3})
    assert note_of(caught.value) == (
        f"in node 'check' ({check.location}) of pipeline p; its inputs: x, limit; backend: local"
    )


def test_the_note_has_the_index_of_the_map_item(settings: dict[str, Any]) -> None:
    with pytest.raises(OwnError) as caught:
        Pipeline(nodes=[check], name="p", **settings).map({"x": [1, 2, 3]}, map_over="x")
    assert "of pipeline p, map item 2; its inputs" in note_of(caught.value)


def test_the_note_has_the_whole_path_through_nested_pipelines(settings: dict[str, Any]) -> None:
    middle = Pipeline(nodes=[inner.as_node(name="step")], name="middle")
    with pytest.raises(OwnError) as caught:
        Pipeline(nodes=[middle], name="outer", **settings).run({"x": 3})
    assert "of pipeline outer → middle → step; its inputs" in note_of(caught.value)


def test_the_note_has_the_item_of_every_map_on_the_way(settings: dict[str, Any]) -> None:
    rows = Pipeline(nodes=[inner.as_node(map_over="x")], name="rows")
    with pytest.raises(OwnError) as caught:
        Pipeline(nodes=[rows.as_node({"table": "x"}, map_over="table")], name="outer", **settings).run(
            {"table": [[1], [1, 3]]}
        )
    assert "of pipeline outer → rows → inner, map item 1 → 1; its inputs" in note_of(caught.value)


def test_the_note_is_the_same_in_a_nested_pipeline_with_its_own_backend(settings: dict[str, Any]) -> None:
    elsewhere = inner.with_backend(LocalBackend())
    with pytest.raises(OwnError) as caught:
        Pipeline(nodes=[elsewhere.as_node(map_over="x")], name="outer", **settings).run({"x": [1, 3]})
    assert "of pipeline outer → inner, map item 1; its inputs" in note_of(caught.value)


def test_the_note_says_when_a_node_has_no_inputs() -> None:
    def fail() -> None:
        raise OwnError(0)

    with pytest.raises(OwnError) as caught:
        Pipeline(nodes=[node(fail)]).run()
    assert "its inputs: none;" in note_of(caught.value)


def test_the_right_node_is_blamed_in_a_long_chain() -> None:
    chain = [Node(eval(f"lambda x{i}: x{i} + 1"), f"x{i + 1}") for i in range(5)]
    chain.append(Node(lambda x3: 1 // (x3 - 3), "bad"))
    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline(nodes=chain).run({"x0": 0})
    assert note_of(caught.value).startswith("in node 'bad'")


def test_nodes_after_an_error_do_not_run() -> None:
    recorder = Recorder()
    with pytest.raises(OwnError):
        Pipeline(nodes=[inner], callbacks=[recorder]).run({"x": 3})
    assert recorder.computed == ["check"]


def test_results_from_before_an_error_stay_in_the_cache() -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[check], cache=MemoryCache(), callbacks=[recorder])
    with pytest.raises(OwnError):
        pipeline.map({"x": [1, 2, 3]}, map_over="x")
    recorder.clear()
    assert pipeline.map({"x": [1, 2, 0]}, map_over="x") == {"checked": [1, 2, 0]}
    assert recorder.cached_items == [0, 1]
    assert len(recorder.computed) == 1


def test_a_failure_is_not_cached() -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[check], cache=MemoryCache(), callbacks=[recorder])
    for _ in range(2):
        with pytest.raises(OwnError):
            pipeline.run({"x": 3})
    assert recorder.computed == ["check", "check"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_through_and_open_events_are_closed(error: type[BaseException]) -> None:
    def stop() -> None:
        raise error

    recorder = Recorder()
    nested = Pipeline(nodes=[node(stop)], name="inner")
    with pytest.raises(error):
        Pipeline(nodes=[nested], name="outer", callbacks=[recorder]).run()
    assert recorder.events[-2:] == [("nested_end", "outer", "inner"), ("pipeline_end", "outer")]
