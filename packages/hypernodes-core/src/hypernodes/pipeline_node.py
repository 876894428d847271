"""A pipeline used as a node of another pipeline, once or once per item."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hypernodes.checks import as_mapping, as_names, check_name, shown
from hypernodes.conditions import Conditional, conditions_of
from hypernodes.errors import ConfigurationError, MappingError
from hypernodes.nearest import nearest, suggest
from hypernodes.nodes import When
from hypernodes.plan import MapMode, OnError
from hypernodes.request import check_map_mode, check_on_error, check_pipeline

if TYPE_CHECKING:
    from hypernodes.pipeline import Pipeline

_READ_ONLY = ("input_mapping", "output_mapping", "defaults")


class PipelineNode(Conditional):
    """A pipeline with its inputs and outputs renamed, and possibly mapped; created by `Pipeline.as_node`.

    Attributes:
        pipeline: The pipeline.
        name: Id of the node; by default that of the pipeline, after the prefix.
        inputs: Names of its inputs in the enclosing pipeline.
        outputs: Names, in the enclosing pipeline, of the outputs that it shows there.
        defaults: Values of the inputs that may be omitted; a mapped-over input may not, unless it has a preset value.
        map_over: The inputs, by their names in the enclosing pipeline, that vary from item to item.
        map_mode: "zip" or "product".
        on_error: "raise" or "collect".
        conditions: What has to hold so that it runs, by `when` and `unless`.
        needs: Names of what has to be known before it runs: its inputs, and what its conditions are on.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        input_mapping: Mapping[str, str] | None = None,
        output_mapping: Mapping[str, str] | None = None,
        map_over: str | Sequence[str] | None = None,
        map_mode: MapMode = "zip",
        name: str | None = None,
        on_error: OnError = "raise",
        outputs: str | Sequence[str] | None = None,
        prefix: str = "",
        when: When = None,
        unless: When = None,
    ) -> None:
        check_pipeline(pipeline, "pipeline")
        self.pipeline = pipeline
        _check_prefix(prefix)
        self.name = check_name("name", name) or prefix + (pipeline.name or pipeline.id)
        conditions = conditions_of(when, unless, f"node {self.name!r}")
        graph = pipeline.graph
        own_inputs = (*graph.root_inputs,)
        self.input_mapping = MappingProxyType(_names("input_mapping", input_mapping, "from outer to inner names"))
        self.output_mapping = MappingProxyType(_names("output_mapping", output_mapping, "from inner to outer names"))
        self._outer_of_input = _invert(self.input_mapping, own_inputs, "input", self.name)
        for inner, outer in self.output_mapping.items():
            if inner not in graph.outputs and outer in graph.outputs:
                raise MappingError(
                    f"output_mapping of node {self.name!r} maps {inner!r} to {outer!r}, but {inner!r} is not one of "
                    "its outputs; the direction is {inner name: outer name}, so perhaps "
                    f"{{{outer!r}: {inner!r}}} was meant",
                    unknown=inner,
                    available=graph.outputs,
                )
            _check_known(inner, graph.outputs, "output_mapping", "output", self.name)
        shown = self._check_outputs(outputs, prefix)
        outer_outputs = [self.output_mapping.get(inner, prefix + inner) for inner in shown]
        self._inner_of_output = dict(zip(outer_outputs, shown, strict=True))
        if len(self._inner_of_output) < len(outer_outputs):
            twice = next(name for name in outer_outputs if outer_outputs.count(name) > 1)
            raise MappingError(
                f"output_mapping of node {self.name!r} gives two outputs the name {twice!r}; an unmapped output "
                f"{f'is called {prefix!r} and its own name' if prefix else 'keeps its own name'}",
                unknown=twice,
                available=graph.outputs,
            )
        outer_inputs = [self._outer_of_input.get(inner, inner) for inner in own_inputs]
        self._inner_of_input = dict(zip(outer_inputs, own_inputs, strict=True))
        if len(self._inner_of_input) < len(outer_inputs):
            twice = next(name for name in outer_inputs if outer_inputs.count(name) > 1)
            raise MappingError(
                f"input_mapping of node {self.name!r} gives two inputs the name {twice!r}; "
                f"an unmapped input keeps its own name",
                unknown=twice,
                available=own_inputs,
            )
        self.inputs = tuple(outer_inputs)
        self.outputs = tuple(outer_outputs)
        self.set_conditions(conditions)
        self.map_over = as_names(map_over, "map_over")
        for outer in self.map_over:
            _check_known(outer, self.inputs, "map_over", "input", self.name, self._outer_of_input)
        outer_defaults = {self._outer_of_input.get(n, n): value for n, value in pipeline.defaults.items()}
        self.defaults: Mapping[str, Any] = MappingProxyType(
            {
                name: value
                for name, value in outer_defaults.items()
                if name not in self.map_over or self._inner_of_input[name] in pipeline.preset
            }
        )
        if map_over is not None and not self.map_over:
            raise MappingError(f"map_over of node {self.name!r} is empty", unknown="", available=self.inputs)
        self.map_mode: MapMode = check_map_mode(map_mode)
        self.on_error: OnError = check_on_error(on_error)
        if on_error == "collect" and not self.map_over:
            raise ConfigurationError(
                f"on_error='collect' of node {self.name!r} needs map_over: it applies to the items of a map"
            )

    def _check_outputs(self, outputs: str | Sequence[str] | None, prefix: str) -> tuple[str, ...]:
        """Return the outputs that it shows, by the pipeline's own names."""
        available = self.pipeline.graph.outputs
        asked = self.pipeline.outputs if outputs is None else as_names(outputs, "outputs")
        own_names = {prefix + own: own for own in available}
        own_names |= {outer: own for own, outer in self.output_mapping.items()}
        for name in asked:
            _check_known(name, available, "outputs", "output", self.name, own_names)
        shown = tuple(dict.fromkeys((*asked, *self.output_mapping)))
        if not shown:
            raise MappingError(f"outputs of node {self.name!r} is empty", unknown="", available=available)
        return shown

    @property
    def location(self) -> str:
        """Empty: nested pipelines have no location in a file."""
        return ""

    def inner_input(self, outer: str) -> str:
        """Return the name that the pipeline itself uses for an input of the node."""
        return self._inner_of_input[outer]

    def inner_output(self, outer: str) -> str:
        """Return the name that the pipeline itself uses for an output of the node."""
        return self._inner_of_output[outer]

    def inner_name(self, outer: str) -> str:
        """Return the name that the pipeline itself uses for an input or an output of this node."""
        return self.inner_output(outer) if outer in self.outputs else self.inner_input(outer)

    def __getstate__(self) -> dict[str, Any]:
        return {name: dict(value) if name in _READ_ONLY else value for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(
            {name: MappingProxyType(value) if name in _READ_ONLY else value for name, value in state.items()}
        )

    def __repr__(self) -> str:
        mapped = f", one per item of {', '.join(self.map_over)} ({self.map_mode})" if self.map_over else ""
        return f"<pipeline node {self.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}{mapped}>"


def _check_prefix(prefix: object) -> str:
    if not isinstance(prefix, str) or (prefix and not prefix.isidentifier()):
        raise ConfigurationError(f"prefix must be the beginning of a Python name, e.g. 'query_'; got {shown(prefix)}")
    return prefix


def _names(parameter: str, mapping: object, of: str) -> dict[str, str]:
    names = as_mapping(parameter, mapping, of)
    for name in (*names, *names.values()):
        if not isinstance(name, str):
            raise ConfigurationError(f"{parameter} must be a dict {of}, which are strings; got {shown(name)}")
    return names


def _check_known(
    name: str,
    available: Collection[str],
    parameter: str,
    kind: str,
    node_name: str,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    if name not in available:
        hint = f" (did you mean {renamed[name]!r}?)" if name in renamed else suggest(name, available)
        near = nearest(name, available) if parameter == "map_over" and name not in renamed else None
        if near is not None:
            hint = f" (did you mean {near[0]!r}? To map over {name!r}, add input_mapping={{{name!r}: {near[0]!r}}})"
        raise MappingError(
            f"{parameter} of node {node_name!r} names {shown(name)}, which is not one of its {kind}s"
            f"{hint}; its {kind}s are: {', '.join(available) or 'none'}",
            unknown=name,
            available=tuple(available),
        )


def _invert(mapping: Mapping[str, str], own: Collection[str], kind: str, node_name: str) -> dict[str, str]:
    inverted: dict[str, str] = {}
    for outer, inner in mapping.items():
        if inner not in own and outer in own:
            raise MappingError(
                f"input_mapping of node {node_name!r} maps {shown(outer)} to {shown(inner)}, which is not one of its "
                f"inputs; the direction is {{outer name: inner name}}, so perhaps {{{inner!r}: {outer!r}}} was meant",
                unknown=inner,
                available=tuple(own),
            )
        _check_known(inner, own, f"{kind}_mapping", kind, node_name)
        if inner in inverted:
            raise MappingError(
                f"{kind}_mapping of node {node_name!r} maps both {inverted[inner]!r} and {outer!r} to {inner!r}",
                unknown=inner,
                available=tuple(own),
            )
        inverted[inner] = outer
    return inverted
