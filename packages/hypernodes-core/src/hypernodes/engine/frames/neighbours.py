"""Finds the steps that are connected by values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypernodes.plan import Plan, Step


def connected_with(first: Step, steps: Sequence[Step], plan: Plan) -> list[Step]:
    """Return those of some steps that are connected with one of them, which is among them, in the same order.

    Two steps are connected if one takes a result of the other, or both take the same result of a third.

    Args:
        first: The one step.
        steps: The steps.
        plan: Their plan.
    """
    users: dict[int, list[Step]] = {}
    for step in steps:
        for slot in _results_of(step, plan):
            users.setdefault(slot, []).append(step)
    found, stack = {first.index}, [first]
    while stack:
        for slot in _results_of(stack.pop(), plan):
            for other in users.pop(slot, ()):
                if other.index not in found:
                    found.add(other.index)
                    stack.append(other)
    return [step for step in steps if step.index in found]


def _results_of(step: Step, plan: Plan) -> Iterable[int]:
    """Return the slots of the results of steps that a step takes or makes."""
    yield from (slot for slot in step.arguments if plan.producers[slot] >= 0)
    yield from (slot for slot in step.outputs if slot is not None)
