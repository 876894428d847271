"""Determines what a run would find in its caches, and which steps it would run, without running any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.demand import DemandFrame
from hypernodes.engine.frames.items import ItemFrames
from hypernodes.engine.state import RunState
from hypernodes.engine.store.read_only import ReadOnlyStore
from hypernodes.errors import DependencyError
from hypernodes.failure import Failure
from hypernodes.plan import CallStep, NestedStep, Plan, Step


def dry_run_state(root: CallbackContext, backend_name: str) -> RunState:
    """Return the state of a dry run: it reads caches, writes nothing and calls no callback."""
    state = RunState(root, backend_name, is_nested=True)
    state.store = ReadOnlyStore(state.warn)
    state.is_dry_run = True
    return state


def open_maps(frame: DemandFrame) -> Iterator[tuple[NestedStep, ItemFrames]]:
    """Yield the mapped pipelines that have to run, wholly or in part, and whose items are known now."""
    values = frame.values
    unknown = {slot for step in steps_to_come(frame) for slot in step.outputs}
    for step in frame.remaining_steps():
        if isinstance(step, CallStep) or not step.mapped or not unknown.isdisjoint(step.arguments):
            continue
        if not step.inner.runs_on_demand:
            continue
        try:
            inputs = frame.map_inputs(step)
        except DependencyError:
            continue  # the run raises the error when it gets there
        if not any(isinstance(values[slot], Failure) for slot in step.arguments):
            yield step, ItemFrames(step.inner, frame.run, frame.base, inputs)


def item_frames(items: ItemFrames) -> Iterator[tuple[int, DemandFrame]]:
    """Yield the position and the frame of each item, after its look-up."""
    position = -1
    while (frame := items.next_item()) is not None:
        position += 1
        if isinstance(frame, DemandFrame):  # other items are not executed, because an input is a failure
            frame.start()
            yield position, frame


def plans_in(plan: Plan) -> Iterator[Plan]:
    """Yield a plan and all plans of nested pipelines in it."""
    yield plan
    for step in plan.steps:
        if isinstance(step, NestedStep):
            yield from plans_in(step.inner)


def steps_to_come(frame: DemandFrame) -> list[Step]:
    """Return all steps that may run.

    These are the remaining steps, and those whose look-up waits until a step that needs them can be identified.
    """
    found = {step.index for step in frame.found_steps()}
    indexes: set[int] = set()
    stack = [step.index for step in frame.remaining_steps()]
    while stack:
        index = stack.pop()
        if index not in indexes and index not in found:
            indexes.add(index)
            stack += frame.plan.steps[index].needs
    return [frame.plan.steps[index] for index in sorted(indexes)]


def slots_taken(steps: Iterable[Step]) -> set[int]:
    """Return the slots that are arguments of some steps."""
    return {slot for step in steps for slot in step.arguments}
