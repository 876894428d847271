"""A cache in a directory, on the diskcache library: results survive the process and are shared between processes."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from hypernodes import MISS, Cache, CacheStats, CacheWarning, ConfigurationError
from hypernodes.extension import warn_caller
from hypernodes_cache import eviction, inspection, recovery, secret_key
from hypernodes_cache.database import INLINE_SIZE_LIMIT, EntryDatabase, NewRow, StoredRow, file_row, inline_row
from hypernodes_cache.entry_format import Sealer
from hypernodes_cache.eviction import RemovedCounts
from hypernodes_cache.filesystems import network_filesystem
from hypernodes_cache.forking import close_before_fork
from hypernodes_cache.inspection import Entry
from hypernodes_cache.recovery import StorageProblem
from hypernodes_cache.value_encoding import EncodedValue, UnreadableError, decode, encode

_T = TypeVar("_T")
_U = TypeVar("_U")

_CHECK_REPLACED_EVERY_S = 1.0
_PAUSE_S = 60.0  # after a failure, the directory is not tried again for so long
_USE_IS_RECORDED_EVERY_S = 3600.0  # an hour is precise enough for eviction, and saves a write for every read
_MAX_UNRECORDED_USES = 1000
_MAX_READ_ATTEMPTS = 10


class DiskCache(Cache):
    """Stores results in a directory, for other processes and later runs.

    Any number of threads and processes may use one directory at the same time. Every entry is signed with a secret key
    (HMAC-SHA256), and that is verified before anything is unpickled: an entry that is damaged, moved or written by
    somebody without the key is a miss, with one warning. When the directory cannot be used, for whatever reason, a run
    continues without it. One that may be read and not written is read.

    Args:
        path: The directory; created when it is first used. `~` and environment variables are expanded.
        size_limit: Size in bytes beyond which entries are evicted, least recently used first; None for no limit.
        compress: Whether values are compressed with zlib, or its level from 1 (fast) to 9 (small).
        key: Secret of at least 16 characters, shared by everybody who shares the directory. When None, the environment
            variable `HYPERNODES_CACHE_KEY`; when that is not set, a random key, which is stored in this user's
            configuration directory.
        lock_timeout_s: How long to wait for other processes that are writing, in seconds.
        shows_inputs: Whether what is stored for `Pipeline.explain` holds numbers and short texts among the inputs in
            clear, unless they look like secrets; False for digests only.

    Raises:
        ConfigurationError: A setting has an invalid value.

    Example:
        >>> import tempfile
        >>> from hypernodes import DiskCache, Pipeline, node
        >>> @node(output_name="doubled")
        ... def double(x):
        ...     print("computing")
        ...     return 2 * x
        >>> directory = tempfile.mkdtemp()
        >>> pipeline = Pipeline(nodes=[double], cache=DiskCache(path=directory))
        >>> pipeline.run(inputs={"x": 4})
        computing
        {'doubled': 8}
        >>> pipeline.with_cache(DiskCache(path=directory)).run(inputs={"x": 4})
        {'doubled': 8}
    """

    _set_by_init = ("path", "_lock")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size_limit: int | None = None,
        compress: bool | int = False,
        key: str | bytes | None = None,
        lock_timeout_s: float = 30.0,
        shows_inputs: bool = True,
    ) -> None:
        given: Any = path
        if not isinstance(given, (str, bytes, os.PathLike)) or not os.fspath(path):
            raise ConfigurationError(f"path must be a directory; got {given!r:.200}")
        if size_limit is not None and (not _is_whole(size_limit) or size_limit < 1):
            raise ConfigurationError(f"size_limit must be a positive number of bytes or None; got {size_limit!r:.200}")
        if not isinstance(compress, bool) and (not _is_whole(compress) or not 0 <= compress <= 9):
            raise ConfigurationError(f"compress must be True, False or a level from 0 to 9; got {compress!r:.200}")
        if not _is_seconds(lock_timeout_s):
            raise ConfigurationError(f"lock_timeout_s must be a number of seconds; got {lock_timeout_s!r:.200}")
        if not isinstance(shows_inputs, bool):
            raise ConfigurationError(f"shows_inputs must be True or False; got {shows_inputs!r:.200}")
        # Absolute, so that a later change of the working directory makes no difference.
        self.path = os.path.abspath(os.path.expandvars(os.path.expanduser(os.fspath(path))))
        self.size_limit = size_limit
        self.compress = compress
        self.lock_timeout_s = lock_timeout_s
        self.shows_inputs = shows_inputs
        self._secret = secret_key.from_environment() if key is None else secret_key.derive(key, "key")
        self._fingerprint = None if key is None or self._secret is None else secret_key.fingerprint(self._secret)
        self._prepare()

    def _prepare(self) -> None:
        """Set up the state that belongs to this process."""
        self._lock = threading.RLock()
        self._database: EntryDatabase | None = None
        self._sealer: Sealer | None = None
        self._finalizer: weakref.finalize[[], DiskCache] | None = None
        self._check_at = 0.0
        self._paused_until = 0.0
        self._warned: set[str] = set()
        self._used: list[int] = []
        self._written_bytes = 0
        self._hits = 0
        self._misses = 0
        close_before_fork(self)

    # --- the interface of Cache --------------------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        return self.get_many((key,)).get(key, MISS)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        wanted = keys if isinstance(keys, (list, tuple)) else list(keys)
        _check(wanted)
        found: dict[str, Any] = {}
        rows = self._attempt(lambda database: database.read(wanted), None)
        if rows:
            outdated = time.time() - _USE_IS_RECORDED_EVERY_S
            for row in rows:
                value = self._load(row)
                if value is not MISS:
                    found[row[0]] = value
                    if type(row[4]) is float and row[4] < outdated:
                        self._used.append(row[3])
        with self._lock:
            self._hits += len(found)
            self._misses += len(wanted) - len(found)
        if len(self._used) > _MAX_UNRECORDED_USES:
            self._record_uses()
        return found

    def put(self, key: str, value: Any) -> None:
        self.put_many({key: value})

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        _check(entries)
        now = time.time()
        for attempt in range(2):
            database = self._attempt_write(lambda database: database, None)
            if database is None:
                return
            rows, failure = self._make_rows(database, entries, labels or {}, now)
            if rows:
                is_stored = self._write(database, rows)
                if self._database is not database and attempt == 0:
                    continue  # it was reopened: it may have been set aside, together with the files just written
                if is_stored and self.size_limit is not None:
                    self._evict_if_full(sum(row.size + len(row.value or b"") for row in rows))
            if failure is not None:
                raise failure
            return

    def prepare(self, value: Any) -> tuple[Any, bool]:
        try:
            encoded = encode(value)
        except Exception:  # `put_many` says why
            return value, False
        if sum(map(len, encoded.parts)) >= INLINE_SIZE_LIMIT:
            return encoded, False  # large buffers are not copied
        return EncodedValue(encoded.codec, tuple(map(bytes, encoded.parts))), True

    def contains(self, key: str) -> bool:
        return key in self.contains_many((key,))

    def contains_many(self, keys: Iterable[str]) -> set[str]:
        wanted = list(keys)
        _check(wanted)
        return self._attempt(lambda database: database.present(wanted), set())

    def delete(self, key: str) -> None:
        _check((key,))
        self._attempt_write(lambda database: database.remove_key(key), None)

    def clear(self) -> None:
        self._attempt_write(lambda database: database.remove_all(), None)

    def stats(self) -> CacheStats:
        entries, size = self._attempt(lambda database: database.counts(), (None, None))
        return CacheStats(entries, size, self._hits, self._misses)

    def close(self) -> None:
        with self._lock:
            if self._database is not None and self._used:
                self._record_uses()
            self._close_database()

    # --- maintenance -------------------------------------------------------------------------------------------------

    def pin(self, key: str) -> None:
        """Protect an entry from eviction; `delete` and `clear` still remove it."""
        _check((key,))
        self._attempt_write(lambda database: database.pin(key), None)

    def unpin(self, key: str) -> None:
        """Allow an entry to be evicted again."""
        _check((key,))
        self._attempt_write(lambda database: database.unpin(key), None)

    def collect(self, *, size_limit: int | None = None, unused_for_s: float | None = None) -> RemovedCounts:
        """Evict entries by size and age, and delete the leftovers of killed processes; safe during concurrent use.

        Args:
            size_limit: When the entries take more bytes than this, the least recently used ones are evicted until a
                tenth of it is free; the cache's own limit when None.
            unused_for_s: Entries that were not used for this many seconds are evicted; None to ignore their age.

        Returns:
            The number of entries, and of leftovers, that were removed.
        """
        limit = self.size_limit if size_limit is None else size_limit

        def run(database: EntryDatabase) -> RemovedCounts:
            entries = eviction.evict(database, limit, unused_for_s)
            return RemovedCounts(entries, eviction.remove_leftovers(database) + recovery.remove_set_aside(self.path))

        return self._attempt_write(run, RemovedCounts())

    def entries(self) -> Iterator[Entry]:
        """Return the metadata of each entry, without loading any value."""
        found = self._attempt(
            lambda database: [entry for chunk in inspection.entries(database) for entry in chunk], None
        )
        return iter(found or ())

    # --- values ------------------------------------------------------------------------------------------------------

    def _make_rows(
        self, database: EntryDatabase, entries: Mapping[str, Any], labels: Mapping[str, str], now: float
    ) -> tuple[list[NewRow], Exception | None]:
        """Return the rows to write, and the first error of values that cannot be stored."""
        rows: list[NewRow] = []
        failure: Exception | None = None
        sealer = self._sealer
        assert sealer is not None
        try:
            for key, value in entries.items():
                try:
                    encoded = value if type(value) is EncodedValue else encode(value)
                except Exception as error:  # may come from a __reduce__ or a __getstate__ of the user's
                    failure = failure or error
                    continue
                if sum(map(len, encoded.parts)) < INLINE_SIZE_LIMIT:
                    rows.append(inline_row(key, labels.get(key), sealer.seal(key, encoded), now))
                    continue
                name, path = database.new_file()
                try:
                    size = sealer.write(path, key, encoded)
                except OSError as error:
                    self._warn(
                        "storage", f"{self!r} cannot be written: {error}; what cannot be stored is computed again."
                    )
                else:
                    rows.append(file_row(key, labels.get(key), name, size, now))
        except BaseException:
            _remove_files(database, rows)
            raise
        return rows, failure

    def _write(self, database: EntryDatabase, rows: list[NewRow]) -> bool:
        is_stored = False
        try:
            is_stored = self._attempt_write(lambda database: database.write(rows), False)
        finally:
            if not is_stored:
                _remove_files(database, rows)
        if self._used:
            self._record_uses()
        return is_stored

    def _load(self, row: StoredRow) -> Any:
        sealer = self._sealer
        assert sealer is not None
        key, entry, filename = row[:3]
        try:
            if type(entry) is bytes:
                encoded = sealer.open(key, entry)
            elif filename is not None:
                found = self._read_file(sealer, row)
                if found is None:
                    return MISS
                encoded = found
            else:
                raise UnreadableError("it was not written by DiskCache")
            return decode(encoded.codec, encoded.parts)
        except Exception as error:
            reason = str(error) if isinstance(error, UnreadableError) else f"{type(error).__name__}: {error}"
            self._warn("entry", f"an entry of {self!r} cannot be read and is computed again: {reason}")
            return MISS

    def _read_file(self, sealer: Sealer, row: StoredRow) -> EncodedValue | None:
        """Return the content of an entry's file, or None if the file was deleted."""
        for _ in range(_MAX_READ_ATTEMPTS):
            key, entry, filename, rowid, _ = row
            if filename is None:
                return sealer.open(key, entry)
            path = self._attempt(_path_of(filename), None)
            if path is None:
                raise UnreadableError("it names a file that does not belong to this cache")
            try:
                return sealer.read(path, key)
            except FileNotFoundError:
                # Another process may just have written the same entry, to a file of its own.
                rows = self._attempt(_read(key), None)
                if not rows:
                    return None
                if rows[0][2] == filename:
                    self._attempt_write(_remove_row(rowid, filename), None, is_asked_for=False)
                    return None
                row = rows[0]
        return None

    def _evict_if_full(self, written_bytes: int) -> None:
        with self._lock:
            self._written_bytes += written_bytes
            assert self.size_limit is not None
            if self._written_bytes < self.size_limit // 32:
                return
            self._written_bytes = 0
        self._attempt_write(lambda database: eviction.evict(database, self.size_limit), None)

    def _record_uses(self) -> None:
        with self._lock:
            used, self._used = self._used, []
        self._attempt_write(lambda database: database.touch_many(used, time.time()), None, is_asked_for=False)

    # --- the directory -----------------------------------------------------------------------------------------------

    def _attempt(self, operation: Callable[[EntryDatabase], _T], otherwise: _U) -> _T | _U:
        """Return the result of an operation on the directory, or `otherwise` when the directory cannot be used."""
        with self._lock:
            if self._paused_until and time.monotonic() < self._paused_until:
                return otherwise
            problems: list[StorageProblem] = []
            while True:
                is_open = False
                try:
                    database = self._open()
                    is_open = True
                    return operation(database)
                except (MemoryError, RecursionError):
                    raise  # not caused by the directory
                except Exception as error:
                    problem = recovery.classify(error)
                    if not self._repair(problem, problems, error):
                        if not is_open or problem is StorageProblem.BUSY:
                            self._paused_until = time.monotonic() + _PAUSE_S
                        return otherwise
                    problems.append(problem)

    def _attempt_write(
        self, operation: Callable[[EntryDatabase], _T], otherwise: _U, is_asked_for: bool = True
    ) -> _T | _U:
        """Like `_attempt`, for what changes the directory: nothing where it can only be read.

        Args:
            operation: The operation.
            otherwise: What to return when it cannot be done.
            is_asked_for: Whether somebody who asked for it is to be warned.
        """

        def run(database: EntryDatabase) -> _T | _U:
            if not database.is_read_only:
                return operation(database)
            if is_asked_for:
                self._warn(
                    "read-only",
                    f"{self!r} can be read but not written: what is not in it is computed again next time.",
                )
            return otherwise

        return self._attempt(run, otherwise)

    def _repair(self, problem: StorageProblem, before: Sequence[StorageProblem], error: Exception) -> bool:
        """Repair the directory where that is possible, and warn where it is not; return whether to try again."""
        if problem in (StorageProblem.DAMAGED, StorageProblem.INCONSISTENT):
            was_replaced = self._database is not None and self._database.is_replaced
            self._close_database()
            if not before and (problem is StorageProblem.INCONSISTENT or was_replaced):
                return True
            if len(before) < 3:
                try:
                    folder = recovery.set_aside(self.path)
                except OSError as failure:
                    error = failure
                else:
                    self._warn(
                        "index",
                        f"the index of {self!r} is damaged ({error}) and was set aside in {folder}; the cache starts "
                        "empty.",
                    )
                    return True
        if problem is StorageProblem.BUSY:
            advice = "another process keeps it locked; the run continues without it"
        else:
            advice = "the run continues, and what cannot be stored is computed again next time"
        self._warn("storage", f"{self!r} cannot be used: {error} ({type(error).__name__}); {advice}.")
        return False

    def _open(self) -> EntryDatabase:
        now = time.monotonic()
        database = self._database
        if database is not None and now >= self._check_at:
            self._check_at = now + _CHECK_REPLACED_EVERY_S
            if database.is_replaced:  # deleted, or set aside by another process
                self._close_database()
                database = None
        if database is None:
            sealer = Sealer(self._find_secret(), int(self.compress))
            self._warn_about_network_filesystem()
            database = self._open_database()
            self._database, self._sealer = database, sealer
            self._finalizer = weakref.finalize(self, database.close)
            self._check_at = now + _CHECK_REPLACED_EVERY_S
            if not database.is_read_only:
                eviction.remove_leftovers_daily(database)
        return database

    def _open_database(self) -> EntryDatabase:
        try:
            return EntryDatabase(self.path, self.lock_timeout_s)
        except (OSError, sqlite3.OperationalError) as error:
            if not recovery.may_be_read(self.path, error):
                raise
            try:
                return EntryDatabase(self.path, self.lock_timeout_s, is_read_only=True)
            except Exception:
                raise error from None

    def _close_database(self) -> None:
        if self._database is not None:
            database, self._database = self._database, None
            if self._finalizer is not None:
                self._finalizer.detach()
            database.close()

    def _find_secret(self) -> bytes:
        if self._secret is None:
            inside = os.path.join(os.path.realpath(self.path), "")
            if os.path.realpath(secret_key.key_file()).startswith(inside):
                raise secret_key.SecretKeyError(
                    f"the secret key {secret_key.key_file()} would be inside the cache directory, where it protects "
                    "nothing"
                )
            self._secret = secret_key.user_key()
        if self._fingerprint is not None and secret_key.fingerprint(self._secret) != self._fingerprint:
            raise secret_key.SecretKeyError(
                "it was made with key=..., which is not sent to other processes; "
                f"set {secret_key.ENVIRONMENT_VARIABLE} instead"
            )
        return self._secret

    def _warn_about_network_filesystem(self) -> None:
        kind = network_filesystem(self.path)
        if kind is not None:
            self._warn(
                "network",
                f"{self!r} is on a network filesystem ({kind}), where SQLite's locks cannot be trusted: use it from "
                "one machine at a time. Damaged entries are detected and computed again.",
            )

    def _warn(self, topic: str, message: str) -> None:
        """Warn about a topic, once for each cache object."""
        if topic not in self._warned:
            self._warned.add(topic)
            warn_caller(message, CacheWarning)

    # --- representation and pickling ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.stats().entries or 0

    def __repr__(self) -> str:
        return f"DiskCache(path={self.path!r})"

    def __getstate__(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in _SETTINGS}
        return {**settings, "_fingerprint": self._fingerprint}  # without the secret

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._secret = secret_key.from_environment()
        self._prepare()


_SETTINGS = ("path", "size_limit", "compress", "lock_timeout_s", "shows_inputs")


def _path_of(filename: Any) -> Callable[[EntryDatabase], str | None]:
    return lambda database: database.path_of(filename)


def _read(key: str) -> Callable[[EntryDatabase], list[StoredRow]]:
    return lambda database: database.read((key,))


def _remove_row(rowid: Any, filename: Any) -> Callable[[EntryDatabase], None]:
    return lambda database: database.remove_row_of_file(rowid, filename)


def _check(keys: Iterable[Any]) -> None:
    for key in keys:
        if type(key) is not str:
            raise TypeError(f"keys must be str; got {key!r}")
        if not key.isascii():
            key.encode()  # raises for a key that cannot be stored


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _remove_files(database: EntryDatabase, rows: Iterable[NewRow]) -> None:
    for row in rows:
        if row.filename is not None:
            database.disk.remove(row.filename)
