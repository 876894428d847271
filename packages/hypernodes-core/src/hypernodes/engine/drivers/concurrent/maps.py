"""Maps that are being executed: one plan, once per item."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.drivers.concurrent.activity import Activity, PlanActivity
from hypernodes.engine.frames.cached import CachedFrame
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.events import end_map, end_nested, start_map, start_nested
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.items import ItemFrames, nested_map_inputs
from hypernodes.engine.state import RunState
from hypernodes.engine.step import add_note, path_of
from hypernodes.failures import Failure
from hypernodes.plan import NestedStep, OnError, Plan

if TYPE_CHECKING:
    from hypernodes.engine.drivers.concurrent.scheduler import Scheduler


def open_nested_map(activity: PlanActivity, step: NestedStep, scheduler: Scheduler) -> None:
    """Begin the items of a mapped pipeline that is a step of a plan."""
    frame = activity.frame
    frame.enter(step)
    context = start_nested(frame, step)
    started_at = perf_counter()
    try:
        inputs = nested_map_inputs(frame, step)
    except Exception as error:
        end_nested(frame, step, perf_counter() - started_at)
        activity.pending -= 1
        add_note(error, frame.plan, step, frame.base, frame.run.backend_name, frame.item_index)
        frame.announce_error(step, error)
        scheduler.fail(activity, error, (*path_of(frame.plan, step, frame.base), step.node.name))
        return
    ended = NestedEnd(activity, step, started_at)
    scheduler.open(MapActivity(step.inner, frame.run, context, inputs, step.node.on_error, activity, ended))


class NestedEnd:
    """What happens when a mapped pipeline that is a step of a plan is done."""

    def __init__(self, activity: PlanActivity, step: NestedStep, started_at: float) -> None:
        self._activity = activity
        self._step = step
        self._started_at = started_at

    def __call__(self, nested: MapActivity, scheduler: Scheduler) -> None:
        frame, step = self._activity.frame, self._step
        if nested.is_complete:
            self._put_manifests(nested)
            if nested.has_failures and isinstance(frame, CachedFrame):
                frame.mark_failed(step)
            elif nested.is_unverified and isinstance(frame, CachedFrame):
                frame.mark_unverified(step)
            frame.finish(step, nested.columns)
        end_nested(frame, step, perf_counter() - self._started_at)
        frame.leave(step)
        self._activity.pending -= 1
        scheduler.wake(self._activity)

    def _put_manifests(self, nested: MapActivity) -> None:
        frame, step = self._activity.frame, self._step
        if not isinstance(frame, CachedFrame) or nested.has_failures or nested.is_unverified:
            return
        for slot, elements in zip(step.outputs, nested.elements, strict=True):
            if slot is not None and all(elements) and len(elements) == nested.ended:
                frame.put_manifest(step, slot, elements)


class Deliver(Protocol):
    """Whoever takes the results of items one by one."""

    @property
    def is_full(self) -> bool: ...

    def __call__(self, index: int, outputs: tuple[Any, ...]) -> None: ...


class MapActivity(Activity):
    """One plan executed once per item.

    Args:
        plan: The plan of one item.
        run: The run it is part of.
        base: Context of the map.
        inputs: What it runs over.
        on_error: "raise" ends the map with the first failing item; "collect" puts a `Failure` in the item's place.
        parent: The plan in which the map is a step; None at the top.
        ended: Called when the map is done.
        deliver: Called with the index and the outputs of each item as it is done, instead of collecting them.
        is_part: Whether these are only some of the items of a map, which is announced by somebody else.

    Attributes:
        columns: For each requested output, one result per item.
        elements: For each requested output, the signature of each result; empty ones where there are none.
        ended: Number of items that are done.
        has_failures: Whether a `Failure` stands in the results.
        is_unverified: Whether some of the results are known by their values only, although they should have signatures.
        is_exhausted: Whether every item has been begun.
        seconds_per_item: How long an item takes in a worker process; None while unknown.
        bytes_per_item: How large the values of an item are that go to a worker process, or come back.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunState,
        base: CallbackContext,
        inputs: MapInputs,
        on_error: OnError,
        parent: Activity | None = None,
        ended: Callable[[MapActivity, Scheduler], None] | None = None,
        deliver: Deliver | None = None,
        is_part: bool = False,
    ) -> None:
        super().__init__(parent)
        self.plan = plan
        self.run = run
        self.base = base
        self.on_error: OnError = on_error
        self.items = ItemFrames(plan, run, base, inputs)
        self.columns: list[list[Any]] = [[] for _ in plan.outputs]
        self.elements: list[list[bytes]] = [[] for _ in plan.outputs]
        self.ended = 0
        self.has_failures = self.is_unverified = False
        self.seconds_per_item: float | None = None
        self.bytes_per_item = 0.0
        self.total = inputs.total()
        self._slots = tuple(plan.outputs.values())
        self.is_exhausted = False
        self._on_end = ended
        self._shared: dict[int, Any] | None = None
        self._deliver = deliver
        self._started_at = perf_counter()
        self._is_part = is_part
        if not is_part:
            start_map(plan, run, base, self.total)

    @property
    def has_room(self) -> bool:
        """Whether whoever takes the results is ready for more."""
        return self._deliver is None or not self._deliver.is_full

    @property
    def remaining(self) -> int | None:
        """Number of items that have not been begun; None when unknown."""
        return None if self.total is None else self.total - self.items.count

    def shared_values(self) -> dict[int, Any]:
        """Return what all items take, by slot."""
        if self._shared is None:
            own = set(self.items.mapped_slots)
            used = {slot for step in self.plan.steps for slot in step.arguments if self.plan.producers[slot] < 0}
            self._shared = {slot: self.items.template[slot] for slot in used - own}
        return self._shared

    def learn_cost(self, seconds: float) -> None:
        """Take note of how long an item took."""
        known = self.seconds_per_item
        self.seconds_per_item = seconds if known is None else 0.7 * known + 0.3 * seconds

    def learn_size(self, size_bytes: float) -> None:
        """Take note of how much was sent, or came back, for an item."""
        self.bytes_per_item = max(0.7 * self.bytes_per_item, size_bytes)

    @property
    def is_complete(self) -> bool:
        """Whether every item is there."""
        return self.is_exhausted and self.error is None and not self.is_stopped

    def start_next(self, scheduler: Scheduler) -> bool:
        if self.is_exhausted or self.pending >= scheduler.item_limit(self):
            return False
        if scheduler.takes_batches_of(self):
            return scheduler.submit_batch(self)
        item = self.next_item(scheduler)
        if item is None:
            return False
        scheduler.open(item)
        if item.failed_input is not None and self.on_error == "raise":
            scheduler.fail(item, item.failed_input.error, item.failed_input.node_path)
        return True

    def next_item(self, scheduler: Scheduler) -> PlanActivity | None:
        """Begin one more item; None when there are no more, or when the input fails, which fails the map."""
        try:
            found = self.items.next_item()
        except Exception as error:
            self.is_exhausted = True
            scheduler.fail(self, error, self.base.node_path)
            return None
        if found is None:
            self.is_exhausted = True
            return None
        values, frame = found
        if self._deliver is None:
            for column, elements in zip(self.columns, self.elements, strict=True):
                column.append(None)
                elements.append(b"")
        item = PlanActivity(frame, self)
        item.failed_input = self._failed_input(values)
        self.pending += 1
        if item.failed_input is not None:
            item.stop()
        else:
            item.frame.start()
        return item

    def end_item(self, item: PlanActivity, scheduler: Scheduler) -> None:
        """Take over the results of an item that is done."""
        self.pending -= 1
        self.ended += 1
        index = item.frame.item_index
        assert index is not None
        if item.failed_input is not None:
            self._put_failure(index, item.failed_input)
        elif item.error is not None and self.on_error == "collect":
            error, path = item.error
            text = "".join(traceback.format_exception(error))
            self._put_failure(index, Failure(error, text, index, path))
        elif not item.is_stopped:
            self._put_outputs(index, item.frame)
            if isinstance(item.frame, CachedFrame):
                self.has_failures |= item.frame.has_failures
                self.is_unverified |= item.frame.is_unverified
        scheduler.wake(self)

    def is_done(self) -> bool:
        return self.pending == 0 and (self.is_exhausted or self.is_stopped)

    def close(self, scheduler: Scheduler) -> None:
        super().close(scheduler)
        if not self._is_part:
            end_map(self.plan, self.run, self.base, perf_counter() - self._started_at)
        if self._on_end is not None:
            self._on_end(self, scheduler)

    def _put_outputs(self, index: int, frame: Frame) -> None:
        if self._deliver is not None:
            self._deliver(index, tuple(frame.values[slot] for slot in self._slots))
            return
        for column, slot in zip(self.columns, self._slots, strict=True):
            column[index] = frame.values[slot]
        if isinstance(frame, CachedFrame):
            for elements, slot in zip(self.elements, self._slots, strict=True):
                elements[index] = frame.signatures[slot] or b""

    def _put_failure(self, index: int, failure: Failure) -> None:
        self.has_failures = True
        if self._deliver is not None:
            self._deliver(index, tuple(failure for _ in self._slots))
            return
        for column in self.columns:
            column[index] = failure

    def _failed_input(self, values: list[Any]) -> Failure | None:
        """An item made of something that failed upstream fails the same way, without being run."""
        for slot in self.items.mapped_slots:
            if isinstance(value := values[slot], Failure):
                return value
        return None
