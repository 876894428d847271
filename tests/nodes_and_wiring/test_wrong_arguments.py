"""A wrong argument of any kind, anywhere in the public interface, is refused with an error that names the parameter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hypernodes import (
    Backend,
    CallbackContext,
    ConfigurationError,
    HyperNodesError,
    LocalBackend,
    MapRequest,
    MemoryCache,
    Node,
    Pipeline,
    PipelineExecutionEngine,
    PipelineNode,
    RemoteBackend,
    RemoteError,
    RunRequest,
    failures,
    node,
    resource,
)
from hypernodes.backend import SubprocessBackend
from hypernodes.extension import Channel, execute
from hypernodes.signature import code_components

LONG = "x" * 5000


class NoText:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


WRONG: list[Any] = [
    True,
    0,
    -1,
    5.0,
    float("nan"),
    10**30,
    "",
    "x",
    LONG,
    b"x",
    [],
    [1],
    [[1]],
    (1, 2),
    {},
    {1: 2},
    {"a": LONG},
    {1},
    int,
    len,
    lambda: 0,
    object(),
    NoText(),
    Pipeline,
]


@node(output_name="y")
def add(x: Any, k: int = 1) -> Any:
    return x


@node(output_name="z")
def twice(y: Any) -> Any:
    return y


class Here(RemoteBackend):
    def submit(self, job: bytes, channel: Channel) -> bytes:
        return execute(job, channel.handle)


pair = Pipeline(nodes=[add, twice], name="pair")
RUN = {"inputs": {"x": 1}}
MAP = {"inputs": {"x": [1]}, "map_over": "x"}
MODES = ("node_execution", "map_execution", "max_workers")
NODE = ("output_name", "cache", "name", "retries", "retry_delay", "retry_on", "timeout", "version", "cache_ignore")
NODE = (*NODE, "skip_failures")
AS_NODE = ("input_mapping", "output_mapping", "map_over", "map_mode", "name", "on_error", "outputs", "prefix")
MODE_OF_NODE = ("map_execution", "max_workers")
MAPS = ("inputs", "map_over", "map_mode", "output_name", "on_error")
LOCAL = LocalBackend()

# What is called, arguments that are right, and the parameters that get wrong ones.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any], Iterable[str]]] = {
    "node": (Node, {"func": add.func, "output_name": "y"}, ("func", *NODE)),
    "Pipeline": (Pipeline, {"nodes": [add]}, ("nodes", "backend", "cache", "callbacks", "name", "outputs", "parent")),
    "run": (pair.run, RUN, ("inputs", "output_name")),
    "arun": (lambda **given: asyncio.run(pair.arun(**given)), RUN, ("inputs", "output_name")),
    "map": (pair.map, MAP, MAPS),
    "amap": (lambda **given: asyncio.run(pair.amap(**given)), MAP, MAPS),
    "map_rows": (pair.map_rows, MAP, MAPS),
    "map_iter": (lambda **given: list(pair.map_iter(**given)), MAP, (*MAPS, "in_order")),
    "explain": (pair.explain, RUN, ("inputs", "output_name", "map_over", "map_mode")),
    "explain a map": (pair.explain, MAP, ("inputs", "output_name", "map_mode")),
    "as_node": (pair.as_node, {}, AS_NODE),
    "as_node of items": (pair.as_node, {"map_over": "x", "map_execution": "threaded"}, (*AS_NODE, *MODE_OF_NODE)),
    "PipelineNode": (PipelineNode, {"pipeline": pair}, ("pipeline", *AS_NODE)),
    "Node.as_node": (add.as_node, {}, AS_NODE),
    "with_outputs": (pair.with_outputs, {}, ("outputs",)),
    "with_inputs": (lambda inputs: pair.with_inputs(inputs), {}, ("inputs",)),
    "resource": (lambda function, per: resource(function, per=per), {"function": len, "per": "thread"}, ("per",)),
    "with_backend": (pair.with_backend, {}, ("backend",)),
    "with_cache": (pair.with_cache, {}, ("cache",)),
    "with_callbacks": (pair.with_callbacks, {}, ("callbacks",)),
    "with_name": (pair.with_name, {}, ("name",)),
    "with_settings": (pair.with_settings, {}, ("settings",)),
    "MemoryCache": (MemoryCache, {}, ("max_items", "max_bytes")),
    "LocalBackend": (LocalBackend, {}, (*MODES, "executor", "engine", "keep_workers_s")),
    "engine": (PipelineExecutionEngine, {}, (*MODES, "executor", "keep_workers_s")),
    "SubprocessBackend": (SubprocessBackend, {}, (*MODES, "python", "env", "cwd", "keep_workers_s")),
    "RemoteBackend": (Here, {}, MODES),
    "preflight": (Here().preflight, {"pipeline": pair, **RUN}, ("pipeline", "inputs", "output_name", "map_mode")),
    "RunRequest": (RunRequest, {"pipeline": pair, **RUN}, ("pipeline", "inputs")),
    "MapRequest": (
        MapRequest,
        {"pipeline": pair, "columns": {"x": [1]}},
        ("pipeline", "columns", "inputs", "map_mode", "on_error"),
    ),
    "of_items": (MapRequest.of_items, {"pipeline": pair, "items": [{"x": 1}]}, ("pipeline", "items", "inputs")),
    "to_columns": (MapRequest(pair, {"x": [1]}).to_columns, {}, ("rows",)),
    "backend.run": (LOCAL.run, {}, ("request",)),
    "backend.map": (LOCAL.map, {}, ("request",)),
    "remote.run": (Here().run, {}, ("request",)),
    "failures": (failures, {}, ("result",)),
    "CallbackContext": (CallbackContext, {}, ("hierarchy_path", "node_path", "item_path", "around")),
    "code_components": (code_components, {}, ("node",)),
}
# What is in messages that name what is wrong in an argument rather than the parameter.
UNKNOWN = (
    "pipeline 'pair' has no input",
    "not found in pipeline 'pair'",
    "pipeline 'pair' needs a value",
    "pipeline 'pair' maps over",
    "no nested pipeline",
)


@pytest.mark.parametrize(
    ("call", "parameter"), [(call, parameter) for call, (_, _, parameters) in CALLS.items() for parameter in parameters]
)
def test_a_wrong_argument_is_refused_by_an_error_that_names_the_parameter_and_shows_little(
    call: str, parameter: str
) -> None:
    function, right, _ = CALLS[call]
    for wrong in WRONG:
        try:
            function(**{**right, parameter: wrong})
        except HyperNodesError as error:
            text = str(error)
            assert parameter in text or any(part in text for part in UNKNOWN), text
            assert len(text) < 700
            assert LONG[:400] not in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LocalBackend(engine={}), r"engine must be a PipelineExecutionEngine or None; got \{\}"),  # type: ignore[arg-type]
        (lambda: pair.as_node(input_mapping=True), "input_mapping must be a dict from outer to inner names; got"),  # type: ignore[arg-type]
        (lambda: pair.as_node({1: "x"}), "input_mapping must be a dict .* which are strings; got 1"),  # type: ignore[dict-item]
        (lambda: pair.run(RUN["inputs"], 5.0), "output_name must be a name or a list of names; got 5.0"),  # type: ignore[arg-type]
        (lambda: Node(add.func, 5.0), r"output_name of node 'add' must be a name or a tuple of names; got 5\.0"),  # type: ignore[arg-type]
        (lambda: failures("x"), "failures takes the result of run or map, a dict"),  # type: ignore[arg-type]
        (lambda: Node(add.func, "y", cache=MemoryCache()), "cache of node 'add' must be True or False"),  # type: ignore[arg-type]
        (lambda: Node(add.func, "y", retry_on=ValueError()), "retry_on of node 'add' must be a class of exc"),  # type: ignore[arg-type]
        (lambda: pair.map_iter(**MAP, in_order="no"), "in_order must be True or False; got 'no'"),
    ],
)
def test_what_to_write_is_said(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(HyperNodesError, match=message):
        call()


# --- classes of third parties ------------------------------------------------------------------------------------


class Simple(Backend):
    """Returns what the tests want it to."""

    answer: Any = None

    def run(self, request: RunRequest) -> dict[str, Any]:
        return self.answer  # type: ignore[no-any-return]

    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        return self.answer  # type: ignore[no-any-return]


class SimpleStream(Simple):
    def map_iter(self, request: MapRequest) -> Iterator[tuple[int, dict[str, Any]]]:
        return self.answer  # type: ignore[no-any-return]

    def arun(self, request: RunRequest) -> Any:  # type: ignore[override]
        return self.answer

    def amap(self, request: MapRequest) -> Any:  # type: ignore[override]
        return self.answer


@pytest.mark.parametrize("answer", [None, 3, "x", [], [1], [("a", {})], [(0, None)], {"y": [1]}])
@pytest.mark.parametrize("kind", [Simple, SimpleStream])
def test_what_a_backend_must_not_return_is_its_fault_in_the_message(kind: type[Simple], answer: Any) -> None:
    backend = kind()
    backend.answer = answer
    asked = pair.with_backend(backend)
    calls: list[Callable[[], Any]] = [
        lambda: asked.run({"x": 1}),
        lambda: asked.map(**MAP),
        lambda: list(asked.map_iter(**MAP)),
        lambda: asyncio.run(asked.arun({"x": 1})),
        lambda: asyncio.run(asked.amap(**MAP)),
    ]
    for call in calls:
        with pytest.raises(RemoteError, match=rf"backend '{kind.__name__}' returned"):
            call()


@pytest.mark.parametrize("outcome", [None, 3, "x", b"", b"x", [], {}])
def test_an_outcome_that_is_none_is_refused(outcome: Any) -> None:
    class Wrong(RemoteBackend):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            return outcome  # type: ignore[no-any-return]

    with pytest.raises(RemoteError, match=r"the outcome that backend 'remote' returned was refused: .*bytes"):
        pair.with_backend(Wrong()).run({"x": 1})


@pytest.mark.filterwarnings("ignore:dropped a message")
@pytest.mark.parametrize("message", [None, 3, "x", b"", b"x", b"!" * 20, [], bytearray(b"?")])
def test_a_message_that_is_none_is_dropped(message: Any) -> None:
    class Chatty(RemoteBackend):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            assert channel.handle(message) is None
            return execute(job, channel.handle)

    assert pair.with_cache(MemoryCache()).with_backend(Chatty()).run({"x": 1}) == {"y": 1, "z": 1}


def test_methods_that_cannot_be_called_are_refused_when_the_backend_is_set() -> None:
    class Old(RemoteBackend):
        def submit(self, job: bytes) -> bytes:  # type: ignore[override]
            return job

    class Awaits(Simple):
        async def run(self, request: RunRequest) -> dict[str, Any]:  # type: ignore[override]
            return {}

    with pytest.raises(
        ConfigurationError, match=r"Old\.submit\(self, job\) cannot be called: .* \(self, job, channel\)"
    ):
        pair.with_backend(Old())
    with pytest.raises(ConfigurationError, match=r"Awaits\.run must be an ordinary function, .*: await in arun"):
        pair.with_backend(Awaits())


def test_a_subclass_that_does_not_set_up_its_base_class_is_refused() -> None:
    def forgetful(base: type) -> Any:
        return type("Forgetful", (base,), {"__init__": lambda self: None, "submit": Here.submit})()

    message = r"Forgetful is not set up as a \w+: its __init__ must call super\(\).__init__\(\.\.\.\)"
    for base in (LocalBackend, RemoteBackend, SubprocessBackend):
        with pytest.raises(ConfigurationError, match=message):
            pair.with_backend(forgetful(base))
    with pytest.raises(ConfigurationError, match=message):
        pair.with_cache(forgetful(MemoryCache))
    with pytest.raises(ConfigurationError, match=message):
        LocalBackend(engine=forgetful(PipelineExecutionEngine))


def test_a_path_of_no_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cwd must be the path of a folder; got 5"):
        SubprocessBackend(cwd=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="python must be the path of an interpreter; got 5"):
        SubprocessBackend(python=5)  # type: ignore[arg-type]
    assert SubprocessBackend(cwd=tmp_path).cwd == str(tmp_path)
