"""Outputs of nested pipelines that are named by their path, also those that are not shown: `encode/clean`."""

from __future__ import annotations

from typing import Any

from hypernodes.errors import UnknownOutputError
from hypernodes.graph import Graph
from hypernodes.nearest import suggest
from hypernodes.nodes import Node

SEPARATOR = "/"


def enter(graph: Graph, path: str, where: str = "") -> tuple[Any, str]:
    """Return the nested pipeline that a path begins with, and the rest of the path, which is a path within it.

    Args:
        graph: The wiring of the pipeline in which the path begins.
        path: The path.
        where: What to add in messages to say which pipeline that is.

    Raises:
        UnknownOutputError: There is no such nested pipeline, or there are several.
    """
    nested = [node for node in graph.nodes if not isinstance(node, Node)]
    found = [node for node in nested if path.startswith(node.name + SEPARATOR)]
    found = [node for node in found if len(node.name) == max(len(other.name) for other in found)]
    if len(found) == 1:
        return found[0], path[len(found[0].name) + 1 :]
    first = path.partition(SEPARATOR)[0]
    names = tuple([node.name for node in nested])
    if found:
        problem = f"{len(found)} nested pipelines{where} are called {first!r}; tell them apart with as_node(name=...)"
    else:
        problem = f"no nested pipeline{where} is called {first!r}{suggest(first, names)}"
        problem += f"; there are: {', '.join(names)}" if names else ""
    raise UnknownOutputError(problem, unknown=(path,), available=names)


def check_path(graph: Graph, path: str) -> None:
    """Check that a path leads to an output.

    Raises:
        UnknownOutputError: It does not.
    """
    rest = path
    while rest not in graph.producers:
        inside = path[: len(path) - len(rest)].rstrip(SEPARATOR)
        if SEPARATOR not in rest:
            raise UnknownOutputError(
                f"output {rest!r} not found in pipeline {inside!r}{suggest(rest, graph.outputs)}; "
                f"it has: {', '.join(graph.outputs)}",
                unknown=(path,),
                available=graph.outputs,
            )
        node, rest = enter(graph, rest, f" of {inside!r}" if inside else "")
        graph = node.pipeline.graph


def shortest(graph: Graph, path: str) -> str:
    """Return the shortest path to the same output: by the name under which a nested pipeline shows it, if it does.

    Raises:
        UnknownOutputError: The path leads to no output.
    """
    check_path(graph, path)
    if path in graph.producers:
        return path
    node, rest = enter(graph, path)
    rest = shortest(node.pipeline.graph, rest)
    shown: dict[str, str] = {node.inner_output(name): name for name in node.outputs}
    return shown.get(rest, f"{node.name}{SEPARATOR}{rest}")
