"""What a type checker sees of the public interface; checked by mypy, never run.

`assert_type` pins what comes back. Every `type: ignore` pins a mistake that must be found: were it not found, the
ignore would be unused, which is an error too.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, assert_type

import hypernodes
from hypernodes import (
    MISS,
    Backend,
    Cache,
    CacheStats,
    CallbackContext,
    DiskCache,
    Limit,
    LocalBackend,
    MapRequest,
    MemoryCache,
    Node,
    Pipeline,
    PipelineCallback,
    PipelineExecutionEngine,
    PipelineNode,
    RemoteBackend,
    Resource,
    RunRequest,
    node,
    resource,
)
from hypernodes.backend import ModalBackend, SubprocessBackend
from hypernodes.cache import DiskCache as DiskCacheOfCaches
from hypernodes.explain import Explanation, NodeExplanation
from hypernodes.plugins import Plugin
from hypernodes.remote.channel import Channel
from hypernodes.remote.preflight import Preflight
from hypernodes.rows import Rows

# --- nodes keep the signature of their functions -----------------------------------------------------------------


@node(output_name="scaled")
def scale(x: int, factor: float = 2.0) -> float:
    return x * factor


@node
def bare(x: int) -> str:
    return str(x)


@node()
def called(x: int) -> str:
    return str(x)


@node(output_name=("low", "high"), cache=False, name="bounds")
def bounds(values: list[int]) -> tuple[int, int]:
    return min(values), max(values)


@node(output_name="total", version="2", cache_ignore=("verbose",))
def total(values: list[int], verbose: bool = False) -> int:
    return sum(values)


@node(output_name="page")
async def fetch(url: str) -> bytes:
    return url.encode()


@node(output_name="vector", batch_over="text", batch_size=64, limit={"tokens": len}, max_concurrency=2)
def encode(text: list[str]) -> list[float]:
    return [float(len(one)) for one in text]


@node(output_name="answer", limit="api", retries=2, retry_after=lambda error: None)
def ask(question: str) -> str:
    return question


assert_type(encode(["a"]), list[float])
assert_type(ask("a"), str)
LocalBackend(limits=[Limit("api", concurrency=2, per_minute=0.5)], max_in_flight=10)
Limit("api", 3)  # type: ignore[call-arg]
node(output_name="y", batch_size="3")  # type: ignore[call-overload]
assert_type(scale(1), float)
assert_type(scale(x=1, factor=3), float)
assert_type(bare(1), str)
assert_type(called(1), str)
assert_type(bounds([1]), tuple[int, int])
assert_type(scale.inputs, tuple[str, ...])
assert_type(scale.outputs, tuple[str, ...])
assert_type(scale.output_name, str | tuple[str, ...])
assert_type(scale.defaults, Mapping[str, Any])
assert_type(scale.name, str)
assert_type(scale.cache, bool)
assert_type(total([1], verbose=True), int)
assert_type(total.version, str | None)
assert_type(total.cache_ignore, frozenset[str])
assert_type(scale.is_async, bool)
assert_type(Node(len, "length")("abc"), int)


async def call_an_async_node() -> None:
    assert_type(await fetch("a"), bytes)


scale("a")  # type: ignore[arg-type]
scale()  # type: ignore[call-arg]
scale(1, factr=2.0)  # type: ignore[call-arg]
node(output_name=3)  # type: ignore[call-overload]
node(version=2)  # type: ignore[call-overload]

# --- pipelines ---------------------------------------------------------------------------------------------------

pipeline = Pipeline(nodes=[scale, bare, bounds, fetch])
assert_type(pipeline.run(inputs={"x": 1}), dict[str, Any])
assert_type(pipeline.run(inputs={"x": 1}, output_name="scaled"), dict[str, Any])
assert_type(pipeline.run({"x": 1}, ["scaled", "bare"]), dict[str, Any])
assert_type(pipeline.run(), dict[str, Any])
assert_type(pipeline.map(inputs={"x": [1, 2]}, map_over="x"), dict[str, list[Any]])
assert_type(pipeline.map({"x": [1], "factor": [2]}, map_over=["x", "factor"], map_mode="product"), dict[str, list[Any]])
assert_type(pipeline.as_node(), PipelineNode)
assert_type(
    pipeline.as_node(
        input_mapping={"xs": "x"},
        output_mapping={"scaled": "all_scaled"},
        map_over="xs",
        map_mode="product",
        name="n",
    ),
    PipelineNode,
)
assert_type(pipeline.with_backend(LocalBackend()), Pipeline)
assert_type(pipeline.with_cache(False), Pipeline)
assert_type(pipeline.with_cache(MemoryCache()), Pipeline)
assert_type(pipeline.with_callbacks([PipelineCallback()]), Pipeline)
assert_type(pipeline.with_name("n"), Pipeline)
assert_type(pipeline.as_node(outputs=["scaled"], prefix="query_"), PipelineNode)
assert_type(scale.as_node({"xs": "x"}, map_over="xs"), PipelineNode)
assert_type(pipeline.with_outputs("scaled"), Pipeline)
assert_type(pipeline.with_inputs({"factor": 2}, x=1), Pipeline)
assert_type(pipeline.missing_inputs, tuple[str, ...])
assert_type(pipeline.preset, Mapping[str, Any])
assert_type(pipeline.map_rows(inputs={"x": [1, 2]}, map_over="x"), Rows)
assert_type(pipeline.effective_backend, Backend)
assert_type(pipeline.effective_cache, Cache | None)
assert_type(pipeline.effective_callbacks, list[PipelineCallback])
assert_type(pipeline.backend, Backend | None)
assert_type(pipeline.cache, Cache | Literal[False] | None)
assert_type(pipeline.callbacks, tuple[PipelineCallback, ...] | None)
assert_type(pipeline.parent, Pipeline | None)
assert_type(pipeline.id, str)
assert_type(pipeline.name, str | None)
assert_type(pipeline.inputs, tuple[str, ...])
assert_type(pipeline.outputs, tuple[str, ...])
assert_type(pipeline.nodes, tuple[Node[..., Any] | PipelineNode, ...])

Pipeline(
    nodes=[pipeline, pipeline.as_node(map_over="x"), scale],
    backend=LocalBackend(),
    cache=DiskCache(path=".cache"),
    callbacks=[PipelineCallback()],
    name="outer",
    parent=pipeline,
)


@resource
def connection(url: str) -> Iterator[bytes]:
    yield url.encode()


@resource(per="thread")
def buffer(size: int) -> bytearray:
    return bytearray(size)


assert_type(connection("url"), Resource[bytes])
assert_type(connection("url").get(), bytes)
assert_type(buffer(10).get(), bytearray)
connection(5)  # type: ignore[arg-type]


def undecorated(x: int) -> int:
    return x


Pipeline(nodes=[undecorated])  # type: ignore[list-item]
Pipeline(nodes=[scale], cache=True)  # type: ignore[arg-type]
Pipeline(nodes=[scale], callbacks=[PipelineCallback])  # type: ignore[list-item]
pipeline.map(inputs={"x": [1]}, map_over="x", map_mode="outer")  # type: ignore[arg-type]
pipeline.map(inputs={"x": [1]})  # type: ignore[call-arg]
pipeline.run(inputs=["x"])  # type: ignore[arg-type]
LocalBackend(map_execution="sometimes")  # type: ignore[arg-type]

# --- engine, cache, discovery ------------------------------------------------------------------------------------

engine = PipelineExecutionEngine(node_execution="sequential", map_execution="sequential", max_workers=2)
assert_type(engine.run(RunRequest(pipeline, {"x": 1})), dict[str, Any])
assert_type(engine.map(MapRequest(pipeline, {"x": [1]}, {"factor": 2.0})), dict[str, list[Any]])
assert_type(MapRequest.of_items(pipeline, [{"x": 1}]).items(), list[dict[str, Any]])
assert_type(LocalBackend(engine=engine).run(RunRequest(pipeline, {"x": 1})), dict[str, Any])
assert_type(MemoryCache(max_items=10).contains("k"), bool)
assert_type(MemoryCache(max_bytes=10).contains_many(["k"]), set[str])
assert_type(MemoryCache().get_many(["k"]), dict[str, Any])
assert_type(MemoryCache().stats(), CacheStats)
MemoryCache().put_many({"k": 1}, labels={"k": "node"})
with DiskCache(path=".cache", size_limit=10**9, compress=6, key="a phrase of our own") as opened:
    assert_type(opened, DiskCache)
assert_type(hypernodes.backends(), list[Plugin])
assert_type(hypernodes.caches(), list[Plugin])
assert_type(hypernodes.__version__, str)


class TwoKeys(Cache):
    """A cache written by a user: five methods are all it takes."""

    def get(self, key: str) -> Any:
        return MISS

    def put(self, key: str, value: Any) -> None: ...

    def contains(self, key: str) -> bool:
        return False

    def delete(self, key: str) -> None: ...

    def clear(self) -> None: ...


assert_type(TwoKeys().get_many(["k"]), dict[str, Any])


# --- looking ahead ------------------------------------------------------------------------------------------------

assert_type(pipeline.explain({"x": 1}), Explanation)
assert_type(pipeline.explain({"x": [1]}, "scaled", map_over="x", map_mode="product"), Explanation)
assert_type(pipeline.explain({"x": 1})["scale"], NodeExplanation)
assert_type(pipeline.explain({"x": 1})["scale"].reasons, tuple[str, ...])
pipeline.explain({"x": [1]}, map_over="x", map_mode="zap")  # type: ignore[arg-type]


class Printer(PipelineCallback):
    """A callback written by a user, with the types of the base class."""

    def on_pipeline_start(self, pipeline_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        assert_type(ctx.depth, int)
        assert_type(ctx.hierarchy_path, tuple[str, ...])
        assert_type(ctx.item_path, tuple[int, ...])
        assert_type(ctx.current_pipeline_id, str | None)
        assert_type(ctx.get("seen", 0), Any)
        ctx.set("seen", 1)

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None: ...

    def on_error(self, node_id: str, error: BaseException, ctx: CallbackContext) -> None: ...

    def on_map_start(self, total_items: int | None, ctx: CallbackContext) -> None: ...


class WrongPrinter(PipelineCallback):
    """A hook with parameters it is not called with."""

    def on_node_start(self, node_id: str) -> None: ...  # type: ignore[override]


# --- remote places ------------------------------------------------------------------------------------------------


class Cluster(RemoteBackend):
    """The whole of a backend."""

    def submit(self, job: bytes, channel: Channel) -> bytes:
        assert_type(channel.handle(b""), bytes | None)
        assert_type(channel.is_cancelled, bool)
        channel.when_cancelled(lambda: None)
        return job


class WrongCluster(RemoteBackend):
    """A backend that gives back something else."""

    def submit(self, job: bytes, channel: Channel) -> str:  # type: ignore[override]
        return ""


assert_type(Cluster(map_execution="threaded").run(RunRequest(pipeline, {"x": 1})), dict[str, Any])
assert_type(Cluster().preflight(pipeline, {"x": 1}), Preflight)
assert_type(Cluster().preflight(pipeline).problems, tuple[str, ...])
RemoteBackend()  # type: ignore[abstract]
Cluster(node_execution="fast")  # type: ignore[arg-type]

with SubprocessBackend(env={"A": "1"}, cwd="/", map_execution="threaded", max_workers=2) as subprocess_backend:
    assert_type(subprocess_backend, SubprocessBackend)
    assert_type(pipeline.with_backend(subprocess_backend), Pipeline)
SubprocessBackend(env=["A"])  # type: ignore[arg-type]

# --- classes of extensions, by the names that core has for them -----------------------------------------------------

assert_type(DiskCacheOfCaches(path=".cache"), DiskCache)
assert_type(ModalBackend.deployed("app"), ModalBackend)
assert_type(hypernodes.ModalBackend.deployed("app"), ModalBackend)
DiskCacheOfCaches()  # type: ignore[call-arg]
