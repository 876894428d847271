"""Finds the batched nodes of a plan, and which of them may still be called after a step."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from hypernodes.nodes import Node
from hypernodes.plan.plan import CallStep, NestedStep, Step

_NONE: frozenset[Node[..., Any]] = frozenset()


def batched_nodes_of(step: Step) -> frozenset[Node[..., Any]]:
    """Return the batched nodes that a step calls in this run."""
    if isinstance(step, CallStep):
        return frozenset([step.node]) if step.node.batching is not None else _NONE
    return _NONE if step.is_delegated else step.inner.batched_nodes


def what_follows(
    steps: Sequence[Step], consumers: Sequence[Sequence[int]], places: Container[int]
) -> tuple[frozenset[Node[..., Any]], ...]:
    """Return, for each step, the batched nodes that may be called after it.

    Args:
        steps: The steps of a plan, in topological order.
        consumers: For each step, positions of the steps that read one of its results.
        places: Positions of the steps that run elsewhere.
    """
    own = [_NONE if step.index in places else batched_nodes_of(step) for step in steps]
    found: list[frozenset[Node[..., Any]]] = [_NONE] * len(steps)
    for index in reversed(range(len(steps))):
        found[index] = _NONE.union(*(own[c] | found[c] for c in consumers[index]))
    return tuple(found)


def maps_batched_maps(step: NestedStep) -> bool:
    """Whether a step maps a pipeline whose items contain further maps with batched nodes."""
    if not step.mapped or step.is_delegated:
        return False
    return step.inner.has_batched_maps
