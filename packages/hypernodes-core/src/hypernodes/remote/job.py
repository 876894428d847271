"""What is in a job and in its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple

from hypernodes.decimals import DecimalSettings
from hypernodes.engine.frames.prior_results import PriorResults
from hypernodes.engine.limits import Limit
from hypernodes.engine.settings import ExecutionMode
from hypernodes.plan import OnError, Plan


class EngineSettings(NamedTuple):
    """How a pipeline runs on the remote side; see `PipelineExecutionEngine`.

    Attributes:
        node_execution: How the nodes of one run are executed.
        map_execution: How the items of a map are executed.
        max_workers: The largest number of calls at a time.
        backend_name: Name of the backend, in messages.
        limits: The limits that nodes may name.
        max_in_flight: The largest number of items of a map that are open at a time.
    """

    node_execution: ExecutionMode
    map_execution: ExecutionMode
    max_workers: int | None
    backend_name: str
    limits: tuple[Limit, ...] = ()
    max_in_flight: int | None = None


class ContextPath(NamedTuple):
    """The position of a pipeline in the hierarchy of a run (see `CallbackContext`)."""

    hierarchy_path: tuple[str, ...]
    node_path: tuple[str, ...]
    item_path: tuple[int, ...]


class RunPart(NamedTuple):
    """One execution of a plan, as far as it has to happen on the remote side.

    Attributes:
        values: Value of every slot; `ABSENT` for what is not needed there.
        known: What is known of it already.
    """

    values: list[Any]
    known: PriorResults


class MapPart(NamedTuple):
    """Items of a map that have to be computed on the remote side.

    Attributes:
        names: Names of the inputs that vary.
        columns: For each of these inputs, one value per item.
        indexes: Index of each item in the whole map.
        elements: Signatures of the values in `columns`, by name, where known.
        shared: Values of the other inputs.
        signatures: Signatures of these, where known.
        on_error: "raise" or "collect".
    """

    names: tuple[str, ...]
    columns: list[list[Any]]
    indexes: Sequence[int]
    elements: dict[str, list[bytes]]
    shared: dict[str, Any]
    signatures: dict[str, bytes]
    on_error: OnError


class MapResult(NamedTuple):
    """The results of the items of a map.

    Attributes:
        indexes: Index of each item in the whole map.
        columns: For each output, by name, one value per item.
    """

    indexes: Sequence[int]
    columns: dict[str, list[Any]]

    def by_index(self) -> dict[int, tuple[Any, ...]]:
        """Return the outputs of each item by its index."""
        rows = zip(*self.columns.values(), strict=True) if self.columns else repeat(())
        return dict(zip(self.indexes, rows, strict=False))


class KnownResults(NamedTuple):
    """What a cache is known to hold.

    Attributes:
        values: Results by key; `StoredResult` where only their existence matters.
        misses: The keys that it does not hold, shortened with `miss_of`.
    """

    values: dict[str, Any]
    misses: frozenset[bytes]


_MISS_BYTES = 8  # of 32: taking a hit for a miss by accident would only cost computing it again


def miss_of(key: str) -> bytes:
    """Return what stands for a key in `KnownResults.misses`."""
    return bytes.fromhex(key[: 2 * _MISS_BYTES]) + key[64:].encode()


class JobSetup(NamedTuple):
    """What all jobs of one run or map have in common, but for its inputs.

    Attributes:
        plan: What to run.
        code: Signatures of the code of the plan and of all plans in it.
        engine: How to run it.
        position: Context of the pipeline.
        hooks: For each callback, the hooks that it overrides.
        decimals: The caller's settings for decimals.
        settings: The caller's levels of loggers and filters of warnings; see `caller_settings`.
        filters: These filters, if there are classes of the user's own in them.
    """

    plan: Plan
    code: dict[Plan, Any]
    engine: EngineSettings
    position: ContextPath
    hooks: dict[int, tuple[str, ...]]
    decimals: DecimalSettings | None
    settings: bytes
    filters: tuple[Any, ...]


class Task(NamedTuple):
    """What one job is to do.

    Attributes:
        part: One run, or items of a map.
        known_results: What the caches are known to hold, by their number.
        sends_rows: Whether the results of items are sent as they come, rather than all with the outcome.
    """

    part: RunPart | MapPart
    known_results: dict[int, KnownResults]
    sends_rows: bool


class StoredResult:
    """Stands on the remote side for a result that the caller's cache holds and nothing there takes.

    Attributes:
        cache: Number of the cache.
        key: Its key.
    """

    __slots__ = ("cache", "key")

    def __init__(self, cache: int, key: str) -> None:
        self.cache = cache
        self.key = key

    def __repr__(self) -> str:
        return f"<result {self.key[:12]} in the caller's cache>"


class _Absent:
    """Type of `ABSENT`: a value that was not sent because nothing on the remote side takes it."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"

    def __cache_key__(self) -> object:
        raise TypeError("a value that was not sent cannot be identified")


ABSENT = _Absent()
