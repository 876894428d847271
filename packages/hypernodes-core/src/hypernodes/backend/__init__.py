"""Backends, which run pipelines.

`Backend` and `LocalBackend` are core's own; any other name resolves to the backend that an installed distribution
registers (entry point group `hypernodes.backends`), imported at its first use.
"""

from typing import TYPE_CHECKING, Any

from hypernodes import plugins
from hypernodes.backend.base import Backend
from hypernodes.backend.local import LocalBackend
from hypernodes.engine import PipelineExecutionEngine

if TYPE_CHECKING:
    from hypernodes.backend.placed import PlacedBackend as PlacedBackend
    from hypernodes.remote.subprocess_backend import SubprocessBackend as SubprocessBackend
    from hypernodes_dask import DaskBackend as DaskBackend
    from hypernodes_modal import ModalBackend as ModalBackend

__all__ = ["Backend", "LocalBackend", "PipelineExecutionEngine"]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    if name == "PlacedBackend":
        from hypernodes.backend.placed import PlacedBackend

        return PlacedBackend
    return plugins.find_class(name, [plugins.BACKENDS], __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *plugins.class_names([plugins.BACKENDS])})
