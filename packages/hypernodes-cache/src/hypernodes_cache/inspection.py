"""What is known about entries without loading them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hypernodes_cache.frames import codec_of
from hypernodes_cache.store import Store
from hypernodes_cache.values import CODEC_NAMES


class Entry(NamedTuple):
    """An entry, seen from outside.

    Attributes:
        key: What it is kept under.
        label: Name of the node that made it; None where nobody said.
        size_bytes: Size of the stored value, in bytes.
        stored_at: When it was put, in seconds since the epoch.
        used_at: When it was last used, to the hour, in seconds since the epoch.
        codec: How the value is stored, in words.
        is_pinned: Whether it stays when room is made.
    """

    key: str
    label: str | None
    size_bytes: int
    stored_at: float
    used_at: float
    codec: str
    is_pinned: bool


_SELECT = (
    "SELECT rowid, CAST(key AS BLOB), CAST(tag AS BLOB), COALESCE(LENGTH(value), size), store_time, access_time,"
    " SUBSTR(CAST(value AS BLOB), 1, 32), CAST(filename AS BLOB),"
    " EXISTS (SELECT 1 FROM Pins WHERE Pins.key = Cache.key)"
    " FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?"
)


def entries(store: Store, chunk_size: int = 1000) -> Iterator[list[Entry]]:
    """Return all entries, in chunks, between which others can write."""
    last = -(2**63)
    while rows := store._con.execute(_SELECT, (last, chunk_size)).fetchall():
        last = rows[-1][0]
        yield [_entry(store, *row[1:]) for row in rows]


def _entry(
    store: Store, key: Any, label: Any, size: Any, stored_at: Any, used_at: Any, head: Any, filename: Any, pinned: Any
) -> Entry:
    if filename is not None:
        path = store.path_of(filename)
        try:
            with open(path or "", "rb") as file:
                head = file.read(32)
        except OSError:
            head = b""
    known = codec_of(head) if isinstance(head, bytes) else None
    codec = "damaged" if known is None else CODEC_NAMES.get(known[0], f"codec {known[0]}")
    return Entry(
        _decoded(key),
        None if label is None else _decoded(label),
        size if isinstance(size, int) else 0,
        stored_at if isinstance(stored_at, float) else 0.0,
        used_at if isinstance(used_at, float) else 0.0,
        f"{codec}, compressed" if known and known[1] else codec,
        bool(pinned),
    )


def _decoded(data: Any) -> str:
    return printable(data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data))


def printable(text: str) -> str:
    """Return text that does nothing to a terminal, whatever somebody has written into the database."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
