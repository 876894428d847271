"""Digests of arbitrary objects: one walk over everything reachable, by rules that say what an object is made of.

A digest is the SHA-256 of an object's tag and of the digests of its parts (a Merkle tree, Merkle 1987). Equal values
have equal digests whether or not their parts are shared objects. Objects that refer to each other in a circle are
digested together, when all of them have been met (Tarjan's strongly connected components, 1972; see `cycles`), so that
every object is walked once and the digests do not depend on where the walk began. The walk keeps its own stack: nesting
is limited by memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from hypernodes.errors import HyperNodesError
from hypernodes.signature.cycles import Member, digests_of
from hypernodes.signature.memo import Check, KnownCode, Memo, Watched, reference_to


class Parts(NamedTuple):
    """What an object is made of.

    Attributes:
        tag: Its kind, and whatever is known of it as bytes.
        children: The objects it consists of, each with how one gets there (for messages): a text such as `".dim"`, the
            position in a sequence, or the key of a dict in a tuple. Of code always a text.
        is_ordered: False when the order of the children means nothing (a set).
    """

    tag: bytes
    children: Sequence[tuple[Any, Any]] = ()
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
        chain: The types of the objects on the way to it, from the object asked about, each with how one gets there.
    """

    path: str
    culprit_type: str
    chain: tuple[tuple[Any, type], ...] = ()


class _Open:
    """An object whose parts are being walked."""

    __slots__ = (
        "checks",
        "children",
        "depends_on",
        "digests",
        "is_cyclic",
        "is_memorable",
        "label",
        "lowest",
        "number",
        "obj",
        "parts",
    )

    def __init__(self, obj: Any, label: Any, parts: Parts, number: int, is_code: bool) -> None:
        self.obj = obj
        self.label = label
        self.parts = parts
        self.children = iter(parts.children)
        self.digests: list[bytes | int] = []  # of the parts; the id of one that is in a cycle with this object
        self.number = number  # of the objects in the order they were met
        self.lowest = number  # of the objects in a cycle with this one, the first that was met
        self.is_cyclic = False
        # Of code: how to see later that it has not changed.
        self.checks: list[Check] | None = [] if is_code else None
        self.depends_on: list[KnownCode] = []
        self.is_memorable = is_code


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
    return _Walk(rules, memo).run(root)


class _Walk:
    """One walk, in the manner of Tarjan's search for strongly connected components."""

    def __init__(self, rules: Rules, memo: Memo) -> None:
        self._rules = rules
        self._memo = memo
        self._closed: dict[int, bytes] = {}
        self._alive: list[Any] = []  # parts may be made on the fly: while their ids are in use they must not be freed
        self._numbers: dict[int, int] = {}  # of objects met whose digest is not known yet
        self._stack: list[_Open] = []
        self._waiting: list[_Open] = []  # walked, but in a cycle with an object that is still open

    def run(self, root: Any) -> bytes:
        rules, closed, numbers, stack = self._rules, self._closed, self._numbers, self._stack
        quick, shortcut, recall = rules.quick, rules.shortcut, self._recall
        known = recall(root)
        if known is not None:
            return known
        frame = self._enter("", root)
        while True:
            digests, checks = frame.digests, frame.checks
            for label, child in frame.children:
                key = id(child)
                digest: bytes | int | None = closed.get(key)
                if digest is None:
                    number = numbers.get(key)
                    if number is not None:
                        if number < frame.lowest:
                            frame.lowest = number
                        digest = key
                        frame.is_cyclic = True
                    else:
                        digest = quick(child) or recall(child) or shortcut(child, recall)
                        if digest is None:
                            frame = self._enter(label, child)
                            break
                digests.append(digest)
                if checks is not None:
                    self._note(frame, child, digest)
            else:
                stack.pop()
                whole = self._close(frame)
                if not stack:
                    assert whole is not None
                    return whole
                child, lowest = frame.obj, frame.lowest
                frame = stack[-1]
                if whole is None and lowest < frame.lowest:
                    frame.lowest = lowest
                frame.digests.append(id(child) if whole is None else whole)
                if frame.checks is not None:
                    self._note(frame, child, whole or b"")

    def _enter(self, label: Any, obj: Any) -> _Open:
        self._alive.append(obj)
        try:
            parts = self._rules.parts(obj)
        except UnhashableValueError as error:
            path = self._path_to(label) + getattr(error, "path", "")
            name = error.culprit_type
            reason = error.args[0] if error.args else ""
            raise UnhashableValueError(
                f"{path} is a {name}: {reason}", path=path, culprit_type=name, chain=self._chain_to(label, obj)
            ) from error.__cause__
        except Exception as error:  # of the object's own code: a __cache_key__, a __reduce__
            path, name = self._path_to(label), type(obj).__name__
            text = f"{path} is a {name} that cannot be identified: {type(error).__name__}: {error}"
            chain = self._chain_to(label, obj)
            raise UnhashableValueError(text, path=path, culprit_type=name, chain=chain) from error
        number = self._numbers[id(obj)] = len(self._numbers)
        frame = _Open(obj, label, parts, number, self._rules.is_code(obj))
        self._stack.append(frame)
        return frame

    def _chain_to(self, label: Any, obj: Any) -> tuple[tuple[Any, type], ...]:
        return (*((frame.label, type(frame.obj)) for frame in self._stack), (label, type(obj)))

    def _path_to(self, label: Any) -> str:
        return "".join([_text_of(frame.label) for frame in self._stack]) + _text_of(label)

    def _recall(self, obj: Any) -> bytes | None:
        """Return the digest of code that is known."""
        return (self._closed.get(id(obj)) or self._memo.find(obj)) if self._rules.is_code(obj) else None

    def _note(self, frame: _Open, child: Any, digest: bytes | int) -> None:
        """Write down how to see that a child of code is what it was."""
        assert frame.checks is not None
        if not self._rules.is_code(child):
            content = digest if isinstance(digest, bytes) else b""
            frame.checks.append(Check(child if self._rules.is_constant(child) else None, content))
            return
        frame.checks.append(Check(reference_to(child), b""))
        if isinstance(digest, bytes) and digest:
            entry = self._memo.entry(child)
            if entry is not None:
                frame.depends_on.append(entry)
            else:
                frame.is_memorable = False  # nobody could see later that it has not changed

    def _close(self, frame: _Open) -> bytes | None:
        """Return the digest of an object whose parts are known; None when it is in a cycle that is still open."""
        if frame.lowest < frame.number:
            self._waiting.append(frame)
            return None
        waiting, parts = self._waiting, frame.parts
        if not frame.is_cyclic and not (waiting and waiting[-1].number > frame.number):
            known: Any = frame.digests
            digest = combine(parts.tag, known if parts.is_ordered else sorted(known))
            if frame.checks is not None:
                self._know([frame], [digest])
            else:
                key = id(frame.obj)
                self._closed[key] = digest
                del self._numbers[key]
            return digest
        members = [frame]
        while waiting and waiting[-1].number > frame.number:
            members.append(waiting.pop())
        position = {id(member.obj): i for i, member in enumerate(members)}
        found = digests_of(
            [
                Member(
                    member.parts.tag,
                    [part if isinstance(part, bytes) else position[part] for part in member.digests],
                    member.parts.is_ordered,
                )
                for member in members
            ]
        )
        self._know(members, found)
        return found[0]

    def _know(self, members: list[_Open], digests: list[bytes]) -> None:
        """Take note of the digests of an object, or of all those in a cycle."""
        watched: list[Watched] = []
        depends_on: list[KnownCode] = []
        is_memorable = all(member.is_memorable for member in members)
        if is_memorable:
            for member in members:
                labels = tuple([label for label, _ in member.parts.children])
                code = getattr(member.obj, "__code__", None)
                watched.append(Watched(reference_to(member.obj), code, labels, member.checks or ()))
                depends_on += member.depends_on
        for member, digest in zip(members, digests, strict=True):
            key = id(member.obj)
            self._closed[key] = digest
            # Its number is free again: what is still open was met before, so all the numbers in use are lower.
            del self._numbers[key]
            if member.checks is not None:
                self._memo.add(member.obj, digest, watched, depends_on, is_memorable)


def _text_of(label: Any) -> str:
    """Return a label as text: positions and keys are written only when somebody reads them."""
    if isinstance(label, int):
        return f"[{label}]"
    if isinstance(label, tuple):
        (key,) = label
        return f"[{key!r:.80}]" if type(key) in (str, int) else "[key]"
    return str(label)
