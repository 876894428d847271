"""Plain data as bytes: numbers, text and nested built-in containers of such, in one go and without a walk.

The encoding is exact (different values, different bytes) and depends on nothing but content and types: on the order of
dicts, since code can see it, but not on that of sets, not on which objects are shared, not on the machine. What is too
deep, too intricate or no plain data is left to the walk - also a matter of content alone, so that a value is always
treated in the same way.
"""

from __future__ import annotations

import marshal
import math
from collections.abc import Iterable
from hashlib import sha256
from types import NoneType
from typing import Any

_DEEPEST = 8
_MOST_CONTAINERS = 2_000_000  # counted as often as they occur, so that shared ones cannot take forever
_LONG_TEXT = 4096
_LONG_CONTAINER = 4096
_PIECE = 1 << 20
_EXACT = frozenset({int, bool, NoneType})
_SCALARS = frozenset({int, bool, NoneType, str, bytes, float})
_dumps = marshal.dumps
_VERSION = 2  # of marshal: the last one without references, so that only content matters


def quick(value: Any) -> bytes | None:
    """Return the digest of plain data; None for anything else."""
    kind = type(value)
    if kind in _SCALARS:
        return sha256(b"plain:" + _scalar(value, kind)).digest()
    if kind not in _CONTAINERS:
        return atom_of(value)
    if (kind is list or kind is tuple) and value and type(value[0]) not in _PLAIN_TYPES:
        return None
    encoded = encode(value)
    return None if encoded is None else sha256(b"plain:" + encoded).digest()


def atom_of(value: Any) -> bytes | None:
    """Return the digest of the two other constants of the language."""
    if value is ... or value is NotImplemented:
        return sha256(b"constant:" + repr(value).encode()).digest()
    return None


def encode(value: Any) -> bytes | None:
    """Return plain data as bytes; None when it is anything else."""
    return _encode(value, _DEEPEST, [_MOST_CONTAINERS])


def encode_attributes(attributes: dict[str, Any]) -> bytes | None:
    """Return the attributes of an object as bytes, whatever order they were set in; None when any is not plain."""
    if not _PLAIN_TYPES.issuperset(map(type, attributes.values())):
        return None
    names = sorted(attributes)
    pieces = _encode_all(map(attributes.__getitem__, names), _DEEPEST, [_MOST_CONTAINERS])
    if pieces is None:
        return None
    return _joined(b"A", len(names), [_dumps(tuple(names), _VERSION), *pieces])


def _scalar(value: Any, kind: type) -> bytes:
    if kind is float:
        return marshal.dumps(value, _VERSION) if value == value else b"#n"  # which nan it is depends on the machine
    if kind is str and len(value) > _LONG_TEXT:
        return b"#S" + _digest_of_text(value)
    if kind is bytes and len(value) > _LONG_TEXT:
        return b"#B" + sha256(value).digest()
    return marshal.dumps(value, _VERSION)


def _digest_of_text(text: str) -> bytes:
    hashed = sha256()
    for start in range(0, len(text), _PIECE):
        hashed.update(text[start : start + _PIECE].encode("utf-8", "surrogatepass"))
    return hashed.digest()


def _encode(value: Any, depth: int, budget: list[int]) -> bytes | None:
    kind = type(value)
    if kind in _SCALARS:
        return _scalar(value, kind)
    letter = _CONTAINERS.get(kind)
    if letter is None or depth == 0 or budget[0] <= 0:
        return None
    budget[0] -= 1
    if kind is dict:
        return _encode_dict(value, depth - 1, budget)
    if kind is tuple or kind is list:
        if len(value) > _LONG_CONTAINER:
            return _hashed(letter, len(value), _blocks(value, depth - 1, budget))
        return _encode_sequence(letter, value, depth - 1, budget)
    pieces = _encode_all(value, depth - 1, budget)
    return None if pieces is None else _joined(letter, len(pieces), sorted(pieces))


def _encode_sequence(letter: bytes, value: Any, depth: int, budget: list[int]) -> bytes | None:
    types = set(map(type, value))
    if types <= _EXACT or (len(types) == 1 and _can_be_taken_at_once(next(iter(types)), value)):
        return b"#" + letter + marshal.dumps(value, _VERSION)
    pieces = _encode_all(value, depth, budget)
    return None if pieces is None else b"".join((b"#%b%d:" % (letter.upper(), len(pieces)), *pieces))


def _can_be_taken_at_once(kind: type, value: Any) -> bool:
    if kind is float:
        return not any(map(math.isnan, value))
    return (kind is str or kind is bytes) and max(map(len, value)) <= _LONG_TEXT


def _blocks(value: Any, depth: int, budget: list[int]) -> Iterable[bytes | None]:
    for start in range(0, len(value), _LONG_CONTAINER):
        yield _encode_sequence(b"t", tuple(value[start : start + _LONG_CONTAINER]), depth, budget)


def _encode_dict(value: dict[Any, Any], depth: int, budget: list[int]) -> bytes | None:
    if set(map(type, value)) <= {str}:
        keys = _encode_sequence(b"t", tuple(value), depth, budget) or b""
        pieces = _encode_all(value.values(), depth, budget)
        return None if pieces is None else _joined(b"D", len(value), [keys, *pieces])
    keyed = _encode_all(value, depth, budget)
    items = None if keyed is None else _encode_all(value.values(), depth, budget)
    if keyed is None or items is None:
        return None
    return _joined(b"M", len(keyed), [part for pair in zip(keyed, items, strict=True) for part in pair])


def _encode_all(values: Iterable[Any], depth: int, budget: list[int]) -> list[bytes] | None:
    pieces: list[bytes] = []
    for value in values:
        kind = type(value)
        if kind in _EXACT or (kind is str and len(value) <= _LONG_TEXT):  # what most things are, without a call
            pieces.append(_dumps(value, _VERSION))
            continue
        piece = _encode(value, depth, budget)
        if piece is None:
            return None
        pieces.append(piece)
    return pieces


def _joined(letter: bytes, length: int, pieces: list[bytes]) -> bytes:
    if length > _LONG_CONTAINER:
        return _hashed(letter, length, pieces) or b""
    return b"".join((b"#%b%d:" % (letter, length), *pieces))


def _hashed(letter: bytes, length: int, pieces: Iterable[bytes | None]) -> bytes | None:
    """Return a digest in the place of much content; None when one of the pieces is None."""
    hashed = sha256()
    for piece in pieces:
        if piece is None:
            return None
        hashed.update(piece)
    return b"#h%b%d:%b" % (letter, length, hashed.digest())


_CONTAINERS: dict[type, bytes] = {list: b"l", tuple: b"t", dict: b"d", set: b"s", frozenset: b"f"}
_PLAIN_TYPES = _SCALARS.union(_CONTAINERS)
