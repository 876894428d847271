"""One execution of a plan: the values as they come, the steps still to be done, and the events on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from time import perf_counter
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.events import ScopeEvents
from hypernodes.engine.state import RunState
from hypernodes.plan import UNSET, CallStep, Plan, Step


class Frame:
    """One execution of a plan without a cache: every step runs, as soon as its inputs exist.

    A frame knows what can run next and what has been done; who runs it, where and how many steps at a time, is for the
    scheduler to decide.

    Attributes:
        plan: The plan.
        run: The run it is part of.
        values: Value of every slot so far.
        base: Context of the pipeline, or of the map, that it executes.
        item_index: Index of the map item it computes; None when it is no map item.
        listeners: Who hears the events of each scope.
    """

    __slots__ = (
        "_contexts",
        "_ready",
        "_remaining",
        "_scopes",
        "_started_at",
        "_waiting",
        "base",
        "item_index",
        "listeners",
        "plan",
        "run",
        "values",
    )

    def __init__(
        self, plan: Plan, run: RunState, values: list[Any], base: CallbackContext, item_index: int | None = None
    ) -> None:
        self.plan = plan
        self.run = run
        self.values = values
        self.base = base
        self.item_index = item_index
        self.listeners = run.listeners(plan)
        self._contexts: dict[int, CallbackContext] = {}
        self._scopes = self.new_scopes() if len(plan.scopes) > 1 else None
        self._started_at: float | None = None
        self._ready: list[int] = []
        self._waiting: list[int] = []
        self._remaining = 0

    def new_scopes(self) -> ScopeEvents | None:
        """Return what announces the pipelines that were inlined; None when there are none, or nobody listens."""
        return ScopeEvents(self) if len(self.plan.scopes) > 1 and self.plan.is_observed else None

    # --- what to do -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find out what has to be done."""
        self.expect_all()
        self._waiting = [len(step.needs) for step in self.plan.steps]
        self._ready = [index for index, count in enumerate(self._waiting) if count == 0]

    def expect_all(self) -> None:
        """Prepare for running every step, one after the other in the plan's order."""
        self._remaining = len(self.plan.steps)
        if self._scopes is not None:
            self._scopes.expect(self.plan.steps)

    def next_step(self) -> Step | None:
        """Return the first step in the plan's order that can run now; None when there is none at present."""
        return self.plan.steps[heappop(self._ready)] if self._ready else None

    def remaining_calls(self) -> list[CallStep] | None:
        """Return all that is left to do, in order, if it consists of calls that are known now; else None."""
        calls = [step for step in self.plan.steps if isinstance(step, CallStep)]
        return calls if len(calls) == len(self.plan.steps) == self._remaining else None

    def take(self, step: CallStep) -> CallStep:
        """Note that a step that can run now is not for `next_step` to return any more."""
        self._ready.remove(step.index)
        heapify(self._ready)
        return step

    def put(self, step: Step, outputs: Iterable[Any]) -> None:
        """Keep the results of a step."""
        values = self.values
        for slot, value in zip(step.outputs, outputs, strict=True):
            if slot is not None:
                values[slot] = value
        self._remaining -= 1

    def finish(self, step: Step, outputs: Iterable[Any]) -> None:
        """Keep the results of a step, and find out what can run now."""
        self.put(step, outputs)
        for consumer in self.plan.consumers[step.index]:
            self._waiting[consumer] -= 1
            if self._waiting[consumer] == 0:
                heappush(self._ready, consumer)

    @property
    def is_done(self) -> bool:
        """Whether everything that is asked for is there."""
        return self._remaining == 0

    def results(self) -> dict[str, Any]:
        """Return those of the requested outputs that are there."""
        values = self.values
        return {name: values[slot] for name, slot in self.plan.outputs.items() if values[slot] is not UNSET}

    # --- events ---------------------------------------------------------------------------------------------------

    def context(self, scope: int) -> CallbackContext:
        """Return the context of the events of a scope."""
        if scope in self._contexts:
            return self._contexts[scope]
        unknown: list[int] = []
        while scope not in self._contexts and scope > 0:
            unknown.append(scope)
            scope = self.plan.scopes[scope].parent
        context = self._contexts.get(scope)
        if context is None:
            context = self.base if self.item_index is None else self.base.item(self.item_index)
            self._contexts[scope] = context
        for inner in reversed(unknown):
            entry = self.plan.scopes[inner]
            context = self._contexts[inner] = context.child(entry.pipeline_id, entry.node_name)
        return context

    def begin(self) -> None:
        """Announce the item, if this is one, before the first of its steps starts."""
        if self._started_at is None:
            self._started_at = perf_counter()
            if self.item_index is not None:
                listeners = self.listeners[0]
                if listeners.on_map_item_start:
                    listeners.notify(listeners.on_map_item_start, self.item_index, self.context(0))

    def close(self) -> None:
        """Announce the end of what was begun, also after an error."""
        if self._scopes is not None:
            self._scopes.close_all()
        if self.item_index is None:
            return
        if self._started_at is not None:
            self._end_item(self.item_index, self._started_at)
        elif self.is_done:
            self._close_untouched(self.item_index)

    def skip(self) -> None:
        """Announce an item that does not run because one of its inputs is a failure."""
        Frame.begin(self)
        if self.item_index is not None and self._started_at is not None:
            self._end_item(self.item_index, self._started_at)

    def _end_item(self, item_index: int, started_at: float) -> None:
        listeners = self.listeners[0]
        if listeners.on_map_item_end:
            duration = perf_counter() - started_at
            listeners.notify(listeners.on_map_item_end, item_index, duration, self.context(0))

    def _close_untouched(self, item_index: int) -> None:
        """Announce an item that is done without any of its steps having started."""
        self.skip()

    def enter(self, step: Step) -> None:
        """Announce what is around a step and has not been announced yet: the item, nested pipelines."""
        if self._started_at is None:
            self.begin()
        if self._scopes is not None:
            self._scopes.enter(step.scope)

    def leave(self, step: Step) -> None:
        """Announce the end of the nested pipelines of which this step was the last."""
        if self._scopes is not None:
            self._scopes.leave(step.scope)

    def announce_call(self, step: CallStep) -> None:
        """Announce a call that is about to be made."""
        self.enter(step)
        listeners = self.listeners[step.scope]
        if listeners.on_node_start:
            values = self.values
            arguments: Mapping[str, Any] = {name: values[slot] for name, slot in step.named}
            listeners.notify(listeners.on_node_start, step.node.name, arguments, self.context(step.scope))

    def announce_result(self, step: CallStep, outputs: Iterable[Any], duration_s: float) -> None:
        """Announce that a call returned."""
        listeners = self.listeners[step.scope]
        if listeners.on_node_end:
            named = dict(zip(step.node.outputs, outputs, strict=True))
            listeners.notify(listeners.on_node_end, step.node.name, named, duration_s, self.context(step.scope))
        self.leave(step)

    def announce_error(self, step: Step, error: BaseException) -> None:
        """Announce that a step failed."""
        listeners = self.listeners[step.scope]
        if listeners.on_error:
            listeners.notify(listeners.on_error, step.node.name, error, self.context(step.scope))

    def announce_retry(self, step: CallStep, attempt: int, error: BaseException, delay_s: float) -> None:
        """Announce that a call raised and will be made again."""
        listeners = self.listeners[step.scope]
        if listeners.on_node_retry:
            context = self.context(step.scope)
            listeners.notify(listeners.on_node_retry, step.node.name, attempt, error, delay_s, context)
