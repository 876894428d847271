"""The database and the files of a cache directory: diskcache's schema, with SQL of our own for many rows at a time.

The content of the directory is not trusted. diskcache 5.6.3 unpickles what its database marks as a pickle
(CVE-2025-69872), runs the pragmas and sets the attributes that its `Settings` table names, and opens and deletes the
files that its rows name. None of that happens here: only bytes are stored and read, settings come from this module, and
a file must be inside the directory and have a name that diskcache would have given it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import diskcache
from diskcache.core import DBNAME, DEFAULT_SETTINGS, METADATA, MODE_BINARY, MODE_RAW

from hypernodes_cache.log_index import LogIndex
from hypernodes_cache.regular_files import check_regular

INLINE_SIZE_LIMIT = 32 * 1024  # bytes; larger entries are files, which is faster than SQLite from about this size

_SETTINGS = {
    **DEFAULT_SETTINGS,
    "eviction_policy": "none",  # eviction.py does it instead, since it has to respect pins
    "cull_limit": 0,
    "disk_min_file_size": INLINE_SIZE_LIMIT,
    "sqlite_mmap_size": 0,  # with a mapped file, a truncation by another program would crash this process (bus error)
}
_PRAGMAS = (
    # Has no effect once there are tables.
    "auto_vacuum = 1",
    "journal_mode = wal",
    # In WAL mode, commits then survive the death of the process, and the database is consistent after a power failure.
    "synchronous = 1",
    "cache_size = 8192",
    "mmap_size = 0",
    "trusted_schema = 0",
    "cell_size_check = 1",
)
_READING_PRAGMAS = ("query_only = 1", *_PRAGMAS[3:])

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

# Read as bytes, since text that is not UTF-8 would make the whole query fail.
_SELECT_FILE = "CAST(filename AS BLOB)"
_SUFFIXES = ("", "-wal", "-shm", "-journal")  # of the files that SQLite opens, of which some would be waited for
_CHUNK = 256


class NewRow(NamedTuple):
    """The row of an entry to write; see `inline_row` and `file_row`."""

    key: str
    store_time: float
    access_time: float
    tag: str | None
    size: int
    mode: int
    filename: str | None
    value: bytes | None


# The row of an entry as it was read: key, value (if it is in the database), name of its file (if it is in one), row id,
# and when it was last used, in seconds since the epoch. None of it is trusted, not even the types.
StoredRow: TypeAlias = tuple[Any, Any, Any, Any, Any]


def inline_row(key: str, label: str | None, entry: bytes, now: float) -> NewRow:
    """Return the row of an entry whose value is stored in the database."""
    return NewRow(key, now, now, label, 0, MODE_RAW, None, entry)


def file_row(key: str, label: str | None, filename: str, size: int, now: float) -> NewRow:
    """Return the row of an entry whose value is stored in a file of `size` bytes."""
    return NewRow(key, now, now, label, size, MODE_BINARY, filename, None)


class BytesDisk(diskcache.Disk):  # type: ignore[misc, unused-ignore]
    """Stores and reads bytes only, so that diskcache unpickles nothing."""

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
            # diskcache would also delete folders that became empty, perhaps just when another process needs them.
            with contextlib.suppress(OSError):
                os.remove(path)

    def path_of(self, filename: Any) -> str | None:
        """Return the path of a file that a row names, or None if this class would not have given it that name."""
        if isinstance(filename, bytes):
            filename = filename.decode("ascii", "replace")
        if not isinstance(filename, str) or not _FILE_NAME.fullmatch(filename):
            return None
        return os.path.join(self._directory, filename)


class EntryDatabase(diskcache.Cache):  # type: ignore[misc, unused-ignore]
    """The open database of a cache directory. Not thread-safe: its owner holds a lock.

    Args:
        directory: The directory; created if it does not exist.
        lock_timeout_s: How long to wait for other processes that are writing, in seconds.
        is_read_only: Whether to read a directory in which this process may not write.

    Attributes:
        is_read_only: The same.

    Raises:
        sqlite3.Error: The database cannot be opened or written.
        OSError: The directory cannot be created.
        Exception: diskcache cannot interpret the content of the database.
    """

    def __init__(self, directory: str, lock_timeout_s: float, is_read_only: bool = False) -> None:
        self._connection: sqlite3.Connection | None = None
        self._lock_timeout_s = lock_timeout_s
        self._is_opening = True
        self.is_read_only = is_read_only
        self._is_immutable = False
        self.database_path = os.path.join(directory, DBNAME)
        self._log_index = LogIndex(self.database_path, can_write=not is_read_only)
        if not is_read_only:
            os.makedirs(directory, exist_ok=True)
        try:
            if self._is_made():
                self._attach(directory)
            elif is_read_only:
                raise sqlite3.DatabaseError("there is no complete index")
            else:
                # diskcache writes its settings one by one; one transaction makes that fast and atomic.
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
        """Whether the schema is complete, so that opening needs no write, which a full disk or a lock would prevent."""
        if self.is_read_only:
            self._find_way_to_read()
        names = {name for (name,) in self._sql("SELECT CAST(name AS TEXT) FROM sqlite_master")}
        if not names >= _SCHEMA:
            return False
        counters = self._sql(
            "SELECT COUNT(*) FROM Settings WHERE key IN ('count', 'size') AND TYPEOF(value) = 'integer'"
        )
        return bool(counters.fetchone()[0] == 2)

    def _find_way_to_read(self) -> None:
        """Read without writing: beside writers if possible, else as a file that nobody changes.

        The second ignores what is only in the write-ahead log. If the file is changed all the same, what is read may be
        wrong, but then the seals of the entries are.
        """
        try:
            self._sql("SELECT 1 FROM sqlite_master")
        except sqlite3.OperationalError:
            self._is_opening = False
            self.close()
            self._is_opening = self._is_immutable = True

    def _attach(self, directory: str) -> None:
        """Do what diskcache does when it opens a directory, without its writes."""
        self._directory = directory
        self._timeout = self._lock_timeout_s
        self._txn_id = None
        self._disk = BytesDisk(directory)
        ((self._page_size,),) = self._sql("PRAGMA page_size").fetchall()
        for name, value in _SETTINGS.items():
            self.reset(name, value)

    # --- overrides of diskcache -------------------------------------------------------------------------------------

    @property
    def _con(self) -> sqlite3.Connection:
        if self._connection is not None:
            self._log_index.mend()
        else:
            for suffix in _SUFFIXES:
                check_regular(self.database_path + suffix)
            self._log_index.begin()
            target = self.database_path
            if self.is_read_only:
                target = f"{Path(target).as_uri()}?{'immutable=1' if self._is_immutable else 'mode=ro'}"
            connection = sqlite3.connect(
                target,
                timeout=self._lock_timeout_s,
                isolation_level=None,
                check_same_thread=False,
                uri=self.is_read_only,
            )
            try:
                for pragma in _READING_PRAGMAS if self.is_read_only else _PRAGMAS:
                    _set_pragma(connection, pragma, self._lock_timeout_s)
            except BaseException:
                connection.close()
                self._log_index.end()
                raise
            self._connection = connection
        return self._connection

    @property
    def _sql_retry(self) -> Any:
        return self._sql  # SQLite itself waits for locks; diskcache would wait for another minute

    def reset(self, key: str, value: Any = diskcache.core.ENOVAL, update: bool = True) -> Any:
        """Read a counter of the database, or set an attribute from `_SETTINGS`; pragmas come from `_PRAGMAS`."""
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
        """Do nothing: labels are only searched by people, and an index would slow down every write."""

    drop_tag_index = create_tag_index

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        if self._connection is not None and not self._is_opening:
            with contextlib.suppress(OSError):
                self._log_index.mend()
            connection, self._connection = self._connection, None
            connection.close()
            self._log_index.end()

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, keys: Sequence[str]) -> list[StoredRow]:  # type: ignore[override, unused-ignore]
        """Return the rows of those of `keys` that are stored."""
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
        """Return those of `keys` that are stored."""
        found: set[str] = set()
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            sql = _select(len(chunk)).replace(_COLUMNS, "key", 1)
            found.update(key for (key,) in self._con.execute(sql, _padded(chunk)))
        return found

    def counts(self) -> tuple[int, int]:
        """Return the number of entries, and their size on disk in bytes."""
        return int(self.reset("count")), int(self.size_bytes())

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one SQL statement outside a transaction."""
        return self._con.execute(sql, parameters)

    def size_bytes(self) -> int:
        """Return the size of all entries in bytes, without free pages of the database."""
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
            with contextlib.suppress(sqlite3.Error):  # after a full disk, the transaction has ended already
                connection.execute("ROLLBACK")
            raise

    def new_file(self) -> tuple[str, str]:
        """Return a name for a new file, relative to the directory, and its path."""
        name, path = self._disk.filename()
        return name, path

    def write(self, rows: Sequence[NewRow]) -> bool:
        """Store entries, replacing those with the same keys; return True."""
        stale: list[Any] = []
        with self._exclusively() as connection:
            # Nearly always the keys are new, and one statement is enough.
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
        """Record that entries were used."""
        with self._exclusively() as connection:
            connection.executemany(
                "UPDATE Cache SET access_time = ? WHERE rowid = ?", [(now, rowid) for rowid in rowids]
            )

    def remove_rows(self, rowids: Sequence[int]) -> int:
        """Remove entries by their row ids; return how many there were."""
        count = 0
        for start in range(0, len(rowids), _CHUNK):
            # Other processes can write between two chunks.
            numbers = ",".join(str(int(rowid)) for rowid in rowids[start : start + _CHUNK])
            with self._exclusively() as connection:
                sql = f"SELECT {_SELECT_FILE} FROM Cache WHERE rowid IN ({numbers}) AND filename NOT NULL"
                names = [name for (name,) in connection.execute(sql)]
                count += connection.execute(f"DELETE FROM Cache WHERE rowid IN ({numbers})").rowcount
            self._remove_files(names)
        return count

    def remove_row_of_file(self, rowid: int, filename: bytes) -> None:
        """Remove an entry whose file is missing, unless it has another file by now."""
        self._con.execute(
            f"DELETE FROM Cache WHERE rowid = ? AND {_SELECT_FILE} = ?",
            (rowid, filename),
        )

    def remove_key(self, key: str) -> None:
        """Remove an entry and its pin."""
        rowids = [row[0] for row in self._con.execute("SELECT rowid FROM Cache WHERE key = ? AND raw = 1", (key,))]
        self.remove_rows(rowids)
        self.unpin(key)

    def remove_all(self) -> None:
        """Remove all entries, pinned ones included."""
        names = [row[0] for row in self._sql(f"SELECT {_SELECT_FILE} FROM Cache WHERE filename NOT NULL")]
        self._remove_files(names)  # first, since on a full disk the transaction could not be written
        with self._exclusively() as connection:
            names = [row[0] for row in connection.execute(f"SELECT {_SELECT_FILE} FROM Cache WHERE filename NOT NULL")]
            connection.execute("DELETE FROM Cache")
            connection.execute("DELETE FROM Pins")
        self._remove_files(names)

    def pin(self, key: str) -> None:
        """Protect an entry from eviction."""
        self._con.execute("INSERT OR IGNORE INTO Pins VALUES (?)", (key,))

    def unpin(self, key: str) -> None:
        """Allow an entry to be evicted again."""
        self._con.execute("DELETE FROM Pins WHERE key = ?", (key,))

    def _remove_files(self, names: Sequence[Any]) -> None:
        for name in names:
            self._disk.remove(name)

    # --- files ------------------------------------------------------------------------------------------------------

    def path_of(self, filename: Any) -> str | None:
        """Return the path of a file that a row names, or None if the name is not one of ours."""
        path: str | None = self._disk.path_of(filename)
        return path

    def identity_on_disk(self) -> tuple[int, int] | None:
        """Return device and inode of the database file, which tell it from a file that replaced it; None if missing."""
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
    """Return one of a few statements, so that SQLite compiles each of them only once."""
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
            # SQLite does not wait for the lock when two processes turn the WAL on at the same time.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.002)
