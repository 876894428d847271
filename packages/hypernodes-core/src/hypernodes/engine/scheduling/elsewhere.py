"""Nested pipelines that say themselves where they run."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.caching.items import nested_map_inputs
from hypernodes.engine.places.places import Outcome, Places
from hypernodes.engine.run.announce import end_nested, start_nested
from hypernodes.engine.run.frame import Frame
from hypernodes.engine.run.step import add_note, path_of
from hypernodes.engine.scheduling.activity import Activity, PlanActivity
from hypernodes.engine.scheduling.tasks import ElsewhereTask
from hypernodes.plan import NestedStep

if TYPE_CHECKING:
    from hypernodes.engine.scheduling.scheduler import Scheduler


class Elsewhere:
    """Hands nested pipelines to their own backends, and takes their results.

    Args:
        scheduler: What decides when.
        places: Gives threads to wait in.
        report: Called with a task and its outcome, in any thread, when there is one.
    """

    def __init__(
        self, scheduler: Scheduler, places: Places, report: Callable[[ElsewhereTask, Outcome], object]
    ) -> None:
        self._scheduler = scheduler
        self._places = places
        self._report = report
        self._tasks: set[ElsewhereTask] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def call(self, activity: PlanActivity, step: NestedStep) -> None:
        """Hand a nested pipeline to its own backend."""
        frame = activity.frame
        frame.enter(step)
        frame.run.store.flush()  # for it to find, and because it may take long
        context = start_nested(frame, step)
        task = ElsewhereTask(activity, step)
        try:
            run = prepare_elsewhere(frame, step, context)
        except Exception as error:
            add_note(error, frame.plan, step, frame.base, frame.run.place, frame.item_index)
            self.settle(task, error, [], is_announced=False)
            return
        runs_beside = activity.owner is not None and self._places.open_items > 1
        if not self._scheduler.runs_nodes_in_order or runs_beside:
            self._tasks.add(task)
            task.future = future = self._places.submit_waiting(task.runs, run)
            future.add_done_callback(lambda future: self._report(task, future))
            return
        try:
            outputs = run()
        except Exception as error:
            self.settle(task, error, [])
        else:
            self.settle(task, None, outputs)

    def settle(
        self, task: ElsewhereTask, error: BaseException | None, outputs: list[Any], is_announced: bool = True
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
        if error is None:
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


def prepare_elsewhere(frame: Frame, step: NestedStep, context: CallbackContext) -> Callable[[], list[Any]]:
    """Return what runs a nested pipeline on its own backend, with the settings that it inherits here.

    Raises:
        DependencyError: What it maps over does not fit.
    """
    pipeline: Any = step.node.pipeline
    pipeline = pipeline.with_settings(step.inner.scopes[0].settings)
    names = list(step.inner.outputs)
    given = {name: frame.values[slot] for name, slot in zip(step.inner_inputs, step.arguments, strict=True)}

    if not step.mapped:

        def run() -> list[Any]:
            found = pipeline.effective_backend.run(pipeline, given, context, names)
            return [found[name] for name in names]

        return run

    inputs = nested_map_inputs(frame, step)
    shared = {name: value for name, value in given.items() if name not in inputs.columns}

    def run_items() -> list[Any]:
        columns = pipeline.effective_backend.map_columns(
            pipeline, inputs.columns, inputs.mode, shared, context, names, step.node.on_error
        )
        return [columns[name] for name in names]

    return run_items
