"""Steps of a plan as drafts, from which other plans are assembled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hypernodes.conditions import Condition
from hypernodes.plan.plan import CallStep, NestedStep, Plan, Step


class _Conditions(NamedTuple):
    found: tuple[tuple[Condition, int], ...] = ()

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple([slot for _, slot in self.found])


class Redraft(NamedTuple):
    """A step of a plan as a draft; see `DraftStep`."""

    node: Any
    scope: int
    arguments: Mapping[str, int]
    made: tuple[int | None, ...]
    conditions: _Conditions
    nested: tuple[Plan, tuple[int | None, ...]] | None
    backend: Any

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple([slot for slot in self.made if slot is not None])


def redraft(step: Step) -> Redraft:
    """Return a step as a draft."""
    names = step.node.inputs if isinstance(step, CallStep) else step.names
    return Redraft(
        node=step.node,
        scope=step.scope,
        arguments=dict(zip(names, step.arguments, strict=True)),
        made=step.outputs,
        conditions=_Conditions(() if step.guard is None else step.guard.conditions),
        nested=(step.inner, step.outputs) if isinstance(step, NestedStep) else None,
        backend=step.backend if isinstance(step, NestedStep) else None,
    )


def redraft_unconditional(step: Step, scope: int, slots: Mapping[int, int]) -> Redraft:
    """Return a step that is going to run as a draft of a step of another plan.

    Args:
        step: The step.
        scope: Position of its scope there.
        slots: The slots there, by those of its own plan.
    """
    draft = redraft(step)
    made = tuple([None if slot is None else slots[slot] for slot in draft.made])
    return draft._replace(
        scope=scope,
        arguments={name: slots[slot] for name, slot in draft.arguments.items()},
        made=made,
        conditions=_Conditions(),
        nested=None if draft.nested is None else (draft.nested[0], made),
    )


def resource_slots(plan: Plan) -> set[int]:
    """Return the slots of a plan that may hold resources."""
    found: set[int] = set()
    for step in plan.steps:
        if isinstance(step, CallStep):
            found.update(slot for name, slot in step.named if name in step.resources)
            continue
        inside = resource_slots(step.inner)
        pairs = zip(step.inner_inputs, step.arguments, strict=True)
        found.update(slot for name, slot in pairs if step.inner.inputs[name] in inside)
    return found
