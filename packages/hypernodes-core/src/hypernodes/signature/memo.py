"""Digests of code that are known already: within one run, and from run to run as long as nothing has changed.

What a function is does not change while it, the functions and classes it refers to and the constants among them are the
same objects. So an entry keeps, for each piece of code below it, what it referred to; looking that up again costs
microseconds. Values that can change in place (a list, a model) are identified afresh in every run.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hypernodes.locks import reset_after_fork

_MOST_ENTRIES = 65_536


class Check(NamedTuple):
    """How to see that something that code refers to is still the same.

    Attributes:
        expected: A reference to it, or itself when it can never change; None when only its content tells.
        digest: Digest of its content.
    """

    expected: Any
    digest: bytes


class Watched(NamedTuple):
    """A piece of code and what it referred to.

    Attributes:
        target: A reference to it.
        code: Its code object, if it is a function.
        labels: How one gets to what it refers to.
        checks: How to see that each is the same, in the same order.
    """

    target: Any
    code: Any
    labels: tuple[str, ...]
    checks: Sequence[Check]


class KnownCode:
    """What is known of a piece of code, and what it depends on."""

    __slots__ = ("depends_on", "digest", "target", "watched")

    def __init__(self, target: Any, digest: bytes, watched: Sequence[Watched], depends_on: Sequence[KnownCode]) -> None:
        self.target = target
        self.digest = digest
        self.watched = watched
        self.depends_on = depends_on


_entries: OrderedDict[int, KnownCode] = OrderedDict()
_lock = reset_after_fork(threading.Lock())


class Memo:
    """What one run knows of code: each piece is looked at once per run.

    Args:
        children: Returns what a piece of code refers to; None to know nothing of other runs.
        digest: Returns the digest of a value.
    """

    def __init__(
        self,
        children: Callable[[Any], Sequence[tuple[str, Any]]] | None = None,
        digest: Callable[[Any, Memo], bytes] | None = None,
    ) -> None:
        self.readers: dict[type, Any] = {}
        self.rules: dict[type, Any] = {}
        self._children = children
        self._digest = digest
        self._known: dict[int, bytes] = {}
        self._entries: dict[int, KnownCode | None] = {}
        self._valid: set[int] = set()  # ids of the entries that were checked in this run
        self._checking: set[int] = set()
        self._alive: list[Any] = []  # what is known by its id must not be freed

    def find(self, obj: Any) -> bytes | None:
        """Return the digest of a piece of code, if it is known."""
        key = id(obj)
        known = self._known.get(key)
        if known is not None or self._children is None or key in self._entries:
            return known
        entry = _entries.get(key)
        if entry is None or _target(entry.target) is not obj:
            return None
        self._alive.append(obj)
        if not self._is_valid(entry):
            self._entries[key] = None
            with _lock:
                _entries.pop(key, None)
            return None
        self._entries[key] = entry
        self._known[key] = entry.digest
        return entry.digest

    def remember(self, obj: Any, digest: bytes) -> None:
        """Take the digest of a function or class from where its source is; it holds for this run."""
        self._known[id(obj)] = digest
        self._alive.append(obj)

    def entry(self, obj: Any) -> KnownCode | None:
        """Return the entry of a piece of code that was found or added in this run."""
        return self._entries.get(id(obj))

    def add(
        self,
        obj: Any,
        digest: bytes,
        watched: Sequence[Watched],
        depends_on: Sequence[KnownCode],
        is_memorable: bool,
    ) -> None:
        """Keep the digest of a piece of code, for this run and, if it can be checked, for later ones."""
        key = id(obj)
        self._known[key] = digest
        self._alive.append(obj)
        if not is_memorable:
            return
        entry = KnownCode(_reference_that_removes(obj, key), digest, watched, depends_on)
        self._entries[key] = entry
        self._alive.append(entry)
        self._valid.add(id(entry))
        with _lock:
            _entries[key] = entry
            _entries.move_to_end(key)
            if len(_entries) > _MOST_ENTRIES:
                _entries.popitem(last=False)

    def _is_valid(self, entry: KnownCode) -> bool:
        """Whether nothing below an entry has changed; only then is any of it taken to be valid."""
        waiting, seen = [entry], dict[int, KnownCode]()
        while waiting:
            current = waiting.pop()
            key = id(current)
            if key in self._valid or key in seen:
                continue
            if key in self._checking:  # asked for by a value below itself, or by another thread: nobody knows yet
                return False
            seen[key] = current
            self._checking.add(key)
            try:
                if not self._is_unchanged(current):
                    return False
            finally:
                self._checking.discard(key)
            waiting += current.depends_on
        self._alive += seen.values()
        self._valid.update(seen)
        return True

    def _is_unchanged(self, entry: KnownCode) -> bool:
        assert self._children is not None
        for watched in entry.watched:
            target = _target(watched.target)
            if target is None or getattr(target, "__code__", None) is not watched.code:
                return False
            try:
                children = self._children(target)
            except Exception:
                return False  # the walk will say what is wrong
            if len(children) != len(watched.checks):
                return False
            for (label, child), known, check in zip(children, watched.labels, watched.checks, strict=True):
                if label != known or not self._is_same(child, check):
                    return False
        return True

    def changes_of(self, watched: Watched) -> list[tuple[Any, str, bytes]]:
        """Return what a piece of code refers to that is not what it was; see `changes`."""
        assert self._children is not None
        target = _target(watched.target)
        if target is None:
            return []
        children = self._children(target)
        known: dict[str, list[Check]] = {}
        for label, check in zip(watched.labels, watched.checks, strict=True):
            known.setdefault(label, []).append(check)  # key and value of an entry of a dictionary have the same
        found: list[tuple[Any, str, bytes]] = []
        for label, child in children:
            checks = known.get(label)
            if not checks:
                found.append((target, label, b""))
                continue
            check = checks.pop(0)
            if not self._is_same(child, check):
                found.append((target, label, check.digest))
        return found + [(target, label, check.digest) for label, checks in known.items() for check in checks]

    def _is_same(self, child: Any, check: Check) -> bool:
        expected = check.expected
        if expected is not None:
            if child is expected or (isinstance(expected, weakref.ref) and child is not None and expected() is child):
                return True
            if not check.digest:
                return False
        return self._has_digest(child, check.digest)

    def _has_digest(self, value: Any, digest: bytes) -> bool:
        assert self._digest is not None
        try:
            return self._digest(value, self) == digest
        except Exception:
            return False


def changes(obj: Any, memo: Memo) -> list[tuple[Any, str, bytes]] | None:
    """Return what a piece of code refers to that is not what it was when it was identified last.

    Args:
        obj: The code.
        memo: A new memo, which has not taken anything to be unchanged yet.

    Returns:
        The piece of code below, how it gets to what changed, and the digest that this had; None where nothing is known.
    """
    entry = _entries.get(id(obj))
    if entry is None or _target(entry.target) is not obj:
        return None
    found: list[tuple[Any, str, bytes]] = []
    waiting, seen = [entry], {id(entry)}
    while waiting:
        current = waiting.pop()
        for watched in current.watched:
            found += memo.changes_of(watched)
        new = [other for other in current.depends_on if id(other) not in seen]
        seen.update(map(id, new))
        waiting += new
    return found


def reference_to(obj: Any) -> Any:
    """Return a weak reference to an object; the object itself where there can be none."""
    try:
        return weakref.ref(obj)
    except TypeError:
        return obj


def _target(reference: Any) -> Any:
    return reference() if isinstance(reference, weakref.ref) else reference


def _reference_that_removes(obj: Any, key: int) -> Any:
    def remove(gone: Any) -> None:
        entry = _entries.get(key)
        if entry is not None and entry.target is gone:
            _entries.pop(key, None)

    try:
        return weakref.ref(obj, remove)
    except TypeError:
        return obj
