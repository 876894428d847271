"""The directory of a cache: diskcache's schema, files and settings, with statements of our own for many rows at a time.

What is in the directory is not trusted. diskcache 5.6.3 unpickles what its database marks as a pickle (CVE-2025-69872),
runs the pragmas and sets the attributes that its `Settings` table names, and opens and deletes the files that its rows
name. None of that happens here: only bytes are stored and read, settings are ours, and a file has to have a name that
diskcache would have given it, inside the directory.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import diskcache
from diskcache.core import DBNAME, DEFAULT_SETTINGS, METADATA, MODE_BINARY, MODE_RAW

INLINE_SIZE_LIMIT = 32 * 1024  # bytes; larger entries are files, which is faster than SQLite from about this size

_SETTINGS = {
    **DEFAULT_SETTINGS,
    "eviction_policy": "none",  # ours is in eviction.py, since it has to know about pins
    "cull_limit": 0,
    "disk_min_file_size": INLINE_SIZE_LIMIT,
    "sqlite_mmap_size": 0,  # a mapped file that somebody truncates would end the process with a bus error
}
_PRAGMAS = (
    # Before there are tables, or it has no effect.
    "auto_vacuum = 1",
    "journal_mode = wal",
    # In WAL mode that is durable against the death of the process, and consistent after a loss of power.
    "synchronous = 1",
    "cache_size = 8192",
    "mmap_size = 0",
    "trusted_schema = 0",
    "cell_size_check = 1",
)

_SCHEMA = {
    *("Settings", "Cache", "Pins", "Cache_key_raw", "Cache_expire_time"),
    *("Settings_count_insert", "Settings_count_delete"),
    *("Settings_size_insert", "Settings_size_update", "Settings_size_delete"),
}

_FILE_NAME = re.compile(r"[0-9a-f]{2}[/\\][0-9a-f]{2}[/\\][0-9a-f]{28}\.val", re.ASCII)

_INSERT = (
    "INSERT INTO Cache (key, raw, store_time, access_time, tag, size, mode, filename, value)"
    " VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_NEW = _INSERT + " ON CONFLICT DO NOTHING"
_REPLACE = (
    _INSERT + " ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time, access_time ="
    " excluded.access_time, access_count = 0, expire_time = NULL, tag = excluded.tag, size = excluded.size,"
    " mode = excluded.mode, filename = excluded.filename, value = excluded.value"
)

# As bytes, since text that is not UTF-8 would be an error of the whole query.
_SELECT_FILE = "CAST(filename AS BLOB)"
_CHUNK = 256


class Row(NamedTuple):
    """An entry to be written; see `inline_row` and `file_row`."""

    key: str
    store_time: float
    access_time: float
    tag: str | None
    size: int
    mode: int
    filename: str | None
    value: bytes | None


# An entry as it was read: key, value (when it is in the database), name of its file (when it is in one), number of the
# row, and when it was last used, in seconds since the epoch. Nothing in it is trusted, not even its types.
Found: TypeAlias = tuple[Any, Any, Any, Any, Any]


def inline_row(key: str, label: str | None, entry: bytes, now: float) -> Row:
    """An entry that is kept in the database."""
    return Row(key, now, now, label, 0, MODE_RAW, None, entry)


def file_row(key: str, label: str | None, filename: str, size: int, now: float) -> Row:
    """An entry that is kept in a file of `size` bytes."""
    return Row(key, now, now, label, size, MODE_BINARY, filename, None)


class BytesDisk(diskcache.Disk):  # type: ignore[misc, unused-ignore]
    """Files of a cache, and nothing that unpickles."""

    def __init__(self, directory: str, min_file_size: int = INLINE_SIZE_LIMIT, **_: Any) -> None:
        super().__init__(directory, min_file_size=min_file_size)

    def put(self, key: Any) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"keys must be str; got {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> Any:
        if raw != 1:
            raise ValueError("the key was not written by DiskCache")
        return key

    def store(self, value: Any, read: bool, key: Any = None) -> Any:
        if type(value) is not bytes or read:
            raise TypeError("only bytes are stored")
        return super().store(value, read, key=key)

    def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> Any:
        if mode not in (MODE_RAW, MODE_BINARY) or (mode == MODE_BINARY and self.path_of(filename) is None):
            raise ValueError("the entry was not written by DiskCache")
        return super().fetch(mode, filename, value, read)

    def remove(self, file_path: Any) -> None:
        path = self.path_of(file_path)
        if path is not None:
            # diskcache would delete folders that became empty as well, perhaps just when another process needs them.
            with contextlib.suppress(OSError):
                os.remove(path)

    def path_of(self, filename: Any) -> str | None:
        """Return the path of a file that a row names, or None if it is none that this class would have named."""
        if isinstance(filename, bytes):
            filename = filename.decode("ascii", "replace")
        if not isinstance(filename, str) or not _FILE_NAME.fullmatch(filename):
            return None
        return os.path.join(self._directory, filename)


class Store(diskcache.Cache):  # type: ignore[misc, unused-ignore]
    """An open directory. Not safe to use from several threads at once; the owner has a lock.

    Args:
        directory: Where the entries are; made when it is not there.
        lock_timeout_s: How long to wait for other processes that are writing, in seconds.

    Raises:
        sqlite3.Error: The database cannot be opened or written.
        OSError: The directory cannot be made.
        Exception: What the database holds makes no sense to diskcache.
    """

    def __init__(self, directory: str, lock_timeout_s: float) -> None:
        self._connection: sqlite3.Connection | None = None
        self._lock_timeout_s = lock_timeout_s
        self._is_opening = True
        self.database_path = os.path.join(directory, DBNAME)
        os.makedirs(directory, exist_ok=True)
        try:
            if self._is_made():
                self._attach(directory)
            else:
                # diskcache writes settings one by one: in one transaction it is fast, and whole or not at all.
                with self._exclusively():
                    super().__init__(directory, timeout=lock_timeout_s, disk=BytesDisk, **_SETTINGS)
                    self._sql("CREATE TABLE IF NOT EXISTS Pins (key TEXT PRIMARY KEY) WITHOUT ROWID")
        except BaseException:
            self._is_opening = False
            self.close()
            raise
        self._is_opening = False
        self.identity = self.identity_on_disk()

    def _is_made(self) -> bool:
        """Whether everything is there: then nothing is written, which a full disk or a locked index would prevent."""
        names = {name for (name,) in self._sql("SELECT CAST(name AS TEXT) FROM sqlite_master")}
        if not names >= _SCHEMA:
            return False
        counters = self._sql(
            "SELECT COUNT(*) FROM Settings WHERE key IN ('count', 'size') AND TYPEOF(value) = 'integer'"
        )
        return bool(counters.fetchone()[0] == 2)

    def _attach(self, directory: str) -> None:
        """Do what diskcache does when it opens a directory, without the writing."""
        self._directory = directory
        self._timeout = self._lock_timeout_s
        self._txn_id = None
        self._disk = BytesDisk(directory)
        ((self._page_size,),) = self._sql("PRAGMA page_size").fetchall()
        for name, value in _SETTINGS.items():
            self.reset(name, value)

    # --- what diskcache does differently ----------------------------------------------------------------------------

    @property
    def _con(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self.database_path, timeout=self._lock_timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                for pragma in _PRAGMAS:
                    _set_pragma(connection, pragma, self._lock_timeout_s)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @property
    def _sql_retry(self) -> Any:
        return self._sql  # SQLite itself waits; diskcache would wait for a minute more

    def reset(self, key: str, value: Any = diskcache.core.ENOVAL, update: bool = True) -> Any:
        """Read a counter of the database, or set one of our own settings on this object; pragmas are `_PRAGMAS`."""
        if value is diskcache.core.ENOVAL:
            if key not in METADATA:
                raise ValueError(f"{key!r} is not read from the database")
            ((value,),) = self._sql("SELECT value FROM Settings WHERE key = ?", (key,)).fetchall()
        elif key not in _SETTINGS:
            return value
        else:
            value = _SETTINGS[key]
        setattr(self, key, value)
        return value

    def create_tag_index(self) -> None:
        """Labels are for people, who can wait; an index would cost every write."""

    drop_tag_index = create_tag_index

    def close(self) -> None:
        """Close the database; using the store again opens it again."""
        if self._connection is not None and not self._is_opening:
            connection, self._connection = self._connection, None
            connection.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, keys: Sequence[str]) -> list[Found]:  # type: ignore[override, unused-ignore]
        """Return the entries of those of `keys` that are kept."""
        execute = self._con.execute
        if len(keys) <= _CHUNK:
            found = execute(_select(len(keys)), _padded(keys)).fetchall()
        else:
            found = []
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                found += execute(_select(len(chunk)), _padded(chunk)).fetchall()
        return found

    def present(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are kept."""
        found: set[str] = set()
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            sql = _select(len(chunk)).replace(_COLUMNS, "key", 1)
            found.update(key for (key,) in self._con.execute(sql, _padded(chunk)))
        return found

    def counts(self) -> tuple[int, int]:
        """Return the number of entries, and the room that they take on disk, in bytes."""
        return int(self.reset("count")), int(self.volume())

    def volume(self) -> int:
        """Return the room that entries take, in bytes, without pages of the database that are free."""
        execute = self._con.execute
        pages, free = (execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        return int((pages - free) * self._page_size + self.reset("size"))

    # --- writing ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[sqlite3.Connection]:
        connection = self._con
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has ended the transaction already
                connection.execute("ROLLBACK")
            raise

    def new_file(self) -> tuple[str, str]:
        """Return the name of a file that does not exist, relative to the directory, and its path."""
        name, path = self._disk.filename()
        return name, path

    def write(self, rows: Sequence[Row]) -> bool:
        """Keep entries, in place of what is kept under the same keys; return that they are kept."""
        stale: list[Any] = []
        with self._exclusively() as connection:
            # Nearly always nothing is there, and one statement does it.
            if connection.executemany(_INSERT_NEW, rows).rowcount != len(rows):
                new_files = {row.filename for row in rows}
                for row in rows:
                    sql = f"SELECT {_SELECT_FILE} FROM Cache WHERE key = ? AND raw = 1 AND filename NOT NULL"
                    old = connection.execute(sql, (row.key,)).fetchall()
                    stale += [name for (name,) in old if os.fsdecode(name) not in new_files]
                connection.executemany(_REPLACE, rows)
        self._remove_files(stale)
        return True

    def touch_many(self, rowids: Sequence[int], now: float) -> None:
        """Note that entries were used."""
        with self._exclusively() as connection:
            connection.executemany(
                "UPDATE Cache SET access_time = ? WHERE rowid = ?", [(now, rowid) for rowid in rowids]
            )

    def remove_rows(self, rowids: Sequence[int]) -> int:
        """Forget entries by their numbers in the database; return how many there were."""
        count = 0
        for start in range(0, len(rowids), _CHUNK):
            # Between chunks others get their turn to write.
            numbers = ",".join(str(int(rowid)) for rowid in rowids[start : start + _CHUNK])
            with self._exclusively() as connection:
                sql = f"SELECT {_SELECT_FILE} FROM Cache WHERE rowid IN ({numbers}) AND filename NOT NULL"
                names = [name for (name,) in connection.execute(sql)]
                count += connection.execute(f"DELETE FROM Cache WHERE rowid IN ({numbers})").rowcount
            self._remove_files(names)
        return count

    def remove_row_of_file(self, rowid: int, filename: bytes) -> None:
        """Forget an entry whose file is gone, unless it has another file by now."""
        self._con.execute(
            f"DELETE FROM Cache WHERE rowid = ? AND {_SELECT_FILE} = ?",
            (rowid, filename),
        )

    def remove_key(self, key: str) -> None:
        """Forget what is kept under a key, and that it is pinned."""
        rowids = [row[0] for row in self._con.execute("SELECT rowid FROM Cache WHERE key = ? AND raw = 1", (key,))]
        self.remove_rows(rowids)
        self.unpin(key)

    def remove_all(self) -> None:
        """Forget everything, also what is pinned."""
        names = [row[0] for row in self._sql(f"SELECT {_SELECT_FILE} FROM Cache WHERE filename NOT NULL")]
        self._remove_files(names)  # first, since on a full disk nothing could be written before
        with self._exclusively() as connection:
            names = [row[0] for row in connection.execute(f"SELECT {_SELECT_FILE} FROM Cache WHERE filename NOT NULL")]
            connection.execute("DELETE FROM Cache")
            connection.execute("DELETE FROM Pins")
        self._remove_files(names)

    def pin(self, key: str) -> None:
        """Keep an entry from being dropped to make room."""
        self._con.execute("INSERT OR IGNORE INTO Pins VALUES (?)", (key,))

    def unpin(self, key: str) -> None:
        """Allow an entry to be dropped again."""
        self._con.execute("DELETE FROM Pins WHERE key = ?", (key,))

    def _remove_files(self, names: Sequence[Any]) -> None:
        for name in names:
            self._disk.remove(name)

    # --- where it is ------------------------------------------------------------------------------------------------

    def path_of(self, filename: Any) -> str | None:
        """Return the path of a file that a row names, or None if it is none of ours."""
        path: str | None = self._disk.path_of(filename)
        return path

    def identity_on_disk(self) -> tuple[int, int] | None:
        """Return what tells the database file from another under the same name; None if there is none."""
        try:
            status = os.stat(self.database_path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @property
    def is_replaced(self) -> bool:
        """Whether the database was deleted or set aside by another process since it was opened."""
        return self.identity_on_disk() != self.identity


_COLUMNS = f"key, value, {_SELECT_FILE}, rowid, access_time"
_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, _CHUNK)
_SELECTS = {size: f"SELECT {_COLUMNS} FROM Cache WHERE key IN ({','.join('?' * size)}) AND raw = 1" for size in _SIZES}
_SIZE_FOR = [next(size for size in _SIZES if size >= count) for count in range(_CHUNK + 1)]


def _select(count: int) -> str:
    """One of few statements, since SQLite has to understand each only once."""
    return _SELECTS[_SIZE_FOR[count]]


def _padded(keys: Sequence[str]) -> Sequence[str | None]:
    missing = _SIZE_FOR[len(keys)] - len(keys)
    return [*keys, *[None] * missing] if missing else keys


def _set_pragma(connection: sqlite3.Connection, pragma: str, timeout_s: float) -> None:
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}").fetchall()
            return
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself when two processes turn the WAL on at the same time.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.002)
