"""Runs steps on other backends: nested pipelines with a backend of their own, and neighbouring steps together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import CancelledError
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.failed_items import STAND_INS
from hypernodes.engine.frames.demand import DemandFrame
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.items import sign_elements, sign_items
from hypernodes.engine.frames.prior_results import DelegatedContext
from hypernodes.engine.limits import delegated_with
from hypernodes.engine.step import path_of
from hypernodes.errors import add_note
from hypernodes.failure import FAILED_CALL, Failure
from hypernodes.plan import UNSET, CallStep, NestedStep, OnError, Plan, PlanPart, Step
from hypernodes.request import MapRequest, RunRequest
from hypernodes.results import checked_map, checked_run, name_of

Run: TypeAlias = Callable[[], list[Any]]  # runs something on another backend; returns its outputs


class Delegated(Protocol):
    """Something that another backend runs; made when it can run, and begun when there is room for it."""

    counts_as_call: bool
    """Whether it counts among the calls that the run may make at a time."""

    @property
    def backend(self) -> Any:
        """The backend that runs it."""

    @property
    def steps(self) -> Sequence[Step]:
        """The steps that it does."""

    def begin(self) -> Run:
        """Record that it is about to run; return what runs it.

        Raises:
            DependencyError: A value cannot be mapped over, or lengths differ.
        """

    def refuse(self, error: Exception) -> tuple[str, ...]:
        """Record that it could not begin; return the path of the step."""

    def complete(self, outputs: Sequence[Any]) -> None:
        """Record its outputs."""

    def end(self) -> None:
        """Record that it ended, successfully or not."""

    def failed_path(self, error: BaseException) -> tuple[str, ...]:
        """Return the path of what failed (`Failure.node_path`), as far as it is known; note it in the error."""


def delegate(frame: Frame, step: Step) -> Delegated:
    """Prepare for running a step on another backend, and its neighbours, if it is not a nested pipeline by itself."""
    if step.index in frame.plan.places:
        return Neighbours(frame, step)
    assert isinstance(step, NestedStep)
    return _Nested(frame, step)


class _Nested:
    """A nested pipeline with a backend of its own."""

    counts_as_call = True

    def __init__(self, frame: Frame, step: NestedStep) -> None:
        self._frame = frame
        self._step = step
        self._started_at = 0.0
        self._elements: list[list[bytes]] = []  # for each output of a map, the signature of each result, if known
        self.backend = step.backend
        self.steps = [step]

    def begin(self) -> Run:
        frame, step = self._frame, self._step
        context = frame.begin_nested(step)
        frame.run.flush_store()  # the other backend may read the cache, and may take long
        self._started_at = perf_counter()
        pipeline: Any = step.node.pipeline  # with the settings that it inherits here:
        pipeline = pipeline.with_settings(step.inner.scopes[0].settings)
        prepare = self._prepare_map if step.mapped else self._prepare_run
        return _with_limits(frame, prepare(pipeline, list(step.inner.outputs), context))

    def _prepare_run(self, pipeline: Any, names: list[str], context: CallbackContext) -> Run:
        step = self._step
        slots = dict(zip(step.inner_inputs, step.arguments, strict=True))
        return _run_on(step.backend, self._frame, pipeline, step.inner, slots, names, context)

    def _prepare_map(self, pipeline: Any, names: list[str], context: CallbackContext) -> Run:
        frame, step = self._frame, self._step
        inputs = frame.map_inputs(step)
        if isinstance(frame, DemandFrame):
            if any(frame.run.codes.of(frame.plan).nested[step.index]):  # some results of items have signatures
                inputs = sign_elements(step.inner, frame.run, inputs)
                self._elements = sign_items(step.inner, frame.run, inputs)
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
            columns = checked_map(step.backend, request, step.backend.map(request))
            return [columns[name] for name in names]

        return run

    def refuse(self, error: Exception) -> tuple[str, ...]:
        return self._frame.fail_nested(self._step, error, perf_counter() - self._started_at)

    def complete(self, outputs: Sequence[Any]) -> None:
        self._frame.complete_delegated(self._step, outputs, self._elements)

    def end(self) -> None:
        self._frame.end_nested(self._step, perf_counter() - self._started_at)

    def failed_path(self, error: BaseException) -> tuple[str, ...]:
        _note_steps(error, self._frame, self.steps, self.backend)
        return self._frame.path_to(self._step)  # the note of the error says where inside it was raised


class Neighbours:
    """Steps of the plan itself that run at one place together, as a plan of their own."""

    counts_as_call = False

    def __init__(self, frame: Frame, step: Step) -> None:
        plan = frame.plan
        self.frame = frame
        self.backend = plan.places[step.index]
        self.steps = steps = frame.take_neighbours(step)
        open_scopes, leaving = frame.shared_scopes(steps), frame.needed_after(steps)
        self._open_scopes = open_scopes
        key = (tuple([step.index for step in steps]), *leaving, None, *open_scopes)
        if key not in plan.parts:
            plan.parts[key] = PlanPart(plan, steps, leaving, open_scopes)
        self.part: PlanPart = plan.parts[key]

    def announce(self) -> None:
        """Record that they are about to run."""
        self.frame.begin_together(self._open_scopes)

    def begin(self) -> Run:
        frame, part = self.frame, self.part
        self.announce()
        frame.run.flush_store()
        slots = dict(zip(part.plan.inputs, part.entering, strict=True))
        run = _run_on(self.backend, frame, part, part.plan, slots, list(part.plan.outputs), frame.context(0))
        return _with_limits(frame, run)

    def refuse(self, error: Exception) -> tuple[str, ...]:
        return self.frame.fail(self.steps[0], error)

    def complete(self, outputs: Sequence[Any]) -> None:
        self.frame.complete_together(self.part, self.steps, outputs)

    def end(self) -> None:
        pass  # the ends of the single steps were reported

    def failed_path(self, error: BaseException) -> tuple[str, ...]:
        call = getattr(error, FAILED_CALL, None)
        if call is not None:
            for step in self.steps:
                inside = _names_to(call.node.name, step)
                if inside:
                    return (*self.frame.path_to(step)[:-1], *inside)
        _note_steps(error, self.frame, self.steps, self.backend)
        return self.frame.path_to(self.steps[0])

    def varying(self, mapped: Collection[str]) -> list[int]:
        """Return the slots of the values that they take and that may differ between the items of a map.

        Args:
            mapped: The names of the inputs that vary from item to item.
        """
        inputs = self.frame.plan.inputs
        shared = {slot for name, slot in inputs.items() if name not in mapped}
        return [slot for slot in self.part.entering if slot not in shared]

    def can_be_gathered(self, mapped: Collection[str]) -> bool:
        """Whether those of several items can be sent as a map; see `varying`.

        Not if a value stands for a result that was not made, since an item of a map with such a value is not computed;
        nor if the elements of a list have signatures that a map in it needs.
        """
        frame, varying = self.frame, self.varying(mapped)
        if not varying or not self.part.plan.outputs:
            return False
        if not STAND_INS.isdisjoint([type(frame.values[slot]) for slot in varying]):
            return False
        has_elements = isinstance(frame, DemandFrame) and not frame.elements.keys().isdisjoint(self.part.entering)
        return not has_elements or all(isinstance(step, CallStep) for step in self.steps)

    def may_fail_at(self, path: tuple[str, ...]) -> bool:
        """Whether an item may fail with this path (`Failure.node_path`): else it is a value that nodes returned."""
        return any(path[: len(own)] == own and not collects for own, collects in map(self._path_and_kind, self.steps))

    def _path_and_kind(self, step: Step) -> tuple[tuple[str, ...], bool]:
        collects = isinstance(step, NestedStep) and step.node.on_error == "collect"
        return self.frame.path_to(step), collects


def _note_steps(error: BaseException, frame: Frame, steps: Sequence[Step], backend: Any) -> None:
    """Say which nodes an error is about if it names none, as when the worker was lost or an input could not be sent."""
    if not isinstance(error, Exception) or isinstance(error, CancelledError):
        return
    if any("in node " in note for note in getattr(error, "__notes__", ())):
        return
    names = ", ".join([repr(step.node.name) for step in steps])
    path = " → ".join(path_of(frame.plan, steps[0], frame.base))
    were = "node {} of pipeline {} was" if len(steps) == 1 else "nodes {} of pipeline {} were"
    add_note(error, f"when {were.format(names, path)} to run; backend: {name_of(backend)}")


def _names_to(name: str, step: Step) -> tuple[str, ...]:
    """Return the names from a step to a node in it, that of the step first; nothing if the node is not in it."""
    if isinstance(step, CallStep):
        return (name,) if step.node.name == name else ()
    for inner in step.inner.steps:
        found = _names_to(name, inner)
        if found:
            return (*path_of(step.inner, inner, CallbackContext((), (step.node.name,))), *found)
    return ()


def run_gathered(members: Sequence[Neighbours], mapped: Collection[str], on_error: OnError) -> Run:
    """Return what runs the same steps of several items of a map, as a map; for each item it returns a row of outputs.

    Args:
        members: These steps, of items in increasing order.
        mapped: The names of the inputs that vary from item to item.
        on_error: "raise", or "collect" to return a `Failure` in place of the row of an item that fails.
    """
    first = members[0]
    frame, part, backend = first.frame, first.part, first.backend
    for member in members:
        member.announce()
    frame.run.flush_store()
    slots = dict(zip(part.plan.inputs, part.entering, strict=True))
    varying = set(first.varying(mapped))
    columns = {
        name: [member.frame.values[slot] for member in members] for name, slot in slots.items() if slot in varying
    }
    shared = {name: frame.values[slot] for name, slot in slots.items() if slot not in varying}
    context = frame.base
    if isinstance(frame, DemandFrame):
        signatures = {name: own for name in shared if (own := frame.signatures[slots[name]])}
        elements = {name: [_signature(member.frame, slots[name]) for member in members] for name in columns}
        context = DelegatedContext(context, {**shared, **columns}, signatures, elements)
    names = list(part.plan.outputs)
    indexes = [index for member in members if (index := member.frame.item_index) is not None]

    def run() -> list[Any]:
        request = MapRequest(part, columns, shared, output_name=names, on_error=on_error, ctx=context, indexes=indexes)
        found = checked_map(backend, request, backend.map(request))
        rows = zip(*[found[name] for name in names], strict=True)
        if on_error == "raise":
            return list(rows)
        return [_failure_of(member, row) or row for member, row in zip(members, rows, strict=True)]

    return _with_limits(frame, run)


def _failure_of(member: Neighbours, row: tuple[Any, ...]) -> Failure | None:
    """Return the failure that stands for all results of an item; None if a node returned it, or there is none."""
    found = row[0]
    if not isinstance(found, Failure) or found.item_index != member.frame.item_index:
        return None
    return found if member.may_fail_at(found.node_path) else None


def _signature(frame: Frame, slot: int) -> bytes:
    assert isinstance(frame, DemandFrame)
    return frame.signatures[slot] or b""


def _run_on(
    backend: Any,
    frame: Frame,
    pipeline: Any,
    plan: Plan,
    slots: Mapping[str, int],
    names: list[str],
    context: CallbackContext,
) -> Run:
    """Return what runs a pipeline, or a part of one, on another backend.

    Args:
        backend: The backend.
        frame: The execution that it is a part of.
        pipeline: The pipeline.
        plan: Its plan for what is needed.
        slots: For each of its inputs, the slot of the frame that holds the value.
        names: Its outputs.
        context: Its context.
    """
    given = {  # what nothing reads is given so that it is not made
        name: frame.values[slot] if plan.readers.reads(plan.inputs[name]) else UNSET for name, slot in slots.items()
    }
    if isinstance(frame, DemandFrame):
        signatures = {name: own for name, slot in slots.items() if (own := frame.signatures[slot])}
        elements = {name: frame.elements[slot] for name, slot in slots.items() if slot in frame.elements}
        context = DelegatedContext(context, given, signatures, elements)

    def run() -> list[Any]:
        request = RunRequest(pipeline, given, names, context)
        outputs = checked_run(backend, request, backend.run(request))
        return [outputs[name] for name in names]

    return run


def _with_limits(frame: Frame, run: Run) -> Run:
    if not frame.run.limits:
        return run
    limits = tuple(frame.run.limits.values())
    return lambda: delegated_with(limits, run)
