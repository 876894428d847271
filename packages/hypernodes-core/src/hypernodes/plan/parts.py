"""Parts of plans: some steps of a plan as a plan of their own, which another backend executes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from hypernodes.plan.assembly import assemble
from hypernodes.plan.drafts import PlanDraft
from hypernodes.plan.plan import CallStep, Plan, Settings, Step
from hypernodes.plan.redrafts import redraft_unconditional, resource_slots


class PlanPart:
    """Some steps of a plan that are going to run, as the pipeline that a backend is asked to run.

    Args:
        whole: The plan.
        steps: The steps, in its order.
        leaving: The slots of those of their results that are needed afterwards.
        open_scopes: The scopes whose start and end is not reported by them, though they may contain all of them.

    Attributes:
        id: The id of the pipeline whose plan it is.
        plan: The steps, as a plan.
        entering: The slots, in the whole plan, of the values that they take, in the order of the inputs of `plan`.
        leaving: The slots, in the whole plan, of its outputs, in order.
    """

    def __init__(
        self, whole: Plan, steps: Sequence[Step], leaving: Sequence[int], open_scopes: Collection[int]
    ) -> None:
        made = dict.fromkeys(slot for step in steps for slot in step.outputs if slot is not None)
        taken = dict.fromkeys(slot for step in steps for slot in step.arguments if slot not in made)
        given = frozenset(whole.inputs.values())
        # What may differ between the items of a map comes first, as in any plan of an item: results, then the inputs in
        # their order, of which those that are mapped over come first.
        entering = sorted([slot for slot in taken if slot not in given and whole.producers[slot] >= 0])
        entering += sorted(given.intersection(taken))
        constants = [slot for slot in taken if slot not in given and whole.producers[slot] < 0]
        order = (*entering, *constants, *made)
        slots = {slot: number for number, slot in enumerate(order)}
        names = _unique_names(whole, (*entering, *leaving))
        used = sorted({0}.union(*(scopes_around(whole, step) for step in steps)))
        numbers = {scope: number for number, scope in enumerate(used)}
        scopes = [whole.scopes[scope] for scope in used]
        self.id = whole.scopes[0].pipeline_id
        self.entering = tuple(entering)
        self.leaving = tuple(leaving)
        self.plan = assemble(
            PlanDraft(
                scopes=[scope._replace(parent=numbers.get(scope.parent, -1)) for scope in scopes],
                inputs={names[slot]: slots[slot] for slot in entering},
                outputs={names[slot]: slots[slot] for slot in leaving},
                template=[whole.template[slot] for slot in order],
                steps=[redraft_unconditional(step, numbers[step.scope], slots) for step in steps],
                outside={slots[slot]: _readers_outside(whole, slot, steps) for slot in leaving},
                resources={slots[slot] for slot in resource_slots(whole) if slot in slots},
                skippable={slots[slot] for slot in entering if slot in whole.skippable},
                is_requested=True,
                open_scopes=frozenset([numbers[scope] for scope in open_scopes if scope in numbers]),
            )
        )

    def plan_for(self, given: Iterable[str], output_name: Any = None) -> Plan:
        """Return the steps; they are compiled for these inputs and outputs."""
        return self.plan

    def with_settings(self, settings: Settings) -> PlanPart:
        """Return the same: the steps have their settings."""
        return self

    def __repr__(self) -> str:
        return f"<nodes {', '.join([step.node.name for step in self.plan.steps])} of pipeline {self.id!r}>"


def scopes_around(plan: Plan, step: Step) -> list[int]:
    """Return the scopes that contain a step, from the inside, without the outermost."""
    found: list[int] = []
    scope = step.scope
    while scope > 0:
        found.append(scope)
        scope = plan.scopes[scope].parent
    return found


def _readers_outside(plan: Plan, slot: int, steps: Sequence[Step]) -> tuple[str, ...]:
    """Return the names of those who read a value, other than some steps."""
    inside = {step.index for step in steps}
    readers = [
        step.node.name
        for step in plan.steps
        if step.index not in inside
        for argument in step.arguments
        if argument == slot
    ]
    return (*plan.outside.get(slot, ()), *readers)


def _unique_names(plan: Plan, slots: Iterable[int]) -> dict[int, str]:
    """Return a name for the value in each of some slots: that of the input or output, as far as it is unique."""
    known = {slot: name for name, slot in plan.inputs.items()}
    for name, slot in plan.outputs.items():
        known.setdefault(slot, name)
    for step in plan.steps:
        outputs: Iterable[str] = step.node.outputs if isinstance(step, CallStep) else step.inner.outputs
        for name, made in zip(outputs, step.outputs, strict=True):
            if made is not None:
                known.setdefault(made, name)
    found: dict[int, str] = {}
    used: set[str] = set()
    for slot in dict.fromkeys(slots):
        name = f"{known[slot]} ({slot})" if known[slot] in used else known[slot]
        found[slot] = name
        used.add(name)
    return found
