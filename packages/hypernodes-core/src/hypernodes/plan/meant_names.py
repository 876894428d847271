"""Finds what was meant by a name that a pipeline does not have: the nearest output or input, with what makes it.

Graphs are wired by name, so a misspelt parameter is a new root input, and the name to look for is often in a pipeline
nested in the one that was run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from hypernodes.graph import Graph, GraphNode, describe
from hypernodes.nearest import nearest
from hypernodes.nodes import Node
from hypernodes.plan.output_paths import SEPARATOR

_CUTOFF_OF_INPUTS = 0.75  # inputs of one pipeline often have similar names, e.g. `train_path` and `test_path`


class Meant(NamedTuple):
    """The name that was probably meant.

    Attributes:
        name: The name.
        text: The question whether it was meant, and what to write then.
    """

    name: str
    text: str


def meant_by_missing(graph: Graph, name: str, given: Collection[str]) -> Meant | None:
    """Return what was probably meant by a parameter for which there is no value.

    Args:
        graph: The wiring of the pipeline that was run.
        name: The root input without a value.
        given: The inputs that have values.
    """
    best: tuple[float, Meant] | None = None
    for level, own, path in _levels(graph, name):
        if own in (hidden := _hidden(level)):
            within, _, _ = hidden[own].rpartition(SEPARATOR)
            inside = f" in {' → '.join(map(repr, path))}" if path else ""
            return Meant(
                own,
                f"{own!r} stays inside {within!r}{inside}, which does not show it; add it to outputs, of as_node or of "
                "the pipeline that is nested",
            )
        upstream = _upstream(level, own)
        made = nearest(own, upstream)
        if made is not None and (best is None or made[1] > best[0]):
            producer = describe(level.nodes[level.producers[made[0]]])
            inside = f" in {' → '.join(map(repr, path))}" if path else ""
            text = f"Did you mean {made[0]!r}, which {producer} makes{inside}? {_advice(level, own, made[0])}"
            best = made[1], Meant(made[0], text)
    other = nearest(name, [own for own in given if own in graph.root_inputs], _CUTOFF_OF_INPUTS)
    if other is not None and (best is None or other[1] > best[0]):
        text = f"Did you mean {other[0]!r}, which has a value? {_advice(graph, name, other[0])}"
        return Meant(other[0], text)
    return best[1] if best else None


def hint(graph: Graph, name: str, *, with_inputs: bool) -> str:
    """Return " (did you mean 'x', which 'f' makes?)" for a name that a pipeline does not have; empty if none is near.

    Args:
        graph: The wiring of the pipeline.
        name: The name that it does not have.
        with_inputs: Whether root inputs can be meant, besides outputs.
    """
    names = (*(graph.root_inputs if with_inputs else ()), *graph.outputs)
    outer = next((new for old, new in _renamed(graph, with_inputs) if old == name and new in names), None)
    near = nearest(name, names)
    if outer is None and name in (hidden := _hidden(graph)):
        if with_inputs:
            return f" (it stays inside {hidden[name].rpartition(SEPARATOR)[0]!r}, which does not show it)"
        return f" (did you mean {hidden[name]!r}, which is not shown?)"
    meant = outer or (near[0] if near else None)
    if meant is None:
        return ""
    maker = f", which {describe(graph.nodes[graph.producers[meant]])} makes" if meant in graph.producers else ""
    return f" (did you mean {meant!r}{maker}?)"


def _levels(graph: Graph, name: str) -> Iterator[tuple[Graph, str, tuple[str, ...]]]:
    """Return the pipelines that a root input reaches: the wiring of each, its own name of the input, and its path."""
    waiting: list[tuple[Graph, str, tuple[str, ...]]] = [(graph, name, ())]
    while waiting:
        level, own, above = waiting.pop()
        yield level, own, above
        for node in level.nodes:
            if own in node.inputs and not isinstance(node, Node):
                nested: Any = node
                waiting.append((nested.pipeline.graph, nested.inner_input(own), (*above, node.name)))


def _upstream(graph: Graph, name: str) -> list[str]:
    """Return the outputs that do not depend on an input, so that they could take its place."""
    depends = {name}
    for node in graph.nodes:
        if not depends.isdisjoint(node.inputs):
            depends.update(node.outputs)
    return [output for output in graph.outputs if output not in depends]


def _advice(graph: Graph, name: str, meant: str) -> str:
    users = [node for node in graph.nodes if name in node.inputs]
    mapped = [node for node in users if not isinstance(node, Node)]
    if mapped:
        node: Any = mapped[0]
        over = f" and map_over={meant!r}" if name in node.map_over else ""
        return f"Then pass input_mapping={{{meant!r}: {node.inner_input(name)!r}}}{over} to as_node of {node.name!r}"
    maker: Any = graph.nodes[graph.producers[meant]] if meant in graph.producers else None
    if maker is not None and not isinstance(maker, Node):
        return f"Then pass output_mapping={{{maker.inner_output(meant)!r}: {name!r}}} to as_node of {maker.name!r}"
    return f"Then rename the parameter {name!r} of {_listing(users)}"


def _listing(nodes: list[GraphNode]) -> str:
    return ", ".join(map(describe, nodes))


def _hidden(graph: Graph) -> dict[str, str]:
    """Return the outputs that stay inside nested pipelines, by their own names, with their paths."""
    found: dict[str, str] = {}
    waiting: list[tuple[Graph, str]] = [(graph, "")]
    while waiting:  # a stack instead of recursion: nesting may be deep
        level, above = waiting.pop()
        for node in level.nodes:
            if isinstance(node, Node):
                continue
            nested: Any = node
            shown = {nested.inner_output(name) for name in node.outputs}
            inside = nested.pipeline.graph
            for name in inside.outputs:
                if name not in shown:
                    found.setdefault(name, f"{above}{node.name}{SEPARATOR}{name}")
            waiting.append((inside, f"{above}{node.name}{SEPARATOR}"))
    return found


def _renamed(graph: Graph, with_inputs: bool) -> Iterator[tuple[str, str]]:
    """Return names of nested pipelines' own, at any depth, with the names that they have in this one."""
    waiting: list[tuple[Graph, dict[str, str] | None]] = [(graph, None)]
    while waiting:  # a stack instead of recursion: nesting may be deep
        level, above = waiting.pop()
        for node in level.nodes:
            if isinstance(node, Node):
                continue
            nested: Any = node
            renamed = {nested.inner_output(name): name for name in node.outputs}
            if with_inputs:
                renamed |= {nested.inner_input(name): name for name in node.inputs}
            if above is not None:
                renamed = {own: above[name] for own, name in renamed.items() if name in above}
            yield from renamed.items()
            waiting.append((nested.pipeline.graph, renamed))
