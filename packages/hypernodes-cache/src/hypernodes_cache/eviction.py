"""What makes room in a directory: entries that were not used for long, and files that belong to no entry."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from diskcache.core import DBNAME

from hypernodes.extension import RECORD_PREFIX
from hypernodes_cache.store import Store

# A writer that is this slow between its last byte and its entry loses the entry, which is then computed again.
LEFTOVER_AGE_S = 3600.0

_TIDY_EVERY_S = 24 * 3600.0
_MARKER = f"{DBNAME}-tidied"  # diskcache takes what begins so for a part of the database
# What is noted about nodes is not used by runs, so it would always be among what was not used for long.
_IS_RECORD = f"SUBSTR(CAST(Cache.key AS BLOB), 1, {len(RECORD_PREFIX)}) = CAST('{RECORD_PREFIX}' AS BLOB)"
_ROW_BYTES = 256  # about what a row and its keys take besides the value


class Removed(NamedTuple):
    """What was removed.

    Attributes:
        entries: Number of entries.
        leftovers: Number of files without entries and entries without files.
    """

    entries: int = 0
    leftovers: int = 0


def evict(store: Store, size_limit: int | None = None, unused_for_s: float | None = None) -> int:
    """Drop entries that are not pinned; return how many.

    Args:
        store: Where they are.
        size_limit: When more bytes than this are taken, those used longest ago go, until a tenth of it is free. What is
            noted about a node goes with the last of its results.
        unused_for_s: Those not used for so many seconds go, whatever room there is.
    """
    doomed: list[int] = []
    used_before = None if unused_for_s is None else time.time() - unused_for_s
    excess = 0
    if size_limit is not None and (volume := store.volume()) > size_limit:
        excess = volume - size_limit * 9 // 10
    if excess <= 0 and used_before is None:
        return 0
    rows = store._con.execute(
        f"SELECT rowid, access_time, size + COALESCE(LENGTH(value), 0) + {_ROW_BYTES} FROM Cache"
        f" WHERE NOT EXISTS (SELECT 1 FROM Pins WHERE Pins.key = Cache.key) AND NOT {_IS_RECORD} ORDER BY access_time"
    )
    for rowid, used_at, size in rows.fetchall():
        is_old = used_before is not None and not (isinstance(used_at, float) and used_at >= used_before)
        if not is_old and excess <= 0:
            break
        doomed.append(rowid)
        excess -= size
    return store.remove_rows(doomed) + _drop_records_of_the_forgotten(store)


def _drop_records_of_the_forgotten(store: Store) -> int:
    """Drop what is noted about nodes none of whose results are left; return how much."""
    labels = "SELECT tag FROM Cache WHERE tag NOT NULL AND NOT " + _IS_RECORD
    rows = store._con.execute(f"SELECT rowid FROM Cache WHERE {_IS_RECORD} AND COALESCE(tag NOT IN ({labels}), 1)")
    return store.remove_rows([rowid for (rowid,) in rows.fetchall()])


def tidy(store: Store, leftover_age_s: float = LEFTOVER_AGE_S) -> int:
    """Delete files without entries, as a killed process leaves them, and entries without files; return how many.

    Args:
        store: Where they are.
        leftover_age_s: Younger files are left alone, in seconds: their entry may be about to come.
    """
    oldest = time.time() - leftover_age_s
    files = list(_files(store.directory))
    rows = store._con.execute("SELECT rowid, CAST(filename AS BLOB) FROM Cache WHERE filename NOT NULL").fetchall()
    # Listed before the entries: whatever has an entry by now is not a leftover.
    referred = {store.path_of(name) for _, name in rows}
    count = 0
    for path in files:
        if path not in referred and _modified_at(path) < oldest:
            store.disk.remove(os.path.relpath(path, store.directory))
            count += 1
    for rowid, name in rows:
        path_named = store.path_of(name)
        if path_named is None or not os.path.exists(path_named):
            store.remove_row_of_file(rowid, name)
            count += 1
    return count


def tidy_once_a_day(store: Store) -> None:
    """Tidy up, unless some process has done so lately."""
    marker = os.path.join(store.directory, _MARKER)
    age_s = time.time() - _modified_at(marker)
    if 0 <= age_s < _TIDY_EVERY_S:
        return
    with contextlib.suppress(OSError):  # tidying can wait
        # First, so that others do not do the same; through no link that somebody may have put there.
        descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            os.utime(descriptor if os.utime in os.supports_fd else marker)
        finally:
            os.close(descriptor)
        tidy(store)


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
        return []  # deleted meanwhile


def _modified_at(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return float("-inf")
