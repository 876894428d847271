"""Warns of random number generators that several calls in worker processes share, since each gets a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hypernodes.caller import warn_caller
from hypernodes.errors import HyperNodesWarning
from hypernodes.plan import Plan

_SPAWN = "map over rng.spawn(n), with rng = numpy.random.default_rng(seed)"
_ADVICE = {
    ("numpy.random._generator", "Generator"): _SPAWN,
    ("numpy.random.mtrand", "RandomState"): _SPAWN,
    ("random", "Random"): "map over [random.Random(seed) for seed in seeds]",
}


def warn_of_generators(plan: Plan, slots: Iterable[int], values: Mapping[int, Any] | Sequence[Any], who: str) -> None:
    """Warn if a value is a random number generator.

    Args:
        plan: The plan that the values are for.
        slots: The slots of values that several calls receive.
        values: The values, by slot.
        who: The calls.
    """
    for slot in slots:
        kinds = [(kind.__module__, kind.__qualname__) for kind in type(values[slot]).__mro__]
        advice = next((advice for kind, advice in _ADVICE.items() if kind in kinds), None)
        if advice is None:
            continue
        step = next(step for step in plan.steps if slot in step.arguments)
        name = f"{step.node.inputs[step.arguments.index(slot)]!r} of node {step.node.name!r}"
        module = kinds[0][0].partition(".")[0]
        warn_caller(
            f"the {module} generator that is input {name} is shared by {who}, which run in worker processes: each "
            f"process gets a copy of it, so that the same random numbers come again. Give each its own: {advice}",
            HyperNodesWarning,
        )


def inputs_of_several_steps(plan: Plan) -> list[int]:
    """Return the slots of inputs that more than one step receives."""
    steps = Counter(slot for step in plan.steps for slot in set(step.arguments) if plan.producers[slot] < 0)
    return [slot for slot, count in steps.items() if count > 1]
