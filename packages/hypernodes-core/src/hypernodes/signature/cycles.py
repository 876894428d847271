"""Digests of objects that refer to each other in a circle: one for each, whichever of them is met first.

Objects of cycles that are built alike have the same digest; two of one cycle have it exactly if nothing that can be
reached from one differs from what can be reached from the other in the same way. How many are alike counts: code may
go round a ring and count. The objects are sorted into classes by
what they are and by the classes that they refer to, until no class has to be split (colour refinement, in O(n log n):
Hopcroft 1971, Berkholz et al. 2013). The classes are numbered by content alone, so the numbers mean the same in every
process.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

_WORTH_A_ROUND = 0.05  # look at all members once more while as many more of them are told apart by it


class Member(NamedTuple):
    """An object of a cycle.

    Attributes:
        tag: Its kind, and whatever is known of it as bytes.
        parts: For each part its digest, or the position of the member that it is.
        is_ordered: False when the order of the parts means nothing.
    """

    tag: bytes
    parts: Sequence[bytes | int]
    is_ordered: bool


def digests_of(members: Sequence[Member]) -> list[bytes]:
    """Return the digest of each member of a cycle."""
    keys = [_key(member) for member in members]
    links = [[part for part in member.parts if isinstance(part, int)] for member in members]
    colours, count = _colour(keys, links, members)
    if count == len(members):
        return _named(keys, links, members, colours)
    # Some are alike: each kind is looked at once, with how many of it there are.
    size = Counter(colours)
    first: dict[int, int] = {}
    for position, colour in enumerate(colours):
        first.setdefault(colour, position)
    kinds = list(first)
    place = {colour: i for i, colour in enumerate(kinds)}
    chosen = [first[colour] for colour in kinds]
    of_kinds = _named(
        kind_keys := [keys[first[colour]] + b":%d" % size[colour] for colour in kinds],
        kind_links := [[place[colours[target]] for target in links[i]] for i in chosen],
        kind_members := [members[i] for i in chosen],
        _colour(kind_keys, kind_links, kind_members)[0],
    )
    return [of_kinds[place[colour]] for colour in colours]


def _key(member: Member) -> bytes:
    """Return what a member is apart from the other members that it refers to."""
    hashed = sha256(b"%d:%d:%d:%b" % (member.is_ordered, len(member.parts), len(member.tag), member.tag))
    if member.is_ordered:
        for part in member.parts:
            hashed.update(b"*" if isinstance(part, int) else b"=" + part)
    else:
        for known in sorted(part for part in member.parts if isinstance(part, bytes)):
            hashed.update(known)
    return hashed.digest()


def _named(
    keys: Sequence[bytes], links: Sequence[Sequence[int]], members: Sequence[Member], colours: Sequence[int]
) -> list[bytes]:
    """Return the digests of members all of which have different colours."""
    whole = sha256(b"cycle:%d:" % len(members))
    for i in sorted(range(len(members)), key=colours.__getitem__):
        targets = [colours[target] for target in links[i]]
        if not members[i].is_ordered:
            targets.sort()
        whole.update(keys[i] + repr(targets).encode())
    start = sha256(b"member of " + whole.digest())
    found = []
    for colour in colours:
        own = start.copy()
        own.update(b"%d" % colour)
        found.append(own.digest())
    return found


def _colour(keys: Sequence[bytes], links: Sequence[Sequence[int]], members: Sequence[Member]) -> tuple[list[int], int]:
    """Return a number for each member, the same for two exactly if they cannot be told apart, and how many exist."""
    colours, count = _ranked(keys)
    before = 0
    while before + len(keys) * _WORTH_A_ROUND < count < len(keys):  # most are told apart by what is near them
        before = count
        colours, count = _ranked(
            [
                (
                    colours[i],
                    [colours[to] for to in targets] if members[i].is_ordered else sorted(colours[to] for to in targets),
                )
                for i, targets in enumerate(links)
            ]
        )
    if count == len(keys):
        return colours, count
    classes: list[set[int]] = [set() for _ in range(count)]
    for i, colour in enumerate(colours):
        classes[colour].add(i)
    referrers: list[list[tuple[int, int]]] = [[] for _ in keys]
    for i, targets in enumerate(links):
        for position, target in enumerate(targets):
            referrers[target].append((i, position if members[i].is_ordered else -1))
    waiting = deque(range(len(classes)))
    while waiting:
        splitter = waiting.popleft()
        met: dict[int, list[int]] = {}
        for target in classes[splitter]:
            for i, position in referrers[target]:
                if i in met:
                    met[i].append(position)
                else:
                    met[i] = [position]
        by_colour: dict[int, dict[tuple[int, ...], list[int]]] = {}
        for i, positions in met.items():
            if len(positions) > 1:
                positions.sort()
            by_colour.setdefault(colours[i], {}).setdefault(tuple(positions), []).append(i)
        for colour in sorted(by_colour):
            _split(colour, by_colour[colour], classes, colours, waiting)
    return colours, len(classes)


def _ranked(keys: Sequence[Any]) -> tuple[list[int], int]:
    """Return for each key its place among the different ones in their order, and how many there are."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ranks = [0] * len(keys)
    rank, last = -1, None
    for i in order:
        if keys[i] != last:
            rank, last = rank + 1, keys[i]
        ranks[i] = rank
    return ranks, rank + 1


def _split(
    colour: int,
    groups: dict[tuple[int, ...], list[int]],
    classes: list[set[int]],
    colours: list[int],
    waiting: deque[int],
) -> None:
    """Give the members of a class new colours by how they refer to another class; the most of them keep the old one."""
    rest = classes[colour]
    if len(groups) == 1 and len(rest) == len(next(iter(groups.values()))):
        return
    for group in groups.values():
        rest.difference_update(group)
    pieces = [rest] if rest else []
    pieces += [set(groups[how]) for how in sorted(groups)]
    largest = max(pieces, key=len)
    classes[colour] = largest
    for piece in pieces:
        if piece is largest:
            continue
        new = len(classes)
        classes.append(piece)
        for i in piece:
            colours[i] = new
        waiting.append(new)
