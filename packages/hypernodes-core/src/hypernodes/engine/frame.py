"""One execution of a plan: the values as they come, the steps still to be done, and the events on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.announce import ScopeEvents
from hypernodes.engine.run_state import RunState
from hypernodes.engine.step import split
from hypernodes.plan import UNSET, CallStep, Plan, Step


class Frame:
    """One execution of a plan without a cache: every step runs, in the plan's order.

    Attributes:
        plan: The plan.
        run: The run it is part of.
        values: Value of every slot so far.
        base: Context of the pipeline, or of the map, that it executes.
        item_index: Index of the map item it computes; None when it is no map item.
    """

    __slots__ = ("_contexts", "_position", "_scopes", "base", "item_index", "listeners", "plan", "run", "values")

    def __init__(
        self, plan: Plan, run: RunState, values: list[Any], base: CallbackContext, item_index: int | None = None
    ) -> None:
        self.plan = plan
        self.run = run
        self.values = values
        self.item_index = item_index
        self.base = base
        self._contexts: dict[int, CallbackContext] = {}
        self._position = 0
        self.listeners = run.listeners(plan)
        self._scopes = ScopeEvents(self) if len(plan.scopes) > 1 and plan.is_heard else None

    def start(self) -> bool:
        """Find out what has to be done; return whether anything has."""
        if self._scopes is not None:
            self._scopes.expect(self.plan.steps)
        return True

    def next_step(self) -> Step | None:
        """Return a step that can run now, or None when nothing is left."""
        position = self._position
        if position == len(self.plan.steps):
            return None
        self._position = position + 1
        return self.plan.steps[position]

    def finish(self, step: Step, outputs: Iterable[Any]) -> None:
        """Keep the results of a step."""
        values = self.values
        for slot, value in zip(step.outputs, outputs, strict=True):
            if slot is not None:
                values[slot] = value

    def close(self) -> None:
        """End what was begun, also after an error."""
        if self._scopes is not None:
            self._scopes.close_all()

    def results(self) -> dict[str, Any]:
        """Return those of the requested outputs that are there."""
        values = self.values
        return {name: values[slot] for name, slot in self.plan.outputs.items() if values[slot] is not UNSET}

    def context(self, scope: int) -> CallbackContext:
        """Return the context of the events of a scope."""
        context = self._contexts.get(scope)
        if context is None:
            entry = self.plan.scopes[scope]
            if entry.parent >= 0:
                context = self.context(entry.parent).child(entry.pipeline_id, entry.node_name)
            else:
                context = self.base if self.item_index is None else self.base.item(self.item_index)
            self._contexts[scope] = context
        return context

    def enter(self, step: Step) -> None:
        """Announce the nested pipelines around a step that has not been announced yet."""
        if self._scopes is not None:
            self._scopes.enter(step.scope)

    def leave(self, step: Step) -> None:
        """Announce the end of the nested pipelines of which this step was the last."""
        if self._scopes is not None:
            self._scopes.leave(step.scope)

    def call_events(self, step: CallStep) -> Mapping[str, Any] | None:
        """Announce a call; return its arguments by name when anybody listens to calls."""
        self.enter(step)
        listeners = self.listeners[step.scope]
        if listeners.is_silent:
            return None
        values = self.values
        arguments = {name: values[slot] for name, slot in zip(step.node.inputs, step.arguments, strict=True)}
        if listeners.on_node_start:
            listeners.tell(listeners.on_node_start, step.node.name, arguments, self.context(step.scope))
        return arguments

    def end_events(self, step: CallStep, result: Any, duration: float) -> None:
        """Announce that a call returned."""
        listeners = self.listeners[step.scope]
        if listeners.on_node_end:
            outputs = dict(zip(step.node.outputs, split(step, result), strict=True))
            listeners.tell(listeners.on_node_end, step.node.name, outputs, duration, self.context(step.scope))
        self.leave(step)
