"""The backend that runs pipelines in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from hypernodes.backend.base import Backend
from hypernodes.checks import check_initialised, shown
from hypernodes.engine.engine import PipelineExecutionEngine
from hypernodes.engine.settings import KEEP_WORKERS_S, ExecutionMode
from hypernodes.errors import ConfigurationError
from hypernodes.request import MapRequest, RunRequest

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from hypernodes.engine.limits import Limit


class LocalBackend(Backend):
    """Runs pipelines in this process, with an engine of the given settings.

    Args:
        node_execution: How the nodes of one run are executed; None for "sequential".
        map_execution: How the items of a map are executed; None for "sequential".
        max_workers: The largest number of node calls at a time; None for a number that suits the strategy.
        executor: An executor of the caller's own to make node calls on.
        keep_workers_s: How long worker processes stay after a run, for the next one, in seconds; 0 for not at all.
        limits: The limits that nodes may name (see `Limit`).
        max_in_flight: The largest number of items of a map that have begun and are not done.
        engine: A ready-made engine, instead of the settings above.

    Attributes:
        engine: The engine that runs the pipelines.
    """

    _set_by_init = ("engine",)

    def __init__(
        self,
        node_execution: ExecutionMode | None = None,
        map_execution: ExecutionMode | None = None,
        *,
        max_workers: int | None = None,
        executor: Executor | None = None,
        keep_workers_s: float | None = None,
        limits: Iterable[Limit] | None = None,
        max_in_flight: int | None = None,
        engine: PipelineExecutionEngine | None = None,
    ) -> None:
        if engine is None:
            engine = PipelineExecutionEngine(
                node_execution,
                map_execution,
                max_workers=max_workers,
                executor=executor,
                keep_workers_s=KEEP_WORKERS_S if keep_workers_s is None else keep_workers_s,
                limits=limits,
                max_in_flight=max_in_flight,
            )
        elif any(
            setting is not None
            for setting in (node_execution, map_execution, max_workers, executor, keep_workers_s, limits, max_in_flight)
        ):
            raise ConfigurationError("pass LocalBackend either engine= or the settings of an engine, not both")
        if not isinstance(engine, PipelineExecutionEngine):
            raise ConfigurationError(f"engine must be a PipelineExecutionEngine or None; got {shown(engine)}")
        check_initialised(engine, PipelineExecutionEngine)
        self.engine = engine

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that nodes may name."""
        return self.engine.limits

    def run(self, request: RunRequest) -> dict[str, Any]:
        return self.engine.run(request)

    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        return self.engine.map(request)

    def map_iter(self, request: MapRequest) -> Iterator[tuple[int, dict[str, Any]]]:
        return self.engine.map_iter(request)

    async def arun(self, request: RunRequest) -> dict[str, Any]:
        return await self.engine.arun(request)

    async def amap(self, request: MapRequest) -> dict[str, list[Any]]:
        return await self.engine.amap(request)

    def close(self) -> None:
        """End the worker processes that stay for further runs."""
        self.engine.close()

    def __enter__(self) -> Self:
        self.engine.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.engine.__exit__(*exc_info)

    def __repr__(self) -> str:
        return f"LocalBackend({self.engine!r})"
