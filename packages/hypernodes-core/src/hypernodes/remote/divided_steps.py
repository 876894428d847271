"""Decides which steps of a plan are jobs of their own, where a backend divides maps among several workers."""

from __future__ import annotations

from hypernodes.plan import CallStep, NestedStep, Plan, Step
from hypernodes.plan.placing import Place, place_steps
from hypernodes.remote.transport import Transport


def divided_maps(plan: Plan, backend: Transport) -> tuple[str, ...]:
    """Return the names of the maps in a plan that a backend divides."""
    nested = [step for step in plan.steps if isinstance(step, NestedStep)]
    return tuple([step.node.name for step in nested if step.mapped and _runs_on(step, backend)])


def divide_steps(plan: Plan, backend: Transport) -> Plan:
    """Return a plan, to be executed here, whose maps a backend divides, and whose other steps it runs in few jobs.

    Args:
        plan: The plan.
        backend: The backend.
    """

    def place_of(step: Step) -> Place:
        if isinstance(step, CallStep):
            return Place(backend)
        if _runs_on(step, backend):
            return Place(backend, is_apart=True)
        if backend.can_call(step.backend):
            return Place()  # it would be called from here also while a job runs
        return Place(backend)  # it runs where the job does

    return place_steps(plan, place_of)


def _runs_on(step: NestedStep, backend: Transport) -> bool:
    return step.backend is None or backend.runs_here(step.backend)
