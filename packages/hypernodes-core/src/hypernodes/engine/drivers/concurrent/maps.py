"""Maps in the concurrent driver: one plan, executed once per item.

An `ItemStarter` decides how items are started: as activities of their own (here), in chunks that worker processes
compute (`item_chunks`), or as rows of values that workers execute without events (`rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from hypernodes.callbacks import CallbackContext
from hypernodes.conditions import Skipped
from hypernodes.engine.drivers.concurrent.activity import Activity, Host, ItemOwner, PlanActivity
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.events import end_map, start_map
from hypernodes.engine.frames.frame import Frame, MapResults
from hypernodes.engine.frames.items import ItemFrames
from hypernodes.engine.state import RunState
from hypernodes.engine.store.manifests import skipped_signature
from hypernodes.failure import Failure
from hypernodes.plan import NestedStep, OnError, Plan


class Deliver(Protocol):
    """Receives the results of items one by one."""

    @property
    def is_full(self) -> bool: ...

    def __call__(self, index: int, outputs: tuple[Any, ...]) -> None: ...


class ItemStarter:
    """Starts the items of a map."""

    def start_next(self, host: Host) -> bool:
        """Start one or more items; return False when nothing can be started at present."""
        raise NotImplementedError

    @property
    def has_begun_items(self) -> bool:
        """Whether items have been read that wait to be started."""
        return False

    def close(self) -> None:
        """Report the end of the items that are neither done nor activities, since the map ends early."""


class Source(Protocol):
    """Makes the items of a map while they are read."""

    @property
    def number(self) -> int:
        """Which one it is, in the order in which the sources began."""

    @property
    def is_starved(self) -> bool:
        """Whether the next item has not been made yet."""


class PlannedMap(NamedTuple):
    """A map to execute.

    Attributes:
        plan: The plan of one item.
        run: The run it is part of.
        base: Context of the map.
        inputs: The inputs of the items.
        on_error: "raise" ends the map with the first failing item; "collect" puts a `Failure` in place of its outputs.
        parent: The plan in which the map is a step; None at the top.
        ended: Called when the map is done.
        deliver: Called with the index and the outputs of each item as it is done, instead of collecting them.
        is_part: Whether these are only some of the items of a map; then its start and end are reported by the caller.
        step_index: Position of the step in the plan of `parent`; None at the top.
        source: Makes the items while they are read; None if they are complete, or come when they are asked for.
    """

    plan: Plan
    run: RunState
    base: CallbackContext
    inputs: MapInputs
    on_error: OnError
    parent: Activity | None = None
    ended: Callable[[MapActivity, Host], None] | None = None
    deliver: Deliver | None = None
    is_part: bool = False
    step_index: int | None = None
    source: Source | None = None


class MapActivity(ItemOwner):
    """One plan executed once per item.

    Args:
        request: The map to execute.
        starter: Makes the item starter.

    Attributes:
        columns: For each requested output, one result per item.
        elements: For each requested output, the signature of each result; empty ones where there are none.
        has_failures: Whether a `Failure` is among the results.
        is_unverified: Whether some results that should have signatures are identified by their values only.
        is_exhausted: Whether every item has been read.
        source: Makes the items while they are read; None if they are complete, or come when they are asked for.
        total: Number of items; None when it is not known beforehand.
    """

    def __init__(self, request: PlannedMap, starter: Callable[[MapActivity], ItemStarter]) -> None:
        super().__init__(request.parent)
        self.request = request
        self.plan = request.plan
        self.collects = request.on_error == "collect"
        self.total = request.inputs.total()
        self._room = self.total or 0 if request.deliver is None else 0  # for how many results there is space
        self._begun = 0
        self.columns: list[list[Any]] = [[None] * self._room for _ in self.plan.outputs]
        self.elements: list[list[bytes]] = [[b""] * self._room for _ in self.plan.outputs]
        self.has_failures = self.is_unverified = False
        self.is_exhausted = False
        self.source = request.source
        self._slots = tuple(self.plan.outputs.values())
        self._deliver = request.deliver
        self._started_at = perf_counter()
        if not request.is_part:
            start_map(self.plan, request.run, request.base, self.total)
        self._starter = starter(self)

    @property
    def step_index(self) -> int | None:
        """Position of the step in the plan around it; None at the top."""
        return self.request.step_index

    @property
    def has_room(self) -> bool:
        """Whether the consumer of the results is ready for more."""
        return self._deliver is None or not self._deliver.is_full

    @property
    def can_begin(self) -> bool:
        """Whether there may be unread items whose results are wanted, and the next need not be waited for."""
        return not (self.is_exhausted or self.is_stopped or self.is_starved)

    @property
    def is_starved(self) -> bool:
        """Whether the next item has not been made yet; the map is woken when it has."""
        return self.source is not None and self.source.is_starved

    @property
    def is_complete(self) -> bool:
        """Whether every item has a result."""
        return self.is_exhausted and self.error is None and not self.is_stopped

    @property
    def results(self) -> MapResults:
        """The results of all items."""
        return MapResults(self.columns, self.elements, self.has_failures, self.is_unverified)

    def start_next(self, host: Host) -> bool:
        return self._starter.start_next(host)

    def is_done(self) -> bool:
        if self.pending:
            return False
        return self.is_stopped or (self.is_exhausted and not self._starter.has_begun_items)

    def close(self, host: Host) -> None:
        self._starter.close()
        super().close(host)
        request = self.request
        if not request.is_part:
            end_map(self.plan, request.run, request.base, perf_counter() - self._started_at)
        if request.ended is not None:
            request.ended(self, host)

    def shared_values(self) -> dict[int, Any]:
        """Return the values of the inputs that all items share, by slot."""
        plan, inputs = self.plan, self.request.inputs
        varying = {plan.inputs[name] for name in inputs.columns}
        values = list(plan.template)
        for name, value in inputs.shared.items():
            values[plan.inputs[name]] = value
        used = {slot for step in plan.steps for slot in step.arguments if plan.producers[slot] < 0}
        return {slot: values[slot] for slot in used - varying}

    # --- items ----------------------------------------------------------------------------------------------------

    def exhaust(self, host: Host, error: Exception | None = None) -> None:
        """Record that there are no more items, or that the next one cannot be read, which fails the map."""
        self.is_exhausted = True
        self._room = self._begun
        for column in (*self.columns, *self.elements):
            del column[self._begun :]  # a sequence may hold less than it says
        if error is not None:
            host.fail(self, error, self.request.base.node_path)

    def make_room(self, items: int = 1) -> None:
        """Reserve space for the results of some more items."""
        self._begun += items
        if self._begun > self._room and self._deliver is None:
            missing, self._room = self._begun - self._room, self._begun
            for column, elements in zip(self.columns, self.elements, strict=True):
                column += [None] * missing
                elements += [b""] * missing

    def take_frame(self, frame: Frame) -> None:
        """Record the results of an item from the frame that executed it."""
        index = frame.item_index
        assert index is not None
        self.take_outputs(index, tuple([frame.values[slot] for slot in self._slots]))
        if self.plan.runs_on_demand and self._deliver is None:
            for elements, own in zip(self.elements, frame.signatures_of(self._slots), strict=True):
                elements[index] = own
        self.is_unverified = self.is_unverified or frame.is_unverified

    def take_outputs(self, index: int, outputs: Sequence[Any]) -> None:
        """Record the results of an item."""
        if self._deliver is not None:
            self._deliver(index, tuple(outputs))
            return
        for column, value in zip(self.columns, outputs, strict=True):
            column[index] = value

    def take_rows(self, indexes: Sequence[int], outputs: Sequence[Any]) -> None:
        """Record the results of several items, given item after item."""
        width = len(self._slots)
        if self._deliver is not None:
            for number, index in enumerate(indexes):
                self._deliver(index, tuple(outputs[number * width : (number + 1) * width]))
            return
        for position, column in enumerate(self.columns):
            for index, value in zip(indexes, outputs[position::width], strict=True):
                column[index] = value

    def take_failure(self, index: int, failure: Failure) -> None:
        """Record a failure in place of the results of an item."""
        self.has_failures = True
        self.take_outputs(index, [failure] * len(self._slots))

    def fail_item(self, host: Host, index: int, error: BaseException, path: tuple[str, ...]) -> None:
        """Record the failure of an item that is not an activity of its own."""
        if self.collects and isinstance(error, Exception):  # neither KeyboardInterrupt nor SystemExit
            self.take_failure(index, Failure.of(error, index, path))
        else:
            host.fail(self, error, path)

    def take_stand_in(self, host: Host, index: int, stand_in: Failure | Skipped) -> None:
        """Record an item that is not executed because of what is among its inputs."""
        if isinstance(stand_in, Skipped):
            self.take_outputs(index, [stand_in] * len(self._slots))
            for elements in self.elements if self.plan.is_cached and self._deliver is None else ():
                elements[index] = skipped_signature()
        elif self.collects:
            self.take_failure(index, stand_in)
        else:
            host.fail(self, stand_in.error, stand_in.node_path)

    def end_item(self, item: PlanActivity, host: Host) -> None:
        self.pending -= 1
        index = item.frame.item_index
        assert index is not None
        if item.error is not None and self.collects:
            error, path = item.error
            self.take_failure(index, Failure.of(error, index, path))
        elif not item.is_stopped:
            self.take_frame(item.frame)
        host.wake(self)


class FrameReader:
    """Reads the items of a map as frames.

    Args:
        owner: The map.
    """

    def __init__(self, owner: MapActivity) -> None:
        request = owner.request
        self._owner = owner
        self._items = ItemFrames(request.plan, request.run, request.base, request.inputs)

    @property
    def remaining(self) -> int | None:
        """Number of items that have not been read; None when unknown."""
        total = self._owner.total
        return None if total is None else total - self._items.count

    def begin_item(self, host: Host) -> Frame | None:
        """Return the frame of the next item that has to be executed, started; None when there is none at present.

        An item that needs no execution is completed here: its results are cached, or one of its inputs is a failure.
        """
        owner = self._owner
        try:
            frame = self._items.next_item()
        except Exception as error:
            owner.exhaust(host, error)
            return None
        if frame is None:
            owner.exhaust(host)
            return None
        assert frame.item_index is not None
        owner.make_room()
        stand_in = frame.stand_in
        if stand_in is not None:
            frame.skip()
            owner.take_stand_in(host, frame.item_index, stand_in)
            return None
        frame.start()
        if frame.is_done:
            frame.close()
            owner.take_frame(frame)
            return None
        return frame


class OneByOne(ItemStarter):
    """Starts items as activities of their own.

    Args:
        owner: The map.
        limit: The largest number of items that are open at a time.
    """

    def __init__(self, owner: MapActivity, limit: int) -> None:
        self._owner = owner
        self._limit = limit
        self._reader = FrameReader(owner)

    def start_next(self, host: Host) -> bool:
        owner = self._owner
        if owner.is_exhausted or owner.pending >= self._limit or not owner.has_room or owner.is_starved:
            return False
        frame = self._reader.begin_item(host)
        if frame is not None:
            owner.pending += 1
            host.open(PlanActivity(frame, owner))
        return frame is not None or not owner.is_exhausted  # the next item may have to be waited for


class NestedEnd:
    """Completes a mapped pipeline that is a step of a plan.

    Args:
        activity: The plan.
        step: The step.
        started_at: When it was started, on the performance counter.
    """

    def __init__(self, activity: PlanActivity, step: NestedStep, started_at: float) -> None:
        self._activity = activity
        self._step = step
        self._started_at = started_at

    def __call__(self, nested: MapActivity, host: Host) -> None:
        frame, step = self._activity.frame, self._step
        if nested.is_complete:
            frame.complete_map(step, nested.results)
        frame.end_nested(step, perf_counter() - self._started_at)
        self._activity.pending -= 1
        host.wake(self._activity)
