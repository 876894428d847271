"""One execution of a plan without a cache: its values, the remaining steps, and the only accounting of a step.

A driver gets the next step from the frame (`next_step`), calls `begin`, makes the call, and then calls `complete` or
`fail`. The frame updates values, events, caches and records, in the same way for every driver. `identified` and
`demand` contain the frames of plans with a cache, or with steps that may be skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from time import perf_counter
from typing import Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.conditions import Skipped
from hypernodes.engine.frames.columns import MapInputs, materialize_shared_iterators, nested_columns
from hypernodes.engine.frames.events import ScopeEvents, end_nested, start_nested
from hypernodes.engine.frames.neighbours import connected_with
from hypernodes.engine.state import RunState
from hypernodes.engine.step import locate, path_of
from hypernodes.errors import ExecutionError
from hypernodes.failure import Failure
from hypernodes.plan import UNSET, CallStep, NestedStep, Plan, PlanPart, Step

_TAKEN = 1 << 30  # for how many results a step waits that has been started already


class MapResults(NamedTuple):
    """The results of a map.

    Attributes:
        columns: For each requested output, one result per item.
        elements: For each requested output, the signature of each result; empty ones where there are none.
        has_failures: Whether a `Failure` is among the results.
        is_unverified: Whether some results that should have signatures are identified by their values only.
    """

    columns: Sequence[list[Any]]
    elements: Sequence[list[bytes]] = ()
    has_failures: bool = False
    is_unverified: bool = False


class Refusal(NamedTuple):
    """Why an execution cannot go on.

    Attributes:
        step: The step that it is about.
        error: The error.
    """

    step: Step
    error: ExecutionError


class Frame:
    """One execution of a plan without a cache: every step runs, as soon as its inputs exist.

    Attributes:
        plan: The plan.
        run: The run it is part of.
        values: Value of every slot so far.
        base: Context of the pipeline, or of the map, that it executes.
        item_index: Index of the map item that it computes; None when it is not a map item.
        listeners: The hooks to call for the events of each scope.
        stand_in: What stands for all outputs of an item that is not executed: the `Failure` of an upstream step that is
            among its inputs, or `SKIPPED`.
    """

    __slots__ = (
        "_contexts",
        "_missing",
        "_next",
        "_ready",
        "_remaining",
        "_scopes",
        "_started_at",
        "_unread",
        "_waiting",
        "base",
        "item_index",
        "listeners",
        "plan",
        "run",
        "stand_in",
        "values",
    )

    refusal: Refusal | None = None
    """Why no further step runs; None if nothing is wrong."""

    is_unverified = False
    """Whether a result that should have a signature is identified by its value only."""

    def __init__(
        self, plan: Plan, run: RunState, values: list[Any], base: CallbackContext, item_index: int | None = None
    ) -> None:
        self.plan = plan
        self.run = run
        self.values = values
        self.base = base
        self.item_index = item_index
        self.listeners = run.listeners(plan)
        self.stand_in: Failure | Skipped | None = None
        self._contexts: dict[int, CallbackContext] | None = None
        self._scopes = self._new_scopes() if len(plan.scopes) > 1 else None
        self._started_at: float | None = None
        self._remaining = 0
        self._missing: Sequence[int] = ()  # positions of the steps that have to run, in order
        self._next = 0  # position in `_missing` of the next one, as long as each is done before the next begins
        self._waiting: list[int] | None = None  # else, for how many results each step waits
        self._ready: list[int] = []
        self._unread = dict(plan.reads) if plan.released else None  # how often each value will be read, by slot

    def _new_scopes(self) -> ScopeEvents | None:
        """Return the reporter of inlined pipelines; None when there are none, or no callbacks."""
        is_needed = len(self.plan.scopes) > 1 and self.run.observes(self.plan)
        return ScopeEvents(self) if is_needed else None

    # --- scheduling -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Determine which steps have to run."""
        self.expect_all()

    def expect_all(self) -> None:
        """Prepare for running every step, one after the other in the plan's order."""
        self._remaining = len(self.plan.steps)
        self._missing = range(self._remaining)
        if self._scopes is not None:
            self._scopes.expect(self.plan.steps)

    def next_step(self) -> Step | None:
        """Return the first step in the plan's order that can run now; None when there is none at present."""
        if self._waiting is None:
            unbegun = len(self._missing) - self._next
            if unbegun == 0:
                return None
            if self._remaining == unbegun:  # all begun steps are done, so the next one in order can run
                position = self._missing[self._next]
                self._next += 1
                return self.plan.steps[position]
            self._count_needs()
        return self.plan.steps[heappop(self._ready)] if self._ready else None

    def _count_needs(self) -> None:
        """Determine which steps can run while the step that was returned last is not done yet."""
        undone = set(self._missing[self._next - 1 :])
        waiting, ready = [0] * len(self.plan.steps), list[int]()
        for position in self._missing[self._next :]:
            waiting[position] = len(undone.intersection(self.plan.steps[position].needs))
            if waiting[position] == 0:
                ready.append(position)
        self._waiting, self._ready = waiting, ready

    def streaming_consumers(self, step: CallStep) -> list[NestedStep]:
        """Return the mapped pipelines that wait for nothing but the elements of a step that is about to run."""
        found: list[NestedStep] = []
        for position in self.plan.streams.get(step.index, ()):
            if self._waiting is None:
                self._count_needs()
            assert self._waiting is not None
            consumer = self.plan.steps[position]
            if self._waiting[position] == 1 and self._is_wanted(position) and isinstance(consumer, NestedStep):
                found.append(consumer)
        return found

    def _is_wanted(self, position: int) -> bool:
        """Whether a step that waits for others has to run."""
        return True

    def take_early(self, step: NestedStep) -> None:
        """Remove a step from those that `next_step` will return: it starts before what it needs is complete."""
        assert self._waiting is not None
        self._waiting[step.index] = _TAKEN

    def take_neighbours(self, step: Step) -> list[Step]:
        """Return the steps that can run together with one that can run now, on the backend that runs it.

        These are connected with it by values, and need nothing that is not there or made by one of them.

        Returns:
            The steps, itself included, in the plan's order; `next_step` will not return them.
        """
        if self._waiting is None:
            self._count_needs()
        waiting, places = self._waiting, self.plan.places
        assert waiting is not None
        ready = set(self._ready)
        together = {step.index}
        for other in self.plan.steps:
            index = other.index
            if places.get(index) is not places[step.index] or not self._is_wanted(index):
                continue
            if index in ready or 0 < waiting[index] == len(together.intersection(other.needs)):
                together.add(index)
        found = connected_with(step, [self.plan.steps[index] for index in sorted(together)], self.plan)
        for other in found:
            waiting[other.index] = _TAKEN
        taken = {other.index for other in found}
        self._ready = [index for index in self._ready if index not in taken]
        heapify(self._ready)
        return found

    def needed_after(self, steps: Sequence[Step]) -> list[int]:
        """Return the slots of those results of some steps that were asked for, or that others may read later."""
        plan, inside = self.plan, {step.index for step in steps}
        needed = {*plan.outputs.values(), *plan.condition_slots}
        for step in steps:
            for consumer in plan.consumers[step.index]:
                if consumer not in inside and self._may_run(consumer):
                    needed.update(plan.steps[consumer].arguments)
        return [slot for step in steps for slot in step.outputs if slot is not None and slot in needed]

    def _may_run(self, position: int) -> bool:
        """Whether a step is not done yet, and may have to run."""
        return True

    def remaining_calls(self) -> Sequence[CallStep] | None:
        """Return all remaining steps, in order, if they are calls and known now; else None."""
        calls = self.plan.calls
        return calls if len(calls) == len(self.plan.steps) == self._remaining else None

    def take(self, step: CallStep) -> None:
        """Remove a step that can run now from those that `next_step` will return."""
        if self._waiting is None:
            self._next += 1  # they are taken in order
        else:
            self._ready.remove(step.index)
            heapify(self._ready)

    @property
    def is_done(self) -> bool:
        """Whether all requested outputs have values."""
        return self._remaining == 0

    def results(self) -> dict[str, Any]:
        """Return the requested outputs that have values."""
        values = self.values
        return {name: values[slot] for name, slot in self.plan.outputs.items() if values[slot] is not UNSET}

    # --- the accounting of a call ---------------------------------------------------------------------------------

    def begin(self, step: CallStep) -> None:
        """Record that a call is about to be made."""
        if self._started_at is None:
            self.begin_item()
        if self._scopes is not None:
            self._scopes.enter(step.scope)
        listeners = self.listeners[step.scope]
        if listeners.on_node_start:
            values = self.values
            arguments: Mapping[str, Any] = {name: values[slot] for name, slot in step.named}
            listeners.notify(listeners.on_node_start, step.node.name, arguments, self.context(step.scope))

    def complete(self, step: CallStep, outputs: Sequence[Any], duration_s: float) -> None:
        """Record the results of a call that returned, and determine which steps can run now."""
        self._put(step, outputs)
        self._report_result(step, outputs, duration_s)
        if self._unread is not None:
            self.release(step)

    def retry(self, step: CallStep, attempt: int, error: BaseException, delay_s: float) -> None:
        """Record that a call raised and will be made again."""
        listeners = self.listeners[step.scope]
        if listeners.on_node_retry:
            context = self.context(step.scope)
            listeners.notify(listeners.on_node_retry, step.node.name, attempt, error, delay_s, context)

    def report_limited(self, step: CallStep, limit_names: tuple[str, ...]) -> None:
        """Report that a call has to wait because of limits."""
        listeners = self.listeners[step.scope]
        if listeners.on_node_limited:
            listeners.notify(listeners.on_node_limited, step.node.name, limit_names, self.context(step.scope))

    def fail(self, step: Step, error: BaseException) -> tuple[str, ...]:
        """Record that a step failed for good; add a note to the error that says where.

        Returns:
            The path of the step; see `path_to`.
        """
        path = locate(error, self.plan, step, self.base, self.run.backend_name, self.item_index, self.values)
        self.report_error(step, error)
        return path

    def refuse(self, refusal: Refusal) -> tuple[str, ...]:
        """Record that the execution cannot go on; see `fail`."""
        self.begin_item()
        return self.fail(refusal.step, refusal.error)

    def report_error(self, step: Step, error: BaseException) -> None:
        """Report an error of a step to the callbacks."""
        listeners = self.listeners[step.scope]
        if listeners.on_error:
            listeners.notify(listeners.on_error, step.node.name, error, self.context(step.scope))

    def path_to(self, step: Step) -> tuple[str, ...]:
        """Return the names of the pipelines that contain a step, outermost first, followed by the step's name."""
        return (*path_of(self.plan, step, self.base), step.node.name)

    def _report_result(self, step: CallStep, outputs: Sequence[Any], duration_s: float) -> None:
        listeners = self.listeners[step.scope]
        if listeners.on_node_end:
            named = dict(zip(step.node.outputs, outputs, strict=True))
            listeners.notify(listeners.on_node_end, step.node.name, named, duration_s, self.context(step.scope))
        self.leave(step)

    def _put(self, step: Step, outputs: Iterable[Any]) -> None:
        """Record the results of a step, and determine which steps can run now."""
        values, slots = self.values, step.outputs
        if len(slots) == 1 and slots[0] is not None:  # the same, for most steps
            (values[slots[0]],) = outputs
        else:
            for slot, value in zip(slots, outputs, strict=True):
                if slot is not None:
                    values[slot] = value
        self._remaining -= 1
        if self._waiting is not None:
            for consumer in self.plan.consumers[step.index]:
                self._waiting[consumer] -= 1
                if self._waiting[consumer] == 0:
                    heappush(self._ready, consumer)

    def release(self, step: Step) -> None:
        """Release the values that nobody needs any more after a step, so that large ones do not stay until the end."""
        unread, values, plan = self._unread, self.values, self.plan
        assert unread is not None
        for slot in set(step.arguments):
            if slot in unread:
                unread[slot] -= 1
                if not unread[slot]:
                    values[slot] = UNSET
        for slot in plan.unread.get(step.index, ()):
            values[slot] = UNSET

    # --- the accounting of a nested pipeline that is a step -------------------------------------------------------

    def begin_nested(self, step: NestedStep) -> CallbackContext:
        """Record that a nested pipeline is about to start; return its context."""
        self.enter(step)
        return start_nested(self, step)

    def map_inputs(self, step: NestedStep, elements: Iterable[Any] | None = None) -> MapInputs:
        """Return the inputs of the items of a mapped pipeline.

        Args:
            step: The mapped pipeline.
            elements: What it maps over, while that is still being made; None if it is complete.

        Raises:
            DependencyError: A value cannot be mapped over, or lengths differ.
        """
        columns: Mapping[str, Iterable[Any]]
        if elements is not None:
            columns = {step.mapped[0]: elements}
            materialize_shared_iterators(step, self.values)
        else:
            columns = dict(zip(step.mapped, nested_columns(step, self.values), strict=True))
        shared = {name: self.values[slot] for name, slot in step.shared}
        mode = step.node.map_mode if elements is None else "zip"  # the same for one list, and read one by one
        return MapInputs(columns, mode, shared, {}, {})

    def complete_map(self, step: NestedStep, results: MapResults) -> None:
        """Record the results of a mapped pipeline whose items were all executed here."""
        self._put(step, results.columns)
        if self._unread is not None:
            self.release(step)

    def complete_delegated(self, step: NestedStep, outputs: Sequence[Any], elements: Sequence[list[bytes]]) -> None:
        """Record the results of a nested pipeline that was run by its own backend.

        Args:
            step: The nested pipeline.
            outputs: Its outputs.
            elements: For each output of a mapped one that has a signature, the signature of each result.
        """
        self._put(step, outputs)
        if self._unread is not None:
            self.release(step)

    def fail_nested(self, step: NestedStep, error: BaseException, duration_s: float) -> tuple[str, ...]:
        """Take note that a nested pipeline could not be started; see `fail`."""
        end_nested(self, step, duration_s)
        return self.fail(step, error)

    def end_nested(self, step: NestedStep, duration_s: float) -> None:
        """Record that a nested pipeline ended, successfully or not."""
        end_nested(self, step, duration_s)
        self.leave(step)

    # --- the accounting of steps that run elsewhere together ------------------------------------------------------

    def shared_scopes(self, steps: Sequence[Step]) -> list[int]:
        """Return the inlined pipelines of some steps that contain others too, so that their events are reported here.

        The events of the others are reported where the steps run together.
        """
        return [] if self._scopes is None else self._scopes.shared_by(steps)

    def begin_together(self, scopes: Iterable[int]) -> None:
        """Record that steps are about to run together on another backend, which reports their events.

        Args:
            scopes: Their `shared_scopes`.
        """
        if self._started_at is None:
            self.begin_item()
        if self._scopes is not None:
            for scope in scopes:
                self._scopes.enter(scope)

    def complete_together(self, part: PlanPart, steps: Sequence[Step], outputs: Sequence[Any]) -> None:
        """Record the results of steps that ran together, and determine which steps can run now.

        Args:
            part: The steps as a plan of their own.
            steps: The steps.
            outputs: Its outputs.
        """
        values = dict(zip(part.leaving, outputs, strict=True))
        for step in steps:
            self._put(step, [UNSET if slot is None else values.get(slot, UNSET) for slot in step.outputs])
        self._leave_together(steps)

    def _leave_together(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if self._unread is not None:
                self.release(step)
            self.leave(step)

    # --- signatures of results ------------------------------------------------------------------------------------

    def key_of(self, step: CallStep) -> bytes | None:
        """Return the signature of the result of a call; None when it has none."""
        return None

    def was_computed(self, key: bytes) -> bool:
        """Return whether a result may have been computed in this run since its look-up missed."""
        return False

    def recall(self, step: CallStep) -> bool:
        """Take the results of a call from the cache if they have been stored meanwhile; return whether they were."""
        return False

    def signatures_of(self, slots: Sequence[int]) -> list[bytes]:
        """Return the signatures of the values in some slots; empty ones where there are none."""
        return [b""] * len(slots)

    # --- the item, and inlined pipelines --------------------------------------------------------------------------

    def context(self, scope: int) -> CallbackContext:
        """Return the context of the events of a scope."""
        contexts = self._contexts
        if contexts is None:
            base = self.base if self.item_index is None else self.base.item(self.item_index)
            contexts = self._contexts = {0: base}
        if scope in contexts:
            return contexts[scope]
        unknown: list[int] = []
        while scope not in contexts:
            unknown.append(scope)
            scope = self.plan.scopes[scope].parent
        context = contexts[scope]
        for inner in reversed(unknown):
            entry = self.plan.scopes[inner]
            context = contexts[inner] = context.child(entry.pipeline_id, entry.node_name)
        return context

    def begin_item(self) -> None:
        """Report the item, if this is one, before the first of its steps starts."""
        if self._started_at is None:
            self._started_at = perf_counter()
            if self.item_index is not None:
                listeners = self.listeners[0]
                if listeners.on_map_item_start and self.plan.open_scopes is None:
                    listeners.notify(listeners.on_map_item_start, self.item_index, self.context(0))

    def close(self) -> None:
        """Report the end of all that was begun, also after an error."""
        if self._scopes is not None:
            self._scopes.close_all()
        if self.item_index is None:
            return
        if self._started_at is not None:
            self._end_item(self.item_index, self._started_at)
        elif self.is_done:
            self._close_untouched(self.item_index)

    def skip(self) -> None:
        """Report an item that does not run because one of its inputs is a failure, or was skipped."""
        Frame.begin_item(self)
        if self.item_index is not None and self._started_at is not None:
            self._end_item(self.item_index, self._started_at)

    def _end_item(self, item_index: int, started_at: float) -> None:
        listeners = self.listeners[0]
        if listeners.on_map_item_end and self.plan.open_scopes is None:
            duration = perf_counter() - started_at
            listeners.notify(listeners.on_map_item_end, item_index, duration, self.context(0))

    def _close_untouched(self, item_index: int) -> None:
        """Report an item that is done without any of its steps having started."""
        self.skip()

    def enter(self, step: Step) -> None:
        """Report the start of the item and of the inlined pipelines that contain a step, unless already reported."""
        if self._started_at is None:
            self.begin_item()
        if self._scopes is not None:
            self._scopes.enter(step.scope)

    def leave(self, step: Step) -> None:
        """Report the end of the inlined pipelines whose last step this was."""
        if self._scopes is not None:
            self._scopes.leave(step.scope)
