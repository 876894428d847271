"""What went wrong with a directory, and what helps."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from enum import Enum, auto

from diskcache.core import DBNAME

from hypernodes_cache.secret import SecretKeyError

_FILE_FOLDER = re.compile(r"[0-9a-f]{2}", re.ASCII)
_SET_ASIDE = f"{DBNAME}-set-aside-"


class Trouble(Enum):
    """What an error of the storage means."""

    DAMAGED = auto()  # the index is not one: it is set aside
    CONFUSED = auto()  # opening it again may help; if not, it is damaged
    BUSY = auto()  # another process is writing all the time
    UNAVAILABLE = auto()  # a full disk, no permission, ...


_DAMAGED = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
}
_CONFUSED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_INTERNAL, sqlite3.SQLITE_MISUSE}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def diagnose(error: Exception) -> Trouble:
    """Return what an error of the storage means."""
    if isinstance(error, (OSError, SecretKeyError)):
        return Trouble.UNAVAILABLE
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None:
        return (
            Trouble.CONFUSED
        )  # the database holds what no cache would: text that is not UTF-8, names that are numbers
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return Trouble.CONFUSED
    if code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in _DAMAGED:
        return Trouble.DAMAGED
    if code & 0xFF in _CONFUSED:
        return Trouble.CONFUSED
    return Trouble.BUSY if code & 0xFF in _BUSY else Trouble.UNAVAILABLE


def set_aside(directory: str) -> str:
    """Move the index and its files out of the way, into a folder beside them; what was set aside before is deleted.

    Returns:
        The folder.

    Raises:
        OSError: They cannot be moved.
    """
    remove_set_aside(directory)
    folder = os.path.join(directory, f"{_SET_ASIDE}{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
    os.makedirs(folder, exist_ok=True)
    # The database first: SQLite deletes a write-ahead log that it finds beside an empty database, and would
    # otherwise play that of the old one into the new one.
    names = [DBNAME, f"{DBNAME}-wal", f"{DBNAME}-shm"]
    names += [name for name in os.listdir(directory) if _FILE_FOLDER.fullmatch(name)]
    for name in names:
        try:
            os.rename(os.path.join(directory, name), os.path.join(folder, name))
        except FileNotFoundError:
            continue  # another process was faster
    return folder


def remove_set_aside(directory: str) -> int:
    """Delete what was set aside; return the number of folders."""
    folders = [name for name in os.listdir(directory) if name.startswith(_SET_ASIDE)]
    for name in folders:
        shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
    return len(folders)
