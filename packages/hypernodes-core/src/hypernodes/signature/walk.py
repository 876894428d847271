"""Digests of arbitrary objects: one walk over everything reachable, by rules that say what an object is made of.

A digest is the SHA-256 of an object's tag and of the digests of its parts (a Merkle tree, Merkle 1987). Equal values
have equal digests whether or not their parts are shared objects. A reference into a cycle that is being walked is
digested by how many objects of the cycle ago its target was met (compare Tarjan's strongly connected components, 1972),
so that the walk ends, and every object is walked once. The walk keeps its own stack: nesting is limited by memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from hypernodes.errors import HyperNodesError


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


Rule = Callable[[Any], Parts]


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
        "children",
        "depth",
        "digests",
        "key",
        "label",
        "lowest",
        "members",
        "number",
        "obj",
        "position",
        "tag",
        "unordered",
    )

    def __init__(self, obj: Any, label: str, parts: Parts, depth: int, number: int) -> None:
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


class _Closed(NamedTuple):
    """An object that has been walked.

    Attributes:
        digest: Its digest.
        members: The objects that form a cycle with it; inside that cycle it has to be walked afresh.
    """

    digest: bytes
    members: frozenset[int]


class Memo:
    """Digests of classes and functions that several walks share; valid while none of them changes."""

    def __init__(self) -> None:
        self.closed: dict[int, _Closed] = {}
        self.alive: list[Any] = []  # what is known by its id must not be freed

    def remember(self, obj: Any, digest: bytes) -> None:
        """Take the digest of a class or function from where its source is."""
        self.closed[id(obj)] = _Closed(digest, frozenset())
        self.alive.append(obj)


def atom(tag: bytes) -> bytes:
    """Return the digest of something without parts."""
    return sha256(b"%d:%b" % (len(tag), tag)).digest()


def combine(tag: bytes, digests: Sequence[bytes]) -> bytes:
    """Return the digest of something from its tag and the digests of its parts, in order."""
    return sha256(b"%d:%b" % (len(tag), tag) + b"".join(digests)).digest()


def walk(
    root: Any,
    rule: Rule,
    quick: Callable[[Any], bytes | None],
    memo: Memo | None = None,
    is_shared: Callable[[Any], bool] = lambda obj: False,
) -> bytes:
    """Return the digest of `root`.

    Args:
        root: Any object.
        rule: Says what an object is made of.
        quick: Gives the digest of what has no parts to walk, or None.
        memo: Digests known from other walks.
        is_shared: Whether the digest of an object is kept in `memo`.

    Raises:
        UnhashableValueError: Something reachable cannot be identified by its content.
    """
    known = quick(root)
    if known is not None:
        return known
    memo = memo or Memo()
    closed: dict[int, _Closed] = {}
    unfinished: dict[int, tuple[int, int]] = {}  # walked, but part of a cycle that is not: number, shallowest depth
    alive: list[Any] = []  # parts may be made on the fly: while their ids are in use they must not be freed
    open_at: dict[int, int] = {}
    stack: list[_Open] = []
    number = 0  # of objects met in unfinished cycles; tells which object a reference goes back to

    def enter(label: str, obj: Any) -> None:
        alive.append(obj)
        try:
            parts = rule(obj)
        except UnhashableValueError as error:
            path = "".join(frame.label for frame in stack) + label + getattr(error, "path", "")
            name = error.culprit_type
            raise UnhashableValueError(f"{path} is a {name}: {error}", path=path, culprit_type=name) from None
        except Exception as error:  # of the object's own code: a __cache_key__, a __reduce__
            path, name = "".join(frame.label for frame in stack) + label, type(obj).__name__
            text = f"{path} is a {name} that cannot be identified: {type(error).__name__}: {error}"
            raise UnhashableValueError(text, path=path, culprit_type=name) from error
        open_at[id(obj)] = len(stack)
        stack.append(_Open(obj, label, parts, len(stack), number))

    def recall(key: int) -> bytes | None:
        for source in (closed, memo.closed):
            entry = source.get(key)
            if entry is not None and entry.members.isdisjoint(open_at):
                return entry.digest
        return None

    key = id(root)
    if (remembered := recall(key)) is not None:
        return remembered
    enter("", root)
    while True:
        frame = stack[-1]
        if frame.position < len(frame.children):
            label, child = frame.children[frame.position]
            frame.position += 1
            digest = quick(child)
            if digest is None:
                key = id(child)
                digest = recall(key)
                if digest is None:
                    if key in open_at:
                        target, depth = stack[open_at[key]].number, open_at[key]
                    elif key in unfinished:
                        target, depth = unfinished[key]
                    else:
                        number += 1
                        enter(label, child)
                        continue
                    frame.lowest = min(frame.lowest, depth)
                    digest = atom(b"back %d" % (number - target))
            frame.digests.append(digest)
            continue
        if frame.unordered:
            frame.digests.sort()
        digest = combine(frame.tag, frame.digests)
        stack.pop()
        del open_at[frame.key]
        if frame.lowest >= frame.depth:  # complete in itself: means the same wherever it is met again
            entry = _Closed(digest, frozenset(frame.members))
            closed[frame.key] = entry
            for member in frame.members:
                unfinished.pop(member, None)
            number = frame.number - 1  # as if it had been known: what is complete takes no part in the count
            if is_shared(frame.obj):
                memo.closed[frame.key] = entry
                memo.alive.append(frame.obj)
        else:
            unfinished[frame.key] = (frame.number, frame.lowest)
        if not stack:
            return digest
        parent = stack[-1]
        if frame.lowest < frame.depth:
            parent.lowest = min(parent.lowest, frame.lowest)
            parent.members |= frame.members
            parent.members.add(frame.key)
        parent.digests.append(digest)
