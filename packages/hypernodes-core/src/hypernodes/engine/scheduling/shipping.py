"""Work that is sent to worker processes: single calls, and items of a map that a worker computes on its own."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from hypernodes.engine.caching.lookup import CachedFrame
from hypernodes.engine.places.places import Places
from hypernodes.engine.processes.worker import Done, ItemOutcome, WorkItem
from hypernodes.engine.run.step import Returned
from hypernodes.engine.scheduling.activity import PlanActivity
from hypernodes.engine.scheduling.map_activity import MapActivity
from hypernodes.engine.scheduling.tasks import CallTask, UnitItem, UnitTask
from hypernodes.engine.transit.parcels import LeftBehind, Parcel, unpack
from hypernodes.engine.transit.raised import restore
from hypernodes.errors import SerializationError
from hypernodes.plan import CallStep, Plan

if TYPE_CHECKING:
    from hypernodes.engine.processes.pool import ProcessPlace
    from hypernodes.engine.scheduling.scheduler import Scheduler


class _Usage(NamedTuple):
    """What becomes of the values in the slots of a plan.

    Attributes:
        needed: Those that are asked for, or that a step takes.
        taken_again: Those that several steps take.
    """

    needed: frozenset[int]
    taken_again: frozenset[int]


class Shipping:
    """Packs work for worker processes, and takes their results.

    Args:
        scheduler: What decides when.
        places: Where calls are made.
        processes: The worker processes.
    """

    def __init__(self, scheduler: Scheduler, places: Places, processes: ProcessPlace) -> None:
        self._scheduler = scheduler
        self._places = places
        self._processes = processes
        self._usages: dict[Plan, _Usage] = {}

    # --- single calls ---------------------------------------------------------------------------------------------

    def submit_call(self, task: CallTask) -> Future[Any]:
        """Send one call.

        Raises:
            SerializationError: An input cannot be sent; names it and the node.
        """
        activity, step = task.activity, task.step
        plan = activity.frame.plan
        values = {slot: self._pack_input(activity, step, slot) for slot in step.arguments}
        needed = self._usage(plan).needed
        task.order, future = self._processes.submit([step], {}, needed, True, [WorkItem(values, (0,))])
        return future

    def returned(self, task: CallTask, packed: ItemOutcome) -> Returned:
        """Return what came of a call.

        Raises:
            BaseException: What it raised.
        """
        if packed.raised is not None:
            raise restore(packed.raised)
        (done,) = packed.done
        return self._unpack(done, task.step, self._usage(task.activity.frame.plan).needed)

    def _pack_input(self, activity: PlanActivity, step: CallStep, slot: int) -> Any:
        plan, value = activity.frame.plan, activity.frame.values[slot]
        parcels = self._processes.parcels
        if activity.owner is None and plan.producers[slot] < 0:
            activity.hold(parcels, value)  # an input of the run
        elif slot in self._usage(plan).taken_again:
            activity.hold(parcels, value)
        parcel = parcels.pack(value, _input_name(step, slot))
        if type(parcel) is Parcel and parcel.path and not parcel.is_shared:
            activity.files.append(parcel.path)
        return parcel

    def _usage(self, plan: Plan) -> _Usage:
        usage = self._usages.get(plan)
        if usage is None:
            usage = self._usages[plan] = _usage_of(plan)
        return usage

    # --- items ----------------------------------------------------------------------------------------------------

    def takes(self, activity: MapActivity) -> bool:
        """Whether the items of a map are sent whole."""
        places = self._places
        if places.map_execution != "parallel":
            return False
        has_plenty = activity.total is not None and activity.total >= 2 * places.max_workers
        if not self._scheduler.runs_nodes_in_order and not has_plenty:
            return False
        return all(isinstance(step, CallStep) for step in activity.plan.steps)

    def ship(self, activity: MapActivity) -> bool:
        """Send the next items of a map; return False when there are none."""
        unit: list[UnitItem] = []
        size = self._places.unit_size(activity.seconds_per_item, activity.bytes_per_item, activity.remaining)
        while len(unit) < size:
            item = activity.next_item(self._scheduler)
            if item is None:
                break
            planned = None if item.failed_input is not None or item.frame.is_done else self._plan(item)
            if planned is None:
                self._scheduler.open(item)
            else:
                unit.append(planned)
        if unit:
            for entry in unit:
                entry.activity.frame.begin()
                entry.activity.pending += 1
            self.submit(UnitTask(activity, unit))
        return bool(unit) or not activity.is_exhausted

    def submit(self, task: UnitTask) -> None:
        """Send a unit; an item with a value that cannot be sent makes its calls one by one instead, and fails there."""
        owner, parcels = task.owner, self._processes.parcels
        shared = owner.shared_values()
        sent: list[UnitItem] = []
        work: list[WorkItem] = []
        packed: dict[int, Any] = {}
        for item in task.items:
            values: dict[int, Any] = {}
            made = {slot for step in item.steps for slot in step.outputs}
            try:
                for step in item.steps:
                    for slot in step.arguments:
                        if slot in made or slot in values or slot in packed:
                            continue
                        target = packed if slot in shared else values
                        target[slot] = parcels.pack(item.activity.frame.values[slot], _input_name(step, slot))
            except SerializationError:
                self.unpack_item(item)
                continue
            parcels_of_item = [parcel for parcel in values.values() if type(parcel) is Parcel]
            item.activity.files += [parcel.path for parcel in parcels_of_item if parcel.path and not parcel.is_shared]
            sent.append(item)
            work.append(WorkItem(values, tuple(step.index for step in item.steps)))
        if not sent:
            return
        task.items = sent
        plan = owner.plan
        has_retries = any(isinstance(step, CallStep) and step.node.retries for step in plan.steps)
        is_everything_told = plan.is_cached or plan.is_heard or has_retries
        needed = frozenset(plan.outputs.values())
        size = sum(parcel.size_bytes for item in work for parcel in item.values.values() if type(parcel) is Parcel)
        owner.learn_size(size / len(work))
        task.order, future = self._processes.submit(plan.steps, packed, needed, is_everything_told, work)
        self._scheduler.hand_over(task, future)

    def settle(self, task: UnitTask, outcomes: list[ItemOutcome]) -> None:
        """Take over what came of the items of a unit."""
        spent = sum(done.duration_s for outcome in outcomes for done in outcome.done)
        task.owner.learn_cost(spent / len(outcomes))
        results = [parcel for outcome in outcomes for done in outcome.done for parcel in done.outputs]
        size = sum(parcel.size_bytes for parcel in results if type(parcel) is Parcel)
        task.owner.learn_size(size / len(outcomes))
        rest = zip(task.items, outcomes, strict=True)
        try:
            for item, outcome in rest:
                self._settle_item(item, outcome)
        except KeyboardInterrupt:  # the others have been computed, too
            for item, outcome in rest:
                self._settle_item(item, outcome)
            raise

    def fail(self, task: UnitTask, error: BaseException) -> None:
        """Take over that nothing came of a unit."""
        for item in task.items:
            self.fail_item(item, error)

    def fail_item(self, item: UnitItem, error: BaseException) -> None:
        """Take over that the first call of an item failed."""
        self._settle_item(item, ItemOutcome([], item.steps[0].index), error)

    def unpack_item(self, item: UnitItem) -> None:
        """Let the calls of an item be made one by one."""
        for key in item.keys:
            if key is not None:
                self._scheduler.release_followers(key)
        item.activity.pending -= 1
        self._scheduler.open(item.activity)

    def _plan(self, item: PlanActivity) -> UnitItem | None:
        """The calls that an item needs, if they are all known and nobody else is making one of them."""
        steps = item.frame.remaining_calls()
        if steps is None:
            return None
        keys = [item.frame.key_of(step) if isinstance(item.frame, CachedFrame) else None for step in steps]
        known = [key for key in keys if key is not None]
        if isinstance(item.frame, CachedFrame) and not self._scheduler.reserve(known, item.frame):
            return None
        return UnitItem(item, steps, keys)

    def _settle_item(self, item: UnitItem, outcome: ItemOutcome, error: BaseException | None = None) -> None:
        activity, frame = item.activity, item.activity.frame
        needed = frozenset(frame.plan.outputs.values())
        tasks = {step.index: CallTask(activity, step, key) for step, key in zip(item.steps, item.keys, strict=True)}
        failed_step, raised = outcome.failed_step, outcome.raised
        for done in outcome.done:
            step = tasks[done.step].step
            try:
                returned = self._unpack(done, step, needed)
            except SerializationError as unreadable:
                failed_step, error = done.step, unreadable
                break
            task = tasks.pop(done.step)
            frame.announce_call(frame.take(step))
            activity.pending += 1
            self._scheduler.finish_call(task, returned)
        if error is None and raised is not None:
            error = restore(raised)
        if error is not None:
            task = tasks.pop(failed_step)
            frame.announce_call(frame.take(task.step))
            activity.pending += 1
            can_try_again = not any(isinstance(frame.values[slot], LeftBehind) for slot in task.step.arguments)
            self._scheduler.fail_call(task, error, can_try_again)
            for left in tasks.values():
                if left.key is not None:
                    self._scheduler.release_followers(left.key)
        activity.pending -= 1
        self._scheduler.wake(activity)

    def _unpack(self, done: Done, step: CallStep, needed: frozenset[int]) -> Returned:
        outputs: list[Any] = []
        for name, slot, parcel in zip(step.node.outputs, step.outputs, done.outputs, strict=True):
            try:
                outputs.append(unpack(parcel))
            except Exception as error:
                problem = f"cannot be received from the worker process ({type(error).__name__}: {error})"
                if slot in needed:
                    raise SerializationError(
                        f"the result of node {step.node.name!r} {problem}", path=f"result of {step.node.name}"
                    ) from error
                outputs.append(LeftBehind("result", f"{name!r} {problem}"))
            finally:
                if type(parcel) is Parcel and parcel.path:
                    self._processes.parcels.remove([parcel.path])
        return Returned(tuple(outputs), done.duration_s)


def _usage_of(plan: Plan) -> _Usage:
    takers = Counter(slot for step in plan.steps for slot in set(step.arguments))
    return _Usage(
        needed=frozenset(plan.outputs.values()).union(takers),
        taken_again=frozenset(slot for slot, count in takers.items() if count > 1),
    )


def _input_name(step: CallStep, slot: int) -> str:
    return f"input {step.node.inputs[step.arguments.index(slot)]!r} of node {step.node.name!r}"
