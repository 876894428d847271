"""How a pipeline runs: the engine, the same on every backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, get_args

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.drivers.straight import columns_of, run_rows, run_silent
from hypernodes.engine.frames.columns import (
    MapInputs,
    as_column,
    check_column,
    check_given_columns,
    check_lengths,
    has_failure,
)
from hypernodes.engine.settings import ExecutionMode
from hypernodes.errors import ConfigurationError, DependencyError, is_positive
from hypernodes.plan import MapMode, OnError, Plan

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from hypernodes.engine.execution import Execution
    from hypernodes.engine.workers.process_pool import ProcessPool

OutputNames: TypeAlias = str | Sequence[str] | None


class Runnable(Protocol):
    """What the engine needs to know of a pipeline."""

    @property
    def id(self) -> str: ...

    def plan_for(self, given: Iterable[str], output_name: OutputNames = None) -> Plan:
        """Return the pipeline compiled for given inputs and requested outputs."""


class PipelineExecutionEngine:
    """RunRegistry pipelines with given strategies; knows nothing of where it runs.

    The modes, for nodes and for items alike:

    - "sequential": one after the other, in the calling thread;
    - "async": `async def` functions are awaited side by side, others run in threads;
    - "threaded": in threads; `async def` functions are awaited in one event loop;
    - "parallel": in worker processes.

    The event loop is the caller's in `arun` and `amap`. Otherwise it runs in the calling thread while that waits for
    results, so a callback that takes long holds coroutines up. Where the calling thread runs a loop already (in a
    notebook), or has other things to do in between (`map_iter`), it runs in a thread of its own.

    A node starts as soon as its own inputs exist. Only calls of nodes occupy workers, so `max_workers` bounds the calls
    of a whole run at any depth of nesting.

    Worker processes live as long as the run. To keep them for several runs, use the engine (or a backend with it) as a
    context manager; they then hold on to what the last run shared between its items until they are given other work.

    Args:
        node_execution: How the nodes of one run are executed.
        map_execution: How the items of a map are executed.
        max_workers: The largest number of calls at a time; None for a number that suits the modes (1, 100 for "async",
            the number of cores and four more for "threaded", the number of cores for "parallel").
        executor: An executor of the caller's own to make calls on, instead of threads or processes of the run's. A
            pipeline that is run inside a node on the same executor makes calls in the thread of that node rather than
            wait for a worker that may never be free.

    Attributes:
        backend_name: Name of the backend it runs for, in messages.

    Raises:
        ConfigurationError: A setting has a value it cannot have.

    Example:
        >>> from hypernodes import Pipeline, PipelineExecutionEngine, node
        >>> @node(output_name="doubled")
        ... def double(x):
        ...     return 2 * x
        >>> engine = PipelineExecutionEngine(map_execution="threaded", max_workers=4)
        >>> engine.map(Pipeline(nodes=[double]), items=[{"x": 1}, {"x": 2}], inputs={})
        [{'doubled': 2}, {'doubled': 4}]
    """

    def __init__(
        self,
        node_execution: ExecutionMode = "sequential",
        map_execution: ExecutionMode = "sequential",
        max_workers: int | None = None,
        executor: Executor | None = None,
    ) -> None:
        for parameter, mode in (("node_execution", node_execution), ("map_execution", map_execution)):
            if mode not in get_args(ExecutionMode):
                known = ", ".join(map(repr, get_args(ExecutionMode)))
                raise ConfigurationError(f"{parameter} must be one of {known}; got {mode!r}")
        if max_workers is not None and not is_positive(max_workers):
            raise ConfigurationError(f"max_workers must be a positive whole number or None; got {max_workers!r}")
        if executor is not None:
            _check_executor(executor, {node_execution, map_execution})
        self.node_execution: ExecutionMode = node_execution
        self.map_execution: ExecutionMode = map_execution
        self.max_workers = max_workers
        self.executor = executor
        self.backend_name = "local"
        self._kept_pool: ProcessPool | None = None
        self._is_kept_open = 0

    # --- once -----------------------------------------------------------------------------------------------------

    def run(
        self,
        pipeline: Runnable,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> dict[str, Any]:
        """Run a pipeline once.

        Args:
            pipeline: The pipeline.
            inputs: Values by name.
            ctx: Context of the run that this one is part of; None when it is none.
            output_name: Outputs to compute; all when None.

        Returns:
            The requested outputs by name.

        Raises:
            DependencyError: The inputs or outputs do not fit; nothing has run.
            Exception: What a node raised, with a note saying where.
        """
        plan = pipeline.plan_for(inputs, output_name)
        if plan.is_silent and not plan.maps and self.node_execution == "sequential" and current_registry.get() is None:
            values = run_silent(plan, (inputs.values(),), plan.rest, None, ctx, self.backend_name)
            return {name: values[slot] for name, slot in plan.outputs.items()}
        values = _values(plan, inputs)
        if plan.is_silent and self.runs_in_order(plan) and current_registry.get() is None:
            values = run_silent(plan, (values,), (), None, ctx, self.backend_name)
            return {name: values[slot] for name, slot in plan.outputs.items()}
        root = ctx or CallbackContext((pipeline.id,))
        return _execution_type()(self, plan, root, ctx is not None).run(values, inputs)

    async def arun(
        self,
        pipeline: Runnable,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> dict[str, Any]:
        """Run a pipeline once, from `async` code: `async def` nodes run in the caller's event loop.

        Cancelling the awaiting task ends the run. Arguments, result and errors are those of `run`.
        """
        plan = pipeline.plan_for(inputs, output_name)
        values = _values(plan, inputs)
        root = ctx or CallbackContext((pipeline.id,))
        import asyncio

        execution = _execution_type()(self, plan, root, ctx is not None, asyncio.get_running_loop())
        return await execution.in_thread(execution.run, values, inputs)

    # --- once per item --------------------------------------------------------------------------------------------

    def map(
        self,
        pipeline: Runnable,
        items: Iterable[Mapping[str, Any]],
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
        on_error: OnError = "raise",
    ) -> list[dict[str, Any]]:
        """Run a pipeline once per item.

        Args:
            pipeline: The pipeline.
            items: For each item, the values of the inputs that vary, by name; all with the same names.
            inputs: Values of the inputs that all items share.
            ctx: Context of the run that this one is part of; None when it is none.
            output_name: Outputs to compute; all when None.
            on_error: "raise" ends the map with the first failing item; "collect" puts a `Failure` in its place.

        Returns:
            For each item, the requested outputs by name.

        Raises:
            DependencyError: The inputs or outputs do not fit; nothing has run.
            Exception: What a node raised, with a note saying where and for which item.
        """
        rows = list(items)
        if not rows:
            return []
        names = tuple(rows[0])
        for index, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                raise DependencyError(
                    f"every item must have the same inputs: item 0 has {', '.join(names)}; "
                    f"item {index} has {', '.join(row) or 'none'}"
                )
        columns = {name: [row[name] for row in rows] for name in names}
        found = self.map_columns(pipeline, columns, "zip", inputs, ctx, output_name, on_error)
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]

    def map_columns(
        self,
        pipeline: Runnable,
        columns: Mapping[str, Any],
        map_mode: MapMode,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
        on_error: OnError = "raise",
    ) -> dict[str, list[Any]]:
        """Run a pipeline once per item, with the varying inputs given one column each.

        Args:
            pipeline: The pipeline.
            columns: Values of the inputs that vary, as iterables.
            map_mode: "zip" pairs the n-th values of all columns; "product" takes every combination.
            inputs: Values of the inputs that all items share.
            ctx: Context of the run that this one is part of; None when it is none.
            output_name: Outputs to compute; all when None.
            on_error: "raise" ends the map with the first failing item; "collect" puts a `Failure` in its place.

        Returns:
            Each requested output with one result per item.
        """
        plan, given = map_plan(pipeline, columns, map_mode, inputs, output_name)
        if plan.is_silent and self.runs_in_order(plan, is_map=True) and current_registry.get() is None:
            found: list[Any] = []
            has_failures = any(map(has_failure, given.columns.values()))
            rest = given.rest(plan)
            run_rows(plan, given.rows(), rest, found, ctx, self.backend_name, on_error, None, has_failures)
            return dict(zip(plan.outputs, columns_of(plan, found), strict=True))
        root = ctx or CallbackContext((pipeline.id,))
        return _execution_type()(self, plan, root, ctx is not None).map(given, on_error)

    async def amap_columns(
        self,
        pipeline: Runnable,
        columns: Mapping[str, Any],
        map_mode: MapMode,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
        on_error: OnError = "raise",
    ) -> dict[str, list[Any]]:
        """The same from `async` code; see `arun`."""
        plan, given = map_plan(pipeline, columns, map_mode, inputs, output_name)
        root = ctx or CallbackContext((pipeline.id,))
        import asyncio

        execution = _execution_type()(self, plan, root, ctx is not None, asyncio.get_running_loop())
        return await execution.in_thread(execution.map, given, on_error)

    def map_iter(
        self,
        pipeline: Runnable,
        columns: Mapping[str, Any],
        map_mode: MapMode,
        inputs: Mapping[str, Any],
        output_name: OutputNames = None,
        on_error: OnError = "raise",
        is_ordered: bool = True,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run a pipeline once per item and yield the results as they come, holding a bounded number of them.

        Args:
            pipeline: The pipeline.
            columns: Values of the inputs that vary, as iterables that are read as needed.
            map_mode: "zip" or "product".
            inputs: Values of the inputs that all items share.
            output_name: Outputs to compute; all when None.
            on_error: "raise" or "collect".
            is_ordered: Whether results come in item order, rather than as they are done.

        Yields:
            The index of the item, and its requested outputs by name.
        """
        plan, given = map_plan(pipeline, columns, map_mode, inputs, output_name, is_stream=True)
        return _execution_type()(self, plan, CallbackContext((pipeline.id,)), False).stream(given, on_error, is_ordered)

    def runs_in_order(self, plan: Plan, is_map: bool = False) -> bool:
        """Whether the steps of a plan, and the items of the maps in it, are executed one after the other."""
        has_items = is_map or plan.maps
        return self.node_execution == "sequential" and (not has_items or self.map_execution == "sequential")

    # --- places ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the worker processes that were kept for further runs."""
        pool, self._kept_pool = self._kept_pool, None
        if pool is not None:
            pool.close()

    def __enter__(self) -> Self:
        self._is_kept_open += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_kept_open -= 1
        if not self._is_kept_open:
            self.close()

    @contextmanager
    def process_pool(self) -> Iterator[ProcessPool | None]:
        """Lend worker processes to a run: those kept for several, or new ones that end with it."""
        if self.executor is not None or "parallel" not in (self.node_execution, self.map_execution):
            yield None
            return
        from hypernodes.engine.workers.process_pool import ProcessPool
        from hypernodes.engine.workers.workers import default_workers

        pool = self._kept_pool or ProcessPool(self.max_workers or default_workers({"parallel"}))
        if self._is_kept_open:
            self._kept_pool = pool
            yield pool
            return
        try:
            yield pool
        finally:
            pool.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept_pool": None, "_is_kept_open": 0, "executor": None}

    def __repr__(self) -> str:
        workers = "" if self.max_workers is None else f", max_workers={self.max_workers}"
        return (
            f"PipelineExecutionEngine(node_execution={self.node_execution!r}, "
            f"map_execution={self.map_execution!r}{workers})"
        )


def map_plan(
    pipeline: Runnable,
    columns: Mapping[str, Any],
    map_mode: MapMode,
    inputs: Mapping[str, Any],
    output_name: OutputNames,
    is_stream: bool = False,
) -> tuple[Plan, MapInputs]:
    """Return the plan of one item of a map, and what the map runs over.

    Args:
        pipeline: The pipeline.
        columns: Values of the inputs that vary.
        map_mode: "zip" or "product".
        inputs: Values of the inputs that all items share.
        output_name: Outputs to compute; all when None.
        is_stream: Whether the columns are read as needed, so that only those that are there already are looked at.

    Raises:
        DependencyError: The inputs or outputs do not fit.
    """
    plan = pipeline.plan_for((*columns, *inputs), output_name)
    where = f"pipeline {pipeline.id!r}"
    if is_stream:
        for name, column in columns.items():
            check_column(name, column, where)
    else:
        columns = {name: as_column(name, values, where) for name, values in columns.items()}
    check_lengths({n: column for n, column in columns.items() if isinstance(column, Sequence)}, map_mode, where)
    return plan, MapInputs(columns, map_mode, _checked_shared(plan, inputs), {}, {})


@cache
def _execution_type() -> type[Execution]:
    """Import what a run needs that is more than bare calls, when the first one comes."""
    from hypernodes.engine.execution import Execution

    return Execution


def _values(plan: Plan, inputs: Mapping[str, Any]) -> list[Any]:
    """The value of every slot before a run, after a look at what mapped pipelines inside take item by item."""
    values = [*inputs.values(), *plan.rest]
    if plan.maps:
        check_given_columns(plan, values)
    return values


def _checked_shared(plan: Plan, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inputs that items share, after a look at those that mapped pipelines inside take item by item."""
    if not plan.maps:
        return inputs
    values = list(plan.template)
    for name, value in inputs.items():
        values[plan.inputs[name]] = value
    check_given_columns(plan, values)
    return {name: values[plan.inputs[name]] for name in inputs}


def _check_executor(executor: Any, modes: set[str]) -> None:
    from concurrent.futures import Executor, ProcessPoolExecutor

    if not isinstance(executor, Executor):
        raise ConfigurationError(f"executor must be a concurrent.futures.Executor; got {executor!r}")
    if modes == {"sequential"}:
        raise ConfigurationError("executor= has no use when both modes are 'sequential'; choose e.g. 'threaded'")
    if isinstance(executor, ProcessPoolExecutor) and "parallel" not in modes:
        raise ConfigurationError("an executor of processes needs node_execution or map_execution to be 'parallel'")
