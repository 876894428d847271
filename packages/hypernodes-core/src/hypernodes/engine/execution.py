"""One run or one map, from the compiled plan to the result: chooses driver and frame."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any, Protocol, TypeVar

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.cancellation import RunRegistry, current_registry
from hypernodes.engine.choice import Choice, Driver, Frames, choose
from hypernodes.engine.drivers.concurrent.activity import PlanActivity
from hypernodes.engine.drivers.concurrent.maps import PlannedMap
from hypernodes.engine.drivers.concurrent.scheduler import Scheduler
from hypernodes.engine.drivers.concurrent.stream import ItemStream
from hypernodes.engine.drivers.in_order import (
    DeliverSeveral,
    map_in_order,
    part_in_order,
    run_in_order,
    stream_in_order,
)
from hypernodes.engine.drivers.straight import run_silent
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.items import frame_of_run
from hypernodes.engine.frames.prior_results import PriorResults, prior_results_of_run, with_prior_signatures
from hypernodes.engine.limits import Limit, check_limits_of, with_limits_around
from hypernodes.engine.scoped import scoped
from hypernodes.engine.settings import ExecutionMode
from hypernodes.engine.skipped_outputs import refuse_skipped
from hypernodes.engine.state import RunState
from hypernodes.engine.workers.calling_thread import CallingThread
from hypernodes.engine.workers.process_pool import ProcessPool
from hypernodes.engine.workers.threads import start_thread
from hypernodes.engine.workers.worker_processes import WorkerProcesses
from hypernodes.engine.workers.workers import Workers
from hypernodes.open_iterators import close_before_pools
from hypernodes.plan import OnError, Plan

_T = TypeVar("_T")


class EngineProtocol(Protocol):
    """The part of the engine that an execution needs."""

    backend_name: str
    node_execution: ExecutionMode
    map_execution: ExecutionMode
    max_workers: int | None
    executor: Executor | None
    limits: tuple[Limit, ...]
    max_in_flight: int | None

    def runs_in_order(self, plan: Plan, is_map: bool = False) -> bool:
        """Whether the steps of a plan, and the items of the maps in it, are executed one after the other."""

    def process_pool(self) -> AbstractContextManager[ProcessPool | None]:
        """Provide worker processes for a run."""


class Execution:
    """One run or one map.

    `choice.choose` says which driver executes it, over which frames. In order, calls with retries, time limits or
    `async def` functions are made by `CallingThread`, and nested pipelines with a backend of their own run on it one
    after the other. `in_order` also replaces `run_observed` where events of other threads may interleave (a run inside
    another one).

    Args:
        engine: The engine, with its modes.
        plan: The plan to execute.
        root: Context of the pipeline.
        is_nested: Whether it is part of another run, which then reports its start and end.
        loop: The event loop of an `async` caller.
        state: State of the run; None for a new one.
    """

    def __init__(
        self,
        engine: EngineProtocol,
        plan: Plan,
        root: CallbackContext,
        is_nested: bool,
        loop: asyncio.AbstractEventLoop | None = None,
        state: RunState | None = None,
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._root = root
        self._is_nested = is_nested
        self._loop = loop
        self._outer_registry = current_registry.get()
        can_be_cancelled = is_nested or loop is not None or self._outer_registry is not None
        self._thread = CallingThread(loop, can_be_cancelled)
        is_single_threaded = engine.runs_in_order(plan) and plan.is_local and not can_be_cancelled
        self._state = state or RunState(root, engine.backend_name, is_nested, is_single_threaded)
        self._state.max_in_flight = engine.max_in_flight
        limits = with_limits_around(engine.limits)
        if plan.is_limited:
            check_limits_of(plan, limits, engine.backend_name)
        self._state.limits = self._thread.limits = {limit.name: limit for limit in limits}
        if plan.batched_nodes:
            self._thread.batch_sizes = self._state.batch_sizes
        self._scheduler: Scheduler | None = None

    # --- runs and maps --------------------------------------------------------------------------------------------

    def run(self, values: list[Any], inputs: Mapping[str, Any], known: PriorResults | None = None) -> dict[str, Any]:
        """Run the plan once.

        Args:
            values: Value of every slot, with the inputs filled in.
            inputs: The inputs as they were given.
            known: Prior results of the run.
        """
        plan, state, thread = self._plan, self._state, self._thread
        known = known or prior_results_of_run(plan, self._root, inputs)
        self._begin_records()
        driver, frames = self._choose(is_map=False)
        if driver is Driver.CONCURRENT:
            frame = frame_of_run(plan, state, values, self._root, known)
            with self._concurrent() as (_, scheduler):

                def execute(frame: Frame) -> None:
                    frame.start()
                    scheduler.execute(PlanActivity(frame, None))

                return self._checked(self._reported(frame, inputs, execute))
        with self._in_order():
            if frames is Frames.NONE:
                needed = thread if thread.is_needed_for(plan) else None
                values = run_silent(
                    plan, (values,), (), None, self._root, state.backend_name, thread=needed, trace=thread
                )
                return {name: values[slot] for name, slot in plan.outputs.items()}
            frame = frame_of_run(plan, state, values, self._root, known)
            return self._checked(self._reported(frame, inputs, lambda frame: run_in_order(frame, driver, thread)))

    def _checked(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs of a run, none of which the caller asked for in vain."""
        if not self._is_nested:
            refuse_skipped(self._plan, outputs)
        return outputs

    def map(self, given: MapInputs, on_error: OnError) -> dict[str, list[Any]]:
        """Run the plan once per item, or for some items of a map; return one column per output."""
        if given.indexes is not None:
            found = _RowsByIndex()
            self.map_part(given, on_error, found)
            rows = [found[index] for index in given.indexes]
            return {name: [row[position] for row in rows] for position, name in enumerate(self._plan.outputs)}
        given = with_prior_signatures(given, self._root)
        self._begin_records(given)
        if self._choose(is_map=True).driver is not Driver.CONCURRENT:
            with self._in_order():
                results = map_in_order(self._plan, self._state, self._root, given, on_error, self._thread)
        else:
            with self._concurrent() as (_, scheduler):
                activity = scheduler.map_activity(PlannedMap(self._plan, self._state, self._root, given, on_error))
                scheduler.execute(activity)
                results = activity.results
        return dict(zip(self._plan.outputs, results.columns, strict=True))

    def map_part(self, given: MapInputs, on_error: OnError, deliver: DeliverSeveral) -> None:
        """Run the plan for some items of a map.

        Args:
            given: The items, with their indexes.
            on_error: "raise" or "collect".
            deliver: Gets the index and the outputs of each item, soon after it is done.
        """
        given = with_prior_signatures(given, self._root)
        self._begin_records(given)
        plan, state, root = self._plan, self._state, self._root
        if self._choose(is_map=True).driver is not Driver.CONCURRENT:
            with self._in_order():
                part_in_order(plan, state, root, given, on_error, self._thread, deliver)
            return
        with self._concurrent() as (_, scheduler):
            request = PlannedMap(plan, state, root, given, on_error, deliver=deliver, is_part=True)
            scheduler.execute(scheduler.map_activity(request))

    def stream(self, given: MapInputs, on_error: OnError, is_ordered: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run the plan once per item; yield index and outputs of each."""
        self._begin_records(given)
        plan, state, root = self._plan, self._state, self._root
        if self._choose(is_map=True).driver is not Driver.CONCURRENT:
            with self._in_order(is_stream=True):
                for index, outputs in stream_in_order(plan, state, root, given, on_error, self._thread):
                    yield index, dict(zip(plan.outputs, outputs, strict=True))
            return
        with self._concurrent(is_dedicated=False) as (workers, scheduler):
            stream = ItemStream(
                scheduler, is_ordered, limit=workers.open_items_of(plan) if plan.has_places else workers.open_items
            )
            activity = scheduler.map_activity(PlannedMap(plan, state, root, given, on_error, deliver=stream))
            for index, outputs in stream.results(activity):
                if workers.processes is not None:
                    close_before_pools()
                yield index, dict(zip(plan.outputs, outputs, strict=True))

    def _reported(self, frame: Frame, inputs: Mapping[str, Any], execute: Callable[[Frame], None]) -> dict[str, Any]:
        """Execute a frame, and report start and end of the run; return its results."""
        if self._is_nested:
            execute(frame)
            return frame.results()
        listeners = frame.listeners[0]
        pipeline_id = self._root.hierarchy_path[-1]
        if listeners.on_pipeline_start:
            listeners.notify(listeners.on_pipeline_start, pipeline_id, dict(inputs), self._root)
        started_at = perf_counter()
        try:
            execute(frame)
        finally:
            results = frame.results()
            if listeners.on_pipeline_end:
                duration = perf_counter() - started_at
                listeners.notify(listeners.on_pipeline_end, pipeline_id, results.copy(), duration, self._root)
        return results

    def _choose(self, *, is_map: bool) -> Choice:
        is_sequential = self._engine.runs_in_order(self._plan, is_map)
        return choose(self._plan, self._state, is_sequential=is_sequential, is_map=is_map)

    def _begin_records(self, given: MapInputs | None = None) -> None:
        if self._plan.is_cached:
            is_item = bool(self._root.item_path)  # of an enclosing map: any input may differ from item to item
            self._state.records.begin(self._plan, self._plan.inputs if is_item else given.columns if given else ())

    # --- threads and workers --------------------------------------------------------------------------------------

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call `run` or `map` in a thread of its own; cancelling the caller cancels it, and waits for its end."""
        return await call_in_thread(self.cancel, function, *arguments)

    def cancel(self) -> None:
        """Cancel it from another thread; the thread that runs it raises `CancelledError` as soon as possible."""
        self._thread.cancel()
        if self._scheduler is not None:
            self._scheduler.cancel()

    def _in_order(self, is_stream: bool = False) -> _InOrder:
        """Execute in the calling thread; cancelling it cancels the runs that its nodes started."""
        return _InOrder(self, self._thread, self._state, None if is_stream else self._thread.can_be_cancelled)

    @scoped
    def _concurrent(self, is_dedicated: bool = True) -> Iterator[tuple[Workers, Scheduler]]:
        """Create the workers and the scheduler of this execution, and release them when it ends."""
        engine = self._engine
        with engine.process_pool() as pool:
            processes = None
            if "parallel" in (engine.node_execution, engine.map_execution):
                processes = WorkerProcesses(pool, engine.executor)
                try:
                    processes.check(self._plan)
                except BaseException:
                    processes.end_run()
                    raise
            workers = Workers(
                engine.node_execution,
                engine.map_execution,
                engine.max_workers,
                engine.executor,
                processes,
                self._loop,
                is_dedicated,
                engine.max_in_flight,
            )
            outer = self._outer_registry
            try:
                self._scheduler = Scheduler(workers, self._state)
                if outer is not None:
                    outer.add(self)
                if self._thread.is_cancelled:
                    self._scheduler.cancel()
                yield workers, self._scheduler
            finally:
                if outer is not None:
                    outer.remove(self)
                workers.close()


class _RowsByIndex(dict[int, tuple[Any, ...]]):
    """The outputs of items, by index."""

    is_full = False

    def __call__(self, index: int, outputs: tuple[Any, ...]) -> None:
        self[index] = outputs

    def extend(self, indexes: Sequence[int], rows: Sequence[tuple[Any, ...]]) -> None:
        self.update(zip(indexes, rows, strict=True))


class _InOrder:
    """What surrounds an execution in the calling thread; a class, since a generator takes three times as long."""

    __slots__ = ("_execution", "_registers", "_state", "_thread", "_token")

    def __init__(self, execution: Execution, thread: CallingThread, state: RunState, registers: bool | None) -> None:
        self._execution = execution
        self._thread = thread
        self._state = state
        self._registers = registers
        self._token: contextvars.Token[RunRegistry | None] | None = None

    def __enter__(self) -> None:
        if self._registers:
            self._token = current_registry.set(self._thread.registry)
        outer = self._execution._outer_registry  # noqa: SLF001
        if outer is not None:
            outer.add(self._execution)

    def __exit__(self, *exc_info: object) -> None:
        if self._token is not None:
            current_registry.reset(self._token)
        outer = self._execution._outer_registry  # noqa: SLF001
        if outer is not None:
            outer.remove(self._execution)
        self._state.flush_store()
        self._thread.close()


async def call_in_thread(cancel: Callable[[], object], function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function in a thread of its own without blocking the event loop.

    Args:
        cancel: Called when the awaiting task is cancelled, to end the function early; the task then waits for its end.
        function: The function; it sees the context variables of the caller.
        arguments: Its arguments.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result = context.run(function, *arguments)
        except BaseException as error:
            loop.call_soon_threadsafe(outcome.set_exception, _settable(error))
        else:
            loop.call_soon_threadsafe(outcome.set_result, result)

    thread = threading.Thread(target=work, name="hypernodes-scheduler")
    start_thread(thread)
    try:
        return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        cancel()
        await asyncio.wait([outcome])
        outcome.exception()  # mark the error as retrieved
        raise
    finally:
        thread.join()


def _settable(error: BaseException) -> BaseException:
    """Return an error that can be set on a future, which refuses StopIteration."""
    if isinstance(error, StopIteration):
        wrapped = RuntimeError("a node raised StopIteration")
        wrapped.__cause__ = error
        return wrapped
    return error
