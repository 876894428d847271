"""What the frames with a cache have in common: results are stored, and written before something may take long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypernodes.cache.base import Cache
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.identity.records import Computed
from hypernodes.engine.store.run_store import LONGEST_WAIT_S
from hypernodes.plan import CallStep


class StoringFrame(Frame):
    """One execution of a plan whose results are stored in caches.

    Attributes:
        signatures: Signature of what is in every slot; None or empty where there is none.
    """

    __slots__ = ("_asked_at", "_cache", "signatures")

    signatures: list[Any]
    _cache: Cache | None  # the one cache of the whole plan, if it is known to have but one
    _asked_at: int  # number of results of others that the run had computed when the cache was last asked

    def begin(self, step: CallStep) -> None:
        run = self.run
        if step not in run.quick_steps:
            run.store.flush()  # what has been computed must not be lost with a call that takes long
        if self.plan.callbacks:
            super().begin(step)

    def complete(self, step: CallStep, outputs: Sequence[Any], duration_s: float) -> None:
        run = self.run
        run.note_duration(step, duration_s)
        key = self.key_of(step)
        if key:
            self._store(step, outputs)
        self._put(step, outputs)
        if duration_s > LONGEST_WAIT_S:
            run.store.flush()  # the result is worth more than the time that writing takes
        if self.plan.callbacks:
            self._report_result(step, outputs, duration_s)
        if key:
            run.remember(key)
            self._asked_at += 1  # it counts what others compute

    def close(self) -> None:
        if self.plan.callbacks:
            super().close()
        self.run.store.flush()

    def was_computed(self, key: bytes) -> bool:
        run = self.run
        return run.computed != self._asked_at and run.was_computed(key, self._asked_at)

    def signatures_of(self, slots: Sequence[int]) -> list[bytes]:
        signatures = self.signatures
        return [signatures[slot] or b"" for slot in slots]

    def _store(self, step: CallStep, outputs: Sequence[Any]) -> None:
        """Store the results of a call that have signatures, and write a record of the first one in the run."""
        cache = self._cache if self._cache is not None else self.plan.scopes[step.scope].cache
        if cache is None:
            return
        signatures, run = self.signatures, self.run
        pairs = zip(step.outputs, outputs, strict=True)
        entries = {own.hex(): value for slot, value in pairs if slot is not None and (own := signatures[slot])}
        run.store.put(cache, entries, step.node.name)
        if step not in run.records.recorded:
            run.records.add(Computed(self.plan, self.values, signatures), step)
