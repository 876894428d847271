"""`with_backend(default, nodes={...})`: which nodes run where, what travels, and what it means for the rest."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections import Counter
from concurrent.futures import CancelledError
from typing import Any, ClassVar

import pytest

from hypernodes import (
    SKIPPED,
    Backend,
    ConfigurationError,
    Failure,
    Limit,
    LocalBackend,
    MapRequest,
    MemoryCache,
    Pipeline,
    RunRequest,
    WorkerLostError,
    failures,
    node,
)
from hypernodes.backend import PlacedBackend, SubprocessBackend
from hypernodes.remote.channel import Channel
from tests.remote.transports import InProcess, SeveralAtOnce
from tests.support import Recorder, notes_of


class Place(InProcess):
    """Remembers the names of the nodes of each job."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.nodes: list[tuple[str, ...]] = []

    def submit(self, job: bytes, channel: Channel) -> bytes:
        self.nodes.append(channel.node_names)
        return super().submit(job, channel)


@node(output_name="text")
def load(path: int) -> str:
    return "x" * path


@node(output_name="tokens")
def split(text: str) -> list[str]:
    return list(text)


@node(output_name="vector")
def encode(tokens: list[str], scale: int = 2) -> int:
    return len(tokens) * scale


@node(output_name="norm")
def normalize(vector: int) -> float:
    if vector == 6:
        raise ValueError("six")
    return vector / 2


def steps() -> Pipeline:
    return Pipeline([load, split, encode, normalize], name="steps")


ALL = {"text": "xxxx", "tokens": ["x"] * 4, "vector": 8, "norm": 4.0}


# --- which nodes run where --------------------------------------------------------------------------------------------


def test_neighbours_at_one_place_are_one_job() -> None:
    place = Place()
    pipeline = steps().with_backend(LocalBackend(), nodes={"split": place, "encode": place})
    assert pipeline.run({"path": 4}) == ALL
    assert place.nodes == [("split", "encode")]


def test_nodes_that_are_not_neighbours_are_separate_jobs() -> None:
    place = Place()
    pipeline = steps().with_backend(LocalBackend(), nodes={"load": place, "encode": place})
    assert pipeline.run({"path": 4}) == ALL
    assert place.nodes == [("load",), ("encode",)]


def test_nodes_without_a_place_run_at_the_default() -> None:
    default, place = Place(), Place()
    assert steps().with_backend(default, nodes={"split": place}).run({"path": 4}) == ALL
    assert default.nodes == [("load",), ("encode", "normalize")]
    assert place.nodes == [("split",)]


def test_a_node_can_be_placed_here_while_the_others_are_remote() -> None:
    @node(output_name="here")
    def see(vector: int) -> int:
        return os.getpid()

    with SubprocessBackend() as remote:
        pipeline = Pipeline([load, split, encode, see]).with_backend(remote, nodes={"see": LocalBackend()})
        assert pipeline.run({"path": 4}, "here") == {"here": os.getpid()}


def test_the_backend_is_inherited_as_the_default() -> None:
    default, place = Place(), Place()
    steps().with_backend(default).with_backend(None, nodes={"split": place}).run({"path": 4})
    assert default.nodes == [("load",), ("encode", "normalize")]


def test_only_values_that_cross_travel() -> None:
    @node(output_name="large")
    def enlarge(path: int) -> bytes:
        return os.urandom(1_000_000)

    @node(output_name="size")
    def weigh(large: bytes) -> int:
        return len(large)

    place = Place()
    pipeline = Pipeline([enlarge, weigh]).with_backend(LocalBackend(), nodes={"*": place})
    assert pipeline.run({"path": 1}, "size") == {"size": 1_000_000}
    assert place.nodes == [("enlarge", "weigh")]
    assert sum(map(len, place.jobs)) < 100_000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inner", [("split", "encode")]),
        ("inner/encode", [("encode",)]),
        ("*/encode", [("encode",)]),
        ("inner/[se]*", [("split", "encode")]),
        ("*code", [("encode",)]),
        ("*", [("load", "split", "encode", "normalize")]),
    ],
)
def test_nodes_of_nested_pipelines_are_named_by_path_or_pattern(name: str, expected: Any) -> None:
    place = Place()
    nested = Pipeline([load, Pipeline([split, encode], name="inner"), normalize], name="outer")
    assert nested.with_backend(LocalBackend(), nodes={name: place}).run({"path": 4})["norm"] == 4.0
    assert place.nodes == expected


def test_the_deepest_name_counts_and_a_name_before_a_pattern() -> None:
    whole, part, pattern = Place(), Place(), Place()
    nested = Pipeline([load, Pipeline([split, encode], name="inner"), normalize], name="outer")
    nested.with_backend(LocalBackend(), nodes={"inner": whole, "*code": pattern}).run({"path": 4})
    assert (whole.nodes, pattern.nodes) == ([("split",)], [("encode",)])
    nested.with_backend(LocalBackend(), nodes={"inner/encode": part, "*code": pattern}).run({"path": 5})
    assert (part.nodes, pattern.nodes) == ([("encode",)], [("encode",)])


def test_a_mapped_pipeline_at_one_place_is_sent_as_a_whole() -> None:
    place = Place()
    inner = Pipeline([split, encode], name="inner")
    outer = Pipeline([inner.as_node(input_mapping={"texts": "text"}, map_over="texts", name="all")])
    pipeline = outer.with_backend(LocalBackend(), nodes={"all": place})
    assert pipeline.run({"texts": ["a", "bb", "ccc"]}, "vector") == {"vector": [2, 4, 6]}
    assert place.nodes == [("all",)]
    pipeline = outer.with_backend(LocalBackend(), nodes={"all/*": place})
    assert pipeline.run({"texts": ["a", "bb", "ccc"]}, "vector") == {"vector": [2, 4, 6]}
    assert place.nodes == [("all",)] * 2


def test_branches_run_where_their_nodes_are_placed() -> None:
    @node(output_name="y", when={"kind": "small"})
    def compute_small(x: int, kind: str) -> int:
        return x

    @node(output_name="y", unless={"kind": "small"})
    def compute_large(x: int, kind: str) -> int:
        return 10 * x

    small, large = Place(), Place()
    pipeline = Pipeline([compute_small, compute_large]).with_backend(
        LocalBackend(), nodes={"compute_small": small, "compute_large": large}
    )
    assert pipeline.run({"x": 3, "kind": "large"}) == {"y": 30}
    assert (small.nodes, large.nodes) == ([], [("compute_large",)])


def test_a_nested_pipeline_keeps_its_own_backend_unless_it_is_named() -> None:
    default, own, named = Place(), Place(), Place()
    inner = Pipeline([split, encode], name="inner", backend=own)
    outer = Pipeline([load, inner, normalize])
    assert outer.with_backend(default, nodes={"load": named}).run({"path": 4})["norm"] == 4.0
    assert (default.nodes, own.nodes, named.nodes) == ([("normalize",)], [("split", "encode")], [("load",)])
    outer.with_backend(default, nodes={"inner": named}).run({"path": 4})
    assert (len(own.nodes), named.nodes[1:]) == (1, [("split", "encode")])


def test_threads_of_a_nested_map_are_those_of_its_place() -> None:
    @node(output_name="where")
    def see(x: int) -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    seen = Pipeline([see]).as_node(map_over="x", map_execution="threaded", name="seen")
    with SubprocessBackend() as remote:
        found = Pipeline([seen]).with_backend(LocalBackend(), nodes={"seen": remote}).run({"x": [1, 2, 3]})["where"]
    assert os.getpid() not in {process for process, _ in found}


# --- the items of a map -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("here", [LocalBackend(), LocalBackend(map_execution="threaded", max_workers=4)])
def test_steps_of_items_are_gathered_into_few_jobs(here: LocalBackend) -> None:
    place = Place()
    pipeline = steps().with_backend(here, nodes={"encode": place})
    items = [path for path in range(500) if path != 3]
    assert pipeline.map({"path": items}, "path", output_name="norm") == {"norm": [float(path) for path in items]}
    assert len(place.nodes) < 100
    assert set(place.nodes) == {("encode",)}


def test_items_of_a_nested_map_are_gathered() -> None:
    place = Place()
    outer = Pipeline([steps().as_node(input_mapping={"paths": "path"}, map_over="paths", name="all")])
    pipeline = outer.with_backend(LocalBackend(), nodes={"all/encode": place})
    assert pipeline.run({"paths": [1, 2, 4, 5]}, "norm") == {"norm": [1.0, 2.0, 4.0, 5.0]}
    assert len(place.nodes) == 1


def test_a_place_that_divides_maps_divides_the_gathered_items() -> None:
    place = SeveralAtOnce(2, chunk_size=10)
    pipeline = steps().with_backend(LocalBackend(), nodes={"encode": place})
    items = [path for path in range(101) if path != 3]
    assert pipeline.map({"path": items}, "path", output_name="norm")["norm"] == [float(path) for path in items]
    assert 10 <= len(place.jobs) <= 20


@pytest.mark.parametrize("in_order", [True, False])
def test_map_iter_yields_every_item(in_order: bool) -> None:
    pipeline = steps().with_backend(LocalBackend(), nodes={"encode": Place()})
    found = pipeline.map_iter({"path": iter([1, 2, 4, 5])}, "path", output_name="norm", in_order=in_order)
    assert sorted(item["norm"] for item in found) == [1.0, 2.0, 4.0, 5.0]


def test_failed_items_are_collected_with_their_index_and_node() -> None:
    place = Place()
    pipeline = steps().with_backend(LocalBackend(), nodes={"encode": place, "normalize": place})
    found = pipeline.map({"path": [1, 2, 3, 4]}, "path", output_name="norm", on_error="collect")
    assert [value if not isinstance(value, Failure) else "failed" for value in found["norm"]] == [
        1.0,
        2.0,
        "failed",
        4.0,
    ]
    (failure,) = failures(found)
    assert (failure.item_index, failure.node_path) == (2, ("steps", "normalize"))
    assert isinstance(failure.error, ValueError)
    assert any("map item 2" in note and "normalize" in note for note in notes_of(failure.error))
    assert failure.inputs == {"vector": 6}


def test_a_failed_item_ends_the_map_with_its_own_error() -> None:
    pipeline = steps().with_backend(LocalBackend(), nodes={"normalize": Place()})
    with pytest.raises(ValueError, match="six") as raised:
        pipeline.map({"path": [1, 2, 3, 4]}, "path")
    assert any("map item 2" in note for note in notes_of(raised.value))


def test_an_item_that_cannot_be_sent_fails_alone() -> None:
    @node(output_name="odd")
    def make(x: int) -> Any:
        return threading.Lock() if x == 2 else x

    @node(output_name="y")
    def use(odd: Any) -> Any:
        return odd

    pipeline = Pipeline([make, use]).with_backend(LocalBackend(), nodes={"use": Place()})
    found = pipeline.map({"x": [1, 2, 3]}, "x", output_name="y", on_error="collect")["y"]
    assert [found[0], found[2]] == [1, 3]
    assert "cannot be" in str(found[1].error)


def test_a_node_that_takes_skipped_values_is_called_for_every_item() -> None:
    @node(output_name="caption", when="wanted")
    def describe(x: int, wanted: bool) -> str:
        return str(x)

    @node(output_name="y", optional="caption")
    def use(x: int, caption: Any) -> str:
        return f"{x}: {'nothing' if caption is SKIPPED else caption}"

    pipeline = Pipeline([describe, use]).with_backend(LocalBackend(), nodes={"use": Place()})
    found = pipeline.map({"x": [1, 2, 3], "wanted": [True, False, True]}, ["x", "wanted"], output_name="y")
    assert found == {"y": ["1: 1", "2: nothing", "3: 3"]}


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_a_failure_that_a_node_returns_or_takes_is_a_value(on_error: Any) -> None:
    @node(output_name="first")
    def take_first(norms: list[Any]) -> Any:
        return norms[0]

    @node(output_name="kind")
    def name_kind(first: Any) -> str:
        return type(first).__name__

    inner = Pipeline([normalize], name="inner").as_node(
        input_mapping={"vectors": "vector"}, output_mapping={"norm": "norms"}, map_over="vectors", on_error="collect"
    )
    whole = Pipeline([inner, take_first, name_kind], name="whole")
    items = {"vectors": [[6, 2], [2, 6], [4]]}
    expected = whole.map(items, "vectors", on_error=on_error)
    for nodes in ({"take_first": Place()}, {"name_kind": Place()}, {"*": Place()}):
        found = whole.with_backend(LocalBackend(), nodes=nodes).map(items, "vectors", on_error=on_error)
        assert found["kind"] == expected["kind"] == ["Failure", "float", "float"]
        assert repr(found["first"]) == repr(expected["first"])


def test_nothing_is_computed_twice_when_the_cache_keeps_nothing() -> None:
    class Forgetful(MemoryCache):
        def put(self, key: str, value: Any) -> None:
            pass

    recorder = Recorder()
    pipeline = steps().with_cache(Forgetful()).with_callbacks([recorder])
    placed = pipeline.with_backend(LocalBackend(), nodes={"split": Place(), "encode": Place()})
    assert placed.map({"path": [1, 2, 4, 5]}, "path")["norm"] == [1.0, 2.0, 4.0, 5.0]
    assert Counter(recorder.computed) == {"load": 4, "split": 4, "encode": 4, "normalize": 4}


@pytest.mark.parametrize("map_execution", ["sequential", "threaded"])
def test_a_place_gets_no_more_jobs_than_it_takes(map_execution: Any) -> None:
    class Single(InProcess):
        now = most = 0
        lock = threading.Lock()

        def submit(self, job: bytes, channel: Channel) -> bytes:
            with self.lock:
                Single.now += 1
                Single.most = max(Single.most, Single.now)
            try:
                return super().submit(job, channel)
            finally:
                with self.lock:
                    Single.now -= 1

    @node(output_name="model")
    def load_model() -> str:
        return "model"

    pipeline = Pipeline([load_model, load]).with_backend(
        LocalBackend(map_execution=map_execution), nodes={"*": Single()}
    )
    assert pipeline.map({"path": range(40)}, "path", output_name="model") == {"model": ["model"] * 40}
    assert Single.most == 1


@pytest.mark.parametrize("map_execution", ["sequential", "threaded"])
def test_what_all_items_need_alike_is_computed_once_where_there_is_a_cache(map_execution: Any) -> None:
    @node(output_name="model")
    def load_model(name: str) -> str:
        return name.upper()

    @node(output_name="answer")
    def apply(model: str, path: int) -> str:
        return f"{model} {path}"

    recorder, place = Recorder(), Place()
    pipeline = Pipeline([load_model, apply], cache=MemoryCache(), callbacks=[recorder])
    placed = pipeline.with_backend(LocalBackend(map_execution=map_execution), nodes={"load_model": place})
    found = placed.map({"name": "m", "path": range(20)}, "path", output_name="answer")
    assert found == {"answer": [f"M {path}" for path in range(20)]}
    assert Counter(recorder.computed) == {"load_model": 1, "apply": 20}


def test_items_go_on_in_their_order_after_a_job() -> None:
    recorder = Recorder()
    placed = steps().with_callbacks([recorder]).with_backend(LocalBackend(), nodes={"encode": Place()})
    placed.map({"path": [1, 2, 4, 5, 7, 8]}, "path")
    normalized = [context.item_path for event, context, _ in recorder.of("node_start") if event[1] == "normalize"]
    assert normalized == sorted(normalized)


def test_the_path_of_a_failure_is_that_of_its_node() -> None:
    inner = Pipeline([normalize], name="inner").as_node(
        input_mapping={"vectors": "vector"}, output_mapping={"norm": "norms"}, map_over="vectors", name="each"
    )
    other = node(output_name="other")(normalize.func)  # of the same name
    twice = Pipeline([inner, Pipeline([other], name="last")], name="twice")
    for nodes in ({"each": Place()}, {"*": Place()}):
        placed = twice.with_backend(LocalBackend(), nodes=nodes)
        for items in ([[6]], [[2], [6]]):
            inputs = {"vectors": items, "vector": 2}
            (failure, *_) = failures(placed.map(inputs, "vectors", on_error="collect"))
            assert failure.node_path == ("twice", "each", "normalize")


# --- what it means for the rest ---------------------------------------------------------------------------------------


def events_of(backend: Backend | None, cache: Any = None) -> tuple[Counter[Any], Any]:
    recorder = Recorder()
    inner = Pipeline([split, encode], name="inner")
    outer = Pipeline([load, inner, normalize], name="outer", callbacks=[recorder], cache=cache)
    pipeline = outer if backend is None else outer.with_backend(backend)
    result = pipeline.map({"path": [1, 2, 4]}, "path")
    keys = [
        (event, context.hierarchy_path, context.item_path)
        for event, context in zip(recorder.events, recorder.contexts, strict=True)
    ]
    return Counter(map(repr, keys)), result


def test_events_are_those_of_a_run_in_one_place() -> None:
    from hypernodes.backend.placed import PlacedBackend

    placed = PlacedBackend(LocalBackend(), {"inner/encode": Place(), "load": SeveralAtOnce(2)})
    assert events_of(placed) == events_of(None)


def test_what_is_cached_is_not_sent_again_and_is_found_wherever_nodes_run() -> None:
    place, cache = Place(), MemoryCache()
    pipeline = steps().with_cache(cache)
    placed = pipeline.with_backend(LocalBackend(), nodes={"split": place, "encode": place})
    items = {"path": [1, 2, 4]}
    assert placed.map(items, "path") == placed.map(items, "path")
    assert len(place.nodes) <= 2
    place.nodes.clear()
    recorder = Recorder()
    pipeline.with_callbacks([recorder]).map(items, "path")
    placed.run({"path": 4})
    assert (recorder.computed, place.nodes) == ([], [])


def test_only_what_changed_is_sent() -> None:
    place = Place()
    placed = steps().with_cache(MemoryCache()).with_backend(LocalBackend(), nodes={"split": place, "encode": place})
    placed.run({"path": 4})
    placed.run({"path": 4, "scale": 5})
    assert place.nodes == [("split", "encode"), ("encode",)]


def test_two_remote_places_work_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=60)

    class Meeting(InProcess):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            together.wait()
            return super().submit(job, channel)

    @node(output_name="a")
    def left(x: int) -> int:
        return x

    @node(output_name="b")
    def right(x: int) -> int:
        return -x

    pipeline = Pipeline([left, right]).with_backend(LocalBackend(), nodes={"left": Meeting(), "right": Meeting()})
    assert pipeline.run({"x": 1}) == {"a": 1, "b": -1}


def test_a_place_may_be_any_backend() -> None:
    class Simple(Backend):
        requests: ClassVar[list[Any]] = []

        def run(self, request: RunRequest) -> dict[str, Any]:
            self.requests.append(request)
            return LocalBackend().run(request)

        def map(self, request: MapRequest) -> dict[str, list[Any]]:
            self.requests.append(request)
            return LocalBackend().map(request)

    pipeline = steps().with_backend(LocalBackend(), nodes={"encode": Simple()})
    assert pipeline.run({"path": 4}) == ALL
    assert pipeline.map({"path": [1, 2]}, "path")["vector"] == [2, 4]
    assert "encode" in repr(Simple.requests[0])


def test_limits_of_a_place_hold_there_and_those_of_the_default_here() -> None:
    @node(output_name="y", limit="api")
    def ask(x: int) -> int:
        return x

    place = InProcess(limits=[Limit("api", concurrency=1)])
    assert Pipeline([ask]).with_backend(LocalBackend(), nodes={"ask": place}).run({"x": 1}) == {"y": 1}
    with pytest.raises(ConfigurationError, match="names limit 'api'"):
        Pipeline([ask]).with_backend(LocalBackend(), nodes={"ask": InProcess()}).run({"x": 1})


def test_async_runs_and_maps() -> None:
    pipeline = steps().with_backend(LocalBackend(), nodes={"encode": Place()})

    async def both() -> tuple[Any, Any]:
        return await pipeline.arun({"path": 4}), await pipeline.amap({"path": [1, 2]}, "path", output_name="norm")

    assert asyncio.run(both()) == (ALL, {"norm": [1.0, 2.0]})


def test_cancelling_ends_the_job_at_the_place() -> None:
    begun, ended = threading.Event(), threading.Event()

    class Endless(InProcess):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            channel.when_cancelled(ended.set)
            begun.set()
            assert ended.wait(60)
            raise CancelledError("ended")

    pipeline = steps().with_backend(LocalBackend(), nodes={"encode": Endless()})

    async def cancel() -> None:
        task = asyncio.ensure_future(pipeline.arun({"path": 4}))
        assert await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert ended.is_set()


def test_a_lost_worker_fails_the_run_with_the_names_of_its_nodes() -> None:
    class Lost(InProcess):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            raise WorkerLostError("gone", backend_name="lost", exit_code=None, log_tail="")

    pipeline = steps().with_backend(LocalBackend(), nodes={"encode": Lost()})
    with pytest.raises(WorkerLostError, match="gone") as one:
        pipeline.run({"path": 4})
    with pytest.raises(WorkerLostError, match="gone") as of_items:
        pipeline.map({"path": [4, 5]}, map_over="path")
    note = f"when node 'encode' of pipeline {pipeline.name} was to run; backend: {Lost.backend_name}"
    assert one.value.__notes__ == of_items.value.__notes__ == [note]


def test_a_pipeline_with_places_can_be_pickled() -> None:
    pipeline = steps().with_backend(LocalBackend(), nodes={"encode": LocalBackend("threaded")})
    pipeline.run({"path": 4})
    assert pickle.loads(pickle.dumps(pipeline)).run({"path": 4}) == ALL


def test_the_backends_are_closed_together() -> None:
    closed: list[str] = []

    class Closing(InProcess):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    pipeline = steps().with_backend(Closing("default"), nodes={"encode": Closing("place")})
    with pipeline.effective_backend:
        pipeline.run({"path": 4})
    assert closed == ["place", "default"]


def test_many_nodes_at_alternating_places() -> None:
    def chain(length: int) -> Pipeline:
        def add(number: int) -> Any:
            names: dict[str, Any] = {}
            exec(f"def add{number}(x{number}): return x{number} + 1", names)
            return node(output_name=f"x{number + 1}")(names[f"add{number}"])

        return Pipeline([add(number) for number in range(length)])

    other = LocalBackend("threaded")
    length = 400
    placed = chain(length).with_backend(LocalBackend(), nodes={f"add{number}": other for number in range(0, length, 2)})
    assert placed.run({"x0": 0}, f"x{length}") == {f"x{length}": length}


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            {"encod": InProcess()},
            r"'encod', which is no node of pipeline 'outer' \(did you mean 'inner/encode'\?\)|no node",
        ),
        ({"encode": InProcess()}, r"'encode', which is no node of pipeline 'outer' \(did you mean 'inner/encode'\?\)"),
        ({"vector": InProcess()}, r"but an output of node 'inner/encode': name the node"),
        ({"inner/x*": InProcess()}, r"'inner/x\*', which matches no node"),
        ({"inner": "gpu"}, r"nodes\['inner'\]: backend must be a Backend, e.g. LocalBackend\(\); got 'gpu'"),
        ({"": InProcess()}, r"nodes must be a dict of backends by names of nodes; got ''"),
        ([InProcess()], r"nodes must be a dict of backends by names of nodes"),
    ],
)
def test_wrong_places_are_refused_when_they_are_given(nodes: Any, message: str) -> None:
    outer = Pipeline([load, Pipeline([split, encode], name="inner"), normalize], name="outer")
    with pytest.raises(ConfigurationError, match=message):
        outer.with_backend(LocalBackend(), nodes=nodes)


def test_wrong_places_of_a_backend_made_by_itself_are_refused_before_anything_runs() -> None:
    recorder = Recorder()
    placed = PlacedBackend(LocalBackend(), {"encod": InProcess()})
    pipeline = Pipeline([load, split, encode, normalize], name="alone", backend=placed, callbacks=[recorder])
    for attempt in (
        lambda: pipeline.run({"path": 4}),
        lambda: pipeline.map({"path": [4]}, map_over="path"),
        lambda: placed.preflight(pipeline, {"path": 4}),
        lambda: Pipeline([pipeline], name="outer", callbacks=[recorder]).run({"path": 4}, "vector"),
    ):
        with pytest.raises(ConfigurationError, match=r"'encod', which is no node .* \(did you mean 'encode'\?\)"):
            attempt()
    assert not recorder.computed


def test_preflight_refuses_what_is_no_pipeline_and_an_unknown_mode() -> None:
    placed: Any = steps().with_backend(LocalBackend(), nodes={"encode": InProcess()}).effective_backend
    with pytest.raises(ConfigurationError, match="pipeline must be a Pipeline; got 'steps'"):
        placed.preflight("steps", {"path": 4})
    with pytest.raises(ConfigurationError, match="map_mode"):
        placed.preflight(steps(), {"path": 4}, map_mode="zap")


def test_a_node_inside_a_pipeline_with_a_backend_of_its_own_is_refused() -> None:
    inner = Pipeline([split, encode], name="inner", backend=InProcess())
    outer = Pipeline([load, inner, normalize], name="outer")
    with pytest.raises(ConfigurationError, match="nested pipeline 'inner' has a backend of its own"):
        outer.with_backend(LocalBackend(), nodes={"inner/encode": InProcess()})


def test_places_inside_places_are_refused() -> None:
    placed = steps().with_backend(LocalBackend(), nodes={"encode": InProcess()}).effective_backend
    with pytest.raises(ConfigurationError, match="cannot be one of the places"):
        steps().with_backend(placed, nodes={"load": InProcess()})


# --- what would be sent -----------------------------------------------------------------------------------------------


def test_preflight_says_which_node_runs_where() -> None:
    here, place = LocalBackend(), Place()

    @node(output_name="count")
    def count(vectors: list[int]) -> int:
        return len(vectors)

    inner = Pipeline([split, encode], name="inner")
    mapped = inner.as_node(
        input_mapping={"texts": "text"}, output_mapping={"vector": "vectors"}, map_over="texts", name="all"
    )
    pipeline = Pipeline([load, mapped, count]).with_backend(here, nodes={"all/encode": place})
    found = pipeline.effective_backend.preflight(  # type: ignore[attr-defined]
        pipeline, {"path": 1, "texts": ["a"]}, output_name=["text", "count"]
    )
    assert {each.backend: set(each.nodes) for each in found.places} == {
        here: {"load", "all/split", "count"},
        place: {"all/encode"},
    }
    assert place.nodes == []


def test_preflight_says_what_cannot_be_sent_to_a_place() -> None:
    lock = threading.Lock()

    @node(output_name="y")
    def use(text: str) -> bool:
        return lock.locked()

    placed = Pipeline([load, use]).with_backend(LocalBackend(), nodes={"use": Place()})
    found = placed.effective_backend.preflight(placed, {"path": 1})  # type: ignore[attr-defined]
    (problem,) = found.problems
    assert "use → closure 'lock'" in problem
    assert f"PROBLEM: {problem}" in str(found)
