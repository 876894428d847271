"""Executions of plans whose results are all identified by their inputs: the common case for items of cached maps.

Every call of such a plan has a signature before any step runs, and one cache stores all results. Items are signed and
looked up many at a time: the requested results first, then the inputs of those that missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.cache_queries import CacheReplies
from hypernodes.engine.frames.storing import StoringFrame
from hypernodes.engine.identity.plan_code import IdentifiedCalls, sign_call, sign_outputs
from hypernodes.engine.identity.slot_signatures import identify, sign_item
from hypernodes.engine.state import RunState
from hypernodes.plan import CallStep, Plan

_IDLE, _QUERIED, _WANTED, _FOUND = range(4)


class IdentifiedFrame(StoringFrame):
    """One execution of a plan of calls whose results are all identified by their inputs.

    Args:
        plan: The plan.
        run: The run.
        values: Value of every slot, with the inputs filled in.
        base: Context of the pipeline, or of the map.
        item_index: Index of the map item; None when it is not a map item.
        calls: The calls of the plan, with what is needed to sign them.
        signatures: Signature of the value in every slot, empty where unknown; filled in by `sign`.
    """

    __slots__ = ("_calls", "_found")

    signatures: list[bytes]

    def __init__(
        self,
        plan: Plan,
        run: RunState,
        values: list[Any],
        base: CallbackContext,
        item_index: int | None,
        calls: IdentifiedCalls,
        signatures: list[bytes],
    ) -> None:
        super().__init__(plan, run, values, base, item_index)
        self._calls = calls
        self._cache = calls.cache
        self.signatures = signatures
        self._found: Sequence[int] = ()
        self._looked_up_at = -1  # not looked up yet
        self._may_repeat = calls.may_repeat

    def sign(self, inputs: Iterable[int]) -> bool:
        """Compute all signatures; return False when the value in one of the slots `inputs` cannot be identified."""
        signatures = self.signatures
        for slot in inputs:
            if not signatures[slot]:
                own = signatures[slot] = identify(self.plan, self.run.codes, slot, self.values[slot])
                if not own:
                    return False
        for step, code, signed, stored in self._calls.calls:
            own = sign_call(code, [signatures[source] for source in signed])
            if len(step.outputs) == 1:
                signatures[stored[0]] = own
                continue
            for output, part in zip(step.outputs, sign_outputs(step, own), strict=True):
                if output is not None:
                    signatures[output] = part
        return True

    # --- scheduling -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look up the requested results, unless an earlier look-up is still valid (items may share results)."""
        looked_up_at, computed = self._looked_up_at, self.run.computed
        if looked_up_at == computed:
            return
        calls, signatures, was_computed = self._calls.calls, self.signatures, self.run.was_computed
        is_outdated = looked_up_at < 0
        for position in self._missing:  # a plain loop, since this runs for every item
            is_outdated = is_outdated or was_computed(signatures[calls[position].stored[0]], looked_up_at)
        if is_outdated:
            look_up_identified([self])
        else:
            self._looked_up_at = computed  # a new look-up would have the same answers

    def expect_all(self) -> None:
        self._remaining = len(self._missing)

    def remaining_calls(self) -> Sequence[CallStep] | None:
        if not self._missing or self._remaining < len(self._missing):
            return None
        return [self._calls.calls[position].step for position in self._missing]

    # --- the accounting of a call ---------------------------------------------------------------------------------

    def key_of(self, step: CallStep) -> bytes:
        return self.signatures[self._calls.calls[step.index].stored[0]]

    def recall(self, step: CallStep) -> bool:
        run = self.run
        if run.computed == self._looked_up_at or not run.was_computed(self.key_of(step), self._looked_up_at):
            return False
        keys = [self.signatures[slot].hex() for slot in self._calls.calls[step.index].stored]
        replies = CacheReplies(self.run.store, self._calls.cache, keys)
        if not self._take_cached(step.index, replies):
            return False
        self._put(step, [self.values[slot] if slot is not None else None for slot in step.outputs])
        if self._started_at is None:
            self._found = [*self._found, step.index]
        else:
            self._report_found(step.index)
        return True

    # --- looking up -----------------------------------------------------------------------------------------------

    def _take_cached(self, position: int, replies: CacheReplies) -> bool:
        """Record the results of a call if all of them were found."""
        slots = self._calls.calls[position].stored
        values = replies.take([self.signatures[slot].hex() for slot in slots])
        if values is None:
            return False
        for slot, value in zip(slots, values, strict=True):
            self.values[slot] = value
        return True

    def _take_replies(self, status: bytearray, positions: Iterable[int], replies: CacheReplies | None) -> list[int]:
        """Record the results that were found; return the positions of the calls to look up next.

        When there are none, all is known, and it is determined which calls have to be made.

        Args:
            status: The status of each call.
            positions: The calls that were looked up.
            replies: What was found; None if none of them was.
        """
        needed: list[int] = []
        for position in positions:
            if replies is not None and self._take_cached(position, replies):
                status[position] = _FOUND
                continue
            status[position] = _WANTED
            for source in self._calls.calls[position].step.needs:
                if status[source] == _IDLE:
                    status[source] = _QUERIED
                    needed.append(source)
        if not needed:
            self._settle(status)
        return needed

    def _settle(self, status: bytearray) -> None:
        """Determine which calls have to be made, once all queries are answered."""
        self._missing = [position for position, state in enumerate(status) if state == _WANTED]
        self._found = [position for position, state in enumerate(status) if state == _FOUND]
        self._remaining = len(self._missing)

    # --- events ---------------------------------------------------------------------------------------------------

    def begin_item(self) -> None:
        if self._started_at is None:
            super().begin_item()
            for position in self._found:
                self._report_found(position)

    def close(self) -> None:
        if self._missing:
            super().close()
        elif self.item_index is not None and self.plan.callbacks:
            self._close_untouched(self.item_index)

    def _close_untouched(self, item_index: int) -> None:
        listeners = self.listeners[0]
        if listeners.on_map_item_cached:
            own = sign_item(self.plan, self.signatures)
            listeners.notify(listeners.on_map_item_cached, item_index, own, self.context(0))

    def _report_found(self, position: int) -> None:
        step = self._calls.calls[position].step
        listeners = self.listeners[step.scope]
        if listeners.on_node_cached:
            own = self.key_of(step).hex()
            listeners.notify(listeners.on_node_cached, step.node.name, own, self.context(step.scope))


def look_up_identified(frames: Sequence[IdentifiedFrame]) -> None:
    """Look up several executions of one plan and determine the missing results; earlier answers are replaced."""
    if not frames:
        return
    calls, store, computed = frames[0]._calls, frames[0].run.store, frames[0].run.computed
    keys = [[frame.signatures[slot].hex() for slot in calls.slots] for frame in frames]
    replies = CacheReplies(store, calls.cache, [key for own in keys for key in own])
    upstream: list[tuple[IdentifiedFrame, bytearray, list[int]]] = []  # the calls to look up next
    for frame, own in zip(frames, keys, strict=True):
        frame._missing = frame._found = ()
        frame._waiting = None
        frame._remaining = frame._next = 0
        frame._looked_up_at = computed
        values = replies.take(own)
        if values is not None:
            for slot, value in zip(calls.slots, values, strict=True):
                frame.values[slot] = value
            continue
        status = bytearray(len(calls.calls))
        for position in calls.requested:
            status[position] = _QUERIED
        are_missing = len(calls.requested) == 1  # so that it is this one that was not found
        needed = frame._take_replies(status, calls.requested, None if are_missing else replies)
        if needed:
            upstream.append((frame, status, needed))
    while upstream:
        requested = [
            frame.signatures[slot].hex()
            for frame, _, positions in upstream
            for position in positions
            for slot in calls.calls[position].stored
        ]
        replies = CacheReplies(store, calls.cache, requested)
        looked_up, upstream = upstream, []
        for frame, status, positions in looked_up:
            needed = frame._take_replies(status, positions, replies)
            if needed:
                upstream.append((frame, status, needed))
