"""Classifies storage errors and repairs what can be repaired."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import time
from enum import Enum, auto

from diskcache.core import DBNAME

from hypernodes_cache.secret_key import SecretKeyError

_FILE_FOLDER = re.compile(r"[0-9a-f]{2}", re.ASCII)
_SET_ASIDE = f"{DBNAME}-set-aside-"


class StorageProblem(Enum):
    """The kinds of storage errors, by what can be done about them."""

    DAMAGED = auto()  # the index is unusable and is set aside
    INCONSISTENT = auto()  # reopening the index may help; if it does not, the index is damaged
    BUSY = auto()  # another process keeps the index locked
    UNAVAILABLE = auto()  # a full disk, a missing permission and so on; cannot be repaired here


_DAMAGED = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
}
_INCONSISTENT = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_INTERNAL, sqlite3.SQLITE_MISUSE}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def classify(error: Exception) -> StorageProblem:
    """Return the kind of problem that an error of the storage stands for."""
    if isinstance(error, (OSError, SecretKeyError)):
        return StorageProblem.UNAVAILABLE
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None:
        # The database holds values that DiskCache never writes: text that is not UTF-8, file names that are numbers.
        return StorageProblem.INCONSISTENT
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return StorageProblem.INCONSISTENT
    if code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in _DAMAGED:
        return StorageProblem.DAMAGED
    if code & 0xFF in _INCONSISTENT:
        return StorageProblem.INCONSISTENT
    return StorageProblem.BUSY if code & 0xFF in _BUSY else StorageProblem.UNAVAILABLE


def may_be_read(directory: str, error: OSError | sqlite3.OperationalError) -> bool:
    """Whether an error of opening a directory means that it may not be written, while there is an index to read."""
    if isinstance(error, OSError):
        forbids_writing = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    else:
        forbids_writing = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
    index = os.path.join(directory, DBNAME)
    return forbids_writing and os.path.isfile(index) and os.access(index, os.R_OK)


def set_aside(directory: str) -> str:
    """Move the index and its files into a folder inside the directory; an older folder of this kind is deleted.

    Returns:
        The folder.

    Raises:
        OSError: The files cannot be moved.
    """
    remove_set_aside(directory)
    folder = os.path.join(directory, f"{_SET_ASIDE}{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
    os.makedirs(folder, exist_ok=True)
    # The database is moved first: SQLite deletes a write-ahead log that it finds beside an empty database. In another
    # order it would apply the log of the old database to the new one.
    names = [DBNAME, f"{DBNAME}-wal", f"{DBNAME}-shm"]
    names += [name for name in os.listdir(directory) if _FILE_FOLDER.fullmatch(name)]
    for name in names:
        try:
            os.rename(os.path.join(directory, name), os.path.join(folder, name))
        except FileNotFoundError:
            continue  # another process moved it first
    return folder


def remove_set_aside(directory: str) -> int:
    """Delete the folders of indexes that were set aside; return their number."""
    folders = [name for name in os.listdir(directory) if name.startswith(_SET_ASIDE)]
    for name in folders:
        shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
    return len(folders)
