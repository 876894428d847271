"""Values that can be read only once, such as generators: the second of two readers would get nothing, silently."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import count, cycle, islice, repeat
from typing import Any, NamedTuple

# Types of most values, which are not used up by reading; asking for more takes longer.
REREADABLE = frozenset({int, float, bool, str, bytes, list, tuple, dict, set, frozenset, type(None)})
_HOLDS_NOTHING = REREADABLE - {list, tuple, dict, set, frozenset}
_CONTAINERS = frozenset({list, tuple, dict})
_MOST_CONTAINERS = 3  # in a container that are looked into
_MOST_ENTRIES = 16  # of a container that are looked at: those of a long one are alike, as a rule
_ENDLESS = frozenset({count, cycle, repeat})  # several readers may well share one


def is_read_once(value: Any) -> bool:
    """Whether a value is used up by reading it: an iterator, or a file that is open for reading only."""
    kind = type(value)
    if not hasattr(kind, "__next__") or kind in _ENDLESS:
        return False
    if isinstance(value, io.IOBase):
        return not value.closed and value.readable() and not value.writable()
    return hasattr(kind, "__iter__")


class Held(NamedTuple):
    """An iterator in a container.

    Attributes:
        iterator: The iterator.
        path: Where it is in the container, e.g. `["lines"][0]`.
    """

    iterator: Any
    path: str


def held_iterator(value: Any, depth: int = 2) -> Held | None:
    """Return an iterator among the first entries of a dict, list or tuple, or of one in it; None when there is none."""
    kind = type(value)
    if kind is dict:
        entries: Any = value.values()
    elif kind is list or kind is tuple:
        entries = value
    else:
        return None
    if len(value) > _MOST_ENTRIES:
        entries = [*islice(entries, _MOST_ENTRIES)]
    if _HOLDS_NOTHING.issuperset(map(type, entries)):
        return None
    containers = 0
    for key, entry in zip(value if kind is dict else range(len(value)), entries, strict=False):
        if type(entry) in _HOLDS_NOTHING:
            continue
        if is_read_once(entry) and not isinstance(entry, io.IOBase):  # files can be read again
            return Held(entry, f"[{key!r:.80}]")
        if depth > 1 and type(entry) in _CONTAINERS and containers < _MOST_CONTAINERS:
            containers += 1
            found = held_iterator(entry, depth - 1)
            if found is not None:
                return Held(found.iterator, f"[{key!r:.80}]{found.path}")
    return None


def kind_of(value: Any) -> str:
    """Return what a value that can be read only once is, for messages."""
    name = type(value).__name__
    return f"an open file ({name})" if isinstance(value, io.IOBase) else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def holding(value: Any, held: Held, name: str) -> str:
    """Return what a container is that holds an iterator, for messages."""
    return f"a {type(value).__name__} that holds {kind_of(held.iterator)}, {name}{held.path}"


def remedy(value: Any, name: str) -> str:
    """Return what to use in the place of a value that can be read only once."""
    return "its path, or its content" if isinstance(value, io.IOBase) else f"list({name})"


def listing(readers: Sequence[str], singular: str = "needs it", plural: str = "need it") -> str:
    """Return what the readers of a value do, for messages; one that is named twice does so for every item of a map."""
    named: dict[str, int] = {}
    for name in readers:
        named[name] = named.get(name, 0) + 1
    texts = [f"every item of {name!r}" if times > 1 else repr(name) for name, times in named.items()]
    if len(texts) > 4:
        texts[3:] = [f"{len(texts) - 3} more"]
    return " and ".join(texts) + f" {singular if len(texts) == 1 else plural}"
