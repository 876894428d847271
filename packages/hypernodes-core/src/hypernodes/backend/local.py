"""This process as the place where a pipeline runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from hypernodes.backend.base import Backend
from hypernodes.callbacks import CallbackContext
from hypernodes.engine.engine import OutputNames, PipelineExecutionEngine
from hypernodes.engine.settings import ExecutionMode
from hypernodes.errors import ConfigurationError
from hypernodes.plan import MapMode, OnError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from hypernodes.pipeline import Pipeline


class LocalBackend(Backend):
    """RunRegistry pipelines here, with an engine of the given settings.

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
        on_error: OnError = "raise",
    ) -> dict[str, list[Any]]:
        if type(self).map is not LocalBackend.map:  # a subclass has its own idea of a map
            return super().map_columns(pipeline, columns, map_mode, inputs, ctx, output_name, on_error)
        return self.engine.map_columns(pipeline, columns, map_mode, inputs, ctx, output_name, on_error)

    def map_iter(
        self,
        pipeline: Pipeline,
        columns: Mapping[str, Any],
        map_mode: MapMode,
        inputs: Mapping[str, Any],
        output_name: OutputNames = None,
        on_error: OnError = "raise",
        is_ordered: bool = True,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        return self.engine.map_iter(pipeline, columns, map_mode, inputs, output_name, on_error, is_ordered)

    async def arun(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> dict[str, Any]:
        return await self.engine.arun(pipeline, inputs, ctx, output_name)

    async def amap_columns(
        self,
        pipeline: Pipeline,
        columns: Mapping[str, Any],
        map_mode: MapMode,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
        on_error: OnError = "raise",
    ) -> dict[str, list[Any]]:
        return await self.engine.amap_columns(pipeline, columns, map_mode, inputs, ctx, output_name, on_error)

    def close(self) -> None:
        """End the worker processes that were kept for further runs."""
        self.engine.close()

    def __enter__(self) -> Self:
        self.engine.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.engine.__exit__(*exc_info)

    def __repr__(self) -> str:
        return f"LocalBackend({self.engine!r})"
