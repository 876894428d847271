"""The base class of caches: values stored under the signatures of the computations that made them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self, final


@final
class Missing:
    """Type of `MISS`, which caches return for a key that they do not hold. `None` is a value like any other."""

    def __repr__(self) -> str:
        return "MISS"

    def __reduce__(self) -> str:
        return "MISS"


MISS: Final = Missing()

CONSTANTS: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
"""The types of values that hold nothing else and cannot change, which are most of all results."""


def is_constant(value: Any) -> bool:
    """Whether a value is of one of these types, or a tuple of such values."""
    return type(value) in CONSTANTS or (type(value) is tuple and CONSTANTS.issuperset(map(type, value)))


class CacheStats(NamedTuple):
    """Content and usage of a cache; None where a cache does not count.

    Attributes:
        entries: Number of entries.
        size_bytes: Their size, in bytes.
        hits: Number of values that this object has returned since it was created.
        misses: Number of look-ups of values that it did not have.
    """

    entries: int | None = None
    size_bytes: int | None = None
    hits: int | None = None
    misses: int | None = None


class Cache(ABC):
    """Stores values under string keys. Subclass it to add another storage.

    Keys are signatures (hexadecimal strings): equal keys mean equal values, so an entry never changes and may be
    dropped at any time; but for results of nodes with `cache_for`, which later ones replace. Keys that begin with
    "about-" are records for `Pipeline.explain`, a small dict for every node, which is replaced when the node is
    computed again (see `hypernodes.cache.record`). Implementations must be thread-safe.

    Attributes:
        shows_inputs: Whether these records hold numbers and short texts among the inputs in clear, unless they look
            like secrets. False for digests only; `explain` then says which input changed, and not from what to what.
    """

    shows_inputs: bool = True

    notes_origins = False  # whether it is told what keys are made of before it stores results under them

    _set_by_init: ClassVar[tuple[str, ...]] = ()  # attributes that a subclass needs, which `__init__` sets

    @abstractmethod
    def get(self, key: str) -> Any:
        """Return the value stored under `key`, or `MISS`."""

    @abstractmethod
    def put(self, key: str, value: Any) -> None:
        """Store `value` under `key`.

        Raises:
            Exception: The value cannot be stored; the engine warns once and goes on without storing it.
        """

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are stored."""
        found = ((key, self.get(key)) for key in keys)
        return {key: value for key, value in found if value is not MISS}

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        """Store several values; faster than one by one where the storage allows it.

        Args:
            entries: Values by their keys.
            labels: For some of the keys, the name of the node that made the value, for people who inspect the cache. It
                is not part of the key, and a cache may ignore it.

        Raises:
            Exception: Some values cannot be stored; the others are.
        """
        failure: Exception | None = None
        for key, value in entries.items():
            try:
                self.put(key, value)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def prepare(self, value: Any) -> tuple[Any, bool]:
        """Prepare a value for being stored a little later, together with others.

        Nodes may modify their arguments (`rows.sort()`), so a mutable value has to be stored before another node gets
        it, unless it was prepared.

        Returns:
            The object to pass to `put_many` instead of the value, and whether later modifications of the value leave it
            unchanged. If they do not, it is stored at once.
        """
        return value, False

    def note_origins(self, origins: Mapping[str, Any]) -> None:  # noqa: B027 - most caches have no use for it
        """Take note of what keys are made of, if `notes_origins`; the results are put afterwards."""

    @abstractmethod
    def contains(self, key: str) -> bool:
        """Whether a value is stored under `key`."""

    def contains_many(self, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` under which a value is stored, without loading any."""
        return {key for key in keys if self.contains(key)}

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the entry of `key`, if there is one."""

    @abstractmethod
    def clear(self) -> None:
        """Delete all entries."""

    def close(self) -> None:  # noqa: B027 - nothing to do is a valid implementation
        """Release the resources that the cache holds open; the next use opens them again."""

    def stats(self) -> CacheStats:
        """Return the number and size of entries, and the number of hits and misses."""
        return CacheStats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return self.contains(key)
