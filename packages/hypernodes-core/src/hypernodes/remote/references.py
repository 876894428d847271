"""What stays with the caller of a job, and what is sent in its place."""

from __future__ import annotations

from typing import Any

from hypernodes.backend.base import Backend
from hypernodes.cache.base import Cache
from hypernodes.callbacks import PipelineCallback
from hypernodes.remote.transport import Transport


class References:
    """Numbers the caches, callbacks and backends that the jobs of a run or map refer to.

    Args:
        backend: The backend that gets the jobs.

    Attributes:
        caches: The caches, by number.
        callbacks: The callbacks, by number.
        callable_backends: Other backends that nested pipelines ask for, by number.
    """

    def __init__(self, backend: Transport) -> None:
        self._backend = backend
        self._numbers: dict[int, int] = {}
        self.caches: dict[int, Cache] = {}
        self.callbacks: dict[int, PipelineCallback] = {}
        self.callable_backends: list[Backend] = []

    def of(self, obj: Any) -> tuple[str, int] | None:
        """Return what is sent in place of something that stays here; None for anything else."""
        if isinstance(obj, Cache) and not self._backend.sends_caches:
            return "cache", self.number_of_cache(obj)
        if isinstance(obj, PipelineCallback):
            return "callback", self.number_of_callback(obj)
        if isinstance(obj, Backend):
            if self._backend.runs_here(obj):
                return "here", 0
            if self._backend.can_call(obj):
                if not any(known is obj for known in self.callable_backends):
                    self.callable_backends.append(obj)
                return "backend", next(n for n, known in enumerate(self.callable_backends) if known is obj)
        return None

    def number_of_cache(self, cache: Cache) -> int:
        """Return the number of a cache."""
        return self._number(cache, self.caches)

    def number_of_callback(self, callback: PipelineCallback) -> int:
        """Return the number of a callback."""
        return self._number(callback, self.callbacks)

    def _number(self, obj: Any, table: dict[int, Any]) -> int:
        number = self._numbers.setdefault(id(obj), len(self._numbers))
        table[number] = obj
        return number
