"""Digests of arbitrary objects: one walk over everything reachable, by rules that say what an object is made of.

A digest is the SHA-256 of an object's tag and of the digests of its parts (a Merkle tree, Merkle 1987). Equal values
have equal digests whether or not their parts are shared objects; a reference back to an object that is being walked is
digested by its distance, so cycles end. The walk keeps its own stack: nesting is limited by memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from hypernodes.errors import HyperNodesError

DIGEST_SIZE = 32


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

    __slots__ = ("children", "digests", "key", "label", "lowest", "position", "tag", "unordered")

    def __init__(self, key: int, label: str, parts: Parts, depth: int) -> None:
        self.key = key
        self.label = label
        self.tag = parts.tag
        self.children = parts.children
        self.unordered = not parts.is_ordered
        self.digests: list[bytes] = []
        self.position = 0
        self.lowest = depth  # the shallowest open object that anything below refers back to


def atom(tag: bytes) -> bytes:
    """Return the digest of something without parts."""
    return sha256(b"%d:%b" % (len(tag), tag)).digest()


def combine(tag: bytes, digests: Sequence[bytes]) -> bytes:
    """Return the digest of something from its tag and the digests of its parts, in order."""
    return sha256(b"%d:%b" % (len(tag), tag) + b"".join(digests)).digest()


def walk(root: Any, rule: Rule, quick: Callable[[Any], bytes | None]) -> bytes:
    """Return the digest of `root`.

    Args:
        root: Any object.
        rule: Says what an object is made of.
        quick: Gives the digest of what has no parts to walk, or None.

    Raises:
        UnhashableValueError: Something reachable cannot be identified by its content.
    """
    known = quick(root)
    if known is not None:
        return known
    done: dict[int, bytes] = {}
    alive: list[Any] = []  # parts may be made on the fly: while their ids are in use they must not be freed
    depth_of: dict[int, int] = {}
    stack: list[_Open] = []

    def enter(label: str, obj: Any) -> None:
        alive.append(obj)
        depth_of[id(obj)] = len(stack)
        try:
            parts = rule(obj)
        except UnhashableValueError as error:
            path = "".join(frame.label for frame in stack) + label + getattr(error, "path", "")
            name = error.culprit_type
            raise UnhashableValueError(f"{path or 'it'} is a {name}: {error}", path=path, culprit_type=name) from None
        stack.append(_Open(id(obj), label, parts, len(stack)))

    enter("", root)
    while True:
        frame = stack[-1]
        if frame.position < len(frame.children):
            label, child = frame.children[frame.position]
            frame.position += 1
            digest = quick(child)
            if digest is None:
                key = id(child)
                digest = done.get(key)
                if digest is None:
                    if key not in depth_of:
                        enter(label, child)
                        continue
                    depth = depth_of[key]
                    frame.lowest = min(frame.lowest, depth)
                    digest = atom(b"back %d" % (len(stack) - depth))
            frame.digests.append(digest)
            continue
        if frame.unordered:
            frame.digests.sort()
        digest = combine(frame.tag, frame.digests)
        stack.pop()
        del depth_of[frame.key]
        if not stack:
            return digest
        if frame.lowest >= len(stack):
            done[frame.key] = digest  # complete in itself: means the same wherever it is met again
        stack[-1].lowest = min(stack[-1].lowest, frame.lowest)
        stack[-1].digests.append(digest)
