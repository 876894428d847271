"""Determines which steps of a plan may be skipped, and what decides that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hypernodes.conditions import Condition, cover_everything
from hypernodes.graph import Graph
from hypernodes.nodes import Node
from hypernodes.plan.drafts import DraftStep
from hypernodes.plan.plan import Guard


class Branches:
    """The branches of a plan; its steps are added one after the other.

    Args:
        steps: All steps of the plan, in topological order.
        inputs: The slots of the inputs that may be skipped.

    Attributes:
        alternatives: The slots that several steps may fill, with the positions of all of them.
        guarded: Positions of the steps that may be skipped.
        skippable: The slots that may be skipped: no step may fill them.
        condition_slots: The slots of the values that conditions are on.
    """

    def __init__(self, steps: Sequence[DraftStep], inputs: Iterable[int]) -> None:
        makers: dict[int, list[int]] = {}
        for index, step in enumerate(steps):
            for slot in step.slots:
                makers.setdefault(slot, []).append(index)
        self._makers = makers
        self.alternatives = {slot: tuple(found) for slot, found in makers.items() if len(found) > 1}
        self._guards: dict[int, Guard] = {}
        self.skippable = set(inputs)
        self.condition_slots: set[int] = set()
        self._all_run = not self.skippable and not any(
            step.conditions.found or _slots_that_may_be_empty(step) for step in steps
        )
        self._may_be_empty: set[int] = set()  # slots of nested pipelines that may skip what makes them

    @property
    def guarded(self) -> tuple[int, ...]:
        """Positions of the steps that may be skipped."""
        return tuple(self._guards)

    def deciders(self) -> frozenset[int]:
        """Return the positions of the steps whose results decide whether others run."""
        slots = self.condition_slots | {slot for guard in self._guards.values() for slot, _ in guard.required}
        conditional = {maker for slot in self.condition_slots for maker in self._makers.get(slot, ())}
        return frozenset(conditional.union(*(self._makers[slot] for slot in slots if slot in self._may_be_empty)))

    def needs(self, step: DraftStep) -> tuple[int, ...]:
        """Return the positions of the steps that have to be done, or skipped, before this one."""
        slots = (*step.arguments.values(), *step.conditions.slots)
        return tuple(sorted({maker for slot in slots for maker in self._makers.get(slot, ())}))

    def add(self, index: int, step: DraftStep) -> Guard | None:
        """Add the next step; return what decides whether it runs, or None if it always does."""
        if self._all_run:
            return None
        required: list[tuple[int, tuple[int, ...]]] = []
        for name, slot in step.arguments.items():
            if slot in self.skippable and _needs_value(step, name):
                required.append((slot, tuple(self._makers.get(slot, ()))))
        guard = None
        if step.conditions.found or required:
            guard = self._guards[index] = Guard(step.conditions.found, tuple(required))
            self.condition_slots.update(step.conditions.slots)
        for slot in step.slots:
            if self._makers[slot][-1] == index and self._may_stay_empty(slot):
                self.skippable.add(slot)
        self._may_be_empty.update(_slots_that_may_be_empty(step))
        self.skippable |= self._may_be_empty
        return guard

    def _may_stay_empty(self, slot: int) -> bool:
        """Whether it may be that none of the steps runs that may fill a slot."""
        if not all(maker in self._guards for maker in self._makers[slot]):
            return False
        guards = [self._guards[maker] for maker in self._makers[slot]]
        certain = [guard.conditions for guard in guards if guard.conditions and not guard.required]
        # A condition on a value that was skipped does not hold, and its opposite does not, either.
        certain = [found for found in certain if self.skippable.isdisjoint([slot for _, slot in found])]
        return not cover_everything(map(_on_slots, certain))


def _on_slots(conditions: Iterable[tuple[Condition, int]]) -> list[Condition]:
    """Return conditions on slots rather than on names, which may mean something else in another pipeline."""
    return [condition._replace(name=str(slot)) for condition, slot in conditions]


def _needs_value(step: DraftStep, name: str) -> bool:
    """Whether a step is skipped if an argument is; in a nested pipeline that depends on the nodes in it."""
    node = step.node
    return name not in node.optional if isinstance(node, Node) else name in node.map_over


def _slots_that_may_be_empty(step: DraftStep) -> list[int]:
    """Return the slots of the results that a nested pipeline, which runs once, may skip."""
    node = step.node
    if isinstance(node, Node) or node.map_over:
        return []
    if step.nested is None:  # not compiled yet
        return list(step.slots) if _has_conditions(node.pipeline.graph) else []
    inner, slots = step.nested
    pairs = zip(inner.outputs.values(), slots, strict=True)
    return [slot for own, slot in pairs if slot is not None and own in inner.skippable]


def _has_conditions(graph: Graph) -> bool:
    nodes: tuple[Any, ...] = graph.nodes
    return any(
        node.conditions or (not isinstance(node, Node) and _has_conditions(node.pipeline.graph)) for node in nodes
    )


def find_skippable(steps: Sequence[DraftStep], inputs: Iterable[int]) -> set[int]:
    """Return the slots that may be skipped, before nested pipelines are compiled; perhaps more than will be.

    Args:
        steps: The steps of a plan, in topological order.
        inputs: The slots of the inputs that may be skipped.
    """
    branches = Branches(steps, inputs)
    for index, step in enumerate(steps):
        branches.add(index, step)
        if not isinstance(step.node, Node) and not branches.skippable.isdisjoint(step.arguments.values()):
            branches.skippable.update(() if step.node.map_over else step.slots)
    return branches.skippable
