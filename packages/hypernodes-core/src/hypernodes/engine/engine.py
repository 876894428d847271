"""How a pipeline runs: the engine, the same on every backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frame import Frame
from hypernodes.engine.lookup import CachedFrame
from hypernodes.engine.mapping import MapInputs, as_column, check_given_columns, check_lengths
from hypernodes.engine.run_state import RunState, new_run
from hypernodes.engine.sequential import run_frame, run_items
from hypernodes.engine.step import run_bare
from hypernodes.errors import ConfigurationError, DependencyError, is_positive
from hypernodes.plan import MapMode, Plan

if TYPE_CHECKING:
    from concurrent.futures import Executor

ExecutionMode: TypeAlias = Literal["sequential", "async", "threaded", "parallel"]
OutputNames: TypeAlias = str | Sequence[str] | None


class Runnable(Protocol):
    """What the engine needs to know of a pipeline."""

    @property
    def id(self) -> str: ...

    def plan_for(self, given: Iterable[str], output_name: OutputNames = None) -> Plan:
        """Return the pipeline compiled for given inputs and requested outputs."""


class PipelineExecutionEngine:
    """Runs pipelines with given strategies; knows nothing of where it runs.

    Args:
        node_execution: How the nodes of one run are executed: "sequential", "async", "threaded" or "parallel".
        map_execution: The same for the items of a map.
        max_workers: The largest number of node calls at a time; None for a number that suits the strategy.
        executor: An executor of the caller's own to run node calls on.

    Attributes:
        place: Name of the backend it runs for, in messages.

    Raises:
        ConfigurationError: A setting has a value it cannot have, or one that this version does not support yet.

    Example:
        >>> from hypernodes import Pipeline, PipelineExecutionEngine, node
        >>> @node(output_name="doubled")
        ... def double(x):
        ...     return 2 * x
        >>> engine = PipelineExecutionEngine()
        >>> engine.run(Pipeline(nodes=[double]), {"x": 4})
        {'doubled': 8}
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
            if mode != "sequential":
                raise ConfigurationError(
                    f"{parameter}={mode!r} is not available in this version of hypernodes-core; use 'sequential'"
                )
        if executor is not None:
            raise ConfigurationError("executor= is not available in this version of hypernodes-core; leave it out")
        if max_workers is not None and not is_positive(max_workers):
            raise ConfigurationError(f"max_workers must be a positive whole number or None; got {max_workers!r}")
        self.node_execution: ExecutionMode = node_execution
        self.map_execution: ExecutionMode = map_execution
        self.max_workers = max_workers
        self.executor = executor
        self.place = "local"

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
        values = list(plan.template)
        for name, slot in plan.inputs.items():
            values[slot] = inputs[name]
        root = ctx or CallbackContext((pipeline.id,))
        if plan.is_plain and not plan.is_cached and not plan.is_heard:
            run_bare(plan, values, root, self.place)
            return {name: values[slot] for name, slot in plan.outputs.items()}
        check_given_columns(plan, values)
        with new_run(root, self.place, is_nested=ctx is not None) as state:
            return _run_announced(plan, state, values, inputs)

    def map(
        self,
        pipeline: Runnable,
        items: Iterable[Mapping[str, Any]],
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> list[dict[str, Any]]:
        """Run a pipeline once per item.

        Args:
            pipeline: The pipeline.
            items: For each item, the values of the inputs that vary, by name; all with the same names.
            inputs: Values of the inputs that all items share.
            ctx: Context of the run that this one is part of; None when it is none.
            output_name: Outputs to compute; all when None.

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
        found = self.map_columns(pipeline, columns, "zip", inputs, ctx, output_name)
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]

    def map_columns(
        self,
        pipeline: Runnable,
        columns: Mapping[str, Any],
        map_mode: MapMode,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> dict[str, list[Any]]:
        """Run a pipeline once per item, with the varying inputs given one column each.

        Args:
            pipeline: The pipeline.
            columns: Values of the inputs that vary, as iterables.
            map_mode: "zip" pairs the n-th values of all columns; "product" takes every combination.
            inputs: Values of the inputs that all items share.
            ctx: Context of the run that this one is part of; None when it is none.
            output_name: Outputs to compute; all when None.

        Returns:
            Each requested output with one result per item.
        """
        plan = pipeline.plan_for((*columns, *inputs), output_name)
        where = f"pipeline {pipeline.id!r}"
        sequences = {name: as_column(name, values, where) for name, values in columns.items()}
        check_lengths(sequences, map_mode, where)
        known = MapInputs(sequences, map_mode, inputs, {}, {})
        root = ctx or CallbackContext((pipeline.id,))
        with new_run(root, self.place, is_nested=ctx is not None) as state:
            results = run_items(plan, state, root, known)
        return dict(zip(plan.outputs, results.columns, strict=True))

    def __repr__(self) -> str:
        workers = "" if self.max_workers is None else f", max_workers={self.max_workers}"
        return (
            f"PipelineExecutionEngine(node_execution={self.node_execution!r}, "
            f"map_execution={self.map_execution!r}{workers})"
        )


def _run_announced(plan: Plan, state: RunState, values: list[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    make = CachedFrame if plan.is_cached else Frame
    frame = make(plan, state, values, state.root)
    listeners = frame.listeners[0]
    if not state.is_nested:
        listeners.tell(listeners.on_pipeline_start, state.root.hierarchy_path[-1], dict(inputs), state.root)
    started_at = perf_counter()
    try:
        frame.start()
        if isinstance(frame, CachedFrame):
            frame.announce_hits()
        run_frame(frame)
    finally:
        if not state.is_nested and listeners.on_pipeline_end:
            duration = perf_counter() - started_at
            listeners.tell(
                listeners.on_pipeline_end, state.root.hierarchy_path[-1], frame.results(), duration, state.root
            )
    return frame.results()
