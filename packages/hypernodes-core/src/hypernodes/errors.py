"""What can go wrong, as exceptions that carry the facts as attributes.

Everything raised by HyperNodes itself derives from `HyperNodesError`. Wrong arguments are also `ValueError`s, so that
code which knows nothing of this library still catches what it expects. An exception raised inside a node is *not*
wrapped: it surfaces as it is, with a note saying where it happened.
"""

from __future__ import annotations

from typing import Any


class HyperNodesError(Exception):
    """Base of every exception of this library.

    Args:
        message: What happened, where, and what to do about it.
        **facts: The same as data; each becomes an attribute of the exception.
    """

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)


# --- while a pipeline is built -----------------------------------------------------------------------------------


class GraphError(HyperNodesError, ValueError):
    """The nodes do not form a valid pipeline."""


class InvalidNodeError(GraphError, TypeError):
    """Something is not usable as a node: a bare function, a function with `*args`, an object that is no node.

    Attributes:
        culprit: The object that was refused.
    """

    culprit: Any


class DuplicateOutputError(GraphError):
    """Two nodes of one pipeline produce the same name.

    Attributes:
        output_name: The name produced twice.
        node_names: The two nodes.
    """

    output_name: str
    node_names: tuple[str, str]


class CycleError(GraphError):
    """Nodes need each other in a circle.

    Attributes:
        path: Names of the nodes along the cycle; the first is repeated at the end.
    """

    path: tuple[str, ...]


class MappingError(GraphError):
    """`as_node` maps, or maps over, a name that does not exist, or maps two names to one.

    Attributes:
        unknown: The offending name.
        available: The names that exist.
    """

    unknown: str
    available: tuple[str, ...]


# --- before a run starts -----------------------------------------------------------------------------------------


class DependencyError(HyperNodesError, ValueError):
    """The inputs or the requested outputs of a run do not fit the pipeline."""


class MissingInputError(DependencyError):
    """A root input has neither a value nor a default.

    Attributes:
        missing: Each missing name with the names of the nodes that need it.
    """

    missing: dict[str, tuple[str, ...]]


class UnknownInputError(DependencyError):
    """A value was given for a name that the pipeline neither needs nor produces.

    Attributes:
        unknown: The names that mean nothing to the pipeline.
        available: The names that it does take.
    """

    unknown: tuple[str, ...]
    available: tuple[str, ...]


class UnknownOutputError(DependencyError):
    """A requested output is not produced by the pipeline.

    Attributes:
        unknown: The requested names that do not exist.
        available: The outputs that do.
    """

    unknown: tuple[str, ...]
    available: tuple[str, ...]


class MapInputError(DependencyError, TypeError):
    """A mapped-over input cannot be mapped over: it is not iterable, or it is a single string.

    Attributes:
        input_name: The mapped-over input.
    """

    input_name: str


class MapLengthError(DependencyError):
    """Mapped-over inputs of different lengths with `map_mode="zip"`.

    Attributes:
        lengths: The number of values of each mapped-over input.
    """

    lengths: dict[str, int]


class ConfigurationError(HyperNodesError, ValueError):
    """A setting of a pipeline, an engine or a backend has a value it cannot have."""


def is_positive(value: object) -> bool:
    """Whether a setting is a whole number of at least one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# --- while it runs -----------------------------------------------------------------------------------------------


class ExecutionError(HyperNodesError, RuntimeError):
    """A run failed for a reason that is not an exception of the user's own code."""


class OutputCountError(ExecutionError):
    """A node with several outputs returned something else than one value for each.

    Attributes:
        node_name: The node.
        expected: Names of its outputs.
    """

    node_name: str
    expected: tuple[str, ...]


class NodeTimeoutError(ExecutionError, TimeoutError):
    """A call of a node took longer than the node's `timeout`.

    Attributes:
        node_name: The node.
        timeout_s: The limit, in seconds.
    """

    node_name: str
    timeout_s: float


class WorkerDiedError(ExecutionError):
    """A worker process died while it computed something, twice: a crash, a kill, `os._exit`, out of memory.

    Attributes:
        node_names: The nodes that it was to call.
        item_index: Index of the map item; None when it was none.
    """

    node_names: tuple[str, ...]
    item_index: int | None


class SerializationError(HyperNodesError, TypeError):
    """Something cannot be sent to a worker process.

    Attributes:
        path: What it is, from the node or input down.
    """

    path: str


class RemoteNodeError(ExecutionError):
    """A node raised something in another process that cannot be brought here as it is.

    Attributes:
        original_type: Name of its type.
        original_message: Its text.
        traceback_text: Where it was raised.
    """

    original_type: str
    original_message: str
    traceback_text: str


class RemoteError(ExecutionError):
    """A remote place failed for a reason that is not an exception of the user's own code.

    Attributes:
        backend_name: Name of the backend.
    """

    backend_name: str


class WorkerLostError(RemoteError):
    """The process at the remote place ended before the job did: a crash, a kill, out of memory.

    Attributes:
        exit_code: How it ended; negative for the number of a signal, None when unknown.
        log_tail: The last it printed to its standard error.
    """

    exit_code: int | None
    log_tail: str


class RemoteVersionError(RemoteError):
    """Python, this library or what it serializes with differs between the caller and the remote place.

    Attributes:
        differing: What differs, with the version here and the version there.
    """

    differing: dict[str, tuple[object, object]]


# --- extensions --------------------------------------------------------------------------------------------------


class PluginError(HyperNodesError, ImportError):
    """An installed extension cannot be loaded, or two distributions claim one name.

    Attributes:
        plugin_name: The name asked for.
        distributions: The distributions involved.
    """

    plugin_name: str
    distributions: tuple[str, ...]


class MissingPluginError(PluginError):
    """An extension that this library knows of is not installed; the message says what to install."""


# --- warnings ----------------------------------------------------------------------------------------------------


class HyperNodesWarning(UserWarning):
    """Base of the warnings of this library."""


class CacheWarning(HyperNodesWarning):
    """A value could not be looked up or stored; the run goes on without the cache for it."""
