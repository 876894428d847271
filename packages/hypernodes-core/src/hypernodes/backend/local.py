"""This process as the place where a pipeline runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypernodes.backend.base import Backend
from hypernodes.callbacks import CallbackContext
from hypernodes.engine.engine import ExecutionMode, OutputNames, PipelineExecutionEngine
from hypernodes.errors import ConfigurationError
from hypernodes.plan import MapMode

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from hypernodes.pipeline import Pipeline


class LocalBackend(Backend):
    """Runs pipelines here, with an engine of the given settings.

    Args:
        node_execution: How the nodes of one run are executed.
        map_execution: How the items of a map are executed.
        max_workers: The largest number of node calls at a time; None for a number that suits the strategy.
        executor: An executor of the caller's own to run node calls on.
        engine: A ready-made engine, instead of the settings above.

    Attributes:
        engine: What runs the pipelines.
    """

    def __init__(
        self,
        node_execution: ExecutionMode = "sequential",
        map_execution: ExecutionMode = "sequential",
        max_workers: int | None = None,
        executor: Executor | None = None,
        engine: PipelineExecutionEngine | None = None,
    ) -> None:
        if engine is None:
            engine = PipelineExecutionEngine(node_execution, map_execution, max_workers, executor)
        elif (node_execution, map_execution, max_workers, executor) != ("sequential", "sequential", None, None):
            raise ConfigurationError("give LocalBackend either engine= or the settings of one, not both")
        self.engine = engine

    def run(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> dict[str, Any]:
        return self.engine.run(pipeline, inputs, ctx, output_name)

    def map(
        self,
        pipeline: Pipeline,
        items: Sequence[Mapping[str, Any]],
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> list[dict[str, Any]]:
        return self.engine.map(pipeline, items, inputs, ctx, output_name)

    def map_columns(
        self,
        pipeline: Pipeline,
        columns: Mapping[str, Any],
        map_mode: MapMode,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> dict[str, list[Any]]:
        return self.engine.map_columns(pipeline, columns, map_mode, inputs, ctx, output_name)

    def __repr__(self) -> str:
        return f"LocalBackend({self.engine!r})"
