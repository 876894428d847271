"""The last jobs of a map, when they take long: idle workers compute their items too, and the first result counts.

These are the backup tasks of MapReduce (Dean and Ghemawat, OSDI 2004).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from hypernodes.plan import CallStep, Plan

_LONG_S = 2.0  # for how long a job has to have been under way
_LONG = 2.0  # and how many times as long as its items took elsewhere


def may_be_repeated(plan: Plan) -> bool:
    """Whether calls of a plan may be made twice at the same time: the nodes say so, or their results are cached."""
    for step in plan.steps:
        if isinstance(step, CallStep):
            is_cached = step.node.cache and plan.scopes[step.scope].cache is not None
            if not (is_cached if step.node.idempotent is None else step.node.idempotent):
                return False
        elif not may_be_repeated(step.inner):
            return False
    return True


def is_late(seconds: float, items: int, seconds_per_item: float | None) -> bool:
    """Whether a job takes so long that another worker may be done earlier.

    Args:
        seconds: For how long it has been under way.
        items: How many items it has.
        seconds_per_item: How long an item took elsewhere; None when that is not known.
    """
    if seconds < _LONG_S or seconds_per_item is None:
        return False
    return seconds > _LONG * items * seconds_per_item


class Doubled:
    """The items that two jobs compute."""

    def __init__(self) -> None:
        self._holders: dict[int, set[int]] = {}  # numbers of the jobs, by the index of the item
        self._done: set[int] = set()

    def add(self, indexes: Iterable[int], first: int, second: int) -> None:
        """Note that two jobs have the same items.

        Args:
            indexes: Their indexes.
            first: Number of one job.
            second: Number of the other one.
        """
        for index in indexes:
            self._holders[index] = {first, second}

    def new(self, indexes: Sequence[int]) -> Sequence[int]:
        """Return the positions of those of some results, which have just come, that did not come before."""
        if not self._holders:
            return range(len(indexes))
        new = [position for position, index in enumerate(indexes) if index not in self._done]
        self._done.update(indexes[position] for position in new if indexes[position] in self._holders)
        return new

    def is_done(self, index: int) -> bool:
        """Whether a result has come of an item that two jobs had."""
        return index in self._done

    def unheld(self, number: int, indexes: Collection[int]) -> list[int]:
        """Return which items of a job that ends now nobody else has, of those without a result."""
        unheld: list[int] = []
        for index in indexes:
            holders = self._holders.get(index)
            if holders is not None:
                holders.discard(number)
            if index not in self._done and not holders:
                unheld.append(index)
        return unheld
