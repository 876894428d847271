"""What a cache is: values kept under the signatures of the computations that made them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final, final


@final
class Missing:
    """Type of `MISS`, the answer of a cache that does not hold a key. `None` is a value like any other."""

    def __repr__(self) -> str:
        return "MISS"

    def __reduce__(self) -> str:
        return "MISS"


MISS: Final = Missing()


class Cache(ABC):
    """Values kept under string keys. Subclass it to keep them somewhere else.

    Keys are signatures (hexadecimal strings); whoever asks for the same key wants the same value, so an entry never
    changes and may be dropped at any time. Implementations must be safe to use from several threads.
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
            entries: Values by key.
            labels: For some keys, the name of the node that made the value, for people who look inside.
        """
        for key, value in entries.items():
            self.put(key, value)

    @abstractmethod
    def contains(self, key: str) -> bool:
        """Whether a value is kept under `key`."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Forget `key`; nothing happens when it is not kept."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything."""

    def close(self) -> None:  # noqa: B027 - nothing to do is a valid implementation
        """Release what the cache holds open; using it again opens it again."""

    def __contains__(self, key: str) -> bool:
        return self.contains(key)
