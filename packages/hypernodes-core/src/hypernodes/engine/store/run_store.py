"""What a run reads from caches and writes to them: many entries at a time, and never at the price of the run.

Results of quick calls are written together, since a transaction costs more than such a call. They are written at the
latest when their item ends, before a call that may take long begins, and when the oldest has waited for 20 ms. What is
written is what the call returned, whatever the calls that take it do to it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

from hypernodes import signature
from hypernodes.cache.base import MISS, Cache
from hypernodes.cache.record import is_record_key
from hypernodes.engine.step import NotTransferred

LONGEST_WAIT_S = 0.02
_MANIFEST = "-items"
_CONSTANT = frozenset({type(None), bool, int, float, complex, str, bytes})
_UNKEEPABLE = (Iterator, NotTransferred)
_READ_ONCE = "it is an iterator, which can be read only once. Return a list"

Warn = Callable[[str, str, str], None]  # the subject, the kind of problem (shown once for both), the message


class RunStore:
    """The caches of one run.

    Args:
        warn: Tells the user, once for each subject, why something is not read or kept.
    """

    def __init__(self, warn: Warn) -> None:
        self._warn = warn
        self._unsaved: dict[int, tuple[Cache, dict[str, Any], dict[str, str]]] = {}
        self._unsaved_since = 0.0

    def get(self, cache: Cache, key: str) -> Any:
        """Return the value kept under `key`, or `MISS`."""
        return self.get_many(cache, [key]).get(key, MISS)

    def get_many(self, cache: Cache, keys: Iterable[str]) -> Mapping[str, Any]:
        """Return those of the values that are kept; none when the cache cannot be read."""
        keys = list(dict.fromkeys(keys))
        unsaved = self._unsaved[id(cache)][1] if id(cache) in self._unsaved else {}
        found = {key: unsaved[key] for key in keys if key in unsaved}
        if not all(map(is_constant, found.values())):
            self.flush()  # what was prepared is for the cache to read
            found = {}
        asked = [key for key in keys if key not in found] if found else keys
        try:
            if len(asked) == 1:
                value = cache.get(asked[0])
                if value is not MISS:
                    found[asked[0]] = value
            elif asked:
                found |= cache.get_many(asked)
        except Exception as error:
            message = (
                f"nothing can be read from {cache!r}: {type(error).__name__}: {error}; the run goes on without it."
            )
            self._warn(repr(cache), "get", message)
        return found

    def get_each(self, cache: Cache, keys: Sequence[str]) -> list[Any] | None:
        """Return the value of each key, one of its own also for a key that comes again; None when any is not kept.

        What one node does to its value must not change that of another, so it is read once for each of them.
        """
        found = self.get_many(cache, keys)
        if any(key not in found for key in keys):
            return None
        values: list[Any] = []
        given: set[str] = set()
        for key in keys:
            value = found[key]
            if key in given and not is_constant(value):
                value = self.get(cache, key)
                if value is MISS:
                    return None
            given.add(key)
            values.append(value)
        return values

    def holds(self, cache: Cache, keys: Iterable[str]) -> bool:
        """Whether a value is kept under each of the keys; somebody else may have put it there."""
        asked = set(keys)
        try:
            return asked <= cache.contains_many(asked)
        except Exception:  # what cannot be found out does not hold
            return False

    def put(self, cache: Cache, entries: Mapping[str, Any], node_name: str) -> None:
        """Note results of a node that are to be kept."""
        for value in entries.values():
            if type(value) not in _CONSTANT and isinstance(value, _UNKEEPABLE):
                is_iterator = isinstance(value, Iterator)
                reason = _READ_ONCE if is_iterator else "it cannot be sent back from the process that made it"
                self._warn(node_name, "put", f"the result of node {node_name!r} is not cached: {reason}.")
                return
        now = monotonic()
        if not self._unsaved:
            self._unsaved_since = now
        _, unsaved, labels = self._unsaved.setdefault(id(cache), (cache, {}, {}))
        can_wait = now - self._unsaved_since <= LONGEST_WAIT_S
        for key, value in entries.items():
            if type(value) in _CONSTANT:
                unsaved[key] = value
            else:
                unsaved[key], is_stable = cache.prepare(value)
                can_wait = can_wait and is_stable
            labels[key] = node_name
        if not can_wait:
            self.flush()

    def seconds_left(self) -> float | None:
        """Return how long what is to be kept may still wait to be written; None when there is nothing."""
        return max(self._unsaved_since + LONGEST_WAIT_S - monotonic(), 0) if self._unsaved else None

    def flush(self) -> None:
        """Write what is to be kept; a value that cannot be stored is said once and costs nothing else."""
        while self._unsaved:
            identity, (cache, entries, labels) = next(iter(self._unsaved.items()))
            try:
                cache.put_many(entries, labels)
            except Exception:
                self._put_one_by_one(cache, entries, labels)
            del self._unsaved[identity]  # not before: an interrupt leaves it to be written at the end of the run

    def _put_one_by_one(self, cache: Cache, entries: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        for key in sorted(entries, key=is_record_key):  # results first: one warning for a node, and about its result
            try:
                cache.put_many({key: entries[key]}, labels)
            except Exception as error:
                name, why = labels[key], f"{type(error).__name__}: {error}"
                if is_record_key(key):
                    text = f"what was noted about node {name!r} for `explain` is not kept: {why}."
                else:
                    advice = "Return something that pickle can take, or mark the node @node(cache=False)."
                    text = f"the result of node {name!r} is not cached: {why}. {advice}"
                self._warn(name, "put", text)


def is_constant(value: Any) -> bool:
    """Whether nobody can change a value."""
    return type(value) in _CONSTANT or (type(value) is tuple and all(type(element) in _CONSTANT for element in value))


def read_manifest(manifest: Any) -> list[bytes] | None:
    """Return the signatures of the items of a mapped result; None when it is no list of them."""
    size = signature.DIGEST_SIZE
    if not isinstance(manifest, bytes) or len(manifest) % size:
        return None
    return [manifest[i : i + size] for i in range(0, len(manifest), size)]


def manifest_key(signature_hex: str) -> str:
    """Return the key under which the items of a mapped result are listed."""
    return f"{signature_hex}{_MANIFEST}"


def is_manifest_key(key: str) -> bool:
    """Whether the items of a mapped result are listed under a key, rather than a result kept."""
    return key.endswith(_MANIFEST)
