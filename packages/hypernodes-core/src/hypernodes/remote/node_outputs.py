"""Names of the outputs of every node in a plan, by its path."""

from __future__ import annotations

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.step import path_of
from hypernodes.plan import CallStep, Plan


def outputs_by_path(plan: Plan, root: CallbackContext) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the outputs of each node, by the path of its pipeline (`node_path`) and its name.

    Args:
        plan: The plan, with the plans of nested pipelines in it.
        root: Context of the pipeline.
    """
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    plans = [(plan, root)]
    while plans:
        current, base = plans.pop()
        for step in current.steps:
            path = path_of(current, step, base)
            if isinstance(step, CallStep):
                found[(*path, step.node.name)] = step.node.outputs
            else:
                context = CallbackContext(path).child(step.inner.scopes[0].pipeline_id, step.node.name)
                plans.append((step.inner, context))
    return found
