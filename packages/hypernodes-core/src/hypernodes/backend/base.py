"""What a backend is: the place where a pipeline runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.engine import OutputNames
from hypernodes.engine.mapping import as_column, check_lengths
from hypernodes.plan import MapMode

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
                another; None for a run of its own.
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
    ) -> dict[str, list[Any]]:
        """Run `pipeline` once per item, with the varying inputs given one iterable each; calls `map`.

        Args:
            pipeline: The pipeline.
            columns: Values of the inputs that vary.
            map_mode: "zip" pairs the n-th values of all columns; "product" takes every combination.
            inputs: Values of the inputs that all items share.
            ctx: Context of the run that this one is part of; None for a run of its own.
            output_name: Outputs to compute; all when None.

        Returns:
            Each requested output with one result per item.
        """
        names = tuple(pipeline.plan_for((*columns, *inputs), output_name).outputs)
        where = f"pipeline {pipeline.id!r}"
        sequences = {name: as_column(name, values, where) for name, values in columns.items()}
        check_lengths(sequences, map_mode, where)
        rows = product(*sequences.values()) if map_mode == "product" else zip(*sequences.values(), strict=True)
        items = [dict(zip(sequences, row, strict=True)) for row in rows]
        found = self.map(pipeline, items, inputs, ctx, output_name)
        return {name: [row[name] for row in found] for name in names}
