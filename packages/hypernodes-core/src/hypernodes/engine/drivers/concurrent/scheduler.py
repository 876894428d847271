"""The one loop: starts what can start, waits for what has been started, until everything is done.

Every strategy goes through it; they differ only in how much may be started at a time and in where calls are made. Only
calls of nodes occupy workers. Plans and maps are kept on a stack, the innermost on top, so that items are finished
before new ones are begun.

What is special to worker processes is in `batches` and `casualties`, what is special to time in `timers`, and what is
special to nested pipelines with a backend of their own in `elsewhere`.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from queue import Empty
from typing import Any, NamedTuple

from hypernodes.engine.drivers.concurrent.activity import Activity, PlanActivity
from hypernodes.engine.drivers.concurrent.batches import Batches
from hypernodes.engine.drivers.concurrent.delegation import Delegation
from hypernodes.engine.drivers.concurrent.lost_workers import LostWorkers
from hypernodes.engine.drivers.concurrent.maps import MapActivity, open_nested_map
from hypernodes.engine.drivers.concurrent.tasks import BatchTask, CallTask, DelegatedTask, Task
from hypernodes.engine.drivers.concurrent.timers import Timer, Timers, now
from hypernodes.engine.frames.cached import CachedFrame
from hypernodes.engine.state import RunState
from hypernodes.engine.step import Call, Returned, add_note, path_of, prepare
from hypernodes.engine.workers.coroutines import LOOK_UP_S, Inbox
from hypernodes.engine.workers.time_limits import timeout_error
from hypernodes.engine.workers.workers import Outcome, Place, Workers
from hypernodes.plan import CallStep, NestedStep

_MOST_NEWS = 64


class _Begun(NamedTuple):
    """News that a call has begun."""

    at: float


class Scheduler:
    """Executes one activity and everything in it.

    Args:
        places: Where calls are made, and how many at a time.
        run: The run that it executes.

    Attributes:
        runs_nodes_in_order: Whether the nodes of one run are executed one after the other.
        is_paused: Says whether nothing more is to be started for now; a stream sets it, to hand out results first.
    """

    def __init__(self, places: Workers, run: RunState) -> None:
        self._workers = places
        self._run = run
        self._stack: list[Activity] = []
        self._news = Inbox(places.coroutines)  # tasks with their outcomes, or that they have begun; None to wake up
        self._in_flight: set[Task] = set()  # what occupies workers
        self._delegation = Delegation(self, places, lambda task, outcome: self._news.put((task, outcome)))
        self._timers = Timers()
        self._computing: dict[bytes, list[tuple[PlanActivity, CallStep]]] = {}
        self._is_cancelled = False
        self._batches: Batches | None = None
        self._lost_workers: LostWorkers | None = None
        if places.processes is not None:
            self._batches = Batches(self, places, places.processes)
            self._lost_workers = LostWorkers(self, self._batches, places.processes)
        self.runs_nodes_in_order = places.node_execution == "sequential"
        self.is_paused: Callable[[], bool] = lambda: False

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
            self._delegation.cancel()
            root.stop()
            if self._workers.processes is not None:
                self._workers.processes.stop_calls()
            self.drain(root)
            raise
        except BaseException:
            self.abort(root)
            raise

    def cancel(self) -> None:
        """End the execution from another thread; `execute` raises `CancelledError` there."""
        self._is_cancelled = True
        self._workers.coroutines.cancel()
        self._news.put(None)

    def open(self, activity: Activity) -> None:
        """Begin an activity that is a part of another, or the outermost."""
        processes = self._workers.processes
        if processes is not None and isinstance(activity, MapActivity):
            for value in activity.shared_values().values():
                activity.hold(processes.payloads, value)
                if activity.parent is not None:  # where other maps, and other steps, may take the same
                    activity.parent.hold(processes.payloads, value)
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

    def open_map(self, activity: PlanActivity, step: NestedStep) -> None:
        """Begin the items of a mapped pipeline that is a step of a plan."""
        open_nested_map(activity, step, self)

    def item_limit(self, activity: MapActivity) -> int:
        """Return how many items of a map may be open at a time."""
        return self._workers.open_items if activity.has_room else 0

    def drain(self, root: Activity) -> None:
        """Start nothing more; wait for what is under way, and close everything."""
        root.stop()
        self.is_paused = lambda: False
        self._end_delays(root)
        self._wake_all(root)
        while root.is_open:
            self.turn(root)

    def _start(self) -> None:
        if self._lost_workers:
            if not self._in_flight:
                self._lost_workers.start_next()
            return
        stack = self._stack
        while stack and not self.is_paused() and len(self._in_flight) < self._workers.capacity:
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
        if self._lost_workers:
            return not self._in_flight
        return bool(self._stack) and len(self._in_flight) < self._workers.capacity

    def _wait(self) -> None:
        if self._workers.must_help and self._help():
            return
        if not self._timers and not self._in_flight and not self._delegation:
            raise AssertionError("nothing left to wait for, but the run is not done")  # pragma: no cover
        store = self._run.store
        limits = (self._timers.seconds_left(), store.seconds_left(), LOOK_UP_S)
        try:
            self._take(self._news.get(min(limit for limit in limits if limit is not None)))
            for _ in range(_MOST_NEWS):  # and then look at the clock, and at coroutines in this thread, again
                self._take(self._news.get_nowait())
        except Empty:
            pass
        if store.seconds_left() == 0:
            store.flush()
        for timer in self._timers.due():
            self._on_timer(timer)

    def _take(self, news: tuple[Task, Outcome | _Begun] | None) -> None:
        if news is None:
            if self._is_cancelled:
                raise CancelledError("the run was cancelled")
            return
        self._settle(*news)
        if self._workers.coroutines.here is not None:
            self._start()  # at once: what takes its place need not wait until all the others are settled

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
            if key is not None and frame.was_computed(key) and frame.recall(step):
                activity.pending -= 1
                self.wake(activity)
                return
            if key is not None:
                self._computing[key] = []
        frame.announce_call(step)
        self.submit(CallTask(activity, step, key))

    def reserve(self, keys: list[bytes], frame: CachedFrame) -> bool:
        """Say that all the results with these signatures are being computed; return False if one is, or just was."""
        if len(set(keys)) < len(keys) or any(key in self._computing or frame.was_computed(key) for key in keys):
            return False
        for key in keys:
            self._computing[key] = []
        return True

    def submit(self, task: CallTask) -> None:
        """Make a call that has been announced: here, or by handing it over."""
        step, activity = task.step, task.activity
        is_item = activity.owner is not None
        try:
            if self._batches is not None and self._workers.is_in_process(is_item):
                self.hand_over(task, self._batches.submit_call(task))
                return
            place = self._workers.runner_for(step, is_item)
            call = prepare(step, activity.frame.values)
            if place is None:
                returned = self._workers.make_here(call)
            else:
                self._hand_over_here(task, place, call)
                return
        except Exception as error:
            self._in_flight.discard(task)
            self.fail_call(task, error)
        else:
            self.finish_call(task, returned)

    def _hand_over_here(self, task: CallTask, place: Place, call: Call) -> None:
        begun = None
        if task.step.node.timeout is not None and not place.keeps_time:
            begun = lambda: self._news.put((task, _Begun(now())))  # noqa: E731
        self._in_flight.add(task)
        task.future = place.submit(call, lambda outcome: self._news.put((task, outcome)), begun)

    def hand_over(self, task: Task, future: Future[Any]) -> None:
        """Wait for a task that has been sent to a worker process."""
        assert self._workers.processes is not None
        self._in_flight.add(task)
        task.future = future
        task.generation = self._workers.processes.generation
        future.add_done_callback(lambda future: self._news.put((task, future)))

    def finish_call(self, task: CallTask, returned: Returned) -> None:
        """Take over the results of a call."""
        activity, step = task.activity, task.step
        frame = activity.frame
        frame.finish(step, returned.outputs)
        frame.announce_result(step, returned.outputs, returned.duration_s)
        activity.pending -= 1
        if task.key is not None:
            frame.run.remember(task.key)
            self.release_followers(task.key)
        self.wake(activity)

    def fail_call(self, task: CallTask, error: BaseException, can_try_again: bool = True) -> None:
        """Take over that a call failed: it is made again later, or its failure is passed on."""
        activity, step = task.activity, task.step
        node, frame = step.node, activity.frame
        may_retry = can_try_again and task.attempt <= node.retries and not activity.is_stopped
        if may_retry and isinstance(error, node.retry_on):
            delay = node.retry_delay * 2 ** (task.attempt - 1) * random.uniform(0.75, 1.25)
            frame.announce_retry(step, task.attempt, error, delay)
            task.attempt += 1
            self._timers.delay(task, delay)
            return
        add_note(error, frame.plan, step, frame.base, frame.run.backend_name, frame.item_index)
        frame.announce_error(step, error)
        activity.pending -= 1
        self.fail(activity, error, (*path_of(frame.plan, step, frame.base), node.name))
        if task.key is not None:
            self.release_followers(task.key)

    def release_followers(self, key: bytes) -> None:
        """Go on with calls whose result was being computed for somebody else."""
        for activity, step in self._computing.pop(key):
            frame = activity.frame
            assert isinstance(frame, CachedFrame)
            if activity.is_stopped:
                activity.pending -= 1
                self.wake(activity)
            else:
                self.call(activity, step)  # finds it in the cache, or computes it itself after a failure

    def _settle(self, task: Task, news: Outcome | _Begun) -> None:
        if isinstance(news, _Begun):
            if isinstance(task, CallTask) and task.future is not None and task.step.node.timeout is not None:
                self._timers.limit(task, news.at, task.step.node.timeout)
            return
        if news is not task.future:
            return  # it took too long, and nobody waits for it any more
        task.future = None
        self._in_flight.discard(task)
        if isinstance(task, CallTask) and task.step.node.timeout is not None:
            self._timers.forget(task)
        is_cancelled = isinstance(news, Future) and news.cancelled()
        error = CancelledError("the call was cancelled") if is_cancelled else news.exception()
        if isinstance(error, BrokenExecutor) and self._lost_workers is not None and task.order >= 0:
            self._lost_workers.take(task, error, was_alone=not self._in_flight)
        elif isinstance(task, CallTask):
            self._settle_call(task, news, error)
        elif isinstance(task, BatchTask):
            assert self._batches is not None
            if error is None:
                self._batches.settle(task, pickle.loads(news.result()))
            else:
                self._batches.fail(task, error)
        elif isinstance(task, DelegatedTask):
            self._delegation.settle(task, error, [] if error is not None else news.result())

    def _settle_call(self, task: CallTask, outcome: Outcome, error: BaseException | None) -> None:
        if error is None:
            returned = outcome.result()
            if task.order >= 0:
                assert self._batches is not None
                task.order = -1
                (packed,) = pickle.loads(returned)
                try:
                    returned = self._batches.returned(task, packed)
                except BaseException as raised:
                    self.fail_call(task, raised)
                    return
            self.finish_call(task, returned)
        else:
            self.fail_call(task, error)

    def _help(self) -> bool:
        """Make one of the calls that no worker has begun here, instead of waiting; return whether there was one."""
        for task in self._in_flight:
            future = task.future
            if isinstance(task, CallTask) and isinstance(future, Future) and future.cancel():
                break
        else:
            return False
        call = prepare(task.step, task.activity.frame.values)
        if task.step.node.timeout is not None:  # this thread could not end it
            self._hand_over_here(task, self._workers.own_threads(), call)
            return True
        task.future = None
        self._in_flight.discard(task)
        try:
            returned = self._workers.make_instead(call)
        except Exception as error:
            self.fail_call(task, error)
        else:
            self.finish_call(task, returned)
        return True

    def _on_timer(self, timer: Timer) -> None:
        task = timer.task
        if not timer.is_limit:
            if task.activity.is_stopped:
                task.activity.pending -= 1
                task.activity.frame.announce_error(task.step, CancelledError("the run ended before the next attempt"))
                self.wake(task.activity)
                if task.key is not None:
                    self.release_followers(task.key)
            else:
                self.submit(task)
        elif task in self._in_flight:
            self._in_flight.discard(task)
            future, task.future = task.future, None
            if future is not None:
                future.cancel()
                self._workers.abandon(future)
            self.fail_call(task, timeout_error(task.step.node))

    # --- what other parts do --------------------------------------------------------------------------------------

    def takes_batches_of(self, activity: MapActivity) -> bool:
        """Whether the items of a map are sent to worker processes whole."""
        return self._batches is not None and self._batches.takes(activity)

    def submit_batch(self, activity: MapActivity) -> bool:
        """Send the next items of a map; return False when there are none."""
        assert self._batches is not None
        return self._batches.submit_batch(activity)

    def remove(self, files: list[str]) -> None:
        """Delete what was written for worker processes that nobody reads any more."""
        if self._workers.processes is not None:
            self._workers.processes.payloads.remove(files)

    def delegate(self, activity: PlanActivity, step: NestedStep) -> None:
        """Hand a nested pipeline to its own backend."""
        self._delegation.call(activity, step)

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
            owner = task.owner if isinstance(task, BatchTask) else task.activity if isinstance(task, CallTask) else None
            if task.future is not None and owner is not None and owner.is_within(failed):
                task.future.cancel()  # what has not begun, and what is awaited; the rest is waited for
        self._delegation.cancel(failed)
        self._end_delays(failed)
        self._wake_all(failed)

    def _end_delays(self, activity: Activity) -> None:
        """Let calls that wait for their next attempt end at once."""
        self._timers.end_delays(lambda task: task.activity.is_within(activity))

    def _wake_all(self, activity: Activity) -> None:
        """Look again at an activity and all its parts, innermost first."""
        for entry in reversed(list(_with_parts(activity))):
            self.wake(entry)

    def abort(self, root: Activity) -> None:
        """Give up everything at once: an interrupt, a cancelled run, a defect. What has been computed is kept."""
        root.stop()
        try:
            if root.is_open:
                self._settle_finished()
        finally:
            self._delegation.cancel()
            self._workers.kill()
            entries = list(_with_parts(root)) if root.is_open else []
            for entry in reversed(entries):
                entry.pending = 0
                if entry.is_open:
                    entry.close(self)

    def _settle_finished(self) -> None:
        """Take over the results that are there already, without waiting for any."""
        while not self._news.empty():
            task, outcome = self._news.get_nowait() or (None, None)
            if task is None or outcome is None or isinstance(outcome, _Begun):
                continue
            is_cancelled = isinstance(outcome, Future) and outcome.cancelled()
            if not is_cancelled and outcome.exception() is None:
                self._settle(task, outcome)


def _with_parts(activity: Activity) -> Iterable[Activity]:
    order = [activity]
    for entry in order:
        order += entry.children
    return order
