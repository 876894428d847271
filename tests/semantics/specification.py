"""Pipelines as plain data: what the reference interpreter computes and what `build` makes real pipelines of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias
from zlib import crc32

Value: TypeAlias = Any  # None, bool, int, float, str, or a list of values
CacheSetting: TypeAlias = str | Literal[False] | None  # the label of a cache of its own, none at all, or inherited


class PlannedError(Exception):
    """What a function raises whose specification says that it fails."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function; `default` is a 1-tuple so that any value can be one."""

    name: str
    default: tuple[Value] | None = None
    is_keyword_only: bool = False


@dataclass(frozen=True)
class Behaviour:
    """A pure function of any arguments; two with different fields are different functions.

    Attributes:
        seed: Tells functions apart.
        lengths: For each output the length of the list it is; None for a single value.
        fails_on: It fails for every n-th value of the arguments; 0 for never, 1 for always.
    """

    seed: int
    lengths: tuple[int | None, ...] = (None,)
    fails_on: int = 0

    def __call__(self, arguments: tuple[Value, ...]) -> Value:
        digest = self.digest(arguments)
        if self.fails_on and digest % self.fails_on == 0:
            raise PlannedError(f"seed {self.seed}: {arguments!r}")
        outputs = tuple(self._output(digest + position, length) for position, length in enumerate(self.lengths))
        return outputs[0] if len(outputs) == 1 else outputs

    def __cache_key__(self) -> tuple[Value, ...]:
        return (self.seed, self.lengths, self.fails_on)

    def digest(self, arguments: tuple[Value, ...]) -> int:
        """Return a number that depends on everything in the arguments, types included."""
        return crc32(repr((self.seed, arguments)).encode()) // 7

    def _output(self, digest: int, length: int | None) -> Value:
        if length is not None:
            return [self._output(digest + 31 * i, None) for i in range(length)]
        return None if digest % 13 == 0 else digest % 1000


@dataclass(frozen=True)
class FunctionSpec:
    """A node that is a function.

    It is batched when `batch_over` is not empty, and limited when it has a `max_concurrency`; neither changes results.
    If it is streamed, it yields the elements of its list, so that a mapped pipeline may start before it ends.
    """

    name: str
    parameters: tuple[Parameter, ...]
    outputs: tuple[str, ...]
    behaviour: Behaviour
    is_async: bool = False
    cache: bool = True
    batch_over: tuple[str, ...] = ()
    batch_size: int | None = None
    max_concurrency: int | None = None
    is_streamed: bool = False

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)


@dataclass(frozen=True)
class PipelineSpec:
    """A pipeline: its nodes in the order written, where its results are kept, what it shows and what is preset."""

    name: str
    nodes: tuple[FunctionSpec | NestedSpec, ...]
    cache: CacheSetting = None
    shown: tuple[str, ...] | None = None  # the outputs that it shows; None for all
    preset: Mapping[str, Value] = field(default_factory=dict)
    resources: frozenset[str] = frozenset()  # the preset inputs that are made where they are used

    @cached_property
    def made(self) -> tuple[str, ...]:
        """All outputs of its nodes."""
        return tuple(output for node in self.nodes for output in node.outputs)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return self.made if self.shown is None else self.shown

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """All that can be asked for: its outputs, and those of nested pipelines by their path."""
        nested = [node for node in self.nodes if isinstance(node, NestedSpec)]
        return (*self.made, *(f"{node.name}/{path}" for node in nested for path in node.pipeline.paths))

    def shortest(self, path: str) -> str:
        """Return the shortest path to what a path leads to: what a nested pipeline shows has a name of its own here."""
        first, _, rest = path.partition("/")
        if not rest:
            return path
        node = next(node for node in self.nodes if isinstance(node, NestedSpec) and node.name == first)
        inside = node.pipeline.shortest(rest)
        return node.outer_output(inside) if inside in node.shown else f"{first}/{inside}"

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Root inputs, in the order of their first use."""
        return tuple(dict.fromkeys(i for node in self.nodes for i in node.inputs if i not in self.made))

    @cached_property
    def required(self) -> frozenset[str]:
        """Root inputs that some node cannot do without."""
        needed = {name for node in self.nodes for name in _required(node) if name in self.inputs}
        return frozenset(needed - self.preset.keys())


@dataclass(frozen=True)
class NestedSpec:
    """A node that is a pipeline; mapped when `map_over` (names of the pipeline around) is not empty."""

    name: str
    pipeline: PipelineSpec
    input_mapping: Mapping[str, str] = field(default_factory=dict)  # outer name: inner name
    output_mapping: Mapping[str, str] = field(default_factory=dict)  # inner name: outer name
    map_over: tuple[str, ...] = ()
    map_mode: Literal["zip", "product"] = "zip"
    asked: tuple[str, ...] | None = None  # the outputs that it is asked to show; None for those of the pipeline
    prefix: str = ""

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.outer_input(name) for name in self.pipeline.inputs)

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """The outputs that it shows, by the names of the pipeline."""
        asked = self.pipeline.outputs if self.asked is None else self.asked
        return tuple(dict.fromkeys((*asked, *self.output_mapping)))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.outer_output(name) for name in self.shown)

    def path_inside(self, name: str) -> str:
        """Return the path, in the pipeline, of an output or of a path that begins with the name of this node."""
        if name.startswith(f"{self.name}/"):
            return name.removeprefix(f"{self.name}/")
        return next(inner for inner in self.shown if self.outer_output(inner) == name)

    def outer_input(self, inner: str) -> str:
        return next((outer for outer, name in self.input_mapping.items() if name == inner), inner)

    def outer_output(self, inner: str) -> str:
        return self.output_mapping.get(inner, self.prefix + inner)


def without_caches(pipeline: PipelineSpec) -> PipelineSpec:
    """Return the same pipeline with no cache anywhere."""
    nodes = tuple(
        replace(node, pipeline=without_caches(node.pipeline)) if isinstance(node, NestedSpec) else node
        for node in pipeline.nodes
    )
    return replace(pipeline, nodes=nodes, cache=None)


@dataclass(frozen=True)
class Execution:
    """One call of `run`, or of `map` when `map_over` is not empty."""

    inputs: Mapping[str, Value]
    output_name: str | tuple[str, ...] | None = None
    map_over: tuple[str, ...] = ()
    map_mode: Literal["zip", "product"] = "zip"


def _required(node: FunctionSpec | NestedSpec) -> list[str]:
    if isinstance(node, FunctionSpec):
        return [parameter.name for parameter in node.parameters if parameter.default is None]
    inner = {name: node.input_mapping.get(name, name) for name in node.map_over}
    mapped = [name for name, own in inner.items() if own not in node.pipeline.preset]  # a default is no list of values
    return [*map(node.outer_input, node.pipeline.required), *mapped]
