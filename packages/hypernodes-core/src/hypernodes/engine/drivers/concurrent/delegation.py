"""Nested pipelines that say themselves where they run."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.drivers.concurrent.activity import Activity, PlanActivity
from hypernodes.engine.drivers.concurrent.tasks import DelegatedTask
from hypernodes.engine.frames.cached import CachedFrame
from hypernodes.engine.frames.events import end_nested, start_nested
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.items import nested_map_inputs, sign_elements, sign_items
from hypernodes.engine.frames.prior_results import DelegatedContext
from hypernodes.engine.step import add_note, path_of
from hypernodes.engine.workers.workers import Outcome, Workers
from hypernodes.plan import NestedStep

if TYPE_CHECKING:
    from hypernodes.engine.drivers.concurrent.scheduler import Scheduler


class Delegation:
    """Hands nested pipelines to their own backends, and takes their results.

    Args:
        scheduler: What decides when.
        places: Gives threads to wait in.
        report: Called with a task and its outcome, in any thread, when there is one.
    """

    def __init__(
        self, scheduler: Scheduler, places: Workers, report: Callable[[DelegatedTask, Outcome], object]
    ) -> None:
        self._scheduler = scheduler
        self._workers = places
        self._report = report
        self._tasks: set[DelegatedTask] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def call(self, activity: PlanActivity, step: NestedStep) -> None:
        """Hand a nested pipeline to its own backend."""
        frame = activity.frame
        frame.enter(step)
        frame.run.store.flush()  # for it to find, and because it may take long
        context = start_nested(frame, step)
        task = DelegatedTask(activity, step)
        try:
            run, task.elements = prepare(frame, step, context)
        except Exception as error:
            add_note(error, frame.plan, step, frame.base, frame.run.backend_name, frame.item_index)
            self.settle(task, error, [], is_announced=False)
            return
        runs_beside = activity.owner is not None and self._workers.open_items > 1
        if not self._scheduler.runs_nodes_in_order or runs_beside:
            self._tasks.add(task)
            task.future = future = self._workers.submit_waiting(task.runs, run)
            future.add_done_callback(lambda future: self._report(task, future))
            return
        try:
            outputs = run()
        except Exception as error:
            self.settle(task, error, [])
        else:
            self.settle(task, None, outputs)

    def settle(
        self, task: DelegatedTask, error: BaseException | None, outputs: list[Any], is_announced: bool = True
    ) -> None:
        """Take over what came of it.

        Args:
            task: What was handed over.
            error: What it raised; None when it returned.
            outputs: Its outputs.
            is_announced: Whether the error has been announced, by the run that it happened in.
        """
        self._tasks.discard(task)
        activity, step, frame = task.activity, task.step, task.activity.frame
        if error is None and isinstance(frame, CachedFrame):
            frame.complete_delegated(step, outputs, task.elements)
        elif error is None:
            frame.finish(step, outputs)
        end_nested(frame, step, perf_counter() - task.started_at)
        if error is not None and not is_announced:
            frame.announce_error(step, error)
        frame.leave(step)
        activity.pending -= 1
        if error is not None:
            self._scheduler.fail(activity, error, (*path_of(frame.plan, step, frame.base), step.node.name))
        self._scheduler.wake(activity)

    def cancel(self, within: Activity | None = None) -> None:
        """End what is under way, as a part of an activity or at all."""
        for task in self._tasks:
            if within is None or task.activity.is_within(within):
                task.runs.cancel()


class PreparedDelegation(NamedTuple):
    """A nested pipeline that is ready to be handed to its own backend.

    Attributes:
        run: Hands it over and returns its outputs.
        elements: For each output of a mapped one, the signature of each result; empty ones where there are none.
    """

    run: Callable[[], list[Any]]
    elements: list[list[bytes]]


def prepare(frame: Frame, step: NestedStep, context: CallbackContext) -> PreparedDelegation:
    """Prepare a nested pipeline for its own backend, with the settings that it inherits here.

    Raises:
        DependencyError: What it maps over does not fit.
    """
    return _prepare_map(frame, step, context) if step.mapped else _prepare_run(frame, step, context)


def _prepare_run(frame: Frame, step: NestedStep, context: CallbackContext) -> PreparedDelegation:
    pipeline, names = _with_settings(step)
    given = {name: frame.values[slot] for name, slot in zip(step.inner_inputs, step.arguments, strict=True)}
    if isinstance(frame, CachedFrame):
        slots = dict(zip(step.inner_inputs, step.arguments, strict=True))
        signatures = {name: own for name, slot in slots.items() if (own := frame.signatures[slot])}
        elements = {name: frame.elements[slot] for name, slot in slots.items() if slot in frame.elements}
        context = DelegatedContext(context, given, signatures, elements)

    def run() -> list[Any]:
        found = pipeline.effective_backend.run(pipeline, given, context, names)
        return [found[name] for name in names]

    return PreparedDelegation(run, [])


def _prepare_map(frame: Frame, step: NestedStep, context: CallbackContext) -> PreparedDelegation:
    pipeline, names = _with_settings(step)
    inputs = nested_map_inputs(frame, step)
    elements: list[list[bytes]] = []
    if isinstance(frame, CachedFrame):
        if all(frame.signatures[slot] for slot in step.outputs if slot is not None):
            inputs = sign_elements(step.inner, frame.run, inputs)
            elements = sign_items(step.inner, frame.run, inputs)
        known = {name: own for name, own in inputs.signatures.items() if own}
        context = DelegatedContext(context, {**inputs.shared, **inputs.columns}, known, inputs.elements)

    def run() -> list[Any]:
        columns = pipeline.effective_backend.map_columns(
            pipeline, inputs.columns, inputs.mode, inputs.shared, context, names, step.node.on_error
        )
        return [columns[name] for name in names]

    return PreparedDelegation(run, elements)


def _with_settings(step: NestedStep) -> tuple[Any, list[str]]:
    """Return a nested pipeline with the settings that it inherits, and the names of the outputs that are wanted."""
    pipeline: Any = step.node.pipeline
    return pipeline.with_settings(step.inner.scopes[0].settings), list(step.inner.outputs)
