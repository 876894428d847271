"""What travels: one job there, one outcome back, each a header that can be read before anything is unpickled.

A header is one line of JSON with the versions of everything that has to agree on both sides; a pickle follows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from hypernodes._version import __version__
from hypernodes.engine.frames.prior_results import PriorResults
from hypernodes.engine.settings import ExecutionMode
from hypernodes.errors import RemoteVersionError, SerializationError
from hypernodes.plan import OnError, Plan

JOB_FORMAT = 1


class EngineSettings(NamedTuple):
    """How a pipeline runs at the remote place; see `PipelineExecutionEngine`.

    Attributes:
        node_execution: How the nodes of one run are executed.
        map_execution: How the items of a map are executed.
        max_workers: The largest number of calls at a time.
        backend_name: Name of the backend, in messages.
    """

    node_execution: ExecutionMode
    map_execution: ExecutionMode
    max_workers: int | None
    backend_name: str


class Where(NamedTuple):
    """Where in the hierarchy of a run the pipeline stands (see `CallbackContext`)."""

    hierarchy_path: tuple[str, ...]
    node_path: tuple[str, ...]
    item_path: tuple[int, ...]


class RunPart(NamedTuple):
    """One execution of a plan, as far as it has to happen elsewhere.

    Attributes:
        values: Value of every slot; `ABSENT` for what is not needed there.
        known: What has been found out about it.
    """

    values: list[Any]
    known: PriorResults


class MapPart(NamedTuple):
    """The items of a map that have to be computed elsewhere.

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
    """What came of the items of a map.

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


class Answers(NamedTuple):
    """What a cache is known to hold.

    Attributes:
        values: Results by key; `Kept` where only their existence matters.
        misses: The keys that it does not hold, shortened with `miss_of`.
    """

    values: dict[str, Any]
    misses: frozenset[bytes]


_MISS_BYTES = 8  # of 32: taking a hit for a miss by accident would only cost computing it again


def miss_of(key: str) -> bytes:
    """Return what stands for a key in `Answers.misses`."""
    return bytes.fromhex(key[: 2 * _MISS_BYTES]) + key[64:].encode()


class Job(NamedTuple):
    """Everything that a remote place needs to know.

    Attributes:
        plan: What to run.
        part: What of it: one run, or items of a map.
        code: Signatures of the code of the plan and of all plans in it.
        engine: How to run it.
        where: Context of the pipeline.
        answers: What the caches are known to hold, by their number.
        heard: For each callback, the hooks that it overrides.
    """

    plan: Plan
    part: RunPart | MapPart
    code: dict[Plan, Any]
    engine: EngineSettings
    where: Where
    answers: dict[int, Answers]
    heard: dict[int, tuple[str, ...]]


class Kept:
    """Stands at the remote place for a result that the caller's cache holds and nothing there takes.

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
    """Type of `ABSENT`: a value that did not travel because nothing at the remote place takes it."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"

    def __cache_key__(self) -> object:
        raise TypeError("a value that did not travel cannot be identified")


ABSENT = _Absent()


def versions() -> dict[str, Any]:
    """Return the versions that have to be the same on both sides."""
    import cloudpickle

    return {
        "job format": JOB_FORMAT,
        "Python": "{}.{}".format(*sys.version_info[:2]),
        "hypernodes-core": __version__,
        "cloudpickle": cloudpickle.__version__,
    }


def header_of(**facts: Any) -> bytes:
    """Return the header of a message, which says what follows it."""
    return json.dumps({**facts, "versions": versions()}).encode() + b"\n"


def read_header(message: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the header of a message, and what follows it.

    Raises:
        SerializationError: It is no message of ours.
    """
    end = message.find(b"\n", 0, 65536)
    try:
        header = json.loads(message[: max(end, 0)])
        if not isinstance(header, dict) or not isinstance(header.get("versions"), dict):
            raise ValueError
    except ValueError:
        raise SerializationError(
            f"{len(message)} bytes that are neither a job nor an outcome of HyperNodes: were they changed on the way?",
            path="message",
        ) from None
    return header, memoryview(message)[end + 1 :]


def check_versions(theirs: Mapping[str, Any], here: str, there: str) -> None:
    """Compare the versions on both sides.

    Args:
        theirs: The versions on the other side.
        here: What this side is called in the message.
        there: What the other side is called.

    Raises:
        RemoteVersionError: They differ; the message names both of each.
    """
    ours = versions()
    differing = {name: (ours[name], theirs.get(name)) for name in ours if ours[name] != theirs.get(name)}
    if differing:
        listing = "; ".join(f"{name} {own} {here} and {other} {there}" for name, (own, other) in differing.items())
        raise RemoteVersionError(
            f"the two sides cannot understand each other: {listing}. Install the same versions on both.",
            differing=differing,
        )
