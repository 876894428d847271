"""Real pipelines from specifications, and what they are observed with."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from hypernodes import (
    MISS,
    Backend,
    Cache,
    CallbackContext,
    Node,
    Pipeline,
    PipelineCallback,
    PipelineNode,
    Resource,
    resource,
)
from hypernodes.cache.record import is_record_key
from tests.semantics.reference import Event
from tests.semantics.specification import Execution, FunctionSpec, NestedSpec, Parameter, PipelineSpec, Value


class Calls:
    """Which functions were called with which arguments, in whatever process; no part of the functions' identity."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "calls")
        self.clear()

    def add(self, function_name: str, arguments: tuple[Value, ...]) -> None:
        line = f"{function_name} {arguments!r}\n".encode()
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, line)  # at once, so that writers do not mix
        finally:
            os.close(file)

    def clear(self) -> None:
        with open(self._path, "w"):
            pass

    @property
    def count(self) -> Counter[tuple[str, str]]:
        with open(self._path) as file:
            return Counter(tuple(line.rstrip("\n").split(" ", 1)) for line in file)  # type: ignore[misc]

    def __cache_key__(self) -> str:
        return "calls"


class CallsOverNetwork(Calls):
    """The same where functions run in containers that see no file of this machine, but reach its ports."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._address = self._listener.getsockname()
        threading.Thread(target=self._listen, daemon=True).start()

    def add(self, function_name: str, arguments: tuple[Value, ...]) -> None:
        with socket.create_connection(self._address) as connection:
            connection.sendall(f"{function_name} {arguments!r}\n".encode())
            connection.recv(1)  # it has been written down

    def clear(self) -> None:
        self._lines.clear()

    def close(self) -> None:
        self._listener.close()

    @property
    def count(self) -> Counter[tuple[str, str]]:
        return Counter(tuple(line.split(" ", 1)) for line in self._lines)  # type: ignore[misc]

    def _listen(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection, _ = self._listener.accept()
                with connection, connection.makefile() as file:
                    self._lines.append(file.readline().rstrip("\n"))
                    connection.sendall(b".")

    def __getstate__(self) -> dict[str, Any]:
        return {"_address": self._address}


class DictCache(Cache):
    """The simplest cache, open to inspection."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.records: dict[str, Any] = {}  # about nodes: no results, and not the same from run to run

    def _place_of(self, key: str) -> dict[str, Any]:
        return self.records if is_record_key(key) else self.entries

    def get(self, key: str) -> Any:
        return self._place_of(key).get(key, MISS)

    def put(self, key: str, value: Any) -> None:
        self._place_of(key)[key] = value

    def contains(self, key: str) -> bool:
        return key in self._place_of(key)

    def delete(self, key: str) -> None:
        self._place_of(key).pop(key, None)

    def clear(self) -> None:
        self.entries.clear()
        self.records.clear()


@resource
def made(value: Value) -> Value:
    """A value that is made where it is used."""
    return value


class Recorder(PipelineCallback):
    """Writes down every event in the form of the reference, in the order in which they come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.events: list[tuple[Event, Any]] = []

    def _add(self, hook: str, ctx: CallbackContext, subject: str = "", carried: Any = None) -> None:
        path = tuple(zip(ctx.node_path, ctx.hierarchy_path, strict=True))
        with self._lock:
            self.events.append((Event(hook, path, ctx.item_path, subject), carried))

    def on_pipeline_start(self, pipeline_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        self._add("pipeline_start", ctx, pipeline_id, dict(inputs))

    def on_pipeline_end(
        self, pipeline_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext
    ) -> None:
        self._add("pipeline_end", ctx, pipeline_id, dict(outputs))

    def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        given = {name: v.arguments[0] if isinstance(v, Resource) else v for name, v in inputs.items()}
        self._add("node_start", ctx, node_id, given)

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        self._add("node_end", ctx, node_id, dict(outputs))

    def on_node_cached(self, node_id: str, signature: str, ctx: CallbackContext) -> None:
        self._add("node_cached", ctx, node_id)

    def on_error(self, node_id: str, error: BaseException, ctx: CallbackContext) -> None:
        self._add("error", ctx, node_id, type(error).__name__)

    def on_nested_pipeline_start(self, parent_id: str, child_pipeline_id: str, ctx: CallbackContext) -> None:
        self._add("nested_pipeline_start", ctx, child_pipeline_id, parent_id)

    def on_nested_pipeline_end(
        self, parent_id: str, child_pipeline_id: str, duration: float, ctx: CallbackContext
    ) -> None:
        self._add("nested_pipeline_end", ctx, child_pipeline_id, parent_id)

    def on_map_start(self, total_items: int, ctx: CallbackContext) -> None:
        self._add("map_start", ctx, carried=total_items)

    def on_map_item_start(self, item_index: int, ctx: CallbackContext) -> None:
        self._add("map_item_start", ctx, str(item_index))

    def on_map_item_end(self, item_index: int, duration: float, ctx: CallbackContext) -> None:
        self._add("map_item_end", ctx, str(item_index))

    def on_map_item_cached(self, item_index: int, signature: str, ctx: CallbackContext) -> None:
        self._add("map_item_cached", ctx, str(item_index))

    def on_map_end(self, total_duration: float, ctx: CallbackContext) -> None:
        self._add("map_end", ctx)


class Built:
    """A real pipeline with everything that observes it.

    Args:
        spec: What the pipeline is like.
        calls: What calls are written down with, or the folder for that.
        backend: Its backend.
        is_observed: Whether it has a callback.
        is_cached: Whether it has the caches of the specification.

    Attributes:
        pipeline: The pipeline.
        calls: What its functions were called with.
        caches: Its caches, by the labels of the specification.
        recorder: Observes its events, if it is to.

    Args:
        spec: What to build.
        folder: Where its functions write down their calls.
        backend: The backend of the pipeline.
        inner_backend: The backend of every pipeline nested in it; None for none of their own.
        is_observed: Whether its events are observed.
        is_cached: Whether it has the caches of the specification.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        calls: str | Calls,
        backend: Backend | None = None,
        *,
        inner_backend: Backend | None = None,
        is_observed: bool = True,
        is_cached: bool = True,
    ) -> None:
        self.calls = Calls(calls) if isinstance(calls, str) else calls
        self.caches: dict[str, DictCache] = {}
        self.recorder = Recorder()
        self._is_cached = is_cached
        self._inner_backend = inner_backend
        callbacks = [self.recorder] if is_observed else None
        self.pipeline = self._pipeline(spec, backend=backend, callbacks=callbacks)

    def execute(self, execution: Execution) -> dict[str, Value]:
        name = execution.output_name
        output_name = list(name) if isinstance(name, tuple) else name
        if execution.map_over:
            map_over = execution.map_over[0] if len(execution.map_over) == 1 else list(execution.map_over)
            return self.pipeline.map(execution.inputs, map_over, map_mode=execution.map_mode, output_name=output_name)
        return self.pipeline.run(execution.inputs, output_name)

    def cache_called(self, label: str) -> Cache:
        """Return the cache with a label."""
        return self.caches.setdefault(label, DictCache())

    def _pipeline(self, spec: PipelineSpec, **settings: Any) -> Pipeline:
        cache = self.cache_called(spec.cache) if isinstance(spec.cache, str) else spec.cache
        nodes = [self._function(n) if isinstance(n, FunctionSpec) else self._nested(n) for n in spec.nodes]
        shown = None if spec.shown is None else list(spec.shown)
        pipeline = Pipeline(nodes, name=spec.name, outputs=shown, cache=cache if self._is_cached else None, **settings)
        preset = {name: made(value) if name in spec.resources else value for name, value in spec.preset.items()}
        return pipeline.with_inputs(preset) if preset else pipeline

    def _nested(self, spec: NestedSpec) -> PipelineNode:
        return self._pipeline(spec.pipeline, backend=self._inner_backend).as_node(
            input_mapping=spec.input_mapping,
            output_mapping=spec.output_mapping,
            map_over=spec.map_over or None,
            map_mode=spec.map_mode,
            name=spec.name,
            outputs=spec.asked,
            prefix=spec.prefix,
        )

    def _function(self, spec: FunctionSpec) -> Node[..., Any]:
        output_name = spec.outputs if len(spec.outputs) > 1 else spec.outputs[0]
        options: dict[str, Any] = {"cache": spec.cache, "max_concurrency": spec.max_concurrency}
        if spec.batch_over:
            options |= {"batch_over": spec.batch_over, "batch_size": spec.batch_size}
        return Node(make_function(spec, self.calls), output_name, each=spec.is_streamed, **options)


def make_function(spec: FunctionSpec, calls: Calls) -> Callable[..., Any]:
    """Return a function with the parameters of a specification, closed over its behaviour."""
    positional = [parameter for parameter in spec.parameters if not parameter.is_keyword_only]
    keyword_only = [parameter for parameter in spec.parameters if parameter.is_keyword_only]
    stars = ["*"] if keyword_only else []
    written = ", ".join([*map(_written, positional), *stars, *map(_written, keyword_only)])
    arguments = "".join(f"{parameter.name}, " for parameter in spec.parameters)
    source = (
        f"def make(behaviour, calls):\n"
        f"    {'async ' if spec.is_async else ''}def {spec.name}({written}):\n"
        f"        {'yield from' if spec.is_streamed else 'return'} call(({arguments}), behaviour, calls)\n"
        f"    return {spec.name}\n"
    )
    batched = [position for position, name in enumerate(spec.inputs) if name in spec.batch_over]
    namespace: dict[str, Any] = {"__name__": __name__, "call": Caller(spec.name, batched)}
    exec(compile(source, "<generated>", "exec"), namespace)
    function: Callable[..., Any] = namespace["make"](spec.behaviour, calls)
    return function


class Caller:
    """Calls the behaviour of a function, and writes the call down; of a batch, that of each item.

    What is written down is what a function would be called with that is not batched: the items of a batch that
    raises are called again, so nothing is written down of it, unless there is only one.

    Args:
        name: Name of the function.
        batched: Positions of the arguments that are lists with an element for each item.
    """

    def __init__(self, name: str, batched: Sequence[int]) -> None:
        self._name = name
        self._batched = batched

    def __call__(self, arguments: tuple[Value, ...], behaviour: Callable[..., Value], calls: Calls) -> Value:
        if not self._batched:
            calls.add(self._name, arguments)
            return behaviour(arguments)
        count = len(arguments[self._batched[0]])
        items = [
            tuple([value[index] if position in self._batched else value for position, value in enumerate(arguments)])
            for index in range(count)
        ]
        if count == 1:
            calls.add(self._name, items[0])
        results = [behaviour(item) for item in items]
        if count > 1:
            for item in items:
                calls.add(self._name, item)
        return results if type(results[0]) is not tuple else tuple(map(list, zip(*results, strict=True)))

    def __cache_key__(self) -> str:
        return "caller"


def _written(parameter: Parameter) -> str:
    return parameter.name if parameter.default is None else f"{parameter.name}={parameter.default[0]!r}"
