"""Prepares nested pipelines that have a backend of their own: the request for that backend, and the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.demand import DemandFrame
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.items import sign_elements, sign_items
from hypernodes.engine.frames.prior_results import DelegatedContext
from hypernodes.engine.limits import delegated_with
from hypernodes.plan import UNSET, NestedStep
from hypernodes.request import MapRequest, RunRequest
from hypernodes.results import checked_map, checked_run


class Delegation(NamedTuple):
    """A nested pipeline that is ready to run on its own backend.

    Attributes:
        run: Runs it there and returns its outputs.
        elements: For each output of a mapped one, the signature of each result; empty ones where there are none.
    """

    run: Callable[[], list[Any]]
    elements: list[list[bytes]]


def prepare_delegation(frame: Frame, step: NestedStep, context: CallbackContext) -> Delegation:
    """Prepare a nested pipeline for its own backend, with the settings that it inherits here.

    Raises:
        DependencyError: A value cannot be mapped over, or lengths differ.
    """
    prepared = _prepare_map(frame, step, context) if step.mapped else _prepare_run(frame, step, context)
    if not frame.run.limits:
        return prepared
    limits = tuple(frame.run.limits.values())
    return prepared._replace(run=lambda: delegated_with(limits, prepared.run))


def _prepare_run(frame: Frame, step: NestedStep, context: CallbackContext) -> Delegation:
    pipeline, names = _with_settings(step)
    inner = step.inner
    given = {
        name: frame.values[slot] if inner.readers.reads(inner.inputs[name]) else UNSET  # given, so as not to be made
        for name, slot in zip(step.inner_inputs, step.arguments, strict=True)
    }
    if isinstance(frame, DemandFrame):
        slots = dict(zip(step.inner_inputs, step.arguments, strict=True))
        signatures = {name: own for name, slot in slots.items() if (own := frame.signatures[slot])}
        elements = {name: frame.elements[slot] for name, slot in slots.items() if slot in frame.elements}
        context = DelegatedContext(context, given, signatures, elements)

    def run() -> list[Any]:
        backend, request = pipeline.effective_backend, RunRequest(pipeline, given, names, context)
        outputs = checked_run(backend, request, backend.run(request))
        return [outputs[name] for name in names]

    return Delegation(run, [])


def _prepare_map(frame: Frame, step: NestedStep, context: CallbackContext) -> Delegation:
    pipeline, names = _with_settings(step)
    inputs = frame.map_inputs(step)
    elements: list[list[bytes]] = []
    if isinstance(frame, DemandFrame):
        if any(frame.run.codes.of(frame.plan).nested[step.index]):  # some results of items have signatures
            inputs = sign_elements(step.inner, frame.run, inputs)
            elements = sign_items(step.inner, frame.run, inputs)
        known = {name: own for name, own in inputs.signatures.items() if own}
        context = DelegatedContext(context, {**inputs.shared, **inputs.columns}, known, inputs.elements)

    def run() -> list[Any]:
        request = MapRequest(
            pipeline,
            inputs.columns,
            inputs.shared,
            map_mode=inputs.mode,
            output_name=names,
            on_error=step.node.on_error,
            ctx=context,
        )
        backend = pipeline.effective_backend
        columns = checked_map(backend, request, backend.map(request))
        return [columns[name] for name in names]

    return Delegation(run, elements)


def _with_settings(step: NestedStep) -> tuple[Any, list[str]]:
    """Return a nested pipeline with the settings that it inherits, and the names of its requested outputs."""
    pipeline: Any = step.node.pipeline
    return pipeline.with_settings(step.inner.scopes[0].settings), list(step.inner.outputs)
