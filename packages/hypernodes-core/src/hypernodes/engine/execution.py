"""One run or one map, from the compiled plan to the result."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.drivers.concurrent.activity import PlanActivity
from hypernodes.engine.drivers.concurrent.maps import MapActivity
from hypernodes.engine.drivers.concurrent.scheduler import Scheduler
from hypernodes.engine.drivers.concurrent.stream import ItemStream
from hypernodes.engine.drivers.in_order import map_in_order, run_in_order
from hypernodes.engine.frames.cached import CachedFrame
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.frame import Frame
from hypernodes.engine.frames.identified import run_identified
from hypernodes.engine.frames.prior_results import PriorResults, prior_results_of_run, with_prior_signatures
from hypernodes.engine.identity.plan_code import code_of
from hypernodes.engine.state import RunState
from hypernodes.engine.workers.process_pool import WorkerProcesses
from hypernodes.engine.workers.workers import Workers
from hypernodes.plan import OnError, Plan

if TYPE_CHECKING:
    from hypernodes.engine.engine import PipelineExecutionEngine

_T = TypeVar("_T")


class Execution:
    """One run or one map.

    Args:
        engine: Says how to run.
        plan: What to run.
        root: Context of the pipeline.
        is_nested: Whether it is part of another run, which then announces it.
        loop: The event loop of an `async` caller.
        state: What is known of the run beforehand.
    """

    def __init__(
        self,
        engine: PipelineExecutionEngine,
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
        # Nobody cancels it, and all that happens happens in this thread, one thing after the other.
        is_alone = plan.is_plain and not is_nested and loop is None
        self._is_in_order = is_alone and engine.runs_in_order(plan)
        self._state = state or RunState(root, engine.backend_name, is_nested, self._is_in_order)
        self._scheduler: Scheduler | None = None
        self._is_cancelled = False

    def run(self, values: list[Any], inputs: Mapping[str, Any], known: PriorResults | None = None) -> dict[str, Any]:
        """Run the plan once.

        Args:
            values: Value of every slot, with the inputs filled in.
            inputs: The inputs as they were given.
            known: What has been found out before.
        """
        known = known or prior_results_of_run(self._plan, self._root, inputs)
        self._begin_records()
        if self._is_in_order:
            if known is None and self._run_identified(values):
                return {name: values[slot] for name, slot in self._plan.outputs.items()}
            return self._run(self._frame(values, known), inputs, run_in_order)
        with self._workers() as (_, scheduler):

            def execute(frame: Frame) -> None:
                frame.start()
                scheduler.execute(PlanActivity(frame, None))

            return self._run(self._frame(values, known), inputs, execute)

    def _run_identified(self, values: list[Any]) -> bool:
        """Go the short way, for plans with a cache that nobody hears; return whether it could be gone."""
        plan, run = self._plan, self._state
        calls = code_of(plan, run).identified if plan.is_cached and not plan.is_observed else None
        return calls is not None and run_identified(plan, run, self._root, calls, values)

    def _run(self, frame: Frame, inputs: Mapping[str, Any], execute: Callable[[Frame], None]) -> dict[str, Any]:
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

    def _frame(self, values: list[Any], known: PriorResults | None) -> Frame:
        if not self._plan.is_cached:
            return Frame(self._plan, self._state, values, self._root)
        return CachedFrame(self._plan, self._state, values, self._root, known=known)

    def map(self, given: MapInputs, on_error: OnError) -> dict[str, list[Any]]:
        """Run the plan once per item; return one column per output."""
        given = with_prior_signatures(given, self._root)
        self._begin_records(given)
        if self._is_in_order and on_error == "raise" and self._engine.map_execution == "sequential":
            columns = map_in_order(self._plan, self._state, self._root, given).columns
        else:
            with self._workers() as (_, scheduler):
                activity = MapActivity(self._plan, self._state, self._root, given, on_error)
                scheduler.execute(activity)
            columns = activity.columns
        return dict(zip(self._plan.outputs, columns, strict=True))

    def map_part(self, given: MapInputs, on_error: OnError) -> dict[int, tuple[Any, ...]]:
        """Run the plan for some items of a map; return the outputs of each by its index."""
        self._begin_records(given)
        collected = _Collected()
        with self._workers() as (_, scheduler):
            scheduler.execute(
                MapActivity(self._plan, self._state, self._root, given, on_error, deliver=collected, is_part=True)
            )
        return collected.outputs

    def stream(self, given: MapInputs, on_error: OnError, is_ordered: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run the plan once per item; yield index and outputs of each."""
        self._begin_records(given)
        with self._workers(is_waited_for=False) as (places, scheduler):
            stream = ItemStream(scheduler, is_ordered, limit=places.open_items)
            activity = MapActivity(self._plan, self._state, self._root, given, on_error, deliver=stream)
            for index, outputs in stream.results(activity):
                yield index, dict(zip(self._plan.outputs, outputs, strict=True))

    def _begin_records(self, given: MapInputs | None = None) -> None:
        if self._plan.is_cached:
            is_item = bool(self._root.item_path)  # of a map around it, from item to item of which anything may differ
            self._state.records.begin(self._plan, self._plan.inputs if is_item else given.columns if given else ())

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call `run` or `map` in a thread of its own; cancelling the caller cancels it, and waits for its end."""
        return await call_in_thread(self.cancel, function, *arguments)

    def cancel(self) -> None:
        """End it from another thread, as soon as possible; the thread that runs it gets a `CancelledError`."""
        self._is_cancelled = True
        if self._scheduler is not None:
            self._scheduler.cancel()

    @contextmanager
    def _workers(self, is_waited_for: bool = True) -> Iterator[tuple[Workers, Scheduler]]:
        """Make the places and the scheduler of this execution, and release them when it ends."""
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
            places = Workers(
                engine.node_execution,
                engine.map_execution,
                engine.max_workers,
                engine.executor,
                processes,
                self._loop,
                is_waited_for,
            )
            around = current_registry.get()
            try:
                self._scheduler = Scheduler(places, self._state)
                if around is not None:
                    around.add(self)
                if self._is_cancelled:
                    self._scheduler.cancel()
                yield places, self._scheduler
            finally:
                if around is not None:
                    around.remove(self)
                places.close()


async def call_in_thread(cancel: Callable[[], object], function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function in a thread of its own without blocking the event loop.

    Args:
        cancel: Called when the awaiting task is cancelled, to end the function before its time; its end is waited for.
        function: What to call; it sees the context variables of the caller.
        arguments: What to call it with.
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
    thread.start()
    try:
        return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        cancel()
        await asyncio.wait([outcome])
        outcome.exception()  # mark it as seen
        raise
    finally:
        thread.join()


class _Collected:
    """Takes the outputs of items by their index."""

    is_full = False

    def __init__(self) -> None:
        self.outputs: dict[int, tuple[Any, ...]] = {}

    def __call__(self, index: int, outputs: tuple[Any, ...]) -> None:
        self.outputs[index] = outputs


def _settable(error: BaseException) -> BaseException:
    """A future refuses StopIteration, which means something else to those who wait for it."""
    if isinstance(error, StopIteration):
        wrapped = RuntimeError("a node raised StopIteration")
        wrapped.__cause__ = error
        return wrapped
    return error
