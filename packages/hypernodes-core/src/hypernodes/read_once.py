"""Values that can be read only once, such as generators: the second of two readers would get nothing, silently."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import count, cycle, repeat
from typing import Any

# Types of most values, which are not used up by reading; asking for more takes longer.
REREADABLE = frozenset({int, float, bool, str, bytes, list, tuple, dict, set, frozenset, type(None)})
_ENDLESS = frozenset({count, cycle, repeat})  # several readers may well share one


def is_read_once(value: Any) -> bool:
    """Whether a value is used up by reading it: an iterator, or a file that is open for reading only."""
    kind = type(value)
    if not hasattr(kind, "__next__") or kind in _ENDLESS:
        return False
    if isinstance(value, io.IOBase):
        return not value.closed and value.readable() and not value.writable()
    return hasattr(kind, "__iter__")


def kind_of(value: Any) -> str:
    """Return what a value that can be read only once is, for messages."""
    name = type(value).__name__
    return f"an open file ({name})" if isinstance(value, io.IOBase) else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def remedy(value: Any, name: str) -> str:
    """Return what to use in the place of a value that can be read only once."""
    return "its path, or its content" if isinstance(value, io.IOBase) else f"list({name})"


def listing(readers: Sequence[str]) -> str:
    """Return the readers of a value, for messages; one that is named twice reads it for every item of a map."""
    named = dict.fromkeys(readers)
    texts = [f"every item of {name!r}" if readers.count(name) > 1 else repr(name) for name in named]
    if len(texts) > 4:
        texts[3:] = [f"{len(texts) - 3} more"]
    return " and ".join(texts) + (" needs it" if len(texts) == 1 else " need it")
