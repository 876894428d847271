"""Places the steps of a plan: on which backends they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypernodes.plan.assembly import assemble
from hypernodes.plan.drafts import PlanDraft
from hypernodes.plan.plan import Plan, Step
from hypernodes.plan.redrafts import redraft, resource_slots


class Place(NamedTuple):
    """Where a step runs.

    Attributes:
        backend: The backend; None for where the plan runs, or for the own backend of a nested pipeline.
        is_apart: Whether the step, a nested pipeline, is sent by itself rather than together with its neighbours.
        inner: The plan of a nested pipeline that is mapped here, with its own steps placed; None for as it is.
    """

    backend: Any = None
    is_apart: bool = False
    inner: Plan | None = None


def place_steps(plan: Plan, place_of: Callable[[Step], Place]) -> Plan:
    """Return the same plan with other places for its steps, which keep their positions.

    Args:
        plan: The plan.
        place_of: Returns where a step runs.
    """
    places: dict[int, Any] = {}
    drafts = []
    for step in plan.steps:
        place, draft = place_of(step), redraft(step)
        if place.backend is not None and place.is_apart:
            draft = draft._replace(backend=place.backend)
        elif place.backend is not None:
            places[step.index] = place.backend
        elif place.inner is not None:
            draft = draft._replace(nested=(place.inner, draft.made))
        drafts.append(draft)
    return assemble(
        PlanDraft(
            scopes=plan.scopes,
            inputs=plan.inputs,
            outputs=plan.outputs,
            template=plan.template,
            steps=drafts,
            outside=plan.outside,
            resources=resource_slots(plan),
            skippable=plan.skippable.intersection(plan.inputs.values()),
            is_requested=plan.is_requested,
            places=places,
            open_scopes=plan.open_scopes,
        )
    )
