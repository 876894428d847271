"""What travels to worker processes travels once; events come back while the work goes on."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypernodes import CallbackContext, Failure, LocalBackend, MemoryCache, Node, Pipeline, PipelineCallback, node
from hypernodes.backend import SubprocessBackend
from tests.support import Recorder
from tests.worker_processes.nodes import Block, CountsUnpickling, note_line, read_lines
from tests.worker_processes.observe import wait_until

LARGE = 1_000_000


@node(output_name="y")
def look_at(x: int, shared: CountsUnpickling) -> int:
    return x + len(shared.payload)


@node(output_name="y")
def look_inside(x: int, shared: list[CountsUnpickling]) -> int:
    return x + len(shared[0].payload)


@node(output_name="z")
def look_again(y: int, shared: CountsUnpickling) -> int:
    return y + len(shared.payload)


def arrivals(path: Path) -> Counter[str]:
    """How many times an object arrived in each process."""
    return Counter(read_lines(path))


def test_the_plan_arrives_once_in_each_worker(items_backend: LocalBackend, tmp_path: Path) -> None:
    captured = CountsUnpickling(str(tmp_path / "arrivals"))

    @node(output_name="y")
    def use_captured(x: int) -> int:
        return x if captured.path else 0

    pipeline = Pipeline(nodes=[use_captured], backend=items_backend)
    assert pipeline.map(inputs={"x": range(500)}, map_over="x") == {"y": list(range(500))}
    counts = arrivals(tmp_path / "arrivals")
    assert 1 <= len(counts) <= 2
    assert set(counts.values()) == {1}


def test_a_large_shared_input_arrives_once_in_each_worker(items_backend: LocalBackend, tmp_path: Path) -> None:
    shared = CountsUnpickling(str(tmp_path / "arrivals"), LARGE)
    pipeline = Pipeline(nodes=[look_at, look_again], backend=items_backend)
    found = pipeline.map(inputs={"x": range(500), "shared": shared}, map_over="x", output_name="z")
    assert found == {"z": [x + 2 * LARGE for x in range(500)]}
    counts = arrivals(tmp_path / "arrivals")
    assert 1 <= len(counts) <= 2
    assert set(counts.values()) == {1}


def test_a_large_input_that_nodes_share_arrives_once_in_each_worker(
    nodes_backend: LocalBackend, tmp_path: Path
) -> None:
    shared = CountsUnpickling(str(tmp_path / "arrivals"), LARGE)
    readers = [Node(lambda x, shared: x, output_name=f"y{number}") for number in range(8)]
    Pipeline(nodes=readers, backend=nodes_backend).run(inputs={"x": 1, "shared": shared})
    assert set(arrivals(tmp_path / "arrivals").values()) == {1}


@pytest.mark.parametrize("items", ["sequential", "threaded"])
def test_a_large_shared_input_of_items_arrives_once_when_only_nodes_are_parallel(items: Any, tmp_path: Path) -> None:
    shared = CountsUnpickling(str(tmp_path / "arrivals"), LARGE)
    backend = LocalBackend(node_execution="parallel", map_execution=items, max_workers=2)
    Pipeline(nodes=[look_at], backend=backend).map(inputs={"x": range(20), "shared": shared}, map_over="x")
    assert set(arrivals(tmp_path / "arrivals").values()) == {1}


def test_a_large_input_that_nested_maps_share_arrives_once_in_each_worker(
    items_backend: LocalBackend, tmp_path: Path
) -> None:
    shared = CountsUnpickling(str(tmp_path / "arrivals"), LARGE)
    inner = Pipeline(nodes=[look_at]).as_node(input_mapping={"xs": "x"}, map_over="xs")
    pipeline = Pipeline(nodes=[inner], backend=items_backend)
    found = pipeline.map(inputs={"xs": [[1, 2], [3], [4, 5]], "shared": shared}, map_over="xs")
    assert found == {"y": [[LARGE + 1, LARGE + 2], [LARGE + 3], [LARGE + 4, LARGE + 5]]}
    assert set(arrivals(tmp_path / "arrivals").values()) == {1}


def map_items(pipeline: Pipeline, inputs: dict[str, Any]) -> list[int]:
    found: list[int] = pipeline.map(inputs=inputs, map_over="x")["y"]
    return found


@node(output_name="y")
def see_who_is_first(x: int, shared: list[int]) -> tuple[int, bool]:
    """Say whether an item is the first in its task: a small list goes along with each, and is one for all its items."""
    is_first = not shared
    shared.append(x)
    return x, is_first


def iterate_over_items(pipeline: Pipeline, inputs: dict[str, Any]) -> list[int]:
    return [row["y"] for row in pipeline.map_iter(inputs=inputs, map_over="x")]


def iterate_over_items_of_a_generator(pipeline: Pipeline, inputs: dict[str, Any]) -> list[int]:
    return iterate_over_items(pipeline, {**inputs, "x": (x for x in inputs["x"])})


def map_in_a_node(pipeline: Pipeline, inputs: dict[str, Any]) -> list[int]:
    outer = Pipeline(nodes=[pipeline.as_node(map_over="x")], backend=pipeline.backend)
    found: list[int] = outer.run(inputs=inputs)["y"]
    return found


def map_in_a_subprocess(pipeline: Pipeline, inputs: dict[str, Any]) -> list[int]:
    with SubprocessBackend(map_execution="parallel", max_workers=2) as backend:
        return map_items(pipeline.with_backend(backend), inputs)


def map_stored(pipeline: Pipeline, inputs: dict[str, Any]) -> list[int]:
    return map_items(pipeline.with_cache(MemoryCache()), inputs)


def map_observed(pipeline: Pipeline, inputs: dict[str, Any]) -> list[int]:
    return map_items(pipeline.with_callbacks([Recorder()]), inputs)


@pytest.mark.parametrize(
    "compute",
    [
        map_items,
        iterate_over_items,
        iterate_over_items_of_a_generator,
        map_in_a_node,
        map_in_a_subprocess,
        map_stored,
        map_observed,
    ],
    ids=lambda compute: compute.__name__,
)
def test_short_items_travel_many_at_a_time(
    compute: Callable[[Pipeline, dict[str, Any]], list[Any]], items_backend: LocalBackend
) -> None:
    pipeline = Pipeline(nodes=[see_who_is_first], backend=items_backend)
    found = compute(pipeline, {"x": list(range(2000)), "shared": []})
    assert [x for x, _ in found] == list(range(2000))
    tasks = sum(is_first for _, is_first in found)
    assert 0 < tasks < 2000 / 10


def test_long_items_travel_one_at_a_time(items_backend: LocalBackend) -> None:
    @node(output_name="y")
    def take_a_while(x: int, shared: list[int]) -> bool:
        time.sleep(0.12)
        return see_who_is_first(x, shared)[1]

    pipeline = Pipeline(nodes=[take_a_while], backend=items_backend)
    assert pipeline.map(inputs={"x": range(10), "shared": []}, map_over="x") == {"y": [True] * 10}


def test_both_workers_compute_items_at_the_same_time(items_backend: LocalBackend, tmp_path: Path) -> None:
    @node(output_name="y")
    def meet(x: int, folder: str) -> int:
        note_line(Path(folder) / "arrived", os.getpid())
        assert wait_until(lambda: len(set(read_lines(Path(folder) / "arrived"))) == 2)
        return x

    pipeline = Pipeline(nodes=[meet], backend=items_backend)
    assert pipeline.map(inputs={"x": [1, 2], "folder": str(tmp_path)}, map_over="x") == {"y": [1, 2]}


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("backend", ["items_backend", "nodes_backend"])
def test_memory_arrives_as_it_was_and_can_be_written_to_if_it_could_be_before(
    backend: str, kind: type, size: int, request: pytest.FixtureRequest
) -> None:
    @node(output_name="y")
    def give_back(x: Block) -> tuple[bool, Block]:
        return x.memory.readonly, x

    pipeline = Pipeline(nodes=[give_back], backend=request.getfixturevalue(backend))
    block = Block(kind(os.urandom(size)))
    ((was_readonly, found), *_) = pipeline.map(inputs={"x": [block, block]}, map_over="x")["y"]
    assert was_readonly == found.memory.readonly == (kind is bytes)
    assert found.memory == block.memory


def test_a_large_result_that_several_nodes_take_arrives_once_in_each_worker(
    nodes_backend: LocalBackend, tmp_path: Path
) -> None:
    @node(output_name="large")
    def make(path: str) -> CountsUnpickling:
        return CountsUnpickling(path, LARGE)

    readers = [Node(lambda large: len(large.payload), output_name=f"y{number}") for number in range(8)]
    pipeline = Pipeline(nodes=[make, *readers], backend=nodes_backend)
    found = pipeline.run(inputs={"path": str(tmp_path / "arrivals")}, output_name=[f"y{number}" for number in range(8)])
    assert set(found.values()) == {LARGE}
    counts = arrivals(tmp_path / "arrivals")
    assert counts.pop(str(os.getpid())) == 1
    assert 1 <= len(counts) <= 2
    assert set(counts.values()) == {1}


def test_workers_let_go_of_what_earlier_runs_shared(items_backend: LocalBackend) -> None:
    @node(output_name="y")
    def count_loaded(x: int, shared: bytes) -> int:
        from hypernodes.engine.workers import process_main as worker

        return len(worker._loaded)

    pipeline = Pipeline(nodes=[count_loaded], backend=items_backend)
    for _ in range(3):
        kept = pipeline.map(inputs={"x": range(40), "shared": bytes(LARGE)}, map_over="x")["y"]
    assert max(kept) == 2  # the plan and the shared input of this run


def test_files_of_items_are_removed_while_the_run_goes_on(
    items_backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pipeline = Pipeline(nodes=[Node(lambda x: x, output_name="y")], backend=items_backend)
    peak = 0
    for row in pipeline.map_iter(inputs={"x": (bytes(200_000) for _ in range(1000))}, map_over="x"):
        assert len(row["y"]) == 200_000
        peak = max(peak, sum(file.is_file() for file in tmp_path.rglob("*")))
    assert 1 <= peak < 500
    assert list(tmp_path.iterdir()) == []


class Unreadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def files_left_while_open(
    folder: Path, function: Any, inputs: dict[str, list[Any]], backend: LocalBackend, callbacks: list[PipelineCallback]
) -> set[int]:
    """Map, read all results, and return the sizes of the files of values that are there before the map is closed."""
    pipeline = Pipeline(nodes=[Node(function, output_name=("size", "other"))], backend=backend, callbacks=callbacks)
    rows = pipeline.map_iter(inputs, [*inputs], on_error="collect")
    failed = [isinstance(next(rows)["size"], Failure) for _ in inputs["x"]]
    assert any(failed)
    left = {file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.stat().st_size >= 100_000}
    rows.close()
    return left


@pytest.mark.parametrize("callbacks", [[], [Recorder()]], ids=["unobserved", "observed"])
def test_no_file_stays_of_items_that_cannot_be_sent(
    items_backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callbacks: list[PipelineCallback]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    inputs = {"x": [bytes(100_000) for _ in range(8)], "odd": [threading.Lock() if i % 2 else i for i in range(8)]}
    assert files_left_while_open(tmp_path, lambda x, odd: (len(x), odd), inputs, items_backend, callbacks) == set()


@pytest.mark.parametrize("callbacks", [[], [Recorder()]], ids=["unobserved", "observed"])
def test_no_file_stays_of_results_beside_one_that_cannot_be_received(
    items_backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callbacks: list[PipelineCallback]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kind = Unreadable
    inputs = {"x": list(range(8))}
    assert (
        files_left_while_open(tmp_path, lambda x: (kind(), bytes(100_000)), inputs, items_backend, callbacks) == set()
    )


@pytest.mark.parametrize("callbacks", [[], [Recorder()]], ids=["unobserved", "observed"])
def test_a_file_that_items_share_stays_until_the_last_of_them_is_done(
    items_backend: LocalBackend, tmp_path: Path, callbacks: list[PipelineCallback]
) -> None:
    """One item makes its calls singly, because it is tried again; the others wait in chunks for the same file."""

    @node(output_name="y", retries=3, retry_delay=0.01)
    def fail_first(document: bytes, x: int, folder: str) -> int:
        flag = Path(folder, "failed")
        if x == 0 and not flag.exists():
            flag.touch()
            raise ValueError("the first attempt")
        time.sleep(0.02)
        return x

    @node(output_name="z")
    def measure(document: bytes, y: int) -> int:
        time.sleep(0.2 if y == 0 else 0.02)
        return len(document) + y

    document = bytes(LARGE)
    inputs = {"document": [document] * 30, "x": list(range(30)), "folder": str(tmp_path)}
    pipeline = Pipeline(nodes=[fail_first, measure], backend=items_backend, callbacks=callbacks)
    assert pipeline.map(inputs, ["document", "x"], output_name="z") == {"z": [LARGE + x for x in range(30)]}


def test_nothing_stays_on_the_disk(
    items_backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared = CountsUnpickling(os.devnull, LARGE)
    pipeline = Pipeline(nodes=[look_at], backend=items_backend)
    pipeline.map(inputs={"x": range(4), "shared": shared}, map_over="x")
    assert list(tmp_path.iterdir()) == []


# --- events ------------------------------------------------------------------------------------------------------


class Signals(PipelineCallback):
    """Writes a file when an item has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_map_item_end(self, item_index: int, duration: float, ctx: CallbackContext) -> None:
        (self.folder / f"ended-{item_index}").touch()


def test_callbacks_observe_an_item_while_others_are_computed(items_backend: LocalBackend, tmp_path: Path) -> None:
    @node(output_name="y")
    def wait_for_the_first(x: int, folder: str) -> bool:
        return x == 0 or wait_until(lambda: (Path(folder) / "ended-0").exists())

    pipeline = Pipeline(nodes=[wait_for_the_first], backend=items_backend, callbacks=[Signals(tmp_path)])
    found = pipeline.map(inputs={"x": range(6), "folder": str(tmp_path)}, map_over="x")
    assert found == {"y": [True] * 6}


@pytest.mark.parametrize("kind", ["items_backend", "nodes_backend"])
def test_callbacks_are_called_here_and_in_order_for_each_item(kind: str, request: pytest.FixtureRequest) -> None:
    class HereOnly(Recorder):
        def __reduce__(self) -> Any:
            raise AssertionError("callbacks stay where they are")

        def _note(self, ctx: CallbackContext, *event: Any, **payload: Any) -> None:
            assert os.getpid() == here
            super()._note(ctx, *event, **payload)

    here = os.getpid()
    recorder = HereOnly()

    @node(output_name="y")
    def increment(x: int) -> int:
        return x + 1

    @node(output_name="z")
    def square(y: int) -> int:
        return y * y

    backend = request.getfixturevalue(kind)
    pipeline = Pipeline(nodes=[square, increment], backend=backend, callbacks=[recorder])
    pipeline.map(inputs={"x": range(50)}, map_over="x")
    assert recorder.events[0] == ("map_start", 50)
    assert recorder.events[-1] == ("map_end",)
    of_items: dict[int, list[Any]] = {index: [] for index in range(50)}
    for event, context in zip(recorder.events[1:-1], recorder.contexts[1:-1], strict=True):
        index = context.item_path[0] if context.item_path else event[1]
        of_items[index].append(event)
    for index, events in of_items.items():
        assert events == [
            ("map_item_start", index),
            ("node_start", "increment"),
            ("node_end", "increment"),
            ("node_start", "square"),
            ("node_end", "square"),
            ("map_item_end", index),
        ]


class Named:
    """A sentinel with state, which is known by being itself."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize("road", ["rows", "chunks", "nodes"])
def test_a_default_that_nobody_overrides_is_the_functions_own(
    road: str, items_backend: LocalBackend, nodes_backend: LocalBackend
) -> None:
    unset = Named("unset")

    @node(output_name="y")
    def first(x: int, option: Any = unset) -> tuple[int, bool]:
        return x, option is unset

    @node(output_name="z")
    def second(y: tuple[int, bool], option: Any = unset) -> tuple[Any, ...]:
        return *y, option is unset, option.name

    pipeline = Pipeline([first, second], backend=nodes_backend if road == "nodes" else items_backend)
    if road == "chunks":
        pipeline = pipeline.with_cache(MemoryCache())
    found = pipeline.map(inputs={"x": [1, 2]}, map_over="x", output_name="z")
    assert found == {"z": [(1, True, True, "unset"), (2, True, True, "unset")]}
    given = pipeline.map(inputs={"x": [1], "option": Named("other")}, map_over="x", output_name="z")
    assert given == {"z": [(1, False, False, "other")]}


class LazyModel:
    """Loads something at its first use, and is small until then."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._weights: list[int] | None = None

    def multiply(self, x: int) -> int:
        if self._weights is None:
            (Path(self._folder) / f"{os.getpid()}-{os.urandom(4).hex()}").touch()
            self._weights = [3]
        return self._weights[0] * x


@pytest.mark.parametrize("node_execution", ["sequential", "parallel"])
@pytest.mark.parametrize("is_observed", [False, True])
def test_a_small_object_that_items_share_is_loaded_once_by_each_process(
    node_execution: Any, is_observed: bool, tmp_path: Path
) -> None:
    pipeline = Pipeline(
        [Node(lambda x, model: model.multiply(x), "y", name="multiply")],
        backend=LocalBackend(node_execution, "parallel", max_workers=2),
        callbacks=[Recorder()] if is_observed else None,
    )
    found = pipeline.map({"x": range(80), "model": LazyModel(str(tmp_path))}, map_over="x")
    assert found == {"y": [3 * x for x in range(80)]}
    loads = Counter(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert set(loads.values()) == {1}
    assert len(loads) <= 2
