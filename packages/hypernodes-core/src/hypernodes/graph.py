"""Nodes wired by name into a directed acyclic graph: producers, consumers and topological order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any, Protocol

from hypernodes.errors import CycleError, DuplicateOutputError


class GraphNode(Protocol):
    """The part of a node, a function or a whole pipeline, that the graph needs."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def defaults(self) -> Mapping[str, Any]: ...

    @property
    def location(self) -> str: ...


class Graph:
    """The wiring of one pipeline.

    Args:
        nodes: The nodes, in the order in which the user wrote them.
        pipeline_name: For messages.

    Attributes:
        nodes: The nodes in topological order; independent nodes stay in the order in which they were written.
        producers: Each output name with the position in `nodes` of the node that makes it.
        outputs: All output names, in the order of `nodes`.
        root_inputs: Names that nodes need and none produces, with the names of the nodes that need them.
        required_inputs: The root inputs without a default in at least one node.

    Raises:
        DuplicateOutputError: Two nodes produce the same name.
        CycleError: Nodes depend on each other in a cycle.
    """

    __slots__ = ("nodes", "outputs", "producers", "required_inputs", "root_inputs")

    def __init__(self, nodes: Iterable[GraphNode], pipeline_name: str) -> None:
        written = tuple(nodes)
        position_of = _find_producers(written, pipeline_name)
        order = _topological_order(written, position_of, pipeline_name)
        self.nodes = tuple(written[i] for i in order)
        new_position = {old: new for new, old in enumerate(order)}
        self.producers = {name: new_position[i] for name, i in position_of.items()}
        self.outputs = tuple(name for node in self.nodes for name in node.outputs)
        needed_by: dict[str, list[str]] = {}
        required: set[str] = set()
        for node in written:
            for name in node.inputs:
                if name not in position_of:
                    needed_by.setdefault(name, []).append(node.name)
                    if name not in node.defaults:
                        required.add(name)
        self.root_inputs = {name: tuple(users) for name, users in needed_by.items()}
        self.required_inputs = frozenset(required)


def describe(node: GraphNode) -> str:
    """Return the name of a node with its location, for messages."""
    return f"{node.name!r} ({node.location})" if node.location else f"{node.name!r}"


def _find_producers(nodes: Sequence[GraphNode], pipeline_name: str) -> dict[str, int]:
    producers: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for output in node.outputs:
            if output in producers:
                other = nodes[producers[output]]
                if node is other:
                    problem = f"node {describe(node)} is listed twice in pipeline {pipeline_name!r}. List it once."
                else:
                    problem = (
                        f"output {output!r} is produced by both {describe(other)} and {describe(node)} in pipeline "
                        f"{pipeline_name!r}. Rename one with @node(output_name=...); of a nested pipeline, show only "
                        "some outputs with as_node(outputs=[...]), or rename them with as_node(prefix=...) or "
                        "output_mapping."
                    )
                raise DuplicateOutputError(
                    problem,
                    output_name=output,
                    node_names=(other.name, node.name),
                )
            producers[output] = position
    return producers


def _topological_order(nodes: Sequence[GraphNode], producers: Mapping[str, int], pipeline_name: str) -> list[int]:
    """Return positions in topological order (Kahn 1962); ties are resolved by the order in which nodes were written."""
    needs = [{producers[name] for name in node.inputs if name in producers} for node in nodes]
    feeds: list[list[int]] = [[] for _ in nodes]
    for position, sources in enumerate(needs):
        for source in sources:
            feeds[source].append(position)
    waiting = [len(sources) for sources in needs]
    ready = [position for position, count in enumerate(waiting) if count == 0]
    heapify(ready)
    order: list[int] = []
    while ready:
        position = heappop(ready)
        order.append(position)
        for consumer in feeds[position]:
            waiting[consumer] -= 1
            if waiting[consumer] == 0:
                heappush(ready, consumer)
    if len(order) < len(nodes):
        raise _cycle_error(nodes, needs, set(range(len(nodes))) - set(order), pipeline_name)
    return order


def _cycle_error(
    nodes: Sequence[GraphNode], needs: Sequence[set[int]], stuck: set[int], pipeline_name: str
) -> CycleError:
    position = min(stuck)
    trail: list[int] = []
    while position not in trail:  # every stuck node needs a stuck node, so walking upstream must reach a node twice
        trail.append(position)
        position = min(needs[position] & stuck)
    cycle = [position, *reversed(trail[trail.index(position) :])]  # downstream, ending where it starts
    arrows = describe(nodes[cycle[0]])
    for source, target in pairwise(cycle):
        through = next(name for name in nodes[source].outputs if name in nodes[target].inputs)
        arrows += f" --{through}--> {describe(nodes[target])}"
    return CycleError(
        f"nodes of pipeline {pipeline_name!r} depend on each other in a cycle: {arrows}. "
        "Rename an input or an output so that one of them can come first.",
        path=tuple(nodes[i].name for i in cycle),
    )
