"""Nested pipelines that say themselves where they run."""

from __future__ import annotations

from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frame import Frame
from hypernodes.engine.items import nested_map_inputs
from hypernodes.plan import NestedStep


def run_elsewhere(frame: Frame, step: NestedStep, context: CallbackContext) -> list[Any]:
    """Hand a nested pipeline to its own backend, with the settings that it inherits here; return its outputs."""
    pipeline: Any = step.node.pipeline
    pipeline = pipeline.with_settings(step.inner.scopes[0].settings)
    names = list(step.inner.outputs)
    given = {name: frame.values[slot] for name, slot in zip(step.inner_inputs, step.arguments, strict=True)}
    if not step.mapped:
        found = pipeline.effective_backend.run(pipeline, given, context, names)
        return [found[name] for name in names]
    inputs = nested_map_inputs(frame, step)
    shared = {name: value for name, value in given.items() if name not in inputs.columns}
    columns = pipeline.effective_backend.map_columns(
        pipeline, inputs.columns, inputs.mode, shared, context, names, step.node.on_error
    )
    return [columns[name] for name in names]
