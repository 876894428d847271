"""What stands in the plan, on the remote side, for the caller's caches and callbacks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from hypernodes.cache.base import MISS, Cache
from hypernodes.callbacks import CallbackContext, PipelineCallback
from hypernodes.engine.identity.plan_code import Origin
from hypernodes.remote.job import ContextPath, KnownResults, miss_of
from hypernodes.remote.messages import CacheQuestion, Entries, Event
from hypernodes.remote.outbox import Outbox


class CacheProxy(Cache):
    """A cache of the caller's: known results first, then questions; new results are sent to it.

    Args:
        number: Number of the cache.
    """

    _known: KnownResults
    _outbox: Outbox
    notes_origins = True

    def __init__(self, number: int) -> None:
        self._number = number
        self._sent: set[str] = set()
        self._origins: dict[str, Origin] = {}

    def connect(self, known: KnownResults, outbox: Outbox) -> None:
        """Set what is known of the cache, and how it is reached."""
        self._known = known
        self._outbox = outbox

    def get(self, key: str) -> Any:
        return self.get_many([key]).get(key, MISS)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        unknown: list[str] = []
        for key in keys:
            value = self._known.values.get(key, MISS)
            if value is not MISS:
                found[key] = value
            elif key in self._sent or miss_of(key) not in self._known.misses:
                unknown.append(key)
        if unknown and self._outbox.can_ask:
            found |= self._outbox.ask(CacheQuestion(self._number, unknown))
        return found

    def put(self, key: str, value: Any) -> None:
        self.put_many({key: value})

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        known_labels = {key: label for key, label in (labels or {}).items() if key in entries}
        packed: dict[str, bytes] = {}
        for key, value in entries.items():
            packed[key] = self._outbox.packing.pack_or_describe(value)
        self._sent.update(packed)
        origins = {key: origin for key in packed if (origin := self._origins.pop(key, None)) is not None}
        self._outbox.add(Entries(self._number, packed, known_labels, origins))

    def note_origins(self, origins: Mapping[str, Origin]) -> None:
        self._origins.update(origins)

    def contains(self, key: str) -> bool:
        return key in self._sent or self.get(key) is not MISS

    def contains_many(self, keys: Iterable[str]) -> set[str]:
        asked = set(keys)
        sent = asked & self._sent
        return sent.union(self.get_many(asked - sent))

    def delete(self, key: str) -> None:
        raise NotImplementedError("the caller's cache cannot be changed from the remote side")

    def clear(self) -> None:
        raise NotImplementedError("the caller's cache cannot be changed from the remote side")

    def __repr__(self) -> str:
        return "<the caller's cache>"


class CallbackProxy(PipelineCallback):
    """A callback of the caller's: the hooks that it overrides become messages.

    Args:
        number: Number of the callback.
    """

    _outbox: Outbox

    def __init__(self, number: int) -> None:
        self._number = number

    def connect(self, hooks: Iterable[str], outbox: Outbox) -> None:
        """Set which hooks are overridden, and how the callback is reached."""
        self._outbox = outbox
        for hook in hooks:
            setattr(self, hook, functools.partial(self._send, hook))

    def _send(self, hook: str, *arguments: Any) -> None:
        *others, context = arguments
        packing = self._outbox.packing
        packed = tuple(
            packing.describe(value) if isinstance(value, BaseException) else packing.pack_or_describe(value)
            for value in others
        )
        self._outbox.add(Event(self._number, hook, packed, path_of_context(context)))


def path_of_context(context: CallbackContext) -> ContextPath:
    """Return what of a context can be sent."""
    return ContextPath(context.hierarchy_path, context.node_path, context.item_path)
