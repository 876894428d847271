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
from hypernodes.engine.activity import PlanActivity
from hypernodes.engine.frame import Frame
from hypernodes.engine.lookup import CachedFrame
from hypernodes.engine.map_activity import MapActivity
from hypernodes.engine.mapping import MapInputs
from hypernodes.engine.places import Places
from hypernodes.engine.processes import ProcessPlace
from hypernodes.engine.run_state import RunState
from hypernodes.engine.runs import current_runs
from hypernodes.engine.scheduler import Scheduler
from hypernodes.engine.stream import ItemStream
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
    """

    def __init__(
        self,
        engine: PipelineExecutionEngine,
        plan: Plan,
        root: CallbackContext,
        is_nested: bool,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._root = root
        self._is_nested = is_nested
        self._loop = loop
        self._state = RunState(root, engine.place, is_nested)
        self._scheduler: Scheduler | None = None
        self._is_cancelled = False

    def run(self, values: list[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the plan once.

        Args:
            values: Value of every slot, with the inputs filled in.
            inputs: The inputs as they were given.
        """
        frame_type = CachedFrame if self._plan.is_cached else Frame
        frame = frame_type(self._plan, self._state, values, self._root)
        listeners = frame.listeners[0]
        pipeline_id = self._root.hierarchy_path[-1]
        with self._places() as (_, scheduler):
            if not self._is_nested:
                listeners.tell(listeners.on_pipeline_start, pipeline_id, dict(inputs), self._root)
            started_at = perf_counter()
            try:
                frame.start()
                scheduler.execute(PlanActivity(frame, None))
            finally:
                if not self._is_nested and listeners.on_pipeline_end:
                    duration = perf_counter() - started_at
                    listeners.tell(listeners.on_pipeline_end, pipeline_id, frame.results(), duration, self._root)
        return frame.results()

    def map(self, given: MapInputs, on_error: OnError) -> dict[str, list[Any]]:
        """Run the plan once per item; return one column per output."""
        with self._places() as (_, scheduler):
            activity = MapActivity(self._plan, self._state, self._root, given, on_error)
            scheduler.execute(activity)
        return dict(zip(self._plan.outputs, activity.columns, strict=True))

    def stream(self, given: MapInputs, on_error: OnError, is_ordered: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run the plan once per item; yield index and outputs of each."""
        with self._places() as (places, scheduler):
            stream = ItemStream(scheduler, is_ordered, limit=places.open_items)
            activity = MapActivity(self._plan, self._state, self._root, given, on_error, deliver=stream)
            for index, outputs in stream.results(activity):
                yield index, dict(zip(self._plan.outputs, outputs, strict=True))

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call `run` or `map` in a thread of its own; cancelling the caller cancels it, and waits for its end."""
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
            self.cancel()
            await asyncio.wait([outcome])
            outcome.exception()  # mark it as seen
            raise
        finally:
            thread.join()

    def cancel(self) -> None:
        """End it from another thread, as soon as possible; the thread that runs it gets a `CancelledError`."""
        self._is_cancelled = True
        if self._scheduler is not None:
            self._scheduler.cancel()

    @contextmanager
    def _places(self) -> Iterator[tuple[Places, Scheduler]]:
        """Make the places and the scheduler of this execution, and release them when it ends."""
        engine = self._engine
        with engine.process_pool() as pool:
            processes = None
            if "parallel" in (engine.node_execution, engine.map_execution):
                processes = ProcessPlace(pool, engine.executor)
                try:
                    processes.check(self._plan)
                except BaseException:
                    processes.end_run()
                    raise
            places = Places(
                engine.node_execution, engine.map_execution, engine.max_workers, engine.executor, processes, self._loop
            )
            around = current_runs.get()
            try:
                self._scheduler = Scheduler(places)
                if around is not None:
                    around.add(self)
                if self._is_cancelled:
                    self._scheduler.cancel()
                yield places, self._scheduler
            finally:
                if around is not None:
                    around.remove(self)
                places.close()


def _settable(error: BaseException) -> BaseException:
    """A future refuses StopIteration, which means something else to those who wait for it."""
    if isinstance(error, StopIteration):
        wrapped = RuntimeError("a node raised StopIteration")
        wrapped.__cause__ = error
        return wrapped
    return error
