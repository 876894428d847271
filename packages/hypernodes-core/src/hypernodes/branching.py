"""Nodes that run on conditions that exclude each other: `ifelse` and `route`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from hypernodes.checks import shown
from hypernodes.conditions import Condition, conditions_of
from hypernodes.errors import InvalidNodeError
from hypernodes.nodes import Node
from hypernodes.pipeline_node import PipelineNode

if TYPE_CHECKING:
    from hypernodes.pipeline import Pipeline

    Branch: TypeAlias = Node[..., Any] | PipelineNode | Pipeline
    Branches: TypeAlias = Branch | Iterable[Branch]


def ifelse(condition: str, then: Branches, otherwise: Branches = ()) -> list[Node[..., Any] | PipelineNode]:
    """Return nodes of which some run if a value is true, and the others if it is not.

    Args:
        condition: Name of the input or output that decides.
        then: The node or pipeline, or a list of them, that runs if it is true.
        otherwise: The same for the other case. It may make the same outputs.

    Returns:
        The nodes with their conditions, for `nodes` of a pipeline.

    Raises:
        InvalidNodeError: `condition` is no name, or something else than nodes and pipelines was passed.

    Example:
        >>> from hypernodes import Pipeline, ifelse, node
        >>> @node(output_name="text")
        ... def parse(page):
        ...     return page.strip("<>")
        >>> @node(output_name="text")
        ... def strip(page):
        ...     return page.strip()
        >>> pipeline = Pipeline(nodes=ifelse("is_html", parse, strip))
        >>> pipeline.map(inputs={"page": ["<a>", " b"], "is_html": [True, False]}, map_over=["page", "is_html"])
        {'text': ['a', 'b']}
    """
    return [
        *_on_condition("then", then, conditions_of(condition, None, "ifelse")),
        *_on_condition("otherwise", otherwise, conditions_of(None, condition, "ifelse")),
    ]


def route(name: str, routes: Mapping[Any, Branches], otherwise: Branches = ()) -> list[Node[..., Any] | PipelineNode]:
    """Return nodes of which those run that belong to a value.

    Args:
        name: Name of the input or output that decides.
        routes: For each value that it may have, the node or pipeline that runs then, or a list of them.
        otherwise: What runs if it has none of these values; by default nothing, and what needs the outputs is skipped.

    Returns:
        The nodes with their conditions, for `nodes` of a pipeline.

    Raises:
        InvalidNodeError: `name` is no name, or something else than nodes and pipelines was passed.

    Example:
        >>> from hypernodes import Pipeline, node, route
        >>> @node(output_name="cost")
        ... def letter(grams):
        ...     return 1
        >>> @node(output_name="cost")
        ... def parcel(grams):
        ...     return 4 + grams // 1000
        >>> pipeline = Pipeline(nodes=route("kind", {"letter": letter, "parcel": parcel}))
        >>> pipeline.run(inputs={"kind": "parcel", "grams": 2500})
        {'cost': 6}
    """
    given: object = routes
    if not isinstance(given, Mapping) or not given:
        raise InvalidNodeError(f"routes must be a dict {{value: node}}; got {shown(routes)}", culprit=routes)
    found: list[Node[..., Any] | PipelineNode] = []
    for value, branches in routes.items():
        found += _on_condition("routes", branches, conditions_of({name: (value,)}, None, "route"))
    return found + _on_condition("otherwise", otherwise, conditions_of(None, {name: tuple(routes)}, "route"))


def _on_condition(
    parameter: str, branches: Any, conditions: tuple[Condition, ...]
) -> list[Node[..., Any] | PipelineNode]:
    are_several = isinstance(branches, Iterable) and not isinstance(branches, (Node, PipelineNode))
    found: list[Node[..., Any] | PipelineNode] = []
    for branch in branches if are_several else [branches]:
        is_pipeline = hasattr(branch, "as_node") and not isinstance(branch, (Node, PipelineNode))
        made = branch.as_node() if is_pipeline else branch
        if not isinstance(made, (Node, PipelineNode)):
            raise InvalidNodeError(
                f"{parameter} takes nodes and pipelines; got {shown(branch)}. Decorate a function with "
                "@node(output_name=...)",
                culprit=branch,
            )
        found.append(made.with_conditions(conditions))
    return found
