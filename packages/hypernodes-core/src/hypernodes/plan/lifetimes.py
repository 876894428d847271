"""Determines how long the values of a plan are needed, so that large ones do not stay until the run ends."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hypernodes.plan.drafts import DraftStep
from hypernodes.plan.plan import Record, Release, Step


class Lifetimes(Record):
    """How long the values of a plan are needed.

    Attributes:
        released: What can be released after a step, by its position.
        reads: How many steps read a value that can be released, by slot.
        unread: The slots of a step's values that nobody needs, by its position.
    """

    released: Mapping[int, Release]
    reads: Mapping[int, int]
    unread: Mapping[int, tuple[int, ...]]


def lifetimes_of(
    steps: Sequence[DraftStep], slots_of: Sequence[Sequence[int]], requested: Collection[int]
) -> Lifetimes:
    """Return how long the values that steps make are needed.

    Args:
        steps: The steps of a plan, in the order in which they are executed.
        slots_of: The slots of the values that each of them makes.
        requested: The slots that were asked for, which stay.
    """
    made = {slot: index for index, slots in enumerate(slots_of) for slot in slots}
    for slot in requested:
        made.pop(slot, None)
    last_read: dict[int, int] = {}
    reads: dict[int, int] = {}
    for index, step in enumerate(steps):
        for slot in (*step.arguments.values(), *step.conditions.slots):
            if slot in made and last_read.get(slot) != index:
                last_read[slot] = index
                reads[slot] = reads.get(slot, 0) + 1
    ends: dict[int, list[int]] = {}
    unread: dict[int, tuple[int, ...]] = {}
    for slot, maker in made.items():
        ends.setdefault(last_read.get(slot, maker), []).append(slot)
        if slot not in reads:
            unread[maker] = (*unread.get(maker, ()), slot)
    released = {index: Release(tuple(slots)) for index, slots in ends.items()}
    return Lifetimes(released=released, reads=reads, unread=unread)


def with_releases(
    steps: Iterable[Step], program: Iterable[tuple[Any, ...]], released: Mapping[int, Release]
) -> Iterator[tuple[Any, ...]]:
    """Yield a program (`Plan.program`) with what can be released after each of its steps."""
    for step, instruction in zip(steps, program, strict=True):
        yield instruction
        if step.index in released:
            yield (-1, released[step.index], 0, 0, 0, 0)
