"""Random pipelines and what to do with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeAlias

from hypothesis import strategies as st

from tests.semantics.specification import (
    Behaviour,
    CacheSetting,
    Execution,
    FunctionSpec,
    NestedSpec,
    Parameter,
    PipelineSpec,
    Value,
)

MAX_DEPTH = 3
MAX_NODES = 4
MAX_LEVEL = 3  # lists of lists of lists

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Scenario:
    """A pipeline and what is done with it, one after the other: something, the same again, something similar twice."""

    pipeline: PipelineSpec
    executions: tuple[Execution, Execution, Execution, Execution]


@dataclass
class _Shape:
    """A pipeline being drawn, with the level of each name: 0 for a single value, 1 for a list of them, and so on."""

    spec: PipelineSpec
    levels: dict[str, int]


@dataclass
class _Drawing:
    draw: Draw
    is_cached: bool
    may_fail: bool
    may_wait: bool
    seeds: Any = field(default_factory=lambda: count(1))
    shapes: list[_Shape] = field(default_factory=list)

    def chance(self, percent: int) -> bool:
        return bool(self.draw(st.integers(0, 99)) >= 100 - percent)  # shrinks to False

    def pick(self, values: list[Any]) -> Any:
        return self.draw(st.sampled_from(values))

    def pick_late(self, values: list[Any]) -> Any:
        """Pick the last one more often than any other: what is made late is at the end of long chains."""
        return values[-1] if self.chance(50) else self.pick(values)


@st.composite
def scenarios(draw: Draw, *, may_be_cached: bool = True, may_wait: bool = True) -> Scenario:
    """Draw a pipeline with values for its inputs, an override perhaps, and the outputs to ask for.

    Args:
        draw: Hypothesis' own argument.
        may_be_cached: Whether pipelines may have caches.
        may_wait: Whether functions may be `async def`.
    """
    is_cached = draw(st.integers(0, 3)) > 0 and may_be_cached
    drawing = _Drawing(draw, is_cached, may_fail=draw(st.integers(0, 2)) == 2, may_wait=may_wait)
    shape = _draw_pipeline(drawing, MAX_DEPTH, "top" if drawing.is_cached else None)
    first = _draw_execution(drawing, shape)
    changed = _change_an_input(drawing, first)
    return Scenario(shape.spec, (first, first, changed, _vary(drawing, first, shape.spec)))


def _draw_pipeline(drawing: _Drawing, depth: int, cache: CacheSetting) -> _Shape:
    number = next(drawing.seeds)
    levels: dict[str, int] = {}
    nodes: list[FunctionSpec | NestedSpec] = []
    fresh_inputs = (f"i{n}" for n in count())
    fresh_outputs = (f"o{n}" for n in count())

    def source(level: int, taken: set[str]) -> str:
        known = [name for name, own in levels.items() if own == level and name not in taken]
        if known and drawing.chance(75):
            return str(drawing.pick_late(known))
        name = next(fresh_inputs)
        levels[name] = level
        return name

    for _ in range(drawing.draw(st.integers(1, MAX_NODES))):
        node: FunctionSpec | NestedSpec
        if depth > 1 and drawing.chance(45):
            node, made = _draw_nested(drawing, depth, source, fresh_outputs)
        else:
            node, made = _draw_function(drawing, source, fresh_outputs)
        nodes.append(node)
        levels |= made
    shuffled = drawing.draw(st.permutations(nodes))
    spec = PipelineSpec(f"p{number}", tuple(shuffled), cache)
    if drawing.chance(15):
        spec = replace(spec, shown=_draw_some(drawing, spec.made))
    if drawing.chance(20) and spec.inputs:
        preset = _draw_some(drawing, spec.inputs)
        spec = replace(spec, preset={name: _draw_value(drawing, levels[name]) for name in preset})
        if drawing.chance(50):
            spec = replace(spec, resources=frozenset(name for name in preset if levels[name] == 0))
    shape = _Shape(spec, levels)
    drawing.shapes.append(shape)
    return shape


def _draw_function(drawing: _Drawing, source: Any, fresh_outputs: Any) -> tuple[FunctionSpec, dict[str, int]]:
    seed = next(drawing.seeds)
    parameters: list[Parameter] = []
    for _ in range(drawing.pick([1, 2, 1, 2, 0, 3, 4])):
        level = drawing.pick([0, 0, 0, 1, 1, 2])
        name = source(level, {parameter.name for parameter in parameters})
        default = (_draw_value(drawing, level),) if drawing.chance(20) else None
        parameters.append(Parameter(name, default))
    split = drawing.draw(st.integers(0, len(parameters))) if drawing.chance(15) else len(parameters)
    keyword_only = [replace(parameter, is_keyword_only=True) for parameter in parameters[split:]]
    positional = sorted(parameters[:split], key=lambda parameter: parameter.default is not None)
    lengths = tuple(drawing.pick([None, 2, None, 2, 3, 1, 0]) for _ in range(drawing.pick([1, 1, 1, 2, 3])))
    outputs = tuple(next(fresh_outputs) for _ in lengths)
    fails_on = drawing.pick([0, 0, 0, 0, 0, 1, 3, 3]) if drawing.may_fail else 0
    node = FunctionSpec(
        f"f{seed}",
        (*positional, *keyword_only),
        outputs,
        Behaviour(seed, lengths, fails_on),
        is_async=drawing.may_wait and drawing.chance(20),
        cache=not drawing.chance(12),
    )
    can_be_batched = [parameter.name for parameter in parameters if parameter.default is None]
    if can_be_batched and drawing.chance(30):
        node = replace(node, batch_over=_draw_some(drawing, tuple(can_be_batched)), batch_size=drawing.pick([2, 3, 64]))
    if drawing.chance(10):
        node = replace(node, max_concurrency=drawing.pick([1, 2]))
    elif len(lengths) == 1 and lengths[0] is not None and not (node.batch_over or node.is_async) and drawing.chance(40):
        node = replace(node, is_streamed=True)
    return node, {name: 0 if length is None else 1 for name, length in zip(outputs, lengths, strict=True)}


def _draw_nested(drawing: _Drawing, depth: int, source: Any, fresh_outputs: Any) -> tuple[NestedSpec, dict[str, int]]:
    if drawing.shapes and drawing.chance(20):
        inside = drawing.pick(drawing.shapes)  # the same functions in a second place
    else:
        number = next(drawing.seeds)
        settings = [None, None, None, None, False, f"c{number}", "shared"] if drawing.is_cached else [None]
        inside = _draw_pipeline(drawing, depth - 1, drawing.pick(settings))
    number = next(drawing.seeds)
    inner = replace(inside.spec, name=f"p{number}")
    can_be_mapped = [name for name in inner.inputs if inside.levels[name] < MAX_LEVEL]
    asked = _draw_some(drawing, inner.made) if drawing.chance(15) else None
    shown = inner.outputs if asked is None else asked
    if drawing.chance(10):
        shown = tuple(dict.fromkeys((*shown, *_draw_some(drawing, inner.made))))  # what is renamed is shown besides
    prefix = f"q{number}_o" if drawing.chance(15) else ""
    highest = max(inside.levels[name] for name in shown)
    mapped: set[str] = set()
    if can_be_mapped and highest < MAX_LEVEL and drawing.chance(70):
        mapped = set(drawing.draw(st.lists(st.sampled_from(can_be_mapped), min_size=1, max_size=2, unique=True)))
    outer_of: dict[str, str] = {}
    for name in inner.inputs:
        outer_of[name] = source(inside.levels[name] + (name in mapped), set(outer_of.values()))
    input_mapping = {outer: name for name, outer in outer_of.items() if outer != name}
    keep = set(inner.outputs if asked is None else asked) if prefix else set()  # these are called after the prefix
    output_mapping = {name: next(fresh_outputs) for name in shown if name not in keep}
    node = NestedSpec(
        f"n{number}",
        inner,
        input_mapping,
        {name: outer for name, outer in output_mapping.items() if outer != name or name not in inner.outputs},
        tuple(outer_of[name] for name in inner.inputs if name in mapped),
        drawing.pick(["zip", "product"]),
        asked,
        prefix,
    )
    return node, {node.outer_output(name): inside.levels[name] + bool(mapped) for name in node.shown}


def _draw_some(drawing: _Drawing, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(drawing.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)))


def _draw_value(drawing: _Drawing, level: int, is_column: bool = False) -> Value:
    if level == 0:
        return drawing.pick([0, 1, 2, 3, True, 1.0, "1", None])
    if drawing.may_fail and drawing.chance(3):
        level -= 1  # a value that cannot be mapped over, or whose elements cannot
        return drawing.pick([1, None]) if level == 0 else _draw_value(drawing, level)
    length = drawing.pick([2, 2, 2, 2, 1, 0, 3]) if not is_column else drawing.pick([2, 2, 3, 1, 0])
    return [_draw_value(drawing, level - 1) for _ in range(length)]


def _draw_execution(drawing: _Drawing, shape: _Shape) -> Execution:
    spec, levels = shape.spec, shape.levels
    names = [name for name in spec.inputs if name in spec.required or drawing.chance(50)]
    if names and drawing.chance(3):
        names.remove(drawing.pick(names))  # perhaps a missing one
    if drawing.chance(20):
        names += drawing.draw(st.lists(st.sampled_from(spec.made), min_size=1, max_size=2, unique=True))
    mapped: list[str] = []
    if names and drawing.chance(35):
        mapped = drawing.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    inputs = {name: _draw_value(drawing, levels[name] + (name in mapped), name in mapped) for name in names}
    output_name = None
    if drawing.chance(60):
        outputs = sorted(spec.paths if drawing.chance(25) else spec.made, key=_age)
        selected = list(dict.fromkeys(drawing.pick_late(outputs) for _ in range(drawing.pick([1, 2]))))
        output_name = selected[0] if len(selected) == 1 else tuple(selected)
    return Execution(inputs, output_name, tuple(mapped), drawing.pick(["zip", "product"]))


def _change_an_input(drawing: _Drawing, execution: Execution) -> Execution:
    if not execution.inputs:
        return execution
    name = drawing.pick_late(sorted(execution.inputs, key=_age))
    return replace(execution, inputs={**execution.inputs, name: _changed(execution.inputs[name])})


def _vary(drawing: _Drawing, execution: Execution, spec: PipelineSpec) -> Execution:
    """Ask for other outputs, give or no longer give one, map instead of running, or run one item of a map."""
    overrides = [name for name in execution.inputs if name in spec.made and name not in execution.map_over]
    if overrides and drawing.chance(50):
        kept = {name: value for name, value in execution.inputs.items() if name != overrides[0]}
        return replace(execution, inputs=kept)
    if drawing.chance(15):
        name = drawing.pick(list(spec.made))
        return replace(execution, inputs={name: [1, 2], **execution.inputs})
    if execution.map_over and drawing.chance(50):
        columns = {name: execution.inputs[name] for name in execution.map_over}
        if all(isinstance(column, list) and column for column in columns.values()):
            items = {name: values[0] for name, values in columns.items()}
            return replace(execution, inputs={**execution.inputs, **items}, map_over=())
    if execution.inputs and not execution.map_over and drawing.chance(50):
        name = drawing.pick(list(execution.inputs))
        column = [execution.inputs[name], _changed(execution.inputs[name])]
        return replace(execution, inputs={**execution.inputs, name: column}, map_over=(name,))
    return replace(execution, output_name=drawing.pick([None, *spec.made]))


def _age(name: str) -> int:
    return int("".join(filter(str.isdigit, name.rpartition("o")[2])) or 0)


def _changed(value: Value) -> Value:
    if isinstance(value, list):
        return [*value[:-1], _changed(value[-1])] if value else value
    return 7 if value != 7 else 8
