"""Executes rows of values in the calling thread, as many at a time as a call of a batched node takes.

The silent loop executes what is between two calls of batched nodes, for all these rows, before the next such call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from hypernodes.engine.batches import BatchSizes, Groups, outcomes_of_batch
from hypernodes.engine.frames.columns import stand_in_for_item
from hypernodes.failure import Failure
from hypernodes.plan import CallStep, OnError, Plan

if TYPE_CHECKING:
    from hypernodes.engine.workers.calling_thread import CallingThread

# Consecutive steps of a plan in the form that the silent loop reads.
Part: TypeAlias = Sequence[tuple[Any, ...]]


class RowsInBatches:
    """Executes the items of a map for which there is nothing to account for but errors.

    Args:
        plan: The plan of an item, with calls of batched nodes.
        rest: The values after those of a row, which all rows share.
        results: Receives the requested outputs, row after row.
        on_error: "raise" or "collect".
        thread: Makes the calls of batched nodes.
        execute: Executes a part of the plan for rows of the values of all slots; appends the values afterwards.
        note: Adds a note to an error that says where it was raised; returns the path of the node.
    """

    def __init__(
        self,
        plan: Plan,
        rest: Sequence[Any],
        results: list[Any],
        on_error: OnError,
        thread: CallingThread,
        execute: Callable[[Iterable[Iterable[Any]], Part, list[Any], Sequence[int]], None],
        note: Callable[[Exception, CallStep, int, Sequence[Any]], tuple[str, ...]],
    ) -> None:
        self._plan = plan
        self._rest = rest
        self._results = results
        self._collects = on_error == "collect"
        self._thread = thread
        self._sizes: BatchSizes = thread.batch_sizes
        self._execute = execute
        self._note = note
        self._parts = _parts_of(plan)
        self._varying = 0  # slots that differ from row to row are before this one

    def run(self, rows: Iterable[tuple[Any, ...]], may_stand_in: bool, indexes: Sequence[int] | None) -> Failure | None:
        """Execute rows.

        Args:
            rows: The values of the first slots.
            may_stand_in: Whether a `Failure` or `SKIPPED` may be among them.
            indexes: Index of each item; None when they are counted from 0.

        Returns:
            The failure at which the map ends, since it is among the inputs of an item; None if there is none.
        """
        rows, count = iter(rows), 0
        most = max(batching.most_items for batching in self._plan.batchings)
        size = self._sizes.open_items(most)
        width = len(self._plan.outputs)
        pick, results = self._plan.pick, self._results
        while window := list(islice(rows, size)):
            own = range(count, count + len(window)) if indexes is None else indexes[count : count + len(window)]
            count += len(window)
            self._varying = len(window[0])
            states: list[Any] = [[*row, *self._rest] for row in window]
            failed = self._take_stand_ins(window, states) if may_stand_in else None
            self._run_window(states, own)
            if failed is not None:
                return failed
            for values in states:
                if type(values) is not list:
                    results.extend([values] * width)
                elif width == 1:
                    results.append(pick(values))
                else:
                    results.extend(pick(values))
        return None

    def _take_stand_ins(self, window: Sequence[tuple[Any, ...]], states: list[Any]) -> Failure | None:
        """Replace the values of items that are not executed; return the failure at which the map ends."""
        for position, row in enumerate(window):
            stand_in = stand_in_for_item(row)
            if isinstance(stand_in, Failure) and not self._collects:
                del states[position:]
                return stand_in
            if stand_in is not None:
                states[position] = stand_in
        return None

    def _run_window(self, states: list[Any], indexes: Sequence[int]) -> None:
        """Execute some rows together.

        Args:
            states: The values of all slots for each row; or what stands for the outputs of a row.
            indexes: Index of each item.
        """
        for part in self._parts:
            live = [position for position, values in enumerate(states) if type(values) is list]
            if not live:
                return
            if isinstance(part, CallStep):
                self._call(part, states, live, indexes)
                continue
            done: list[Any] = []
            self._execute([states[position] for position in live], part, done, [indexes[p] for p in live])
            for position, values in zip(live, done, strict=True):
                states[position] = values

    def _call(self, step: CallStep, states: list[Any], live: list[int], indexes: Sequence[int]) -> None:
        varies = any(slot < self._varying for slot in step.shared_by_batch)
        if not varies and all(self._plan.producers[slot] < 0 for slot in step.shared_by_batch):
            most = self._sizes.most(step.node) or len(live)
            for first in range(0, len(live), most):
                self._call_batch(step, states, live[first : first + most], indexes)
            return
        groups: Groups[int] = Groups(self._sizes)
        for position in live:
            groups.add(step, states[position], position)
        for group in groups.clear():
            self._call_batch(step, states, group.members, indexes)

    def _call_batch(self, step: CallStep, states: list[Any], live: Sequence[int], indexes: Sequence[int]) -> None:
        thread = self._thread
        items = [states[position] for position in live]
        outcomes = outcomes_of_batch(
            step.node,
            len(items),
            self._sizes,
            lambda positions: thread.call_batch([step] * len(positions), items[positions.start : positions.stop]),
            lambda: thread.is_cancelled,
        )
        for positions, results, error, _ in outcomes:
            if error is not None:
                position = live[positions.start]
                path = self._note(error, step, indexes[position], states[position])
                if not self._collects:
                    thread.failed_at = path
                    raise error
                states[position] = Failure.of(error, indexes[position], path)
                continue
            if len(step.outputs) == 1 and step.outputs[0] is not None:
                (out,) = step.outputs
                for values, (value,) in zip(items[positions.start : positions.stop], results, strict=True):
                    values[out] = value
                continue
            for values, outputs in zip(items[positions.start : positions.stop], results, strict=True):
                for slot, value in zip(step.outputs, outputs, strict=True):
                    if slot is not None:
                        values[slot] = value


def _parts_of(plan: Plan) -> list[CallStep | Part]:
    """Return the steps of a plan: each call of a batched node by itself, the steps between two of them together."""
    parts: list[CallStep | Part] = []
    between: list[tuple[Any, ...]] = []
    for instruction in plan.releasing_program:
        step = instruction[1]
        if isinstance(step, CallStep) and step.node.batching is not None:
            if between:
                parts.append(between)
                between = []
            parts.append(step)
        else:
            between.append(instruction)
    if between:
        parts.append(between)
    return parts
