"""The one loop: starts what can start, waits for what has been started, until everything is done.

Every strategy goes through it; they differ only in how much may be started at a time and in where calls are made. Only
calls of nodes occupy workers. Plans and maps are kept on a stack, the innermost on top, so that items are finished
before new ones are begun.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from heapq import heapify, heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Any, NamedTuple

from hypernodes.engine.activity import Activity, MapActivity, PlanActivity
from hypernodes.engine.announce import end_nested, start_nested
from hypernodes.engine.elsewhere import run_elsewhere
from hypernodes.engine.lookup import CachedFrame
from hypernodes.engine.places import Places
from hypernodes.engine.processes import unpack
from hypernodes.engine.step import Returned, add_note, make, path_of, prepare
from hypernodes.engine.worker import ItemOutcome, WorkItem
from hypernodes.errors import ExecutionError, NodeTimeoutError, SerializationError, WorkerDiedError
from hypernodes.plan import CallStep, NestedStep


class Task:
    """Work that has been started and is waited for.

    Attributes:
        future: Its result to be; None before it has been handed over.
        generation: Number of the process pool that it was given to.
        deaths: How many workers died with it.
    """

    __slots__ = ("deaths", "future", "generation")

    def __init__(self) -> None:
        self.future: Future[Any] | None = None
        self.generation = 0
        self.deaths = 0


class CallTask(Task):
    """One call.

    Attributes:
        activity: The plan it belongs to.
        step: The step.
        key: Signature of the result, when there is one.
        attempt: Number of the attempt, from 1.
        started_at: When it was handed over, on the monotonic clock.
    """

    __slots__ = ("activity", "attempt", "key", "started_at", "step")

    def __init__(self, activity: PlanActivity, step: CallStep, key: bytes | None, attempt: int = 1) -> None:
        super().__init__()
        self.activity = activity
        self.step = step
        self.key = key
        self.attempt = attempt
        self.started_at = 0.0


class UnitTask(Task):
    """Items of a map that one worker process computes on its own.

    Attributes:
        owner: The map.
        items: The items, each with the calls to make.
    """

    __slots__ = ("items", "owner")

    def __init__(self, owner: MapActivity, items: list[UnitItem]) -> None:
        super().__init__()
        self.owner = owner
        self.items = items


class UnitItem(NamedTuple):
    """One item of a unit."""

    activity: PlanActivity
    steps: list[CallStep]
    keys: list[bytes | None]


class ElsewhereTask(Task):
    """A nested pipeline that its own backend runs."""

    __slots__ = ("activity", "started_at", "step")

    def __init__(self, activity: PlanActivity, step: NestedStep) -> None:
        super().__init__()
        self.activity = activity
        self.step = step
        self.started_at = perf_counter()


class _Timer(NamedTuple):
    due: float
    number: int
    task: CallTask
    is_limit: bool  # the time limit of a call, rather than the delay before the next attempt


class Scheduler:
    """Executes one activity and everything in it.

    Args:
        places: Where calls are made, and how many at a time.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._stack: list[Activity] = []
        self._done: SimpleQueue[tuple[Task, Future[Any]] | None] = SimpleQueue()
        self._in_flight: set[Task] = set()  # what occupies workers
        self._elsewhere: set[Task] = set()
        self._suspects: deque[Task] = deque()  # what was under way when a worker died; run again one at a time
        self._timers: list[_Timer] = []
        self._numbers = count()
        self._computing: dict[bytes, list[tuple[PlanActivity, CallStep]]] = {}
        self._thread = threading.get_ident()
        self._is_cancelled = False
        self._broken_generation = -1
        self.runs_nodes_in_order = places.node_execution == "sequential"
        self.is_paused: Callable[[], bool] = lambda: False  # a stream sets it, to hand out results first

    # --- the loop -------------------------------------------------------------------------------------------------

    def execute(self, root: Activity) -> None:
        """Execute `root` to its end.

        Raises:
            BaseException: Why it failed.
        """
        self.open(root)
        while root.is_open:
            self.turn(root)
        if root.error is not None:
            raise root.error[0]

    def turn(self, root: Activity) -> None:
        """Start what can be started, then wait until something is done."""
        try:
            self._start()
            if root.is_open and not self._has_more_to_start():
                self._wait()
        except CancelledError:
            self._is_cancelled = False
            for task in self._in_flight:
                if task.future is not None:
                    task.future.cancel()
            self.drain(root)
            raise
        except BaseException:
            self.abort(root)
            raise

    def cancel(self) -> None:
        """End the execution from another thread; `execute` raises `CancelledError` there."""
        self._is_cancelled = True
        self._places.coroutines.cancel()
        self._done.put(None)

    def open(self, activity: Activity) -> None:
        """Begin an activity that is a part of another, or the outermost."""
        self.wake(activity)

    def wake(self, activity: Activity) -> None:
        """Look again at an activity: close it when it is done, else ask it what it can start."""
        if not activity.is_open or activity.is_queued:
            return
        if activity.is_done():
            activity.close(self)
        else:
            activity.is_queued = True
            self._stack.append(activity)

    def item_limit(self, activity: MapActivity) -> int:
        """Return how many items of a map may be open at a time."""
        return self._places.open_items if activity.has_room else 0

    def drain(self, root: Activity) -> None:
        """Start nothing more; wait for what is under way, and close everything."""
        root.stop()
        self.is_paused = lambda: False
        self._end_delays(root)
        self._wake_all(root)
        while root.is_open:
            self.turn(root)

    def _start(self) -> None:
        if self._suspects:
            if not self._in_flight:
                self._start_suspect(self._suspects.popleft())
            return
        stack = self._stack
        while stack and not self.is_paused() and len(self._in_flight) < self._places.capacity:
            if self._is_cancelled:
                raise CancelledError("the run was cancelled")
            activity = stack[-1]
            if activity.is_stopped or not activity.start_next(self):
                # What it has started may have been put on top of it, so it is not the last any more.
                stack.remove(activity) if stack[-1] is not activity else stack.pop()
                activity.is_queued = False
                if activity.is_open and activity.is_done():
                    activity.close(self)

    def _has_more_to_start(self) -> bool:
        if self.is_paused():
            return True
        return bool(self._stack) and not self._suspects and len(self._in_flight) < self._places.capacity

    def _wait(self) -> None:
        timeout = max(self._timers[0].due - monotonic(), 0) if self._timers else None
        if timeout is None and not self._in_flight and not self._elsewhere:
            raise AssertionError("nothing left to wait for, but the run is not done")  # pragma: no cover
        try:
            message = self._done.get(timeout=timeout)
            while True:
                if message is not None:
                    self._settle(*message)
                elif self._is_cancelled:
                    raise CancelledError("the run was cancelled")
                message = self._done.get_nowait()
        except Empty:
            pass
        while self._timers and self._timers[0].due <= monotonic():
            self._ring(heappop(self._timers))

    # --- calls ----------------------------------------------------------------------------------------------------

    def call(self, activity: PlanActivity, step: CallStep) -> None:
        """Start a call; a result that is being computed right now, or just was, is not computed again."""
        frame = activity.frame
        key = None
        if isinstance(frame, CachedFrame):
            key = frame.key_of(step)
            if key is not None and key in self._computing:
                self._computing[key].append((activity, step))
                return
            if key is not None and frame.run.was_computed(key) and frame.recall(step):
                activity.pending -= 1
                self.wake(activity)
                return
            if key is not None:
                self._computing[key] = []
        frame.announce_call(step)
        self._submit(CallTask(activity, step, key))

    def _submit(self, task: CallTask) -> None:
        call = prepare(task.step, task.activity.frame.values)
        place = self._places.place_of(task.step, task.activity.owner is not None)
        if place is None:
            try:
                returned = make(call, self._places.coroutines.wait_for)
            except Exception as error:
                self._fail_call(task, error)
            else:
                self._finish_call(task, returned)
            return
        task.started_at = monotonic()
        limit = task.step.node.timeout
        if limit is not None and not place.keeps_time:
            heappush(self._timers, _Timer(monotonic() + limit, next(self._numbers), task, True))
        try:
            self._hand_over(task, place.submit(call))
        except SerializationError as error:
            self._fail_call(task, error)

    def _hand_over(self, task: Task, future: Future[Any]) -> None:
        self._in_flight.add(task)
        task.future = future
        task.generation = self._places.processes.generation if self._places.processes else 0
        future.add_done_callback(lambda future: self._done.put((task, future)))

    def _settle(self, task: Task, future: Future[Any]) -> None:
        if future is not task.future:
            return  # it took too long, and nobody waits for it any more
        task.future = None
        self._in_flight.discard(task)
        if isinstance(task, CallTask) and task.step.node.timeout is not None:
            self._timers = [timer for timer in self._timers if timer.task is not task]
            heapify(self._timers)
        error = CancelledError("the call was cancelled") if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            self._lose_worker(task, error)
        elif isinstance(task, UnitTask):
            self._settle_unit(task, error, [] if error is not None else unpack(future.result()))
        elif isinstance(task, ElsewhereTask):
            self._settle_elsewhere(task, error, [] if error is not None else future.result())
        elif isinstance(task, CallTask):
            if error is None and isinstance(result := future.result(), bytes):
                (outcome,) = unpack(result)  # from a worker process
                error = outcome.error
                returned = Returned(outcome.done[0].outputs, outcome.done[0].duration_s) if outcome.done else None
            else:
                returned = None if error is not None else future.result()
            if returned is not None:
                self._finish_call(task, returned)
            else:
                assert error is not None
                self._fail_call(task, error)

    def _finish_call(self, task: CallTask, returned: Returned) -> None:
        activity, step = task.activity, task.step
        frame = activity.frame
        frame.finish(step, returned.outputs)
        frame.announce_result(step, returned.outputs, returned.duration_s)
        activity.pending -= 1
        if task.key is not None:
            frame.run.remember(task.key)
            self._release_followers(task.key)
        self.wake(activity)

    def _fail_call(self, task: CallTask, error: BaseException) -> None:
        activity, step = task.activity, task.step
        node, frame = step.node, activity.frame
        if task.attempt <= node.retries and isinstance(error, node.retry_on) and not activity.is_stopped:
            delay = node.retry_delay * 2 ** (task.attempt - 1) * random.uniform(0.75, 1.25)
            frame.announce_retry(step, task.attempt, error, delay)
            task.attempt += 1
            heappush(self._timers, _Timer(monotonic() + delay, next(self._numbers), task, False))
            return
        add_note(error, frame.plan, step, frame.base, frame.run.place, frame.item_index)
        frame.announce_error(step, error)
        activity.pending -= 1
        self.fail(activity, error, (*path_of(frame.plan, step, frame.base), node.name))
        if task.key is not None:
            self._release_followers(task.key)

    def _release_followers(self, key: bytes) -> None:
        for activity, step in self._computing.pop(key):
            frame = activity.frame
            assert isinstance(frame, CachedFrame)
            if activity.is_stopped:
                activity.pending -= 1
                self.wake(activity)
            else:
                self.call(activity, step)  # finds it in the cache, or computes it itself after a failure

    def _ring(self, timer: _Timer) -> None:
        task = timer.task
        if not timer.is_limit:
            if task.activity.is_stopped:
                task.activity.pending -= 1
                task.activity.frame.announce_error(task.step, CancelledError("the run ended before the next attempt"))
                self.wake(task.activity)
                if task.key is not None:
                    self._release_followers(task.key)
            else:
                self._submit(task)
        elif task in self._in_flight:
            self._in_flight.discard(task)
            future, task.future = task.future, None
            if future is not None:
                future.cancel()
            self._places.abandon(task.step)
            self._fail_call(task, timeout_error(task.step))

    # --- items that a worker process computes on its own ----------------------------------------------------------

    def ships(self, activity: MapActivity) -> bool:
        """Whether the items of a map are sent to worker processes whole."""
        places = self._places
        if places.processes is None or places.map_execution != "parallel":
            return False
        has_plenty = activity.total is not None and activity.total >= 2 * places.max_workers
        if not self.runs_nodes_in_order and not has_plenty:
            return False
        return all(isinstance(step, CallStep) for step in activity.plan.steps)

    def ship(self, activity: MapActivity) -> bool:
        """Send the next items of a map; return False when there are none."""
        assert self._places.processes is not None
        unit: list[UnitItem] = []
        size = self._places.unit_size(activity.seconds_per_item, activity.remaining)
        while len(unit) < size:
            item = activity.next_item()
            if item is None:
                break
            planned = None if item.failed_input is not None or item.frame.is_done else self._plan_unit(item)
            if planned is None:
                self.open(item)
            else:
                unit.append(planned)
        if unit:
            for entry in unit:
                entry.activity.frame.begin()
                entry.activity.pending += 1
            self._submit_unit(UnitTask(activity, unit))
        return bool(unit) or not activity.is_exhausted

    def _plan_unit(self, item: PlanActivity) -> UnitItem | None:
        """The calls that an item needs, if they are all known and nobody else is making one of them."""
        steps = item.frame.remaining_calls()
        if steps is None:
            return None
        keys = [item.frame.key_of(step) if isinstance(item.frame, CachedFrame) else None for step in steps]
        known = [key for key in keys if key is not None]
        if any(key in self._computing or item.frame.run.was_computed(key) for key in known):
            return None
        if len(set(known)) < len(known):
            return None
        for key in known:
            self._computing[key] = []
        return UnitItem(item, steps, keys)

    def _submit_unit(self, task: UnitTask) -> None:
        processes = self._places.processes
        assert processes is not None
        owner = task.owner
        if owner.shared_files is None:
            owner.shared_files, _ = processes.share(owner.shared_values())
        work = []
        for item in task.items:
            values = item.activity.frame.values
            made = {slot for step in item.steps for slot in step.outputs}
            needed = {slot for step in item.steps for slot in step.arguments} - made - owner.shared_files.keys()
            work.append(WorkItem({slot: values[slot] for slot in needed}, tuple(step.index for step in item.steps)))
        try:
            future = processes.submit_items(owner.plan.steps, owner.shared_files, owner.wanted_slots, work)
        except SerializationError as error:
            if len(task.items) > 1:  # find the item that cannot be sent
                for item in task.items:
                    self._submit_unit(UnitTask(owner, [item]))
                return
            self._settle_unit(task, error, [])
            return
        self._hand_over(task, future)

    def _settle_unit(self, task: UnitTask, error: BaseException | None, outcomes: list[ItemOutcome]) -> None:
        if outcomes:
            spent = sum(done.duration_s for outcome in outcomes for done in outcome.done)
            task.owner.learn_cost(spent / len(outcomes))
        for position, item in enumerate(task.items):
            outcome = outcomes[position] if outcomes else ItemOutcome([], item.steps[0].index, error, "")
            self._settle_item(item, outcome)

    def _settle_item(self, item: UnitItem, outcome: ItemOutcome) -> None:
        activity = item.activity
        tasks = {step.index: CallTask(activity, step, key) for step, key in zip(item.steps, item.keys, strict=True)}
        for done in outcome.done:
            task = tasks.pop(done.step)
            step = activity.frame.take(task.step)
            activity.frame.announce_call(step)
            activity.pending += 1
            self._finish_call(task, Returned(done.outputs, done.duration_s))
        if outcome.error is not None:
            task = tasks.pop(outcome.failed_step)
            activity.frame.announce_call(activity.frame.take(task.step))
            activity.pending += 1
            self._fail_call(task, outcome.error)
            for left in tasks.values():
                if left.key is not None:
                    self._release_followers(left.key)
        activity.pending -= 1
        self.wake(activity)

    # --- workers that die -----------------------------------------------------------------------------------------

    def _lose_worker(self, task: Task, error: BaseException) -> None:
        """Run again, alone, what was under way when a worker died; what kills a second one is to blame."""
        processes = self._places.processes
        can_restart = processes is not None and processes.can_restart
        if processes is not None:
            processes.restart(task.generation)
        was_alone = not self._in_flight and task.generation != self._broken_generation
        self._broken_generation = task.generation
        if was_alone or not can_restart:
            task.deaths += 1
        parts: list[Task] = [task]
        if isinstance(task, UnitTask) and len(task.items) > 1:
            parts = [UnitTask(task.owner, [item]) for item in task.items]
        for part in parts:
            part.deaths = task.deaths
            if part.deaths < 2 and can_restart:
                self._suspects.append(part)
            else:
                self._blame(part, error)

    def _start_suspect(self, task: Task) -> None:
        if isinstance(task, UnitTask):
            self._submit_unit(task)
        elif isinstance(task, CallTask):
            self._submit(task)

    def _blame(self, task: Task, error: BaseException) -> None:
        if isinstance(task, UnitTask):
            item = task.items[0]
            died: ExecutionError = worker_died(item.steps, item.activity.frame.item_index)
            died.__cause__ = error
            self._settle_unit(task, died, [])
        elif isinstance(task, CallTask):
            limit = task.step.node.timeout
            is_late = limit is not None and monotonic() - task.started_at >= limit
            died = timeout_error(task.step) if is_late else worker_died([task.step], task.activity.frame.item_index)
            died.__cause__ = error
            self._fail_call(task, died)

    # --- nested pipelines with a backend of their own -------------------------------------------------------------

    def call_elsewhere(self, activity: PlanActivity, step: NestedStep) -> None:
        """Hand a nested pipeline to its own backend."""
        frame = activity.frame
        frame.enter(step)
        context = start_nested(frame, step)
        task = ElsewhereTask(activity, step)
        if not self.runs_nodes_in_order or (activity.owner is not None and self._places.open_items > 1):
            self._elsewhere.add(task)
            task.future = self._places.submit_waiting(run_elsewhere, frame, step, context)
            task.future.add_done_callback(lambda future: self._done.put((task, future)))
            return
        try:
            outputs = run_elsewhere(frame, step, context)
        except Exception as error:
            self._settle_elsewhere(task, error, [])
        else:
            self._settle_elsewhere(task, None, outputs)

    def _settle_elsewhere(self, task: ElsewhereTask, error: BaseException | None, outputs: list[Any]) -> None:
        self._elsewhere.discard(task)
        activity, step, frame = task.activity, task.step, task.activity.frame
        if error is None:
            frame.finish(step, outputs)
        end_nested(frame, step, perf_counter() - task.started_at)
        frame.leave(step)
        activity.pending -= 1
        if error is not None:
            self.fail(activity, error, (*path_of(frame.plan, step, frame.base), step.node.name))
        self.wake(activity)

    # --- failures -------------------------------------------------------------------------------------------------

    def fail(self, activity: Activity, error: BaseException, path: tuple[str, ...]) -> None:
        """Stop what `error` makes pointless: the item of the nearest map that collects failures, or everything."""
        failed = activity
        while failed.parent is not None:
            is_collected = isinstance(failed.parent, MapActivity) and failed.parent.on_error == "collect"
            if is_collected and isinstance(error, Exception):  # neither KeyboardInterrupt nor SystemExit
                break
            failed = failed.parent
        if failed.error is None:
            failed.error = (error, path)
        failed.stop()
        for task in self._in_flight:
            owner = task.owner if isinstance(task, UnitTask) else getattr(task, "activity", None)
            if task.future is not None and _is_within(owner, failed):
                task.future.cancel()  # what has not begun, and what is awaited; the rest is waited for
        self._end_delays(failed)
        self._wake_all(failed)

    def _end_delays(self, activity: Activity) -> None:
        """Let calls that wait for their next attempt end at once."""
        self._timers = [
            timer._replace(due=0.0) if not timer.is_limit and _is_within(timer.task.activity, activity) else timer
            for timer in self._timers
        ]
        heapify(self._timers)

    def _wake_all(self, activity: Activity) -> None:
        """Look again at an activity and all its parts, innermost first."""
        order: list[Activity] = [activity]
        for entry in order:
            order += entry.children
        for entry in reversed(order):
            self.wake(entry)

    def abort(self, root: Activity) -> None:
        """Give up everything at once: an interrupt, a cancelled run, a defect."""
        self._places.kill()
        order: list[Activity] = [root] if root.is_open else []
        for entry in order:
            entry.stop()
            order += entry.children
        for entry in reversed(order):
            entry.pending = 0
            if entry.is_open:
                entry.close(self)


def timeout_error(step: CallStep) -> NodeTimeoutError:
    """Return the error of a call that took too long."""
    return NodeTimeoutError(
        f"node {step.node.name!r} took longer than its timeout of {step.node.timeout} s",
        node_name=step.node.name,
        timeout_s=step.node.timeout,
    )


def worker_died(steps: list[CallStep], item_index: int | None) -> WorkerDiedError:
    """Return the error of a call, or of the calls of an item, that killed its worker twice."""
    names = tuple(step.node.name for step in steps)
    what = f"node{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    which = "" if item_index is None else f" for map item {item_index}"
    return WorkerDiedError(
        f"the worker process died twice while it computed {what}{which}: a crash in native code, a kill, or out of "
        "memory. (If no worker ever starts: a script must begin its work under `if __name__ == '__main__':`.)",
        node_names=names,
        item_index=item_index,
    )


def _is_within(activity: Activity | None, outer: Activity) -> bool:
    current = activity
    while current is not None and current is not outer:
        current = current.parent
    return current is outer
