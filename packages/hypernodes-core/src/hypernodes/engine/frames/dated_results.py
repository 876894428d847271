"""Results that count for some time only (`cache_for`): their keys, their entries, and whether they are fresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypernodes.engine.identity.plan_code import Origin
from hypernodes.engine.identity.slot_signatures import SlotSignatures
from hypernodes.engine.store.dated import Entry, dated, is_dated
from hypernodes.engine.store.run_store import RunStore
from hypernodes.engine.timing import seconds_since_epoch
from hypernodes.plan import CallStep, Step


class DatedResults:
    """Such results in one execution of a plan. They have keys, but what depends on them is identified by their values.

    Args:
        identities: Computes the signatures of the values in the slots.
        store: Reads caches.

    Attributes:
        dates: When results were computed that were found, by step position; in seconds since the epoch.
        outdated: How old the results are that were found and do not count any more, by step position; in seconds.
        unqueried: By their positions, the steps whose keys were not known when they were demanded: they are looked up
            when they are about to run.
    """

    __slots__ = ("_identities", "_store", "dates", "outdated", "unqueried")

    def __init__(self, identities: SlotSignatures, store: RunStore) -> None:
        self._identities = identities
        self._store = store
        self.dates: dict[int, float] = {}
        self.outdated: dict[int, float] = {}
        self.unqueried: dict[int, CallStep] = {}

    def include(self, step: Step) -> bool:
        """Whether the results of a step are such results."""
        return self._identities.code.dated[step.index] is not None

    def key(self, step: CallStep) -> bytes | None:
        """Return the signature that the results of a call are stored under; None while it is not known."""
        origins = self._identities.origins_of_dated(step)
        return origins[0].signature() if origins else None

    def origins(self, step: CallStep) -> dict[str, Origin]:
        """Return the key of each result of a call, with what it is made of."""
        pairs = zip(step.outputs, self._identities.origins_of_dated(step) or (), strict=True)
        return {origin.signature().hex(): origin for slot, origin in pairs if slot is not None}

    def entries(self, step: CallStep, outputs: Sequence[Any]) -> Mapping[str, Entry]:
        """Return what is to be stored of the results of a call that was just made."""
        now = seconds_since_epoch()
        made = [dated(now, value) for slot, value in zip(step.outputs, outputs, strict=True) if slot is not None]
        return dict(zip(self.origins(step), made, strict=True))

    def fresh(self, step: CallStep, stored: Sequence[Any]) -> list[Any] | None:
        """Return the results in entries that are not too old; None if one is, or is no such entry."""
        found = [self._store.actual(entry) for entry in stored]
        if not all(map(is_dated, found)):
            return None
        at, now = min(entry[0] for entry in found), seconds_since_epoch()
        assert step.node.cache_for is not None
        if not 0 <= now - at < step.node.cache_for:  # one from the future is of another clock
            self.outdated[step.index] = now - at
            return None
        self.dates[step.index] = at
        return [entry[1] for entry in found]

    def as_stored(self, step: CallStep, values: Sequence[Any]) -> list[Entry]:
        """Return results that were found, as the cache holds them."""
        return [dated(self.dates[step.index], value) for value in values]
