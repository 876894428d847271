"""Hierarchical, cache-first pipelines from plain functions.

Write functions, decorate them with `node`, and a `Pipeline` wires them by name. Run it on one item, map it over many,
nest it in others, give it a cache, callbacks, or another backend.
"""

from typing import TYPE_CHECKING, Any

from hypernodes import _namesake, plugins
from hypernodes._version import __version__
from hypernodes.backend.base import Backend
from hypernodes.backend.local import LocalBackend
from hypernodes.cache.base import MISS, Cache, CacheStats
from hypernodes.cache.memory import MemoryCache
from hypernodes.callbacks import CallbackContext, PipelineCallback
from hypernodes.conditions import SKIPPED
from hypernodes.engine.engine import PipelineExecutionEngine
from hypernodes.errors import (
    BatchResultError,
    CacheWarning,
    ConfigurationError,
    CycleError,
    DependencyError,
    DuplicateOutputError,
    ExecutionError,
    GraphError,
    HyperNodesError,
    HyperNodesWarning,
    InvalidNodeError,
    MapInputError,
    MapLengthError,
    MappingError,
    MissingInputError,
    MissingPluginError,
    NodeTimeoutError,
    OutputCountError,
    PluginError,
    RemoteError,
    RemoteNodeError,
    RemoteVersionError,
    SerializationError,
    SkippedOutputError,
    UnknownInputError,
    UnknownOutputError,
    WorkerDiedError,
    WorkerLostError,
)
from hypernodes.failure import Failure, failures
from hypernodes.nodes import Node, node
from hypernodes.pipeline import Pipeline
from hypernodes.pipeline_node import PipelineNode
from hypernodes.plugins import backends, caches
from hypernodes.request import MapRequest, RunRequest
from hypernodes.resources import Resource, resource

if TYPE_CHECKING:
    from hypernodes.branching import ifelse as ifelse
    from hypernodes.branching import route as route
    from hypernodes.engine.limits import Limit as Limit
    from hypernodes.remote.backend import RemoteBackend as RemoteBackend
    from hypernodes.remote.subprocess_backend import SubprocessBackend as SubprocessBackend
    from hypernodes.replaying import replay as replay
    from hypernodes_cache import DiskCache as DiskCache
    from hypernodes_dask import DaskBackend as DaskBackend
    from hypernodes_modal import ModalBackend as ModalBackend

__all__ = [
    "MISS",
    "SKIPPED",
    "Backend",
    "BatchResultError",
    "Cache",
    "CacheStats",
    "CacheWarning",
    "CallbackContext",
    "ConfigurationError",
    "CycleError",
    "DependencyError",
    "DuplicateOutputError",
    "ExecutionError",
    "Failure",
    "GraphError",
    "HyperNodesError",
    "HyperNodesWarning",
    "InvalidNodeError",
    "Limit",
    "LocalBackend",
    "MapInputError",
    "MapLengthError",
    "MapRequest",
    "MappingError",
    "MemoryCache",
    "MissingInputError",
    "MissingPluginError",
    "Node",
    "NodeTimeoutError",
    "OutputCountError",
    "Pipeline",
    "PipelineCallback",
    "PipelineExecutionEngine",
    "PipelineNode",
    "PluginError",
    "RemoteBackend",
    "RemoteError",
    "RemoteNodeError",
    "RemoteVersionError",
    "Resource",
    "RunRequest",
    "SerializationError",
    "SkippedOutputError",
    "UnknownInputError",
    "UnknownOutputError",
    "WorkerDiedError",
    "WorkerLostError",
    "__version__",
    "backends",
    "caches",
    "failures",
    "ifelse",
    "node",
    "replay",
    "resource",
    "route",
]

_namesake.warn_if_installed()
_LOADED_WHEN_USED = {
    "Limit": "engine.limits",
    "RemoteBackend": "remote.backend",  # only authors of backends need what it imports
    "ifelse": "branching",
    "replay": "replaying",
    "route": "branching",
}
_PLUGIN_GROUPS = (plugins.BACKENDS, plugins.CACHES, plugins.CALLBACKS)


def __getattr__(name: str) -> Any:
    if name in _LOADED_WHEN_USED:
        from importlib import import_module

        return getattr(import_module(f"hypernodes.{_LOADED_WHEN_USED[name]}"), name)
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return plugins.find_class(name, _PLUGIN_GROUPS, __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *plugins.class_names(_PLUGIN_GROUPS)})
