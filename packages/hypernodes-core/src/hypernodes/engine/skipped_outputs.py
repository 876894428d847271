"""Refuses a run whose caller asked for an output by name that was skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypernodes.conditions import SKIPPED
from hypernodes.errors import SkippedOutputError
from hypernodes.plan import NestedStep, Plan


def refuse_skipped(plan: Plan, outputs: Mapping[str, Any]) -> None:
    """Check that no output that was asked for by name was skipped.

    Raises:
        SkippedOutputError: One was; it names the conditions.
    """
    if not plan.is_requested or not plan.skippable:
        return
    for name, value in outputs.items():
        if value is SKIPPED:
            reasons = _reasons(plan, plan.outputs[name]) or ["a value that it depends on was given as SKIPPED"]
            raise SkippedOutputError(
                f"output {name!r} of pipeline {plan.scopes[0].pipeline_id!r} was skipped: {'; '.join(reasons)}. A run "
                "that is asked for no output in particular returns SKIPPED for it",
                output_name=name,
            )


def _reasons(plan: Plan, slot: int) -> list[str]:
    """Return, for each step that could have made the value in a slot, the conditions that did not all hold."""
    found: list[str] = []
    pending, seen = [*plan.makers(slot)], set[int]()
    while pending:
        index = pending.pop(0)
        if index in seen:
            continue
        seen.add(index)
        step = plan.steps[index]
        own = [str(condition) for condition, _ in step.guard.conditions] if step.guard is not None else []
        if own:
            found.append(f"node {step.node.name!r} runs only {' and '.join(own)}")
        if step.guard is not None:
            pending += [maker for _, makers in step.guard.required for maker in makers]
        if isinstance(step, NestedStep) and not step.mapped:
            found += _inside(step, slot)
    return found


def _inside(step: NestedStep, slot: int) -> list[str]:
    inner = dict(zip(step.outputs, step.inner.outputs.values(), strict=True)).get(slot)
    return [] if inner is None else _reasons(step.inner, inner)
