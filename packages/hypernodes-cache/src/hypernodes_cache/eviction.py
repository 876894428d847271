"""Eviction of entries, and removal of files that belong to no entry."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from diskcache.core import DBNAME

from hypernodes.extension import RECORD_PREFIX
from hypernodes_cache.database import EntryDatabase

# A writer that takes longer than this between writing a file and adding its row loses the entry, which is then computed
# again.
LEFTOVER_AGE_S = 3600.0

_REMOVE_LEFTOVERS_EVERY_S = 24 * 3600.0
_MARKER = f"{DBNAME}-tidied"  # diskcache treats files with this prefix as parts of the database
# Runs do not read the records about nodes, so these would always be among the least recently used entries.
_IS_RECORD = f"SUBSTR(CAST(Cache.key AS BLOB), 1, {len(RECORD_PREFIX)}) = CAST('{RECORD_PREFIX}' AS BLOB)"
_ROW_BYTES = 256  # estimated size of a row and its index entries, without the value


class RemovedCounts(NamedTuple):
    """How much was removed.

    Attributes:
        entries: Number of entries.
        leftovers: Number of files without entries and entries without files.
    """

    entries: int = 0
    leftovers: int = 0


def evict(database: EntryDatabase, size_limit: int | None = None, unused_for_s: float | None = None) -> int:
    """Evict entries that are not pinned; return how many.

    Args:
        database: The database of the entries.
        size_limit: When the entries take more bytes than this, the least recently used ones are evicted until a tenth
            of it is free. The record of a node is removed with the last of its results.
        unused_for_s: Entries that were not used for this many seconds are evicted, whatever the size.
    """
    evicted: list[int] = []
    used_before = None if unused_for_s is None else time.time() - unused_for_s
    excess = 0
    if size_limit is not None and (volume := database.size_bytes()) > size_limit:
        excess = volume - size_limit * 9 // 10
    if excess <= 0 and used_before is None:
        return 0
    rows = database.execute(
        f"SELECT rowid, access_time, size + COALESCE(LENGTH(value), 0) + {_ROW_BYTES} FROM Cache"
        f" WHERE NOT EXISTS (SELECT 1 FROM Pins WHERE Pins.key = Cache.key) AND NOT {_IS_RECORD} ORDER BY access_time"
    )
    for rowid, used_at, size in rows.fetchall():
        is_old = used_before is not None and not (isinstance(used_at, float) and used_at >= used_before)
        if not is_old and excess <= 0:
            break
        evicted.append(rowid)
        excess -= size
    return database.remove_rows(evicted) + _remove_orphaned_records(database)


def _remove_orphaned_records(database: EntryDatabase) -> int:
    """Remove the records of nodes that have no results left; return how many."""
    labels = "SELECT tag FROM Cache WHERE tag NOT NULL AND NOT " + _IS_RECORD
    rows = database.execute(f"SELECT rowid FROM Cache WHERE {_IS_RECORD} AND COALESCE(tag NOT IN ({labels}), 1)")
    return database.remove_rows([rowid for (rowid,) in rows.fetchall()])


def remove_leftovers(database: EntryDatabase, leftover_age_s: float = LEFTOVER_AGE_S) -> int:
    """Delete files without entries, which killed processes leave behind, and entries without files; return how many.

    Args:
        database: The database of the entries.
        leftover_age_s: Files younger than this are not deleted, in seconds, since their entry may not be written yet.
    """
    oldest = time.time() - leftover_age_s
    files = list(_files(database.directory))
    rows = database.execute("SELECT rowid, CAST(filename AS BLOB) FROM Cache WHERE filename NOT NULL").fetchall()
    # The files were listed before the entries, so a file that has an entry by now is not taken for a leftover.
    referred = {database.path_of(name) for _, name in rows}
    count = 0
    for path in files:
        if path not in referred and _modified_at(path) < oldest:
            database.disk.remove(os.path.relpath(path, database.directory))
            count += 1
    for rowid, name in rows:
        path_named = database.path_of(name)
        if path_named is None or not os.path.exists(path_named):
            database.remove_row_of_file(rowid, name)
            count += 1
    return count


def remove_leftovers_daily(database: EntryDatabase) -> None:
    """Remove leftovers, unless a process has done so within a day."""
    marker = os.path.join(database.directory, _MARKER)
    age_s = time.time() - _modified_at(marker)
    if 0 <= age_s < _REMOVE_LEFTOVERS_EVERY_S:
        return
    with contextlib.suppress(OSError):  # not urgent: it is tried again the next time
        # The marker is written first, so that other processes do not do the same. A symbolic link is not followed, and
        # a named pipe is not waited for.
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(marker, flags, 0o666)
        try:
            os.utime(descriptor if os.utime in os.supports_fd else marker)
        finally:
            os.close(descriptor)
        remove_leftovers(database)


def _files(directory: str) -> Iterator[str]:
    for first in _folders(directory):
        for second in _folders(first):
            with os.scandir(second) as found:
                yield from (entry.path for entry in found if entry.name.endswith(".val"))


def _folders(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as found:
            return [entry.path for entry in found if len(entry.name) == 2 and entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # deleted in the meantime


def _modified_at(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return float("-inf")
