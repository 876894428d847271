"""What a backend is: the place where a pipeline runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Self

from hypernodes.backend.results import check_rows
from hypernodes.callbacks import CallbackContext
from hypernodes.engine.engine import OutputNames
from hypernodes.engine.frames.columns import as_column, check_lengths
from hypernodes.errors import ConfigurationError
from hypernodes.plan import MapMode, OnError

if TYPE_CHECKING:
    from hypernodes.pipeline import Pipeline


class Backend(ABC):
    """A place where pipelines run. Subclass it, implementing `run` and `map`, to add one.

    A backend decides *where*; *how* nodes and items are scheduled there is for `PipelineExecutionEngine`, so that
    caching, callbacks, nesting and errors mean the same everywhere.
    """

    @abstractmethod
    def run(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> dict[str, Any]:
        """Run `pipeline` once.

        Args:
            pipeline: The pipeline.
            inputs: Values by name.
            ctx: Context of the run that this one is part of, when a pipeline with a backend of its own is nested in
                another; None for a run of its own. It tells what is known of the inputs, so a backend gives it on,
                with the inputs as they are, to whatever runs the pipeline.
            output_name: Outputs to compute; all when None.

        Returns:
            The requested outputs by name.
        """

    @abstractmethod
    def map(
        self,
        pipeline: Pipeline,
        items: Sequence[Mapping[str, Any]],
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> list[dict[str, Any]]:
        """Run `pipeline` once per item.

        Args:
            pipeline: The pipeline.
            items: For each item, the values of the inputs that vary, by name.
            inputs: Values of the inputs that all items share.
            ctx: Context of the run that this one is part of; None for a run of its own.
            output_name: Outputs to compute; all when None.

        Returns:
            For each item, in order, the requested outputs by name.
        """

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
        """Run `pipeline` once per item, with the varying inputs given one iterable each; calls `map`.

        Args:
            pipeline: The pipeline.
            columns: Values of the inputs that vary.
            map_mode: "zip" pairs the n-th values of all columns; "product" takes every combination.
            inputs: Values of the inputs that all items share.
            ctx: Context of the run that this one is part of; None for a run of its own.
            output_name: Outputs to compute; all when None.
            on_error: "raise" or "collect"; the latter is for backends that override this method.

        Returns:
            Each requested output with one result per item.

        Raises:
            ConfigurationError: The backend cannot collect failures.
        """
        if on_error != "raise":
            raise ConfigurationError(f"{type(self).__name__} does not support on_error={on_error!r}")
        names = tuple(pipeline.plan_for((*columns, *inputs), output_name).outputs)
        where = f"pipeline {pipeline.id!r}"
        sequences = {name: as_column(name, values, where) for name, values in columns.items()}
        check_lengths(sequences, map_mode, where)
        rows = product(*sequences.values()) if map_mode == "product" else zip(*sequences.values(), strict=True)
        items = [dict(zip(sequences, row, strict=True)) for row in rows]
        found = check_rows(self, self.map(pipeline, items, inputs, ctx, output_name), names, len(items))
        return {name: [row[name] for row in found] for name in names}

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
        """Run `pipeline` once per item and yield index and outputs of each; computes all first, by `map_columns`.

        Args:
            pipeline: The pipeline.
            columns: Values of the inputs that vary.
            map_mode: "zip" or "product".
            inputs: Values of the inputs that all items share.
            output_name: Outputs to compute; all when None.
            on_error: "raise" or "collect".
            is_ordered: Whether results come in item order, rather than as they are done.
        """
        found = self.map_columns(pipeline, columns, map_mode, inputs, None, output_name, on_error)
        for index, row in enumerate(zip(*found.values(), strict=True)):
            yield index, dict(zip(found, row, strict=True))

    async def arun(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Any],
        ctx: CallbackContext | None = None,
        output_name: OutputNames = None,
    ) -> dict[str, Any]:
        """Run `pipeline` once without blocking the event loop; here by `run` in a thread."""
        import asyncio

        return await asyncio.to_thread(self.run, pipeline, inputs, ctx, output_name)

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
        """Run `pipeline` once per item without blocking the event loop; here by `map_columns` in a thread."""
        import asyncio

        return await asyncio.to_thread(
            self.map_columns, pipeline, columns, map_mode, inputs, ctx, output_name, on_error
        )

    def close(self) -> None:  # noqa: B027 - nothing to do is a valid implementation
        """Release what the backend holds open between runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
