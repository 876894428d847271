"""Digests of arbitrary objects: one walk over everything reachable, by rules that say what an object is made of.

A digest is the SHA-256 of an object's tag and of the digests of its parts (a Merkle tree, Merkle 1987). Equal values
have equal digests whether or not their parts are shared objects. A reference into a cycle that is being walked is
digested by how many objects of the cycle ago its target was met (compare Tarjan's strongly connected components, 1972),
so that the walk ends, and every object is walked once. The walk keeps its own stack: nesting is limited by memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from hypernodes.errors import HyperNodesError
from hypernodes.signature.memo import Check, Closed, Entry, Memo, Watched, reference_to


class Parts(NamedTuple):
    """What an object is made of.

    Attributes:
        tag: Its kind, and whatever is known of it as bytes.
        children: The objects it consists of, each with how one gets there (for messages), e.g. `".dim"` or `"[3]"`.
        is_ordered: False when the order of the children means nothing (a set).
    """

    tag: bytes
    children: Sequence[tuple[str, Any]] = ()
    is_ordered: bool = True


class Rules(Protocol):
    """What a walk has to know about objects."""

    def quick(self, obj: Any) -> bytes | None:
        """Return the digest of what has no parts to walk, or None."""

    def shortcut(self, obj: Any, recall: Callable[[Any], bytes | None]) -> bytes | None:
        """Return the digest of an object that is made of its class and plain data only, or None."""

    def parts(self, obj: Any) -> Parts:
        """Say what an object is made of."""

    def is_code(self, obj: Any) -> bool:
        """Whether an object is code: it stays what it is while what it refers to is the same objects."""

    def is_constant(self, obj: Any) -> bool:
        """Whether an object can never change."""


class UnhashableValueError(HyperNodesError, TypeError):
    """Something cannot be identified by its content, so what depends on it cannot be cached.

    Attributes:
        path: Where it is, from the object asked about, e.g. `.client._lock`.
        culprit_type: Name of its type.
    """

    path: str
    culprit_type: str


class _Open:
    """An object whose parts are being walked."""

    __slots__ = (
        "checks",
        "children",
        "depends_on",
        "depth",
        "digests",
        "is_memorable",
        "key",
        "label",
        "lowest",
        "members",
        "number",
        "obj",
        "position",
        "tag",
        "unordered",
        "watched",
    )

    def __init__(self, obj: Any, label: str, parts: Parts, depth: int, number: int, is_code: bool) -> None:
        self.obj = obj
        self.key = id(obj)
        self.label = label
        self.tag = parts.tag
        self.children = parts.children
        self.unordered = not parts.is_ordered
        self.digests: list[bytes] = []
        self.position = 0
        self.depth = depth
        self.number = number
        self.lowest = depth  # depth of the shallowest open object that anything below refers back to
        self.members: set[int] = set()  # objects below that refer back to it or beyond
        # Of code: how to see later that it has not changed.
        self.checks: list[Check] | None = [] if is_code else None
        self.watched: list[Watched] = []  # and of the code below that has no entry of its own
        self.depends_on: list[Entry] = []
        self.is_memorable = True


def atom(tag: bytes) -> bytes:
    """Return the digest of something without parts."""
    return sha256(b"%d:%b" % (len(tag), tag)).digest()


def combine(tag: bytes, digests: Sequence[bytes]) -> bytes:
    """Return the digest of something from its tag and the digests of its parts, in order."""
    return sha256(b"%d:%b" % (len(tag), tag) + b"".join(digests)).digest()


def walk(root: Any, rules: Rules, memo: Memo) -> bytes:
    """Return the digest of `root`.

    Args:
        root: Any object.
        rules: Says what objects are made of.
        memo: Digests of code that are known already; what is met here is added.

    Raises:
        UnhashableValueError: Something reachable cannot be identified by its content.
    """
    closed: dict[int, Closed] = {}
    unfinished: dict[int, tuple[int, int]] = {}  # walked, but part of a cycle that is not: number, shallowest depth
    alive: list[Any] = []  # parts may be made on the fly: while their ids are in use they must not be freed
    open_at: dict[int, int] = {}
    stack: list[_Open] = []
    number = 0  # of objects met in unfinished cycles; tells which object a reference goes back to

    def enter(label: str, obj: Any, is_code: bool) -> None:
        alive.append(obj)
        try:
            parts = rules.parts(obj)
        except UnhashableValueError as error:
            path = "".join(frame.label for frame in stack) + label + getattr(error, "path", "")
            name = error.culprit_type
            reason = error.args[0] if error.args else ""
            raise UnhashableValueError(
                f"{path} is a {name}: {reason}", path=path, culprit_type=name
            ) from error.__cause__
        except Exception as error:  # of the object's own code: a __cache_key__, a __reduce__
            path, name = "".join(frame.label for frame in stack) + label, type(obj).__name__
            text = f"{path} is a {name} that cannot be identified: {type(error).__name__}: {error}"
            raise UnhashableValueError(text, path=path, culprit_type=name) from error
        open_at[id(obj)] = len(stack)
        stack.append(_Open(obj, label, parts, len(stack), number, is_code))

    def recall(obj: Any) -> bytes | None:
        key = id(obj)
        entry = closed.get(key)
        if entry is None:
            entry = memo.find(obj) if rules.is_code(obj) else None
        if entry is not None and entry.members.isdisjoint(open_at):
            return entry.digest
        return None

    def note(frame: _Open, child: Any, digest: bytes) -> None:
        """Write down how to see that a child of code is what it was."""
        assert frame.checks is not None
        if not rules.is_code(child):
            frame.checks.append(Check(child if rules.is_constant(child) else None, digest))
            return
        frame.checks.append(Check(reference_to(child), b""))
        entry = memo.entry(child)
        if entry is not None:
            frame.depends_on.append(entry)

    known = recall(root)
    if known is not None:
        return known
    enter("", root, rules.is_code(root))
    while True:
        frame = stack[-1]
        if frame.position < len(frame.children):
            label, child = frame.children[frame.position]
            frame.position += 1
            digest = rules.quick(child)
            if digest is None:
                key = id(child)
                digest = recall(child)
                if digest is None:
                    is_code = rules.is_code(child)
                    if key in open_at:
                        target, depth = stack[open_at[key]].number, open_at[key]
                    elif key in unfinished:
                        target, depth = unfinished[key]
                    else:
                        digest = rules.shortcut(child, recall)
                        if digest is None:
                            number += 1
                            enter(label, child, is_code)
                            continue
                        depth = frame.depth
                    if digest is None:
                        frame.lowest = min(frame.lowest, depth)
                        frame.is_memorable &= is_code
                        digest = atom(b"back %d" % (number - target))
            frame.digests.append(digest)
            if frame.checks is not None:
                note(frame, child, digest)
            continue
        if frame.unordered:
            frame.digests.sort()
        digest = combine(frame.tag, frame.digests)
        stack.pop()
        del open_at[frame.key]
        is_complete = frame.lowest >= frame.depth  # means the same wherever it is met again
        if frame.checks is not None:
            labels = tuple(label for label, _ in frame.children)
            code = getattr(frame.obj, "__code__", None)
            frame.watched.append(Watched(reference_to(frame.obj), code, labels, frame.checks))
        if is_complete:
            entry = Closed(digest, frozenset(frame.members))
            closed[frame.key] = entry
            for member in frame.members:
                unfinished.pop(member, None)
            number = frame.number - 1  # as if it had been known: what is complete takes no part in the count
            if frame.checks is not None:
                memo.add(frame.obj, entry, frame.watched, frame.depends_on, frame.is_memorable)
        else:
            unfinished[frame.key] = (frame.number, frame.lowest)
        if not stack:
            return digest
        parent = stack[-1]
        if not is_complete:
            parent.lowest = min(parent.lowest, frame.lowest)
            parent.members |= frame.members
            parent.members.add(frame.key)
        parent.digests.append(digest)
        if frame.checks is None:
            # A value inside a cycle has no digest of its own by which it could be checked.
            parent.is_memorable &= is_complete
        elif parent.checks is None:
            parent.is_memorable &= is_complete
        elif not is_complete or memo.entry(frame.obj) is None:
            parent.watched += frame.watched
            parent.depends_on += frame.depends_on
            parent.is_memorable &= frame.is_memorable
        if parent.checks is not None:
            note(parent, frame.obj, digest)
