"""What a cache is: values kept under the signatures of the computations that made them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, final


@final
class Missing:
    """Type of `MISS`, the answer of a cache that does not hold a key. `None` is a value like any other."""

    def __repr__(self) -> str:
        return "MISS"

    def __reduce__(self) -> str:
        return "MISS"


MISS: Final = Missing()


class CacheStats(NamedTuple):
    """What a cache holds and how it was used; None where a cache does not count.

    Attributes:
        entries: Number of entries kept.
        size_bytes: Room they take, in bytes.
        hits: How many values this object has given, since it was made.
        misses: How many it was asked for and did not have.
    """

    entries: int | None = None
    size_bytes: int | None = None
    hits: int | None = None
    misses: int | None = None


class Cache(ABC):
    """Values kept under string keys. Subclass it to keep them somewhere else.

    Keys are signatures (hexadecimal strings); whoever asks for the same key wants the same value, so an entry never
    changes and may be dropped at any time. Under keys that begin with "about-" a small dict is kept for every node, for
    `Pipeline.explain`; it is replaced when the node is computed again (see `hypernodes.cache.record`). Implementations
    must be safe to use from several threads.
    """

    @abstractmethod
    def get(self, key: str) -> Any:
        """Return the value kept under `key`, or `MISS`."""

    @abstractmethod
    def put(self, key: str, value: Any) -> None:
        """Keep `value` under `key`.

        Raises:
            Exception: The value cannot be stored; the engine warns once and goes on without.
        """

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are kept."""
        found = ((key, self.get(key)) for key in keys)
        return {key: value for key, value in found if value is not MISS}

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        """Keep several values; faster than one by one where the storage allows.

        Args:
            entries: Values by their keys.
            labels: For some of the keys, the name of the node that made the value: for people who look inside. It is
                not part of the key, and a cache may ignore it.

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
        """Make a value ready to be put a little later, together with others.

        Nodes may change what they were given (`rows.sort()`), so a value that can be changed has to be put before
        anybody else gets it, unless it was prepared.

        Returns:
            What to give to `put_many` in its place, and whether that stays the same when the value is changed. If it
            does not, it is put at once.
        """
        return value, False

    @abstractmethod
    def contains(self, key: str) -> bool:
        """Whether a value is kept under `key`."""

    def contains_many(self, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` under which a value is kept, without loading any."""
        return {key for key in keys if self.contains(key)}

    @abstractmethod
    def delete(self, key: str) -> None:
        """Forget `key`; nothing happens when it is not kept."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything."""

    def close(self) -> None:  # noqa: B027 - nothing to do is a valid implementation
        """Release what the cache holds open; using it again opens it again."""

    def stats(self) -> CacheStats:
        """Return how much is kept and how often it was used."""
        return CacheStats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return self.contains(key)
