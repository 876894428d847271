"""Nodes wired by name into a directed acyclic graph: producers, consumers and topological order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any, Protocol

from hypernodes.conditions import Condition, can_hold_together
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
    def needs(self) -> tuple[str, ...]: ...

    @property
    def conditions(self) -> tuple[Condition, ...]: ...

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
        producers: Each output name with the position in `nodes` of the node that makes it; of the last one, if several
            do, on conditions.
        alternatives: The names that several nodes make, each with the positions of all of them.
        outputs: All output names, in the order of `nodes`.
        root_inputs: Names that nodes need and none produces, with the names of the nodes that need them.
        required_inputs: The root inputs without a default in at least one node.

    Raises:
        DuplicateOutputError: Two nodes produce the same name.
        CycleError: Nodes depend on each other in a cycle.
    """

    __slots__ = ("alternatives", "nodes", "outputs", "producers", "required_inputs", "root_inputs")

    def __init__(self, nodes: Iterable[GraphNode], pipeline_name: str) -> None:
        written = tuple(nodes)
        positions_of = _find_producers(written, pipeline_name)
        order = _topological_order(written, positions_of, pipeline_name)
        self.nodes = tuple(written[i] for i in order)
        new_position = {old: new for new, old in enumerate(order)}
        makers = {name: sorted([new_position[i] for i in found]) for name, found in positions_of.items()}
        self.producers = {name: found[-1] for name, found in makers.items()}
        self.alternatives = {name: tuple(found) for name, found in makers.items() if len(found) > 1}
        self.outputs = tuple(dict.fromkeys([name for node in self.nodes for name in node.outputs]))
        needed_by: dict[str, list[str]] = {}
        required: set[str] = set()
        for node in written:
            for name in node.needs:
                if name not in positions_of:
                    needed_by.setdefault(name, []).append(node.name)
                    if name not in node.defaults:
                        required.add(name)
        self.root_inputs = {name: tuple(users) for name, users in needed_by.items()}
        self.required_inputs = frozenset(required)


def describe(node: GraphNode) -> str:
    """Return the name of a node with its location, for messages."""
    return f"{node.name!r} ({node.location})" if node.location else f"{node.name!r}"


def _find_producers(nodes: Sequence[GraphNode], pipeline_name: str) -> dict[str, list[int]]:
    producers: dict[str, list[int]] = {}
    for position, node in enumerate(nodes):
        for output in node.outputs:
            for other in producers.setdefault(output, []):
                _check_alternatives(output, nodes[other], node, pipeline_name)
            producers[output].append(position)
    return producers


def _check_alternatives(output: str, first: GraphNode, second: GraphNode, pipeline_name: str) -> None:
    """Refuse two nodes that make the same output, unless they do so on conditions."""
    are_conditional = bool(first.conditions and second.conditions) and first is not second
    if are_conditional and not can_hold_together(first.conditions, second.conditions):
        return  # if the conditions are on several names and hold at a time, that is an error of the run
    if first is second:
        problem = f"node {describe(first)} is listed twice in pipeline {pipeline_name!r}. List it once."
    else:
        problem = (
            f"output {output!r} is produced by both {describe(first)} and {describe(second)} in pipeline "
            f"{pipeline_name!r}. "
        )
        if are_conditional:
            conditions = " and ".join([", ".join(map(str, node.conditions)) for node in (first, second)])
            problem += f"Their conditions do not exclude each other: {conditions}."
        elif first.conditions or second.conditions:
            other = second if first.conditions else first
            problem += f"Only one of them has a condition: give {other.name!r} the opposite one (when=, unless=)."
        else:
            problem += (
                "Rename one with @node(output_name=...); of a nested pipeline, show only some outputs with "
                "as_node(outputs=[...]), or rename them with as_node(prefix=...) or output_mapping. If only one of "
                "them is to run, say on what condition: when=..., unless=...."
            )
    raise DuplicateOutputError(problem, output_name=output, node_names=(first.name, second.name))


def _topological_order(
    nodes: Sequence[GraphNode], producers: Mapping[str, Sequence[int]], pipeline_name: str
) -> list[int]:
    """Return positions in topological order (Kahn 1962); ties are resolved by the order in which nodes were written."""
    needs = [{source for name in node.needs for source in producers.get(name, ())} for node in nodes]
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
        through = next(name for name in nodes[source].outputs if name in nodes[target].needs)
        arrows += f" --{through}--> {describe(nodes[target])}"
    return CycleError(
        f"nodes of pipeline {pipeline_name!r} depend on each other in a cycle: {arrows}. "
        "Rename an input or an output so that one of them can come first.",
        path=tuple(nodes[i].name for i in cycle),
    )
