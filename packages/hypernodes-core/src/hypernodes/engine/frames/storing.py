"""The common part of frames with a cache: storing results, and writing them before a call that may take long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hypernodes.cache.base import Cache
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.identity.plan_code import origins_of_call
from hypernodes.engine.identity.records import Computed
from hypernodes.engine.state import QUICK_S
from hypernodes.engine.store.run_store import LONGEST_WAIT_S
from hypernodes.plan import CallStep


class StoringFrame(Frame):
    """One execution of a plan whose results are stored in caches.

    Attributes:
        signatures: Signature of the value in every slot; None or empty where there is none.
    """

    __slots__ = ("_cache", "_looked_up_at", "_may_repeat", "signatures")

    failed_before: Mapping[int, str] = MappingProxyType({})
    """For each step that depends on failed items, the mapped pipeline that they are of."""

    signatures: list[Any]
    _cache: Cache | None  # the only cache of the whole plan, if it is known to have just one
    _looked_up_at: int  # `run.computed` at the last look-up, plus own results since then that cannot repeat
    _may_repeat: bool  # whether two steps may have the same result, so that the second is found when it is due

    def begin(self, step: CallStep) -> None:
        run = self.run
        if step not in run.quick_steps:
            run.store.flush()  # results must not be lost if a long call kills the process
        if self.plan.callbacks:
            super().begin(step)

    def complete(self, step: CallStep, outputs: Sequence[Any], duration_s: float) -> None:
        run = self.run
        if (duration_s < QUICK_S) is not (step in run.quick_steps):
            run.note_duration(step, duration_s)
        key = self.key_of(step)
        if key:
            self._store(step, outputs, duration_s)
        self._put(step, outputs)
        if duration_s > LONGEST_WAIT_S:
            run.store.flush()  # such a result is worth the time that writing takes
        if self.plan.callbacks:
            self._report_result(step, outputs, duration_s)
        if key:
            run.record_computed(key)
            if not self._may_repeat:
                self._looked_up_at += 1  # so that only the results of other frames make a difference
        if self._unread is not None:
            self.release(step)

    def close(self) -> None:
        if self.plan.callbacks:
            super().close()
        self.run.store.flush()

    def was_computed(self, key: bytes) -> bool:
        run = self.run
        return run.computed != self._looked_up_at and run.was_computed(key, self._looked_up_at)

    def signatures_of(self, slots: Sequence[int]) -> list[bytes]:
        signatures = self.signatures
        return [signatures[slot] or b"" for slot in slots]

    def _store(self, step: CallStep, outputs: Sequence[Any], duration_s: float) -> None:
        """Store the results of a call that have signatures; write a record for the first such call in the run."""
        cache = self._cache if self._cache is not None else self.plan.scopes[step.scope].cache
        if cache is None:
            return
        signatures, run = self.signatures, self.run
        entries: dict[str, Any] = {}
        if len(step.outputs) == 1:
            slot = step.outputs[0]
            if slot is not None and (own := signatures[slot]):
                entries[own.hex()] = outputs[0]
        else:
            for slot, value in zip(step.outputs, outputs, strict=True):
                if slot is not None and (own := signatures[slot]):
                    entries[own.hex()] = value
        if cache.notes_origins:
            self._note_origins(cache, step)
        run.store.put(cache, entries, step.node.name)
        if step not in run.records.recorded:
            self._record(step, duration_s)

    def _note_origins(self, cache: Cache, step: CallStep) -> None:
        """Tell a cache what the keys of a call's results are made of."""
        code = self.run.codes.of(self.plan)
        digest, signatures = code.calls[step.index], self.signatures
        assert digest is not None
        origins = origins_of_call(step, digest, tuple(signatures[slot] for slot in code.signed[step.index]))
        pairs = zip(step.outputs, origins, strict=True)
        cache.note_origins({signatures[slot].hex(): origin for slot, origin in pairs if slot is not None})

    def _record(self, step: CallStep, duration_s: float) -> None:
        """Write a record of a call that was made, if it is the first in the run."""
        records = self.run.records
        if step not in records.recorded:
            is_known = bool(self.key_of(step))
            seen = Computed(self.plan, self.values, self.signatures, self.failed_before, is_known)
            records.add(seen, step, duration_s)
