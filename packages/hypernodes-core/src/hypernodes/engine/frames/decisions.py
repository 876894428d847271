"""Decides which steps of an execution run, and which are skipped because of conditions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from hypernodes.checks import shown
from hypernodes.conditions import SKIPPED, Condition
from hypernodes.errors import ExecutionError
from hypernodes.plan import UNSET, CallStep, NestedStep, Plan, Step


class Decisions:
    """What is known of one execution of a plan: which steps run, and which are skipped.

    Args:
        plan: The plan.
        values: Value of every slot so far; the caller fills them in.
        actual: Returns the value that a placeholder for a cached result stands for; `UNSET` if that is not known.
        running: Positions of steps that are known to run, or to have run.
        skipped: Positions of steps that are known to be skipped.
    """

    __slots__ = ("_actual", "_known", "_plan", "_skipped", "_values")

    def __init__(
        self,
        plan: Plan,
        values: list[Any],
        actual: Callable[[Any], Any],
        running: Collection[int] = (),
        skipped: Collection[int] = (),
    ) -> None:
        self._plan = plan
        self._values = values
        self._actual = actual
        self._skipped = skipped
        self._known: dict[int, bool] = dict.fromkeys(running, True)

    def of(self, index: int) -> bool | None:
        """Return whether a step runs; None while that is not known."""
        return self._known.get(index) if self._plan.steps[index].guard is not None else True

    def decide(self) -> Iterator[tuple[Step, bool]]:
        """Yield the steps for which it becomes known whether they run, in order; the caller records those skipped.

        Raises:
            ExecutionError: A condition cannot be checked.
        """
        for index in self._plan.guarded:
            if index in self._known:
                continue
            step = self._plan.steps[index]
            runs = False if index in self._skipped else self._decide(step)
            if runs is not None:
                self._known[index] = runs
                yield step, runs

    def awaited(self, step: Step) -> list[int]:
        """Return the steps whose results come next in deciding whether a step runs."""
        found: list[int] = []
        stack, seen = [step], {step.index}
        while stack:
            guard = stack.pop().guard
            assert guard is not None
            waiting = [slot for _, slot in guard.conditions if self._values[slot] is UNSET][:1]
            if waiting:  # one after the other: if it does not hold, the others need not be known
                found += self._plan.makers(waiting[0])
                continue
            for slot, makers in guard.required:
                if self._is_made(slot, makers) is not None:
                    continue
                for maker in makers:
                    if self.of(maker) is True:
                        found.append(maker)  # a nested pipeline in which the node may be skipped
                    elif self.of(maker) is None and maker not in seen:
                        seen.add(maker)
                        stack.append(self._plan.steps[maker])
        return found

    def rival(self, step: Step) -> Step | None:
        """Return another step that runs and makes the same output."""
        for slot in step.outputs:
            for maker in self._plan.alternatives.get(slot, ()) if slot is not None else ():
                if maker != step.index and self.of(maker):
                    return self._plan.steps[maker]
        return None

    def is_never_made(self, slot: int) -> bool:
        """Whether every step that may fill a slot is skipped."""
        return all(self.of(maker) is False for maker in self._plan.makers(slot))

    def why_skipped(self, step: Step) -> str:
        """Return in words why a step is skipped."""
        guard = step.guard
        assert guard is not None
        for condition, slot in guard.conditions:
            value = self._actual(self._values[slot])
            if value is SKIPPED:
                return f"`{condition.name}` was skipped"
            if value is not UNSET and not condition.holds(value):
                return f"`{condition.name}` is {shown(value)} (runs only {condition})"
        for slot, makers in guard.required:
            if self._is_made(slot, makers) is False:
                names = step.node.inputs if isinstance(step, CallStep) else step.inner_inputs
                name = names[step.arguments.index(slot)]
                return f"`{name}` was skipped"
        return "it was skipped"

    def _decide(self, step: Step) -> bool | None:
        guard = step.guard
        assert guard is not None
        is_known = True
        for condition, slot in guard.conditions:
            value = self._actual(self._values[slot])
            if value is UNSET:
                is_known = False
            elif not _holds(condition, value, step):
                return False
        for slot, makers in guard.required:
            is_made = self._is_made(slot, makers)
            if is_made is False:
                return False
            is_known = is_known and is_made is not None
        return True if is_known else None

    def _is_made(self, slot: int, makers: tuple[int, ...]) -> bool | None:
        """Whether a slot gets a value; None while that is not known."""
        value = self._values[slot]
        if value is not UNSET:
            return self._actual(value) is not SKIPPED
        if not makers:
            return None  # an input of a nested pipeline that is not there yet
        decisions = [self.of(maker) for maker in makers]
        if not any(decision is not False for decision in decisions):
            return False
        running = [maker for maker, decision in zip(makers, decisions, strict=True) if decision]
        return True if running and not any(self._may_be_empty(maker, slot) for maker in running) else None

    def _may_be_empty(self, maker: int, slot: int) -> bool:
        """Whether a step is a nested pipeline in which what makes a result may be skipped."""
        step = self._plan.steps[maker]
        if not isinstance(step, NestedStep) or step.mapped:
            return False
        return list(step.inner.outputs.values())[step.outputs.index(slot)] in step.inner.skippable


def both_run(step: Step, rival: Step) -> ExecutionError:
    """Return the error for two steps that make the same output and whose conditions hold at the same time."""
    shared = set(step.outputs).intersection(rival.outputs)
    names = step.node.outputs if isinstance(step, CallStep) else tuple(step.inner.outputs)
    name = next(name for name, slot in zip(names, step.outputs, strict=True) if slot in shared)
    listing = " and ".join([f"{made.node.name!r} ({_conditions(made)})" for made in (rival, step)])
    return ExecutionError(
        f"output {name!r} is produced by two nodes whose conditions hold at the same time: {listing}",
        node_names=(rival.node.name, step.node.name),
    )


def _conditions(step: Step) -> str:
    return ", ".join([str(condition) for condition, _ in step.guard.conditions]) if step.guard is not None else ""


def _holds(condition: Condition, value: Any, step: Step) -> bool:
    try:
        return condition.holds(value)
    except Exception as error:
        raise ExecutionError(
            f"{condition} of node {step.node.name!r} cannot be checked: {condition.name!r} is "
            f"{shown(value)} ({type(error).__name__}: {error})",
            node_name=step.node.name,
        ) from error
