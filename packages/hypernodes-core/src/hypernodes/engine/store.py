"""What a run reads from caches and writes to them: many entries at a time, and never at the price of the run.

Results of quick calls are written together, since a transaction costs more than such a call. They are written at the
latest when their item ends, before a call that may take long begins, and when the oldest has waited for 20 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import Any

from hypernodes import signature
from hypernodes.cache.base import MISS, Cache
from hypernodes.cache.record import is_record_key
from hypernodes.engine.parcels import LeftBehind

_LONGEST_WAIT_S = 0.02
_MANIFEST = "-items"

Warn = Callable[[str, str, str], None]  # the subject, the kind of problem (said once for both), the message


class Store:
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

    def keep(self, cache: Cache, entries: Mapping[str, Any], node_name: str) -> None:
        """Note results of a node that are to be kept."""
        if any(isinstance(value, Iterator) for value in entries.values()):
            reason = "it is an iterator, which can be read only once. Return a list"
            self._warn(node_name, "put", f"the result of node {node_name!r} is not cached: {reason}.")
            return
        if any(isinstance(value, LeftBehind) for value in entries.values()):
            reason = "it cannot be sent back from the process that made it"
            self._warn(node_name, "put", f"the result of node {node_name!r} is not cached: {reason}.")
            return
        if not self._unsaved:
            self._unsaved_since = monotonic()
        _, unsaved, labels = self._unsaved.setdefault(id(cache), (cache, {}, {}))
        unsaved.update(entries)
        labels.update(dict.fromkeys(entries, node_name))
        if monotonic() - self._unsaved_since > _LONGEST_WAIT_S:
            self.flush()

    def flush(self) -> None:
        """Write what is to be kept; a value that cannot be stored is said once and costs nothing else."""
        while self._unsaved:
            cache, entries, labels = self._unsaved.pop(next(iter(self._unsaved)))
            try:
                cache.put_many(entries, labels)
            except Exception:
                self._keep_one_by_one(cache, entries, labels)

    def _keep_one_by_one(self, cache: Cache, entries: Mapping[str, Any], labels: Mapping[str, str]) -> None:
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
