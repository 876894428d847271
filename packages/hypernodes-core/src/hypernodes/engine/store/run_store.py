"""Reads results from caches and writes them, many entries at a time; errors of caches never fail the run.

Results of quick calls are written together, since a transaction costs more than such a call. They are written at the
latest when their item ends, before a call that may take long begins, and when the next one comes and the oldest has
waited for 20 ms; the loop of the concurrent driver also wakes for that. The value written is the one that the call
returned, even if later calls modify it before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from hypernodes import signature
from hypernodes.cache.base import CONSTANTS, MISS, Cache, is_constant
from hypernodes.cache.record import is_record_key
from hypernodes.engine.step import NotTransferred

LONGEST_WAIT_S = 0.02
_MANIFEST = "-items"
_UNSTORABLE = (Iterator, NotTransferred)
_READ_ONCE = "it is an iterator, which can be read only once. Return a list"

Warn = Callable[[str, str, str], None]  # the subject, the kind of problem (one warning for each pair), the message


class RunStore:
    """The caches of one run.

    Args:
        warn: Warns the user, once for each subject, why a value is not read or stored.
    """

    def __init__(self, warn: Warn) -> None:
        self._warn = warn
        self._unsaved: dict[int, tuple[Cache, dict[str, Any], dict[str, str]]] = {}
        self._unsaved_since = 0.0
        self._is_gathering = False

    def actual(self, value: Any) -> Any:
        """Return the value that one of those found stands for: itself; `UNSET` if it is not there yet."""
        return value

    def get(self, cache: Cache, key: str) -> Any:
        """Return the value stored under `key`, or `MISS`."""
        return self.get_many(cache, [key]).get(key, MISS)

    def get_many(self, cache: Cache, keys: Iterable[str]) -> Mapping[str, Any]:
        """Return the values of the keys that are stored; none when the cache cannot be read."""
        keys = list(dict.fromkeys(keys))
        unsaved = self._unsaved[id(cache)][1] if id(cache) in self._unsaved else {}
        found = {key: unsaved[key] for key in keys if key in unsaved}
        if not all(map(is_constant, found.values())):
            self._write()  # prepared values have to be read back by the cache
            found = {}
        missing = [key for key in keys if key not in found] if found else keys
        try:
            if len(missing) == 1:
                value = cache.get(missing[0])
                if value is not MISS:
                    found[missing[0]] = value
            elif missing:
                found |= cache.get_many(missing)
        except Exception as error:
            message = (
                f"nothing can be read from {cache!r}: {type(error).__name__}: {error}; the run goes on without it."
            )
            self._warn(repr(cache), "get", message)
        return found

    def get_each(self, cache: Cache, keys: Sequence[str]) -> list[Any] | None:
        """Return the value of each key, a separate object also for a repeated key; None when any is not stored.

        A node may modify its value without changing that of another node, so a value is read once for each of them.
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
        """Whether a value is stored under each of the keys, by this run or another."""
        wanted = set(keys)
        return wanted <= self.held(cache, wanted)

    def held(self, cache: Cache, keys: Iterable[str]) -> set[str]:
        """Return those of the keys under which a value is stored, by this run or another."""
        try:
            return cache.contains_many(set(keys))
        except Exception:  # an unreadable cache holds nothing
            return set()

    def put(self, cache: Cache, entries: Mapping[str, Any], node_name: str) -> None:
        """Queue results of a node for writing."""
        has_constants_only = True
        for value in entries.values():
            if type(value) not in CONSTANTS:
                has_constants_only = False
                if isinstance(value, _UNSTORABLE):
                    is_iterator = isinstance(value, Iterator)
                    reason = _READ_ONCE if is_iterator else "it cannot be sent back from the process that made it"
                    self._warn(node_name, "put", f"the result of node {node_name!r} is not cached: {reason}.")
                    return
        now = monotonic()
        if not self._unsaved:
            self._unsaved_since = now
        waiting = self._unsaved.get(id(cache))
        if waiting is None:
            waiting = self._unsaved[id(cache)] = (cache, {}, {})
        _, unsaved, labels = waiting
        can_wait = now - self._unsaved_since <= LONGEST_WAIT_S
        if has_constants_only:
            unsaved.update(entries)
        else:
            for key, value in entries.items():
                unsaved[key], is_stable = (value, True) if is_constant(value) else cache.prepare(value)
                can_wait = can_wait and is_stable
        for key in entries:
            labels[key] = node_name
        if not can_wait:
            self._write()

    def seconds_left(self) -> float | None:
        """Return how long queued results may still wait to be written, in seconds; None when there are none."""
        return max(self._unsaved_since + LONGEST_WAIT_S - monotonic(), 0) if self._unsaved else None

    def flush(self) -> None:
        """Write the queued results; a value that cannot be stored causes one warning, and the others are written."""
        if self._unsaved and not self._is_gathering:
            self._write()

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Write together what is queued meanwhile, after 20 ms at the latest: results that are all there already."""
        outer, self._is_gathering = self._is_gathering, True
        try:
            yield
        finally:
            self._is_gathering = outer
            self.flush()

    def _write(self) -> None:
        while self._unsaved:
            identity, (cache, entries, labels) = next(iter(self._unsaved.items()))
            try:
                cache.put_many(entries, labels)
            except Exception:
                self._put_one_by_one(cache, entries, labels)
            del self._unsaved[identity]  # only now: after an interrupt it is written at the end of the run

    def _put_one_by_one(self, cache: Cache, entries: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        for key in sorted(
            entries, key=is_record_key
        ):  # results first, so that the one warning for a node is about its result
            try:
                cache.put_many({key: entries[key]}, labels)
            except Exception as error:
                name, why = labels[key], f"{type(error).__name__}: {error}"
                if is_record_key(key):
                    text = f"the record of node {name!r} for `explain` is not stored: {why}."
                else:
                    advice = "Return a value that pickle can serialize, or mark the node @node(cache=False)."
                    text = f"the result of node {name!r} is not cached: {why}. {advice}"
                self._warn(name, "put", text)


def read_manifest(manifest: Any) -> list[bytes] | None:
    """Return the signatures of the items of a mapped result; None when `manifest` is not a list of signatures."""
    size = signature.DIGEST_SIZE
    if not isinstance(manifest, bytes) or len(manifest) % size:
        return None
    return [manifest[i : i + size] for i in range(0, len(manifest), size)]


def manifest_key(signature_hex: str) -> str:
    """Return the key under which the items of a mapped result are listed."""
    return f"{signature_hex}{_MANIFEST}"


def is_manifest_key(key: str) -> bool:
    """Whether a key is that of a manifest of a mapped result, rather than of a result."""
    return key.endswith(_MANIFEST)
