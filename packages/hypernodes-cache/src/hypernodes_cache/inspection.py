"""Metadata of entries, read without loading their values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hypernodes_cache.database import EntryDatabase
from hypernodes_cache.entry_format import codec_of
from hypernodes_cache.regular_files import open_regular
from hypernodes_cache.value_encoding import CODEC_NAMES


class Entry(NamedTuple):
    """The metadata of an entry.

    Attributes:
        key: Its key.
        label: Name of the node that computed the value; None if it was not recorded.
        size_bytes: Size of the stored value, in bytes.
        stored_at: When it was stored, in seconds since the epoch.
        used_at: When it was last used, to the hour, in seconds since the epoch.
        codec: How the value is encoded, in words.
        is_pinned: Whether it is protected from eviction.
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


def entries(database: EntryDatabase, chunk_size: int = 1000) -> Iterator[list[Entry]]:
    """Yield all entries in chunks; other processes can write between two of them."""
    last = -(2**63)
    while rows := database.execute(_SELECT, (last, chunk_size)).fetchall():
        last = rows[-1][0]
        yield [_entry(database, *row[1:]) for row in rows]


def _entry(
    database: EntryDatabase,
    key: Any,
    label: Any,
    size: Any,
    stored_at: Any,
    used_at: Any,
    head: Any,
    filename: Any,
    pinned: Any,
) -> Entry:
    if filename is not None:
        path = database.path_of(filename)
        try:
            with open_regular(path or "") as file:
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
    """Return text without control characters, so that the content of a database cannot control a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
