"""The base class of backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from hypernodes.checks import check_initialised, shown
from hypernodes.errors import ConfigurationError
from hypernodes.request import MapRequest, RunRequest
from hypernodes.results import checked_map


class Backend(ABC):
    """Runs pipelines in some process or machine. To add one, subclass it and implement `run` and `map`.

    A backend decides *where* pipelines run; `PipelineExecutionEngine` decides *how* nodes and items are scheduled, so
    that caching, callbacks, nesting and errors mean the same on every backend.
    """

    _set_by_init: ClassVar[tuple[str, ...]] = ()  # attributes that a subclass needs, which `__init__` sets

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
        columns = checked_map(self, request, self.map(request))
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


_REQUEST = ("self", "request")
_METHODS = {
    "run": _REQUEST,
    "map": _REQUEST,
    "map_iter": _REQUEST,
    "arun": _REQUEST,
    "amap": _REQUEST,
    "submit": ("self", "job", "channel"),  # of remote backends
}
_OBSOLETE = {"map_columns": "map", "amap_columns": "amap"}


def check_backend(backend: Any) -> None:
    """Refuse what is no backend, and a backend with methods that are never called or cannot be called.

    Raises:
        ConfigurationError: It is.
    """
    if not isinstance(backend, Backend):
        hint = " (a class: make an object of it)" if isinstance(backend, type) else ""
        raise ConfigurationError(f"backend must be a Backend, e.g. LocalBackend(); got {shown(backend)}{hint}")
    kind = type(backend)
    for name, instead in _OBSOLETE.items():
        if hasattr(kind, name):
            raise ConfigurationError(f"{kind.__name__}.{name} is never called: implement {instead}(self, request)")
    for name, expected in _METHODS.items():
        function = getattr(kind, name, None)
        code = getattr(function, "__code__", None)
        if code is None:
            continue
        needed = code.co_argcount - len(getattr(function, "__defaults__", None) or ())
        takes_more = bool(code.co_flags & 0x04)  # *args
        if needed > len(expected) or (code.co_argcount < len(expected) and not takes_more):
            parameters = ", ".join(code.co_varnames[: code.co_argcount])
            raise ConfigurationError(
                f"{kind.__name__}.{name}({parameters}) cannot be called: it must take ({', '.join(expected)})"
            )
        if code.co_flags & 0x80 and not name.startswith("a"):
            advice = f"await in a{name}" if f"a{name}" in _METHODS else "wait for the result in it"
            raise ConfigurationError(f"{kind.__name__}.{name} must be an ordinary function, not `async def`: {advice}")
    check_initialised(backend, Backend)
