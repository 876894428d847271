"""The exceptions and warnings of this library; they carry the facts as attributes.

Everything raised by HyperNodes itself derives from `HyperNodesError`. Wrong arguments are also `ValueError`s, so that
code that does not know this library still catches what it expects. An exception raised inside a node is *not* wrapped:
it propagates unchanged, with a note that says where it was raised.
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


# --- building a pipeline -----------------------------------------------------------------------------------------


class GraphError(HyperNodesError, ValueError):
    """The nodes do not form a valid pipeline."""


class InvalidNodeError(GraphError, TypeError):
    """An object is not usable as a node: a bare function, a function with `*args`, an object that is not a node.

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
    """Nodes depend on each other in a cycle.

    Attributes:
        path: Names of the nodes along the cycle; the first is repeated at the end.
    """

    path: tuple[str, ...]


class MappingError(GraphError):
    """`as_node` maps, or maps over, a name that does not exist, or maps two names to the same name.

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
        meant: For missing names that look misspelt, the name that was probably meant.
    """

    missing: dict[str, tuple[str, ...]]
    meant: dict[str, str]


class UnknownInputError(DependencyError):
    """A value was given for a name that the pipeline neither needs nor produces.

    Attributes:
        unknown: The names that the pipeline does not know.
        available: The names that it accepts.
    """

    unknown: tuple[str, ...]
    available: tuple[str, ...]


class UnknownOutputError(DependencyError):
    """A requested output is not produced by the pipeline.

    Attributes:
        unknown: The requested names that do not exist.
        available: The outputs that exist.
    """

    unknown: tuple[str, ...]
    available: tuple[str, ...]


class MapInputError(DependencyError, TypeError):
    """A mapped-over input cannot be mapped over: it is not iterable, or a string, a mapping or a table.

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
    """A setting of a pipeline, an engine or a backend has an invalid value."""


def is_positive(value: object) -> bool:
    """Whether a setting is a whole number of at least one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# --- during a run ------------------------------------------------------------------------------------------------


class ExecutionError(HyperNodesError, RuntimeError):
    """A run failed for a reason that is not an exception of the user's own code."""


class OutputCountError(ExecutionError):
    """A node with several outputs did not return one value for each.

    Attributes:
        node_name: The node.
        expected: Names of its outputs.
    """

    node_name: str
    expected: tuple[str, ...]


class BatchResultError(ExecutionError):
    """A batched node did not return one result for each item that it was given.

    Attributes:
        node_name: The node.
        expected: Number of items.
        got: Number of results; None if it is no list of results at all.
    """

    node_name: str
    expected: int
    got: int | None


class SkippedOutputError(ExecutionError):
    """An output that was asked for by name was skipped, because a condition did not hold.

    Attributes:
        output_name: The output.
    """

    output_name: str


class NodeTimeoutError(ExecutionError, TimeoutError):
    """A call of a node took longer than the node's `timeout`.

    Attributes:
        node_name: The node.
        timeout_s: The limit, in seconds.
    """

    node_name: str
    timeout_s: float


class WorkerDiedError(ExecutionError):
    """A worker process died twice while it computed the same call: a crash, a kill, `os._exit`, out of memory.

    Once is enough on an executor of the caller's own, whose processes are not replaced, and for one that dies before it
    takes any work.

    Attributes:
        node_names: The nodes that it was to call; none before it took any work.
        item_index: Index of the map item; None outside maps.
    """

    node_names: tuple[str, ...]
    item_index: int | None


class SerializationError(HyperNodesError, TypeError):
    """A value cannot be sent to, or from, a worker process.

    Attributes:
        path: The location of the value, from the node or input down.
    """

    path: str


class RemoteNodeError(ExecutionError):
    """A node raised an exception in another process that cannot be restored in this one.

    Attributes:
        original_type: Name of the exception's type.
        original_message: Its text.
        traceback_text: Where it was raised.
    """

    original_type: str
    original_message: str
    traceback_text: str


class RemoteError(ExecutionError):
    """A remote backend failed for a reason that is not an exception of the user's own code.

    Attributes:
        backend_name: Name of the backend.
    """

    backend_name: str


class WorkerLostError(RemoteError):
    """The remote worker process ended before its job did: a crash, a kill, out of memory.

    Attributes:
        exit_code: Its exit code; negative for the number of a signal, None when unknown.
        log_tail: The last lines of its standard error.
    """

    exit_code: int | None
    log_tail: str


class RemoteVersionError(RemoteError):
    """Python, this library or its serializer differs between the caller and the remote worker.

    Attributes:
        differing: Each component that differs, with the caller's version and the worker's.
    """

    differing: dict[str, tuple[object, object]]


# --- extensions --------------------------------------------------------------------------------------------------


class PluginError(HyperNodesError, ImportError):
    """An installed extension cannot be loaded, or two distributions claim one name.

    Attributes:
        plugin_name: The requested name.
        distributions: The distributions involved.
    """

    plugin_name: str
    distributions: tuple[str, ...]


class MissingPluginError(PluginError):
    """An extension that this library knows of is not installed; the message says what to install."""


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an exception, also if its class refuses new attributes, as a frozen dataclass does."""
    try:
        error.add_note(text)
    except Exception:
        object.__setattr__(error, "__notes__", [*getattr(error, "__notes__", ()), text])


# --- warnings ----------------------------------------------------------------------------------------------------


class HyperNodesWarning(UserWarning):
    """Base of the warnings of this library."""


class CacheWarning(HyperNodesWarning):
    """A value could not be looked up or stored; the run goes on without the cache for it."""
