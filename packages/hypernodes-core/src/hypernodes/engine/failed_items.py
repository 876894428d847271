"""Failed and skipped items in the lists that nodes take: left out on request, and pointed out in errors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from hypernodes.conditions import SKIPPED, Skipped
from hypernodes.errors import MapLengthError, add_note
from hypernodes.failure import Failure
from hypernodes.plan import CallStep

STAND_INS = frozenset({Failure, Skipped})
"""The types of what stands for a result that an upstream step did not make."""

_MOST_ENTRIES = 100_000  # of a list that are looked at after an error


def without_failures(step: CallStep, values: Any) -> Any:
    """Return the values of slots without the failed and skipped items in the lists that a node names.

    An item that is missing in one of these lists is left out of all.

    Raises:
        MapLengthError: Items are missing, and the lists have different lengths.
    """
    slots = {name: slot for name, slot in step.named if name in step.node.skip_failures}
    lists = {name: values[slot] for name, slot in slots.items() if _is_list(values[slot])}
    failed = {index for items in lists.values() for index, item in enumerate(items) if type(item) in STAND_INS}
    if not failed:
        return values
    lengths = {name: len(items) for name, items in lists.items()}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise MapLengthError(
            f"node {step.node.name!r} skips failed items, but its lists do not go together: {listing} items. Name only "
            "those in skip_failures that do",
            lengths=lengths,
        )
    found = values.copy() if isinstance(values, dict) else list(values)
    for name, items in lists.items():
        found[slots[name]] = [item for index, item in enumerate(items) if index not in failed]
    return found


def hint_at_failures(error: BaseException, step: CallStep, values: Sequence[Any]) -> None:
    """Add a note to the error of a node that got failed or skipped items and does not leave them out."""
    for name, slot in step.named:
        value = values[slot]
        if not _is_list(value) or name in step.node.skip_failures:
            continue
        entries = list(islice(value, _MOST_ENTRIES))
        if not_run := sum([item is SKIPPED for item in entries]):
            number = "a skipped item" if not_run == 1 else f"{not_run} skipped items"
            text = f"{name!r} holds {number} in place of results. To leave them out: "
            add_note(error, f"{text}@node(skip_failures={name!r})")
        failed = [item for item in entries if type(item) is Failure]
        if failed:
            number = "a failed item" if len(failed) == 1 else f"{len(failed)} failed items"
            first = f"item {failed[0].item_index} ({type(failed[0].error).__name__})"
            text = f"{name!r} holds {number} in place of results, the first for {first}. To leave them out: "
            add_note(error, f"{text}@node(skip_failures={name!r})")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and type(value) is not Failure
