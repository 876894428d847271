"""What happens when nodes raise: everything ends in good order, or everything else goes on."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import pytest

from hypernodes import Failure, LocalBackend, MapLengthError, MemoryCache, Pipeline, failures, node
from hypernodes.engine import ExecutionMode
from tests.concurrency.kit import CONCURRENT, MODES, PATIENCE_S, Gate, Log, Modes, guarded
from tests.support import Recorder, notes_of


class Broken:
    """Which numbers a node refuses; what it does is no part of what the node is."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = set(numbers)

    def __cache_key__(self) -> str:
        return "broken"


broken = Broken()
calls = Log[tuple[str, int]]()


@pytest.fixture(autouse=True)
def _three_is_broken() -> None:
    broken.numbers = {3}
    calls.clear()


class OwnError(Exception):
    def __init__(self, x: int, *, code: int) -> None:
        super().__init__(x)
        self.code = code


@node(output_name="checked")
def check(x: int) -> int:
    calls.append(("check", x))
    if x in broken.numbers:
        raise OwnError(x, code=10 * x)
    return x


@node(output_name="doubled")
def double(checked: int) -> int:
    calls.append(("double", checked))
    return 2 * checked


@node(output_name="total")
def add_up(doubled: list[Any]) -> int:
    calls.append(("add_up", len(doubled)))
    return sum(value for value in doubled if not isinstance(value, Failure))


@node(output_name="told")
def tell(total: int) -> str:
    calls.append(("tell", total))
    return f"{total}"


each = Pipeline(nodes=[check, double], name="each")


def whole(on_error: Literal["raise", "collect"] = "collect", **settings: Any) -> Pipeline:
    mapped = each.as_node(input_mapping={"xs": "x"}, map_over="xs", on_error=on_error)
    return Pipeline(nodes=[mapped, add_up, tell], name="whole", **settings)


def shape(values: list[Any]) -> list[Any]:
    return ["failed" if isinstance(value, Failure) else value for value in values]


# --- raise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
def test_the_original_error_surfaces_with_its_traceback_and_one_note(modes: Modes) -> None:
    with pytest.raises(OwnError) as caught:
        whole("raise", backend=LocalBackend(*modes, max_workers=2)).run({"xs": [1, 2, 3, 4]})
    assert type(caught.value) is OwnError
    assert caught.value.code == 30
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.name, frame.line) == ("check", "raise OwnError(x, code=10 * x)")
    (note,) = notes_of(caught.value)
    assert note.startswith("in node 'check' (test_failing_nodes.py:")
    assert note.endswith("of pipeline whole → each, map item 2; its inputs: x; backend: local")


@pytest.mark.parametrize("modes", MODES)
def test_the_first_failure_stops_new_work(modes: Modes) -> None:
    with pytest.raises(OwnError):
        each.with_backend(LocalBackend(*modes, max_workers=1)).map({"x": [1, 3, *range(10, 60)]}, map_over="x")
    assert [x for name, x in calls if name == "check"] == [1, 3]


@pytest.mark.parametrize("modes", [(n, m) for n, m in MODES if m != "sequential"])
def test_running_work_is_drained_before_the_error_surfaces(modes: Modes) -> None:
    together = threading.Barrier(3)
    may_end = Gate()
    ended: list[int] = []

    @node(output_name="y")
    def meet(x: int) -> int:
        together.wait(PATIENCE_S)
        if x == 0:
            raise LookupError(x)
        may_end.pass_through()
        ended.append(x)
        return x

    class Opener(Recorder):
        def on_error(self, node_id: str, error: BaseException, ctx: Any) -> None:
            super().on_error(node_id, error, ctx)
            may_end.set()

    recorder = Opener()
    pipeline = Pipeline(nodes=[meet], backend=LocalBackend(*modes, max_workers=3), callbacks=[recorder])
    with pytest.raises(LookupError):
        guarded(lambda: pipeline.map({"x": range(30)}, map_over="x"))
    assert sorted(ended) == [1, 2]
    assert Counter(event[0] for event in recorder.events) == {
        "map_start": 1,
        "map_item_start": 3,
        "node_start": 3,
        "node_end": 2,
        "error": 1,
        "map_item_end": 3,
        "map_end": 1,
    }


def pairs(recorder: Recorder) -> Counter[tuple[Any, ...]]:
    """For everything that started, how often it started less how often it ended."""
    balance: Counter[tuple[Any, ...]] = Counter()
    for event, context in zip(recorder.events, recorder.contexts, strict=True):
        hook, *what = event
        what = what[:1] if hook.startswith(("node", "error", "map_item")) else []
        key = (*what, context.hierarchy_path, context.item_path)
        if hook.endswith("_start"):
            balance[hook.removesuffix("_start"), *key] += 1
        elif hook.endswith("_end"):
            balance[hook.removesuffix("_end"), *key] -= 1
        elif hook == "error":
            balance["node", *key] -= 1
    return balance


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("modes", MODES)
def test_everything_that_started_ends_also_after_a_failure(modes: Modes, is_cached: bool) -> None:
    recorder = Recorder()
    settings: dict[str, Any] = {"cache": MemoryCache()} if is_cached else {}
    pipeline = whole("raise", backend=LocalBackend(*modes, max_workers=3), callbacks=[recorder], **settings)
    with pytest.raises(OwnError):
        pipeline.run({"xs": range(20)})
    assert not any(pairs(recorder).values())
    assert recorder.events[-1][0] == "pipeline_end"
    assert ("error", "check") in recorder.events


@pytest.mark.parametrize("modes", MODES)
def test_what_was_computed_before_the_failure_stays_in_the_cache(modes: Modes) -> None:
    pipeline = whole("raise", backend=LocalBackend(*modes, max_workers=1), cache=MemoryCache())
    with pytest.raises(OwnError):
        pipeline.run({"xs": [1, 2, 3]})
    before = set(calls)
    calls.clear()
    broken.numbers.clear()
    assert pipeline.run({"xs": [1, 2, 3]})["total"] == 12
    assert not (before - {("check", 3)}) & set(calls)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("error", [StopIteration, GeneratorExit, StopAsyncIteration, TimeoutError, AssertionError])
def test_exceptions_that_python_treats_specially_surface_as_they_are(modes: Modes, error: type[BaseException]) -> None:
    @node(output_name="y")
    def refuse(x: int) -> int:
        raise error("special")

    pipeline = Pipeline(nodes=[refuse], backend=LocalBackend(*modes, max_workers=2))
    with pytest.raises(error, match="special"):
        guarded(lambda: pipeline.run({"x": 1}))
    with pytest.raises(error, match="special"):
        guarded(lambda: pipeline.map({"x": [1, 2]}, map_over="x"))


@pytest.mark.parametrize("node_execution", CONCURRENT)
def test_two_failures_at_the_same_time_raise_one_of_them(node_execution: ExecutionMode) -> None:
    together = threading.Barrier(2)

    def refusing(name: str, error: type[Exception]) -> Any:
        @node(output_name=name)
        def refuse(x: int) -> int:
            together.wait(PATIENCE_S)
            raise error(x)

        return refuse

    recorder = Recorder()
    nodes = [refusing("a", LookupError), refusing("b", ArithmeticError)]
    pipeline = Pipeline(nodes=nodes, backend=LocalBackend(node_execution, max_workers=2), callbacks=[recorder])
    with pytest.raises((LookupError, ArithmeticError)):
        pipeline.run({"x": 1})
    assert len(recorder.of("error")) == 2


# --- collect ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
def test_a_map_that_collects_runs_every_item(modes: Modes) -> None:
    pipeline = each.with_backend(LocalBackend(*modes, max_workers=2))
    found = pipeline.map({"x": range(6)}, map_over="x", on_error="collect")
    assert shape(found["checked"]) == [0, 1, 2, "failed", 4, 5]
    assert shape(found["doubled"]) == [0, 2, 4, "failed", 8, 10]
    assert found["checked"][3] is found["doubled"][3]
    assert sorted(x for name, x in calls if name == "check") == list(range(6))


@pytest.mark.parametrize("modes", MODES)
def test_a_failure_says_what_was_raised_where(modes: Modes) -> None:
    found = whole(backend=LocalBackend(*modes, max_workers=2)).run({"xs": [1, 3]})
    (failure,) = failures(found)
    assert isinstance(failure.error, OwnError)
    assert failure.error.code == 30
    assert failure.item_index == 1
    assert failure.node_path == ("whole", "each", "check")
    assert "raise OwnError(x, code=10 * x)" in failure.traceback_text
    assert failure.traceback_text.rstrip().endswith("backend: local")
    assert "OwnError" in repr(failure)


@pytest.mark.parametrize("modes", MODES)
def test_a_node_that_collects_hands_the_list_with_failures_on(modes: Modes) -> None:
    found = whole(backend=LocalBackend(*modes, max_workers=2)).run({"xs": range(6)})
    assert shape(found["doubled"]) == [0, 2, 4, "failed", 8, 10]
    assert (found["total"], found["told"]) == (24, "24")


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("modes", MODES)
def test_a_stream_that_collects_yields_failures_among_the_results(modes: Modes, in_order: bool) -> None:
    pipeline = each.with_backend(LocalBackend(*modes, max_workers=2))
    stream = pipeline.map_iter({"x": range(6)}, map_over="x", on_error="collect", in_order=in_order)
    found = shape([outputs["doubled"] for outputs in stream])
    expected = [0, 2, 4, "failed", 8, 10]
    assert (found if in_order else sorted(found, key=str)) == (expected if in_order else sorted(expected, key=str))


@pytest.mark.parametrize("modes", MODES)
def test_failures_are_listed_once_each_in_item_order(modes: Modes) -> None:
    broken.numbers = {4, 1, 3}
    pipeline = each.with_backend(LocalBackend(*modes, max_workers=2))
    found = pipeline.map({"x": range(6)}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [1, 3, 4]
    assert failures({"y": [1, [2]], "z": 3}) == []


@pytest.mark.parametrize("modes", MODES)
def test_every_failed_item_is_announced(modes: Modes) -> None:
    recorder = Recorder()
    whole(backend=LocalBackend(*modes, max_workers=3), callbacks=[recorder]).run({"xs": range(6)})
    assert not any(pairs(recorder).values())
    assert Counter(event[0] for event in recorder.events)["map_item_end"] == 6
    assert [event for event in recorder.events if event[0] == "error"] == [("error", "check")]


@pytest.mark.parametrize("modes", MODES)
def test_running_again_computes_only_what_failed(modes: Modes) -> None:
    pipeline = whole(backend=LocalBackend(*modes, max_workers=2), cache=MemoryCache())
    pipeline.run({"xs": range(6)})
    calls.clear()
    assert shape(pipeline.run({"xs": range(6)})["doubled"]) == [0, 2, 4, "failed", 8, 10]
    assert [call for call in calls if call[0] in ("check", "double")] == [("check", 3)]
    calls.clear()
    broken.numbers.clear()
    assert pipeline.run({"xs": range(6)}) == {
        "checked": [0, 1, 2, 3, 4, 5],
        "doubled": [0, 2, 4, 6, 8, 10],
        "total": 30,
        "told": "30",
    }
    assert calls == [("check", 3), ("double", 3), ("add_up", 6), ("tell", 30)]
    calls.clear()
    pipeline.run({"xs": range(6)})
    assert calls == []


@pytest.mark.parametrize("modes", MODES)
def test_what_depends_on_a_list_of_lists_with_failures_is_not_taken_from_the_cache(modes: Modes) -> None:
    """The failures are inside a map in a map, whose own items are all well."""
    inner = each.as_node(input_mapping={"xs": "x"}, map_over="xs", on_error="collect")
    rows = Pipeline(nodes=[inner], name="rows").as_node(input_mapping={"table": "xs"}, map_over="table")

    @node(output_name="count")
    def count_failures(doubled: list[list[Any]]) -> int:
        return sum(isinstance(value, Failure) for row in doubled for value in row)

    pipeline = Pipeline(nodes=[rows, count_failures], backend=LocalBackend(*modes, max_workers=2), cache=MemoryCache())
    assert pipeline.run({"table": [[1, 2], [3, 4]]}, output_name="count") == {"count": 1}
    broken.numbers.clear()
    assert pipeline.run({"table": [[1, 2], [3, 4]]}, output_name="count") == {"count": 0}


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("modes", MODES)
def test_a_failure_as_an_item_of_a_second_map_fails_the_same_way_without_running(modes: Modes, is_cached: bool) -> None:
    @node(output_name="shown")
    def show(one: int) -> str:
        calls.append(("show", one))
        return f"<{one}>"

    second = Pipeline(nodes=[show], name="second")
    mapped = each.as_node(input_mapping={"xs": "x"}, map_over="xs", on_error="collect")
    again = second.as_node(input_mapping={"doubled": "one"}, map_over="doubled", on_error="collect")
    settings: dict[str, Any] = {"cache": MemoryCache()} if is_cached else {}
    pipeline = Pipeline(nodes=[mapped, again], backend=LocalBackend(*modes, max_workers=2), **settings)
    found = pipeline.run({"xs": [1, 3, 5]})
    assert shape(found["shown"]) == ["<2>", "failed", "<10>"]
    assert found["shown"][1] is found["doubled"][1]
    assert len(failures(found)) == 1
    assert sorted(x for name, x in calls if name == "show") == [2, 10]
    broken.numbers.clear()
    assert pipeline.run({"xs": [1, 3, 5]})["shown"] == ["<2>", "<6>", "<10>"]


@pytest.mark.parametrize("modes", MODES)
def test_a_failure_as_an_item_of_a_map_that_raises_raises_the_original_error(modes: Modes) -> None:
    @node(output_name="shown")
    def show(one: int) -> str:
        return f"<{one}>"

    mapped = each.as_node(input_mapping={"xs": "x"}, map_over="xs", on_error="collect")
    again = Pipeline(nodes=[show], name="second").as_node(input_mapping={"doubled": "one"}, map_over="doubled")
    recorder = Recorder()
    pipeline = Pipeline(nodes=[mapped, again], backend=LocalBackend(*modes, max_workers=2), callbacks=[recorder])
    with pytest.raises(OwnError) as caught:
        pipeline.run({"xs": [1, 3, 5]})
    assert caught.value.code == 30
    assert not any(pairs(recorder).values())


@pytest.mark.parametrize("modes", MODES)
def test_a_failure_of_an_inner_map_that_raises_is_collected_by_the_map_around_it(modes: Modes) -> None:
    inner = each.as_node(input_mapping={"xs": "x"}, map_over="xs")
    rows = Pipeline(nodes=[inner, add_up], name="rows", backend=LocalBackend(*modes, max_workers=2))
    found = rows.map({"xs": [[1, 2], [2, 3, 4], []]}, map_over="xs", on_error="collect")
    assert shape(found["total"]) == [6, "failed", 0]
    (failure,) = failures(found)
    assert (failure.item_index, failure.node_path) == (1, ("rows", "each", "check"))


@pytest.mark.parametrize("modes", MODES)
def test_lengths_that_do_not_fit_inside_an_item_are_a_failure_of_that_item(modes: Modes) -> None:
    @node(output_name="sum")
    def add(x: int, y: int) -> int:
        return x + y

    inner = Pipeline(nodes=[add], name="inner").as_node(input_mapping={"xs": "x", "ys": "y"}, map_over=["xs", "ys"])
    rows = Pipeline(nodes=[inner], name="rows", backend=LocalBackend(*modes, max_workers=2))
    found = rows.map({"xs": [[1], [1, 2]], "ys": [[1], [1]]}, map_over=["xs", "ys"], on_error="collect")
    assert shape(found["sum"]) == [[2], "failed"]


@pytest.mark.parametrize("modes", MODES)
def test_interrupts_are_not_collected_as_failures(modes: Modes) -> None:
    @node(output_name="y")
    def interrupt(x: int) -> int:
        raise KeyboardInterrupt

    pipeline = Pipeline(nodes=[interrupt], backend=LocalBackend(*modes, max_workers=1))
    with pytest.raises(KeyboardInterrupt):
        guarded(lambda: pipeline.map({"x": [1, 2]}, map_over="x", on_error="collect"))


def test_a_failure_in_a_pipeline_with_a_backend_of_its_own_is_collected() -> None:
    inner = each.with_backend(LocalBackend("threaded", "threaded")).as_node(
        input_mapping={"xs": "x"}, map_over="xs", on_error="collect"
    )
    pipeline = Pipeline(nodes=[inner, add_up], name="whole", cache=MemoryCache())
    assert pipeline.run({"xs": [1, 3]}, output_name="total") == {"total": 2}
    broken.numbers.clear()
    assert pipeline.run({"xs": [1, 3]}, output_name="total") == {"total": 8}


@pytest.mark.parametrize(
    "call", [lambda p: p.run({"x": 3}), lambda p: p.map({"x": [3]}, "x"), lambda p: list(p.map_iter({"x": [3]}, "x"))]
)
def test_a_failed_run_leaves_the_pipeline_and_its_backend_usable(call: Callable[[Pipeline], Any]) -> None:
    pipeline = each.with_backend(LocalBackend("threaded", "threaded"))
    for _ in range(3):
        with pytest.raises(OwnError):
            call(pipeline)
    assert pipeline.run({"x": 1}) == {"checked": 1, "doubled": 2}


@pytest.mark.parametrize("modes", MODES)
def test_a_mapped_node_that_fails_on_its_columns_tells_on_error(modes: Modes) -> None:
    """Their lengths become known during the run only."""

    @node(output_name="xs")
    def make_list(n: int) -> list[int]:
        return list(range(n))

    recorder = Recorder()
    pair = Pipeline(nodes=[node("pair")(lambda x, w: (x, w))], name="pairs")
    mapped = pair.as_node(input_mapping={"xs": "x", "ws": "w"}, map_over=["xs", "ws"], name="all pairs")
    backend = LocalBackend(*modes, max_workers=2)
    pipeline = Pipeline(nodes=[make_list, mapped], name="outer", backend=backend, callbacks=[recorder])
    with pytest.raises(MapLengthError, match="'xs' has 2, 'ws' has 1"):
        pipeline.run({"n": 2, "ws": [1]})
    ((event, context, payload),) = recorder.of("error")
    assert event == ("error", "all pairs")
    assert isinstance(payload["error"], MapLengthError)
    assert context.hierarchy_path == ("outer",)
