"""What stands in the plan, at the remote place, for the caller's caches and callbacks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from hypernodes.cache.base import MISS, Cache
from hypernodes.callbacks import CallbackContext, PipelineCallback
from hypernodes.remote.job import Answers, Where, miss_of
from hypernodes.remote.messages import Entries, Event, Question
from hypernodes.remote.outbox import Outbox


class CacheProxy(Cache):
    """A cache of the caller's: known answers first, then questions; new results are sent to it.

    Args:
        number: Number of the cache.
    """

    _answers: Answers
    _outbox: Outbox

    def __init__(self, number: int) -> None:
        self._number = number
        self._sent: set[str] = set()

    def connect(self, answers: Answers, outbox: Outbox) -> None:
        """Say what is known of the cache, and how to reach it."""
        self._answers = answers
        self._outbox = outbox

    def get(self, key: str) -> Any:
        return self.get_many([key]).get(key, MISS)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        unknown: list[str] = []
        for key in keys:
            value = self._answers.values.get(key, MISS)
            if value is not MISS:
                found[key] = value
            elif key in self._sent or miss_of(key) not in self._answers.misses:
                unknown.append(key)
        if unknown and self._outbox.can_ask:
            found |= self._outbox.ask(Question(self._number, unknown))
        return found

    def put(self, key: str, value: Any) -> None:
        self.put_many({key: value})

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        known = {key: label for key, label in (labels or {}).items() if key in entries}
        packed: dict[str, bytes] = {}
        for key, value in entries.items():
            packed[key] = self._outbox.packing.pack_or_describe(value)
        self._sent.update(packed)
        self._outbox.add(Entries(self._number, packed, known))

    def contains(self, key: str) -> bool:
        return key in self._sent or self.get(key) is not MISS

    def contains_many(self, keys: Iterable[str]) -> set[str]:
        asked = set(keys)
        sent = asked & self._sent
        return sent.union(self.get_many(asked - sent))

    def delete(self, key: str) -> None:
        raise NotImplementedError("the caller's cache cannot be changed from a remote place")

    def clear(self) -> None:
        raise NotImplementedError("the caller's cache cannot be changed from a remote place")

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

    def connect(self, heard: Iterable[str], outbox: Outbox) -> None:
        """Say which hooks are overridden, and how to reach the callback."""
        self._outbox = outbox
        for hook in heard:
            setattr(self, hook, functools.partial(self._send, hook))

    def _send(self, hook: str, *arguments: Any) -> None:
        *others, context = arguments
        packing = self._outbox.packing
        packed = tuple(
            packing.describe(value) if isinstance(value, BaseException) else packing.pack_or_describe(value)
            for value in others
        )
        self._outbox.add(Event(self._number, hook, packed, where_of(context)))


def where_of(context: CallbackContext) -> Where:
    """Return what of a context can travel."""
    return Where(context.hierarchy_path, context.node_path, context.item_path)
