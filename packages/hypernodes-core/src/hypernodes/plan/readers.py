"""Counts who reads the value in each slot of a plan: what can be read only once must not have two readers.

A mapped pipeline reads the value that it maps over once, and leaves a list to the other readers; the items of a map
read each value that they share once for every item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hypernodes.nodes import Node


class Readers(NamedTuple):
    """Who reads the values in the slots of a plan.

    Attributes:
        of: For each slot, the names of the nodes that read it; that of a mapped pipeline twice, if all its items do.
        mapped_over: The slots whose values are mapped over.
        decisive: The slots of the values that conditions are on.
    """

    of: Mapping[int, tuple[str, ...]]
    mapped_over: frozenset[int]
    decisive: frozenset[int]

    def reads(self, slot: int) -> bool:
        """Whether anything reads the value in a slot."""
        return slot in self.of or slot in self.mapped_over or slot in self.decisive

    def several(self, slots: Iterable[int], *, is_input: bool) -> dict[int, tuple[str, ...]]:
        """Return those of some slots that are read more than once, with their readers.

        Args:
            slots: The slots.
            is_input: Whether they are inputs: if mapped over, these are made lists before anything runs.
        """
        found: dict[int, tuple[str, ...]] = {}
        for slot in slots:
            readers = self.of.get(slot, ())
            if slot in self.mapped_over:
                readers = () if is_input or not readers else (*readers, "a map")
            if len(readers) > 1:
                found[slot] = readers
        return found


def readers_of(steps: Iterable[Any], outside: Mapping[int, Sequence[str]]) -> Readers:
    """Return who reads the values in the slots of a plan.

    Args:
        steps: The steps of the plan, as drafts.
        outside: For the slots of outputs, the names of their readers outside the plan.
    """
    found: dict[int, list[str]] = {slot: list(names) for slot, names in outside.items()}
    mapped_over: set[int] = set()
    decisive: set[int] = set()
    for step in steps:
        node, name = step.node, step.node.name
        decisive.update(step.conditions.slots)
        for own, slot in step.arguments.items():
            if isinstance(node, Node):
                found.setdefault(slot, []).append(name)
                continue
            inner = step.nested[0]
            inner_slot = inner.inputs[node.inner_name(own)]
            if inner_slot in inner.readers.decisive:
                decisive.add(slot)
            if own in node.map_over or inner_slot in inner.readers.mapped_over:
                mapped_over.add(slot)
            elif inner_slot in inner.readers.of:
                readers = (name, name) if node.map_over else inner.readers.of[inner_slot]
                found.setdefault(slot, []).extend(readers)
    return Readers({slot: tuple(names) for slot, names in found.items()}, frozenset(mapped_over), frozenset(decisive))
