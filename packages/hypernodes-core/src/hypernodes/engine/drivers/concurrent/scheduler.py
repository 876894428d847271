"""The loop of the concurrent driver: starts calls while workers are free, and waits for their results.

Modes differ only in how many calls may run at a time and in which workers make them. Only calls of nodes occupy
workers. Plans and maps are on a stack, the innermost on top, so that items are finished before new ones are begun.

Other modules handle the special cases: worker processes (`item_chunks`, `lost_workers`), time limits and delays
(`timers`), how the items of a map are started (`item_starters`), and nested pipelines with a backend of their own
(`delegated_calls`). All of them use the loop as a `Host`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from queue import Empty
from time import perf_counter
from typing import Any, NamedTuple

from hypernodes.engine.awaitables import Unawaited
from hypernodes.engine.cancellation import unfinished_call
from hypernodes.engine.drivers.concurrent.activity import Activity, CallTask, PlanActivity, Task, cancelled
from hypernodes.engine.drivers.concurrent.batched_calls import BatchedCalls
from hypernodes.engine.drivers.concurrent.delegated_calls import DelegatedCalls
from hypernodes.engine.drivers.concurrent.item_chunks import ProcessCalls
from hypernodes.engine.drivers.concurrent.item_starters import item_starter
from hypernodes.engine.drivers.concurrent.limited_calls import LimitedCalls
from hypernodes.engine.drivers.concurrent.lost_workers import LostWorkers
from hypernodes.engine.drivers.concurrent.maps import MapActivity, NestedEnd, PlannedMap
from hypernodes.engine.drivers.concurrent.streamed_calls import StreamedCall, StreamedCalls, StreamedColumn
from hypernodes.engine.drivers.concurrent.timers import Timer, Timers
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.limit_reports import LimitReport
from hypernodes.engine.state import RunState
from hypernodes.engine.step import Call, Returned, close_unwanted, timeout_error
from hypernodes.engine.timing import now, retry_delay_s
from hypernodes.engine.workers.coroutines import CHECK_INTERVAL_S, Inbox, TaskOutcome
from hypernodes.engine.workers.shared_generators import (
    inputs_of_several_steps,
    warn_of_generators,
    warn_of_generators_in_code,
)
from hypernodes.engine.workers.workers import CallRunner, Outcome, Workers
from hypernodes.nodes import Node
from hypernodes.plan import CallStep, NestedStep, Plan, Step

_MAX_MESSAGES = 64


class _Begun(NamedTuple):
    """Message that a call has begun."""

    at: float


class Scheduler:
    """Executes one activity and everything in it.

    Args:
        workers: The workers that make calls, and their number.
        run: The run that it executes.

    Attributes:
        workers: The same.
        is_paused: Returns whether to start nothing for now; a stream sets it, to yield results first.
    """

    def __init__(self, workers: Workers, run: RunState) -> None:
        self.workers = workers
        self._run = run
        self._stack: list[Activity] = []
        self._inbox = Inbox(workers.coroutines)  # (task, message) pairs; None wakes the loop
        self._in_flight: set[Task] = set()  # tasks that occupy workers
        self._delegated = DelegatedCalls(self)
        self._timers = Timers()
        self._computing: dict[bytes, list[tuple[PlanActivity, CallStep]]] = {}
        self._batched = BatchedCalls(self, run.batch_sizes)
        self._limited = LimitedCalls(self, run.limits)
        self._streamed = StreamedCalls(self, self.start_consumers)
        self._is_cancelled = False
        self._checked: set[Plan] = set()  # the plans whose code was searched for random generators
        self._process_calls: ProcessCalls | None = None
        self._lost_workers: LostWorkers | None = None
        if workers.processes is not None:
            self._process_calls = ProcessCalls(workers.processes)
            self._lost_workers = LostWorkers(self, workers.processes)
        self.is_paused: Callable[[], bool] = lambda: False

    # --- the loop -------------------------------------------------------------------------------------------------

    def execute(self, root: Activity) -> None:
        """Execute `root` until it is done.

        Raises:
            BaseException: The error that made it fail.
        """
        self.open(root)
        while root.is_open:
            self.turn(root)
        if root.error is not None:
            raise root.error[0]

    def turn(self, root: Activity) -> None:
        """Start all work that can start, then wait for a message."""
        try:
            self._start()
            if root.is_open and not self._has_more_to_start():
                self._wait()
        except CancelledError:
            self._is_cancelled = False
            for task in self._in_flight:
                if task.future is not None:
                    task.future.cancel()
            self._delegated.cancel()
            root.stop()
            if self.workers.processes is not None:
                self.workers.processes.stop_calls()
            self.drain(root)
            raise
        except BaseException as error:
            for task in self._in_flight:
                if isinstance(task.future, TaskOutcome) and task.future.exception() is error:
                    task.explain(error)  # the node raised it itself, and it ended the event loop in this thread
            self.abort(root)
            raise

    def cancel(self) -> None:
        """Cancel the execution from another thread; `execute` raises `CancelledError` in its own."""
        self._is_cancelled = self.workers.is_cancelled = True
        self.workers.registry.cancel()
        self.workers.coroutines.cancel()
        self._inbox.put(None)

    def open(self, activity: Activity) -> None:
        processes = self.workers.processes
        if processes is not None and isinstance(activity, MapActivity):
            shared = activity.shared_values()
            if self.workers.is_in_process(is_item=True):
                warn_of_generators(self._run, activity.plan, shared, shared, "the items of a map")
                if activity.plan not in self._checked:  # a nested map is opened once for each item around it
                    self._checked.add(activity.plan)
                    warn_of_generators_in_code(self._run, activity.plan, "the items of a map")
            for value in shared.values():
                activity.share(processes.payloads, value)
                if activity.parent is not None:  # other maps and steps of the parent may take the same value
                    activity.parent.share(processes.payloads, value)
        elif (
            isinstance(activity, PlanActivity) and activity.owner is None and self.workers.is_in_process(is_item=False)
        ):
            plan = activity.frame.plan
            warn_of_generators(self._run, plan, inputs_of_several_steps(plan), activity.frame.values, "several nodes")
            warn_of_generators_in_code(self._run, plan, "several nodes", uses=2)
        self.wake(activity)

    def wake(self, activity: Activity) -> None:
        if not activity.is_open or activity.is_queued:
            return
        if activity.is_done():
            activity.close(self)
        else:
            activity.is_queued = True
            self._stack.insert(self._position_of(activity), activity)

    def _position_of(self, activity: Activity) -> int:
        """Return where an activity waits for its turn: on top.

        A map of elements that are still being made waits below those whose elements began to be made earlier, so that
        items that have begun are finished before others.
        """
        stack = self._stack
        source = activity.source if isinstance(activity, MapActivity) else None
        if source is not None:
            for position, other in enumerate(stack):
                if isinstance(other, MapActivity) and other.source is not None and other.source.number < source.number:
                    return position
        return len(stack)

    def wake_up(self) -> None:
        self._inbox.put(None)

    def post(self, task: Task, message: Any) -> None:
        self._inbox.put((task, message))

    def drain(self, root: Activity) -> None:
        """Start nothing more; wait for the calls in flight, and close everything."""
        root.stop()
        self.is_paused = lambda: False
        self._drop_stopped()
        self._end_delays(root)
        self._wake_all(root)
        while root.is_open:
            self.turn(root)

    def _start(self) -> None:
        if self._lost_workers is not None and self._lost_workers.are_recovering:
            if not self._in_flight:
                self._lost_workers.start_next()
            return
        if self._delegated.are_waiting and not self.is_paused():
            self._delegated.start_waiting()
        stack, batched, limited, streamed = self._stack, self._batched, self._limited, self._streamed
        while not self.is_paused() and self._has_room:
            if self._is_cancelled:
                raise CancelledError("the run was cancelled")
            if self._delegated and not self._inbox.empty():  # other backends may be waiting for more to do
                self._take(self._inbox.get_nowait())
                continue
            if limited.are_waiting and limited.start_granted():
                continue
            if streamed.ready:
                streamed.resume_next()
                continue
            if batched.ready:
                batched.start_next()
                continue
            if not stack:
                if self._delegated.start_waiting(is_idle=True):
                    continue
                if batched.are_waiting and batched.end_waiting(self._nodes_to_come()):
                    continue
                return
            activity = stack[-1]
            if activity.is_stopped or not activity.start_next(self):
                # The work it started may have been pushed on top of it, so it may not be the last any more.
                stack.remove(activity) if stack[-1] is not activity else stack.pop()
                activity.is_queued = False
                if activity.is_open and activity.is_done():
                    activity.close(self)

    def _has_more_to_start(self) -> bool:
        if self.is_paused():
            return True
        if self._lost_workers is not None and self._lost_workers.are_recovering:
            return not self._in_flight
        return bool(self._stack or self._batched.ready or self._streamed.ready) and self._has_room

    def _nodes_to_come(self) -> set[Node[..., Any]]:
        """Return the batched nodes that items of which something is under way, or their successors, may reach.

        Only those are looked for that items wait for.
        """
        awaited = self._batched.awaited_nodes
        found: set[Node[..., Any]] = set()
        seen: set[Activity] = set()
        suspects = [] if self._lost_workers is None else self._lost_workers.suspects
        waiting = [*self._timers.delayed(), *suspects, *self._limited.tasks]  # paused streams wait for what is open
        for task in [*self._in_flight, *waiting, *self._delegated.tasks]:
            for activity, step in task.activities():
                _add_what_follows(found, seen, activity, step)
            if awaited <= found:
                break
        return found

    @property
    def _has_room(self) -> bool:
        """Whether another call may be started."""
        return len(self._in_flight) + self._delegated.calls < self.workers.capacity

    def _wait(self) -> None:
        if self.workers.must_help and self._help():
            return
        if not (self._timers or self._in_flight or self._delegated or self._limited.are_waiting):
            raise AssertionError("nothing left to wait for, but the run is not done")  # pragma: no cover
        store = self._run.store
        waits_s = self._batched.seconds_left() if self._batched.are_waiting and self._has_room else None
        limited_s = self._limited.seconds_left() if self._limited.are_waiting and self._has_room else None
        limits = (self._timers.seconds_left(), store.seconds_left(), waits_s, limited_s, CHECK_INTERVAL_S)
        try:
            self._take(self._inbox.get(min(limit for limit in limits if limit is not None)))
            for _ in range(_MAX_MESSAGES):  # then check the clock, and run coroutines in this thread, again
                self._take(self._inbox.get_nowait())
        except Empty:
            pass
        if store.seconds_left() == 0:
            store.flush()
        for timer in self._timers.due():
            self._on_timer(timer)

    def _take(self, message: tuple[Task, Any] | None) -> None:
        if message is None:
            if self._is_cancelled:
                raise CancelledError("the run was cancelled")
            return
        if self._limited.are_waiting and self._has_room and not self.is_paused() and not self._is_cancelled:
            self._limited.start_granted()  # first, since it may take long to record the results of a batch
        self._settle(*message)
        if self.workers.coroutines.here is not None:
            self._start()  # at once: its successor need not wait until all other messages are handled

    def _settle(self, task: Task, message: Any) -> None:
        if task.future is None:
            return  # it exceeded its time limit, and its result is not wanted any more
        if message is not task.future:
            if isinstance(message, _Begun):
                if isinstance(task, CallTask) and task.step.node.timeout is not None:
                    self._timers.limit(task, message.at, task.step.node.timeout)
            elif message is None:
                task.on_progress(self)
            return
        task.future = None
        self._in_flight.discard(task)
        if isinstance(task, CallTask) and task.step.node.timeout is not None:
            self._timers.remove(task)
            if task.limit_report is not None:
                task.limit_report.end()
        error = CancelledError("the call was cancelled") if cancelled(message) else message.exception()
        if error is None:
            task.settle(self, message)
        elif isinstance(error, BrokenExecutor) and self._lost_workers is not None and task.order >= 0:
            if isinstance(task, CallTask):
                task.release_permit()
            self._lost_workers.handle(task, error)
        else:
            task.fail(self, error)

    # --- steps ----------------------------------------------------------------------------------------------------

    def start_step(self, activity: PlanActivity, step: Step) -> None:
        if step.index in activity.frame.plan.places:
            self._start_placed(activity, step)
        elif isinstance(step, CallStep):
            self._start_call(activity, step)
        elif step.is_delegated:
            self._delegated.start(activity, step)
        else:
            self._start_map(activity, step)

    def _start_map(self, activity: PlanActivity, step: NestedStep, source: StreamedCall | None = None) -> None:
        """Begin the items of a mapped pipeline that is a step.

        Args:
            activity: The plan in which it is a step.
            step: The step.
            source: What makes the elements that it maps over; None if they are complete.
        """
        frame = activity.frame
        context = frame.begin_nested(step)
        started_at = perf_counter()
        column = None if source is None else StreamedColumn(source)
        try:
            inputs = frame.map_inputs(step, column)
        except Exception as error:
            activity.pending -= 1
            self.fail(activity, error, frame.fail_nested(step, error, perf_counter() - started_at))
            return
        ended = NestedEnd(activity, step, started_at)
        on_error = step.node.on_error
        request = PlannedMap(
            step.inner, frame.run, context, inputs, on_error, activity, ended, step_index=step.index, source=column
        )
        nested = self.map_activity(request)
        if source is not None and column is not None:
            source.columns.append((column, nested))
        self.open(nested)

    def map_activity(self, request: PlannedMap) -> MapActivity:
        """Return a map to be opened, with the item starter that suits it best."""
        return MapActivity(request, lambda owner: item_starter(owner, self.workers))

    def _start_placed(self, activity: PlanActivity, step: Step) -> None:
        """Run a step at its place, unless its result is being computed right now, or just was."""
        key = activity.frame.key_of(step) if isinstance(step, CallStep) else None
        if isinstance(step, CallStep) and key is not None and not self._has_to_compute(activity, step, key):
            return
        self._delegated.start(activity, step, key)

    # --- calls ----------------------------------------------------------------------------------------------------

    def _has_to_compute(self, activity: PlanActivity, step: CallStep, key: bytes) -> bool:
        """Return whether a result has to be computed, and note that it is; else it is there, or will be waited for."""
        if key in self._computing:
            self._computing[key].append((activity, step))
            return False
        if activity.frame.recall(step):
            activity.pending -= 1
            self.wake(activity)
            return False
        self._computing[key] = []
        return True

    def _start_call(self, activity: PlanActivity, step: CallStep) -> None:
        """Start a call, unless its result is being computed right now, or just was."""
        frame = activity.frame
        key = frame.key_of(step)
        if key is not None and not self._has_to_compute(activity, step, key):
            return
        if step.index in frame.plan.streams and not self.workers.is_in_process(activity.owner is not None):
            frame.begin(step)
            self._streamed.start(activity, step, key)
            return
        task = CallTask(activity, step, key)
        if step.node.batching is not None:
            self._batched.add(task)
            return
        frame.begin(step)
        self.submit(task)

    def start_consumers(self, call: StreamedCall) -> None:
        activity = call.activity
        if activity.is_stopped:
            return
        for consumer in activity.frame.streaming_consumers(call.step):
            activity.frame.take_early(consumer)
            activity.pending += 1
            self._start_map(activity, consumer, call)

    def reserve(self, keys: list[bytes], frame: Frame) -> bool:
        computing = self._computing
        for key in keys:
            if key in computing or frame.was_computed(key):
                return False
        if len(keys) > 1 and len(set(keys)) < len(keys):
            return False
        for key in keys:
            computing[key] = []
        return True

    def submit(self, task: CallTask) -> None:
        step, activity = task.step, task.activity
        if step.node.limiting is not None and task.permit is None:
            self._limited.add(task)
            return
        is_item = activity.owner is not None
        try:
            if self._process_calls is not None and self.workers.is_in_process(is_item):
                self._process_calls.submit(self, task)
                return
            runner = self.workers.runner_for(step, is_item)
            call = task.prepared()
            if runner is None:
                returned = self.workers.make_here(call)
            else:
                self._submit_to(runner, task, call)
                return
        except Exception as error:
            self._in_flight.discard(task)
            self.fail_call(task, error)
        except BaseException as error:
            task.explain(error)
            raise
        else:
            self.complete_call(task, returned)

    def _submit_to(self, runner: CallRunner, task: CallTask, call: Call) -> None:
        begun = None
        if task.step.node.timeout is not None and not runner.enforces_time_limits:
            begun = self._report_begin(task)
        self._in_flight.add(task)
        task.future = runner.submit(call, lambda outcome: self._inbox.put((task, outcome)), begun)

    def _report_begin(self, task: CallTask) -> Callable[[], object]:
        """Return what the thread of a call with a time limit is to do when it begins."""
        task.limit_report = limit_report = LimitReport(task.step.node)

        def report() -> None:
            limit_report.begin()
            self._inbox.put((task, _Begun(now())))

        return report

    def wait_for(self, task: Task, future: Outcome) -> None:
        self._in_flight.add(task)
        task.future = future
        if isinstance(future, Future):
            future.add_done_callback(lambda future: self._inbox.put((task, future)))

    def complete_call(self, task: CallTask, returned: Returned | Unawaited | bytes) -> None:
        if isinstance(returned, Unawaited):
            if task.is_stopped or self._is_cancelled:
                returned.close()
                error = CancelledError("the run ended before what the call returned was awaited")
                self.fail_call(task, error, can_try_again=False)
                return
            call = task.prepared()
            outcome = self.workers.loop_runner.finish(call, returned, lambda outcome: self._inbox.put((task, outcome)))
            self.wait_for(task, outcome)
            return
        task.release_permit()
        if task.order >= 0:
            assert self._process_calls is not None
            task.order = -1
            if isinstance(returned, bytes):
                try:
                    returned = self._process_calls.returned(task, returned)
                except BaseException as raised:
                    self.fail_call(task, raised)
                    return
        assert isinstance(returned, Returned)
        task.record(self, returned)

    def fail_call(self, task: CallTask, error: BaseException, can_try_again: bool = True) -> None:
        task.release_permit()
        if can_try_again and task.can_try_again(error):
            try:
                delay_s = retry_delay_s(task.step.node, task.attempt, error)
            except Exception as raised:
                raised.__cause__ = error
                task.give_up(self, raised)
                return
            task.report_retry(error, delay_s)
            task.attempt += 1
            self._timers.delay(task, delay_s)
            return
        task.give_up(self, error)

    def release(self, key: bytes) -> None:
        waiting = self._computing.pop(key)
        for number, (activity, step) in enumerate(waiting, start=1):
            if activity.is_stopped:
                activity.pending -= 1
                self.wake(activity)
                continue
            self.start_step(activity, step)  # finds it in the cache, or computes it itself after a failure
            if key in self._computing:
                self._computing[key] += waiting[number:]
                return

    def _help(self) -> bool:
        """Make a call that no worker has begun in this thread, instead of waiting; return whether there was one."""
        for task in self._in_flight:
            future = task.future
            if not isinstance(task, CallTask) or isinstance(task, StreamedCall):
                continue
            if isinstance(future, Future) and future.cancel():
                break
        else:
            return False
        call = task.prepared()
        if task.step.node.timeout is not None:  # this thread could not end it
            self._submit_to(self.workers.own_threads(), task, call)
            return True
        task.future = None
        self._in_flight.discard(task)
        try:
            returned = self.workers.make_instead(call)
        except Exception as error:
            self.fail_call(task, error)
        except BaseException as error:
            task.explain(error)
            raise
        else:
            self.complete_call(task, returned)
        return True

    def _on_timer(self, timer: Timer) -> None:
        task = timer.task
        if not timer.is_limit:
            if task.is_stopped:
                task.end_stopped(self, CancelledError("the run ended before the next attempt"))
            else:
                self.submit(task)
        elif task in self._in_flight:
            self._in_flight.discard(task)
            if task.limit_report is not None:
                task.limit_report.end()
            future, task.future = task.future, None
            if future is not None:
                if future.cancel():
                    task.release_permit()  # else it is released when the call ends in its thread
                task.permit = None
                self.workers.abandon(future)
            self.fail_call(task, timeout_error(task.step.node))

    # --- failures -------------------------------------------------------------------------------------------------

    def fail(self, activity: Activity, error: BaseException, path: tuple[str, ...]) -> None:
        failed = activity
        while failed.parent is not None:
            if failed.parent.collects and isinstance(error, Exception):  # neither KeyboardInterrupt nor SystemExit
                break
            failed = failed.parent
        if failed.error is None:
            failed.error = (error, path)
        failed.stop()
        for task in self._in_flight:
            if task.future is not None and task.is_within(failed):
                task.future.cancel()  # calls that have not begun, and awaited ones; the loop waits for the rest
        self._delegated.cancel(failed)
        self._drop_stopped()
        self._end_delays(failed)
        self._wake_all(failed)

    def pause(self) -> None:
        """Prepare for not being called for a while: other runs need not wait for this one."""
        if self._limited.are_waiting:
            self._limited.pause()

    def _drop_stopped(self) -> None:
        """End the calls that wait, for others or for permits, and are not wanted any more."""
        if self._batched.has_any:
            self._batched.drop_stopped()
        if self._limited.are_waiting:
            self._limited.drop_stopped()
        self._streamed.drop_stopped()

    def _end_delays(self, activity: Activity) -> None:
        """End calls that wait for their next attempt at once."""
        self._timers.end_delays(lambda task: task.is_within(activity))

    def _wake_all(self, activity: Activity) -> None:
        """Wake an activity and all its parts, innermost first."""
        for entry in reversed(list(_with_parts(activity))):
            self.wake(entry)

    def abort(self, root: Activity) -> None:
        """Stop everything at once: after an interrupt or a defect, or because nobody wants more results.

        Completed results are stored. Calls under way are not waited for; their results are lost.
        """
        root.stop()
        try:
            if root.is_open:
                self._settle_finished()
        finally:
            self._delegated.abandon()
            self.workers.kill()
            suspects = [] if self._lost_workers is None else self._lost_workers.suspects
            waiting = [*self._timers.delayed(), *suspects, *self._batched.abandon(), *self._limited.abandon()]
            for task in [*self._in_flight, *waiting, *self._streamed.abandon()]:
                if isinstance(task.future, Future):
                    task.future.add_done_callback(close_unwanted)
                if isinstance(task, CallTask) and task.permit is not None and not _goes_on(task.future):
                    task.release_permit()
                if isinstance(task, CallTask) and task.activity.is_open and not task.is_explained:
                    task.report_error(unfinished_call())
            self._in_flight.clear()
            entries = list(_with_parts(root)) if root.is_open else []
            for entry in reversed(entries):
                entry.pending = 0
                if entry.is_open:
                    entry.close(self)

    def _settle_finished(self) -> None:
        """Record the results that have arrived, without waiting for others."""
        while not self._inbox.empty():
            task, outcome = self._inbox.get_nowait() or (None, None)
            if task is None or outcome is None or isinstance(outcome, _Begun):
                continue
            if not cancelled(outcome) and outcome.exception() is None:
                self._settle(task, outcome)


def _goes_on(future: Any) -> bool:
    """Whether a call is being made in a thread, which releases its permit when it ends."""
    return isinstance(future, Future) and future.running()


def _add_what_follows(
    found: set[Node[..., Any]], seen: set[Activity], activity: Activity | None, step: int | None
) -> None:
    """Add the batched nodes that may be called after a step, or any step, of an activity and of those around it."""
    while activity is not None and activity not in seen:
        if isinstance(activity, MapActivity):
            seen.add(activity)
            if step is None or not activity.is_exhausted:
                found |= activity.plan.batched_nodes
            step = activity.step_index
        elif isinstance(activity, PlanActivity):
            plan = activity.frame.plan
            if plan.leads_to:
                found |= plan.batched_nodes if step is None else plan.leads_to[step]
            step = -1  # of the map around it: its item is known
        activity = activity.parent


def _with_parts(activity: Activity) -> Iterable[Activity]:
    order = [activity]
    for entry in order:
        order += entry.children
    return order
