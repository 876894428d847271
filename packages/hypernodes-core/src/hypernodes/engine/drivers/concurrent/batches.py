"""Work that is sent to worker processes: single calls, and items of a map that a worker computes on its own."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from hypernodes.engine.drivers.concurrent.activity import PlanActivity
from hypernodes.engine.drivers.concurrent.maps import MapActivity
from hypernodes.engine.drivers.concurrent.tasks import BatchItem, BatchTask, CallTask
from hypernodes.engine.frames.cached import CachedFrame
from hypernodes.engine.step import Returned
from hypernodes.engine.workers.payloads import NotTransferred, Payload, unpack
from hypernodes.engine.workers.process_main import Done, ItemOutcome, WorkItem
from hypernodes.engine.workers.serialized_errors import restore
from hypernodes.engine.workers.workers import Workers
from hypernodes.errors import SerializationError
from hypernodes.plan import CallStep, Plan

if TYPE_CHECKING:
    from hypernodes.engine.drivers.concurrent.scheduler import Scheduler
    from hypernodes.engine.workers.process_pool import WorkerProcesses


class _Usage(NamedTuple):
    """What becomes of the values in the slots of a plan.

    Attributes:
        needed: Those that are asked for, or that a step takes.
        taken_again: Those that several steps take.
    """

    needed: frozenset[int]
    taken_again: frozenset[int]


class Batches:
    """Packs work for worker processes, and takes their results.

    Args:
        scheduler: What decides when.
        places: Where calls are made.
        processes: The worker processes.
    """

    def __init__(self, scheduler: Scheduler, places: Workers, processes: WorkerProcesses) -> None:
        self._scheduler = scheduler
        self._workers = places
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
        payloads = self._processes.payloads
        if activity.owner is None and plan.producers[slot] < 0:
            activity.hold(payloads, value)  # an input of the run
        elif slot in self._usage(plan).taken_again:
            activity.hold(payloads, value)
        payload = payloads.pack(value, _input_name(step, slot))
        if type(payload) is Payload and payload.path and not payload.is_shared:
            activity.files.append(payload.path)
        return payload

    def _usage(self, plan: Plan) -> _Usage:
        usage = self._usages.get(plan)
        if usage is None:
            usage = self._usages[plan] = _usage_of(plan)
        return usage

    # --- items ----------------------------------------------------------------------------------------------------

    def takes(self, activity: MapActivity) -> bool:
        """Whether the items of a map are sent whole."""
        places = self._workers
        if places.map_execution != "parallel":
            return False
        has_plenty = activity.total is not None and activity.total >= 2 * places.max_workers
        if not self._scheduler.runs_nodes_in_order and not has_plenty:
            return False
        return all(isinstance(step, CallStep) for step in activity.plan.steps)

    def submit_batch(self, activity: MapActivity) -> bool:
        """Send the next items of a map; return False when there are none."""
        unit: list[BatchItem] = []
        size = self._workers.batch_size(activity.seconds_per_item, activity.bytes_per_item, activity.remaining)
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
            self.submit(BatchTask(activity, unit))
        return bool(unit) or not activity.is_exhausted

    def submit(self, task: BatchTask) -> None:
        """Send a unit; an item with a value that cannot be sent makes its calls one by one instead, and fails there."""
        owner, payloads = task.owner, self._processes.payloads
        shared = owner.shared_values()
        sent: list[BatchItem] = []
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
                        target[slot] = payloads.pack(item.activity.frame.values[slot], _input_name(step, slot))
            except SerializationError:
                self.unpack_item(item)
                continue
            payloads_of_item = [payload for payload in values.values() if type(payload) is Payload]
            item.activity.files += [
                payload.path for payload in payloads_of_item if payload.path and not payload.is_shared
            ]
            sent.append(item)
            work.append(WorkItem(values, tuple(step.index for step in item.steps)))
        if not sent:
            return
        task.items = sent
        plan = owner.plan
        has_retries = any(isinstance(step, CallStep) and step.node.retries for step in plan.steps)
        returns_everything = plan.is_cached or plan.is_observed or has_retries
        needed = frozenset(plan.outputs.values())
        size = sum(payload.size_bytes for item in work for payload in item.values.values() if type(payload) is Payload)
        owner.learn_size(size / len(work))
        task.order, future = self._processes.submit(plan.steps, packed, needed, returns_everything, work)
        self._scheduler.hand_over(task, future)

    def settle(self, task: BatchTask, outcomes: list[ItemOutcome]) -> None:
        """Take over what came of the items of a unit."""
        spent = sum(done.duration_s for outcome in outcomes for done in outcome.done)
        task.owner.learn_cost(spent / len(outcomes))
        results = [payload for outcome in outcomes for done in outcome.done for payload in done.outputs]
        size = sum(payload.size_bytes for payload in results if type(payload) is Payload)
        task.owner.learn_size(size / len(outcomes))
        rest = zip(task.items, outcomes, strict=True)
        try:
            for item, outcome in rest:
                self._settle_item(item, outcome)
        except KeyboardInterrupt:  # the others have been computed, too
            for item, outcome in rest:
                self._settle_item(item, outcome)
            raise

    def fail(self, task: BatchTask, error: BaseException) -> None:
        """Take over that nothing came of a unit."""
        for item in task.items:
            self.fail_item(item, error)

    def fail_item(self, item: BatchItem, error: BaseException) -> None:
        """Take over that the first call of an item failed."""
        self._settle_item(item, ItemOutcome([], item.steps[0].index), error)

    def unpack_item(self, item: BatchItem) -> None:
        """Let the calls of an item be made one by one."""
        for key in item.keys:
            if key is not None:
                self._scheduler.release_followers(key)
        item.activity.pending -= 1
        self._scheduler.open(item.activity)

    def _plan(self, item: PlanActivity) -> BatchItem | None:
        """The calls that an item needs, if they are all known and nobody else is making one of them."""
        steps = item.frame.remaining_calls()
        if steps is None:
            return None
        keys = [item.frame.key_of(step) if isinstance(item.frame, CachedFrame) else None for step in steps]
        known = [key for key in keys if key is not None]
        if isinstance(item.frame, CachedFrame) and not self._scheduler.reserve(known, item.frame):
            return None
        return BatchItem(item, steps, keys)

    def _settle_item(self, item: BatchItem, outcome: ItemOutcome, error: BaseException | None = None) -> None:
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
            can_try_again = not any(isinstance(frame.values[slot], NotTransferred) for slot in task.step.arguments)
            self._scheduler.fail_call(task, error, can_try_again)
            for left in tasks.values():
                if left.key is not None:
                    self._scheduler.release_followers(left.key)
        activity.pending -= 1
        self._scheduler.wake(activity)

    def _unpack(self, done: Done, step: CallStep, needed: frozenset[int]) -> Returned:
        outputs: list[Any] = []
        for name, slot, payload in zip(step.node.outputs, step.outputs, done.outputs, strict=True):
            try:
                outputs.append(unpack(payload))
            except Exception as error:
                problem = f"cannot be received from the worker process ({type(error).__name__}: {error})"
                if slot in needed:
                    raise SerializationError(
                        f"the result of node {step.node.name!r} {problem}", path=f"result of {step.node.name}"
                    ) from error
                outputs.append(NotTransferred("result", f"{name!r} {problem}"))
            finally:
                if type(payload) is Payload and payload.path:
                    self._processes.payloads.remove([payload.path])
        return Returned(tuple(outputs), done.duration_s)


def _usage_of(plan: Plan) -> _Usage:
    takers = Counter(slot for step in plan.steps for slot in set(step.arguments))
    return _Usage(
        needed=frozenset(plan.outputs.values()).union(takers),
        taken_again=frozenset(slot for slot, count in takers.items() if count > 1),
    )


def _input_name(step: CallStep, slot: int) -> str:
    return f"input {step.node.inputs[step.arguments.index(slot)]!r} of node {step.node.name!r}"
