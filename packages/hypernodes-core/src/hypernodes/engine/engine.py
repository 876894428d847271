"""The engine: executes pipelines in the same way on every backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Self, get_args

from hypernodes.callbacks import CallbackContext
from hypernodes.checks import check_choice, check_seconds, shown
from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.drivers.straight import columns_of, run_rows, run_silent
from hypernodes.engine.frames.columns import (
    MapInputs,
    check_given_columns,
    check_inputs,
    check_items,
    check_shared,
    has_stand_in,
)
from hypernodes.engine.settings import KEEP_WORKERS_S, ExecutionMode
from hypernodes.engine.workers.pool_owner import PoolOwner
from hypernodes.errors import ConfigurationError, is_positive
from hypernodes.plan import Plan
from hypernodes.request import (
    MapRequest,
    OutputNames,
    RunnablePipeline,
    RunRequest,
    as_column,
    check_column,
    check_lengths,
    check_request,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from hypernodes.engine.execution import Execution
    from hypernodes.engine.limits import Limit
    from hypernodes.engine.workers.process_pool import ProcessPool


class PipelineExecutionEngine:
    """Runs pipelines with the given execution modes, independently of the backend.

    The modes, for nodes and for items alike:

    - "sequential": one after the other, in the calling thread;
    - "async": `async def` functions are awaited concurrently, others run in threads;
    - "threaded": in threads; `async def` functions are awaited in one event loop;
    - "parallel": in worker processes.

    `arun` and `amap` use the caller's event loop. Otherwise the loop runs in the calling thread while that waits for
    results, so a callback that takes long delays coroutines. Where the calling thread runs a loop already (in a
    notebook), or also executes the caller's code (`map_iter`), the loop runs in a thread of its own. It ends with the
    run, so that a lock or a client of asyncio that one run has used cannot be used by the next: create it in a node.

    A node starts as soon as its own inputs exist. Only calls of nodes occupy workers, so `max_workers` bounds the calls
    of a whole run at any depth of nesting. A nested pipeline that its own backend runs counts as one call; that backend
    makes as many at a time as its own `max_workers` allows.

    Worker processes stay for a while after a run, without its values, for the next run of any engine that needs as
    many. They end after `keep_workers_s`, with `close`, at the end of the program, and when a run needs processes with
    another working directory, other environment variables or another `sys.path`. One that has imported a module whose
    file has changed since ends, too. To keep them longer, use the engine (or a backend with it) as a context manager:
    runs of several threads then share them, so that all together have `max_workers` processes, and they end with the
    block. A run that is aborted ends only the processes that work for it. A forked process starts processes of its own.

    Args:
        node_execution: How the nodes of one run are executed; None for "sequential".
        map_execution: How the items of a map are executed; None for "sequential".
        max_workers: The largest number of calls at a time; None for a number that suits the modes (1, 100 for "async",
            the number of cores and four more for "threaded", the number of cores for "parallel").
        executor: An executor of the caller's own to make calls on, instead of the threads or processes of the run. A
            pipeline that is run inside a node on the same executor makes calls in the thread of that node rather than
            wait for a worker that may never be free.
        keep_workers_s: How long worker processes stay after a run, in seconds; 0 for not at all.
        limits: The limits that nodes may name (see `Limit`).
        max_in_flight: The largest number of items of a map that have begun and are not done; None for a number that
            suits the modes. The values of these items are held at a time, besides inputs and results.

    Attributes:
        backend_name: Name of the backend that uses it, for messages.

    Raises:
        ConfigurationError: A setting has an invalid value.

    Example:
        >>> from hypernodes import MapRequest, Pipeline, PipelineExecutionEngine, node
        >>> @node(output_name="doubled")
        ... def double(x):
        ...     return 2 * x
        >>> engine = PipelineExecutionEngine(map_execution="threaded", max_workers=4)
        >>> engine.map(MapRequest(Pipeline(nodes=[double]), columns={"x": [1, 2]}))
        {'doubled': [2, 4]}
    """

    _set_by_init = ("node_execution", "map_execution")

    def __init__(
        self,
        node_execution: ExecutionMode | None = None,
        map_execution: ExecutionMode | None = None,
        *,
        max_workers: int | None = None,
        executor: Executor | None = None,
        keep_workers_s: float = KEEP_WORKERS_S,
        limits: Iterable[Limit] | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        is_unset = node_execution is None and map_execution is None
        node_execution = _check_mode("node_execution", node_execution)
        map_execution = _check_mode("map_execution", map_execution)
        if max_workers is not None and not is_positive(max_workers):
            raise ConfigurationError(f"max_workers must be a positive whole number or None; got {shown(max_workers)}")
        if max_in_flight is not None and not is_positive(max_in_flight):
            problem = f"max_in_flight must be a positive whole number or None; got {shown(max_in_flight)}"
            raise ConfigurationError(problem)
        if max_workers is not None and max_workers > 1 and is_unset:
            raise ConfigurationError(
                f"max_workers={max_workers} has no use without a mode: calls are made one after the other. Choose e.g. "
                "map_execution='threaded' for the items of maps, or node_execution='threaded' for the nodes of a run"
            )
        if executor is not None:
            _check_executor(executor, {node_execution, map_execution})
        self.node_execution = node_execution
        self.map_execution = map_execution
        self.max_workers = max_workers
        self.executor = executor
        self.limits: tuple[Limit, ...] = ()
        if limits is not None:
            from hypernodes.engine.limits import check_limits

            self.limits = check_limits(limits)
        self.max_in_flight = max_in_flight
        self.backend_name = "local"
        self._pools = PoolOwner(check_seconds("keep_workers_s", keep_workers_s))

    # --- single runs ----------------------------------------------------------------------------------------------

    def run(self, request: RunRequest) -> dict[str, Any]:
        """Run a pipeline once.

        Args:
            request: The pipeline, inputs and outputs.

        Returns:
            The requested outputs by name.

        Raises:
            DependencyError: The inputs or outputs do not fit; nothing has run.
            Exception: The error of a node, with a note that says where it was raised.
        """
        check_request(request, RunRequest)
        return self.run_pipeline(request.pipeline, request.inputs, request.output_name, request.ctx)

    def run_pipeline(
        self,
        pipeline: RunnablePipeline,
        inputs: Mapping[str, Any],
        output_name: OutputNames = None,
        ctx: CallbackContext | None = None,
    ) -> dict[str, Any]:
        """Run a pipeline once; see `run`. Without a request, for runs that take a few microseconds."""
        plan = pipeline.plan_for(inputs, output_name)
        if plan.inputs_read_often and ctx is None:
            check_inputs(plan, inputs, f"pipeline {pipeline.id!r}")
        if plan.is_silent and current_registry.get() is None:
            if not plan.maps and self.node_execution == "sequential":
                values = run_silent(plan, (inputs.values(),), plan.rest, None, ctx, self.backend_name)
                return {name: values[slot] for name, slot in plan.outputs.items()}
            if self.runs_in_order(plan):
                values = run_silent(plan, (_values(plan, inputs, ctx),), (), None, ctx, self.backend_name)
                return {name: values[slot] for name, slot in plan.outputs.items()}
        values = _values(plan, inputs, ctx)
        context = ctx or CallbackContext((pipeline.id,))
        return _execution_type()(self, plan, context, ctx is not None).run(values, inputs)

    async def arun(self, request: RunRequest) -> dict[str, Any]:
        """Run a pipeline once, from `async` code: `async def` nodes run in the caller's event loop.

        Cancelling the awaiting task ends the run. Arguments, result and errors are those of `run`.
        """
        check_request(request, RunRequest)
        plan = request.plan()
        values = values_of_run(plan, request)
        execution = self.execution(plan, request, is_async=True)
        return await execution.in_thread(execution.run, values, request.inputs)

    # --- maps -----------------------------------------------------------------------------------------------------

    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        """Run a pipeline once per item.

        Args:
            request: The pipeline, columns, inputs and outputs.

        Returns:
            Each requested output with one result per item.

        Raises:
            DependencyError: The inputs or outputs do not fit; nothing has run.
            Exception: The error of a node, with a note that says where and for which item it was raised.
        """
        plan, given = map_plan(request)
        is_simple = plan.is_silent and self.runs_in_order(plan, is_map=True) and request.indexes is None
        if is_simple and current_registry.get() is None:
            results: list[Any] = []
            rest, name = given.rest(plan), self.backend_name
            may_stand_in = any(map(has_stand_in, given.columns.values()))
            run_rows(plan, given.rows(), rest, results, request.ctx, name, request.on_error, None, may_stand_in)
            return dict(zip(plan.outputs, columns_of(plan, results), strict=True))
        return self.execution(plan, request).map(given, request.on_error)

    async def amap(self, request: MapRequest) -> dict[str, list[Any]]:
        """Run a pipeline once per item, from `async` code; see `arun`."""
        plan, given = map_plan(request)
        execution = self.execution(plan, request, is_async=True)
        return await execution.in_thread(execution.map, given, request.on_error)

    def map_iter(self, request: MapRequest) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run a pipeline once per item and yield results as they become available, holding a bounded number of them.

        Args:
            request: The pipeline, columns, inputs and outputs; columns are read as needed.

        Yields:
            The index of the item, and its requested outputs by name.
        """
        plan, given = map_plan(request, is_stream=True)
        return self.execution(plan, request).stream(given, request.on_error, request.in_order)

    def execution(self, plan: Plan, request: RunRequest | MapRequest, *, is_async: bool = False) -> Execution:
        """Return an execution of a plan, which runs it, or maps it.

        Args:
            plan: The plan; that of the request, or one made from it, as with places for its steps.
            request: What was asked for.
            is_async: Whether `async def` nodes run in the event loop that runs now.
        """
        loop = None
        if is_async:
            import asyncio

            loop = asyncio.get_running_loop()
        return _execution_type()(self, plan, request.context, request.ctx is not None, loop)

    def runs_in_order(self, plan: Plan, is_map: bool = False) -> bool:
        """Whether the steps of a plan, and the items of the maps in it, are executed one after the other."""
        has_items = is_map or plan.maps
        return self.node_execution == "sequential" and (not has_items or self.map_execution == "sequential")

    # --- worker processes -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the worker processes that stay for further runs; those that a run of another thread uses, with that run.

        Idle ones end even if the run that needed them was one of another engine.
        """
        self._pools.close()

    def __enter__(self) -> Self:
        self._pools.enter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pools.leave()

    def process_pool(self) -> AbstractContextManager[ProcessPool | None]:
        """Provide worker processes for a run: those of a block that several runs share, idle ones, or new ones."""
        if self.executor is not None or "parallel" not in (self.node_execution, self.map_execution):
            return nullcontext()
        from hypernodes.engine.workers.workers import default_workers

        return self._pools.lease(self.max_workers or default_workers({"parallel"}))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pools": self._pools.keep_s, "executor": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pools=PoolOwner(state["_pools"]))

    def __repr__(self) -> str:
        workers = "" if self.max_workers is None else f", max_workers={self.max_workers}"
        limits = f", limits={[*self.limits]}" if self.limits else ""
        limits += "" if self.max_in_flight is None else f", max_in_flight={self.max_in_flight}"
        return (
            f"PipelineExecutionEngine(node_execution={self.node_execution!r}, "
            f"map_execution={self.map_execution!r}{workers}{limits})"
        )


def map_plan(request: MapRequest, is_stream: bool = False) -> tuple[Plan, MapInputs]:
    """Return the plan of one item of a map, and the inputs of the items.

    Args:
        request: The map.
        is_stream: Whether the columns are read as needed, so that only sequences are checked beforehand.

    Raises:
        DependencyError: The inputs or outputs do not fit.
    """
    check_request(request, MapRequest)
    plan, mode = request.plan(), request.map_mode
    where = f"pipeline {request.pipeline.id!r}"
    columns = request.columns
    if is_stream:
        for name, column in columns.items():
            check_column(name, column, where)
    else:
        columns = {name: as_column(name, values, where) for name, values in columns.items()}
    check_lengths({n: column for n, column in columns.items() if isinstance(column, Sequence)}, mode, where)
    is_nested = request.ctx is not None  # else this has been checked
    if not is_nested:
        check_items(plan, columns, mode, where)
    shared = _checked_shared(plan, request.inputs, is_nested)
    if not is_nested:
        check_shared(plan, shared, where)
    return plan, MapInputs(columns, mode, shared, {}, {}, request.indexes)


def values_of_run(plan: Plan, request: RunRequest) -> list[Any]:
    """Return the initial value of every slot for a run.

    Raises:
        DependencyError: An input can be read only once, or not be mapped over, though that is needed.
    """
    if plan.inputs_read_often and request.ctx is None:
        check_inputs(plan, request.inputs, f"pipeline {request.pipeline.id!r}")
    return _values(plan, request.inputs, request.ctx)


@cache
def _execution_type() -> type[Execution]:
    """Import the modules of runs that need more than calls, at the first such run."""
    from hypernodes.engine.execution import Execution

    return Execution


def _values(plan: Plan, inputs: Mapping[str, Any], ctx: CallbackContext | None) -> list[Any]:
    """Return the initial value of every slot; checks the inputs that nested mapped pipelines map over."""
    values = [*inputs.values(), *plan.rest]
    if plan.maps:
        check_given_columns(plan, values, is_nested=ctx is not None)
    return values


def _checked_shared(plan: Plan, inputs: Mapping[str, Any], is_nested: bool) -> Mapping[str, Any]:
    """Return the inputs that items share; checks those that nested mapped pipelines map over."""
    if not plan.maps:
        return inputs
    values = list(plan.template)
    for name, value in inputs.items():
        values[plan.inputs[name]] = value
    check_given_columns(plan, values, is_nested=is_nested)
    return {name: values[plan.inputs[name]] for name in inputs}


def _check_mode(parameter: str, mode: object) -> ExecutionMode:
    if mode is None:
        return "sequential"
    return check_choice(parameter, mode, get_args(ExecutionMode))  # type: ignore[no-any-return]


def _check_executor(executor: Any, modes: set[str]) -> None:
    from concurrent.futures import Executor, ProcessPoolExecutor

    if not isinstance(executor, Executor):
        raise ConfigurationError(f"executor must be a concurrent.futures.Executor; got {shown(executor)}")
    if modes == {"sequential"}:
        raise ConfigurationError("executor= has no use when both modes are 'sequential'; choose e.g. 'threaded'")
    if isinstance(executor, ProcessPoolExecutor) and "parallel" not in modes:
        raise ConfigurationError("an executor of processes needs node_execution or map_execution to be 'parallel'")
