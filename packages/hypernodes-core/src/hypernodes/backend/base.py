"""The base class of backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

from hypernodes.request import MapRequest, RunRequest


class Backend(ABC):
    """Runs pipelines in some process or machine. To add one, subclass it and implement `run` and `map`.

    A backend decides *where* pipelines run; `PipelineExecutionEngine` decides *how* nodes and items are scheduled, so
    that caching, callbacks, nesting and errors mean the same on every backend.
    """

    @abstractmethod
    def run(self, request: RunRequest) -> dict[str, Any]:
        """Run a pipeline once.

        Args:
            request: The pipeline, inputs and outputs.

        Returns:
            The requested outputs by name.
        """

    @abstractmethod
    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        """Run a pipeline once per item.

        Args:
            request: The pipeline, columns, inputs and outputs; `request.items()` returns the items one by one.

        Returns:
            Each requested output with one result per item, in item order.
        """

    def map_iter(self, request: MapRequest) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run a pipeline once per item and yield index and outputs of each; by default, `map` computes all first.

        Args:
            request: The pipeline, columns, inputs and outputs.
        """
        columns = self.map(request)
        for index, row in enumerate(zip(*columns.values(), strict=True)):
            yield index, dict(zip(columns, row, strict=True))

    async def arun(self, request: RunRequest) -> dict[str, Any]:
        """Run a pipeline once without blocking the event loop; by default with `run` in a thread."""
        import asyncio

        return await asyncio.to_thread(self.run, request)

    async def amap(self, request: MapRequest) -> dict[str, list[Any]]:
        """Run a pipeline once per item without blocking the event loop; by default with `map` in a thread."""
        import asyncio

        return await asyncio.to_thread(self.map, request)

    def close(self) -> None:  # noqa: B027 - nothing to do is a valid implementation
        """Release the resources that the backend holds between runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
