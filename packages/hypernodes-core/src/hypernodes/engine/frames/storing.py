"""What the frames with a cache have in common: results are stored, and written before something may take long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.identity.records import Computed
from hypernodes.engine.store.run_store import LONGEST_WAIT_S
from hypernodes.plan import CallStep


class StoringFrame(Frame):
    """One execution of a plan whose results are stored in caches.

    Attributes:
        signatures: Signature of what is in every slot; None or empty where there is none.
    """

    __slots__ = ("_asked_at", "signatures")

    signatures: list[Any]
    _asked_at: int  # number of results that the run had computed when the cache was last asked

    def begin(self, step: CallStep) -> None:
        if not self.run.is_quick(step):
            self.run.store.flush()  # what has been computed must not be lost with a call that takes long
        super().begin(step)

    def complete(self, step: CallStep, outputs: Sequence[Any], duration_s: float) -> None:
        run = self.run
        run.note_duration(step, duration_s)
        self._put(step, outputs)
        if duration_s > LONGEST_WAIT_S:
            run.store.flush()  # the result is worth more than the time that writing takes
        self._report_result(step, outputs, duration_s)
        if key := self.key_of(step):
            run.remember(key)

    def close(self) -> None:
        super().close()
        self.run.store.flush()

    def was_computed(self, key: bytes) -> bool:
        return self.run.was_computed(key, self._asked_at)

    def signature_of(self, slot: int) -> bytes:
        return self.signatures[slot] or b""

    def _store(self, step: CallStep) -> None:
        """Store the results of a call that have signatures, and write a record of the first one in the run."""
        cache = self.plan.scopes[step.scope].cache
        if cache is None:
            return
        signatures, values, run = self.signatures, self.values, self.run
        entries = {own.hex(): values[slot] for slot in step.outputs if slot is not None and (own := signatures[slot])}
        run.store.put(cache, entries, step.node.name)
        if step not in run.records.recorded:
            run.records.add(Computed(self.plan, values, signatures), step)
