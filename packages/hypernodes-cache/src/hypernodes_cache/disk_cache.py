"""A cache in a directory, on the diskcache library: results survive the process and are shared between processes."""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from hypernodes import MISS, Cache, CacheStats, CacheWarning, ConfigurationError
from hypernodes_cache import eviction, inspection, recovery, secret
from hypernodes_cache.eviction import Removed
from hypernodes_cache.filesystems import network_filesystem
from hypernodes_cache.forking import close_before_fork
from hypernodes_cache.frames import Sealer
from hypernodes_cache.inspection import Entry
from hypernodes_cache.recovery import Trouble
from hypernodes_cache.store import INLINE_SIZE_LIMIT, Found, Row, Store, file_row, inline_row
from hypernodes_cache.values import Packed, UnreadableError, pack, unpack

_T = TypeVar("_T")
_U = TypeVar("_U")

_CHECK_REPLACED_EVERY_S = 1.0
_PAUSE_S = 60.0  # how long a directory that does not work is left alone
_USE_IS_NOTED_EVERY_S = 3600.0  # to the hour is enough to know what was not used for long, and costs no writing
_MOST_USES = 1000
_MOST_RACES = 10


class DiskCache(Cache):
    """Keeps results in a directory, for other processes and later runs.

    Any number of threads and processes may use one directory at the same time. Every entry carries a seal made with a
    secret key, which is verified before anything is unpickled: an entry that is damaged, moved or written by somebody
    without the key is a miss, with one warning. Whatever is wrong with the directory, a run goes on without it.

    Args:
        path: The directory; made when it is first used. `~` and environment variables are expanded.
        size_limit: Size in bytes beyond which entries are dropped, those used longest ago first; None for no limit.
        compress: Whether values are compressed with zlib, or its level from 1 (fast) to 9 (small).
        key: A phrase of at least 16 characters that those who share the directory have in common. Without it, the
            environment variable `HYPERNODES_CACHE_KEY` counts, and without that a random key that is kept for this user
            in a configuration directory.
        lock_timeout_s: How long to wait for other processes that are writing, in seconds.

    Raises:
        ConfigurationError: A setting has a value it cannot have.

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        size_limit: int | None = None,
        compress: bool | int = False,
        key: str | bytes | None = None,
        lock_timeout_s: float = 30.0,
    ) -> None:
        if not os.fspath(path):
            raise ConfigurationError(f"path must be a directory; got {path!r}")
        if size_limit is not None and (not _is_whole(size_limit) or size_limit < 1):
            raise ConfigurationError(f"size_limit must be a positive number of bytes or None; got {size_limit!r}")
        if not isinstance(compress, bool) and (not _is_whole(compress) or not 0 <= compress <= 9):
            raise ConfigurationError(f"compress must be True, False or a level from 0 to 9; got {compress!r}")
        if not _is_seconds(lock_timeout_s):
            raise ConfigurationError(f"lock_timeout_s must be a number of seconds; got {lock_timeout_s!r}")
        # Absolute: not wherever the process is when it is first used.
        self.path = os.path.abspath(os.path.expandvars(os.path.expanduser(os.fspath(path))))
        self.size_limit = size_limit
        self.compress = compress
        self.lock_timeout_s = lock_timeout_s
        self._secret = secret.from_environment() if key is None else secret.derive(key, "key")
        self._fingerprint = None if key is None or self._secret is None else secret.fingerprint(self._secret)
        self._prepare()

    def _prepare(self) -> None:
        """Set up what belongs to this process."""
        self._lock = threading.RLock()
        self._store: Store | None = None
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

    # --- a cache --------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        return self.get_many((key,)).get(key, MISS)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        wanted = keys if isinstance(keys, (list, tuple)) else list(keys)
        _check(wanted)
        found: dict[str, Any] = {}
        rows = self._attempt(lambda store: store.read(wanted), None)
        if rows:
            outdated = time.time() - _USE_IS_NOTED_EVERY_S
            for row in rows:
                value = self._load(row)
                if value is not MISS:
                    found[row[0]] = value
                    if type(row[4]) is float and row[4] < outdated:
                        self._used.append(row[3])
        with self._lock:
            self._hits += len(found)
            self._misses += len(wanted) - len(found)
        if len(self._used) > _MOST_USES:
            self._note_uses()
        return found

    def put(self, key: str, value: Any) -> None:
        self.put_many({key: value})

    def put_many(self, entries: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        _check(entries)
        now = time.time()
        for attempt in range(2):
            store = self._attempt(lambda store: store, None)
            if store is None:
                return
            rows, failure = self._make_rows(store, entries, labels or {}, now)
            if rows:
                is_kept = self._write(store, rows)
                if self._store is not store and attempt == 0:
                    continue  # it was opened again: perhaps set aside, and the files that were just made with it
                if is_kept and self.size_limit is not None:
                    self._make_room(sum(row.size + len(row.value or b"") for row in rows))
            if failure is not None:
                raise failure
            return

    def prepare(self, value: Any) -> tuple[Any, bool]:
        try:
            packed = pack(value)
        except Exception:  # `put_many` says why
            return value, False
        if sum(map(len, packed.parts)) >= INLINE_SIZE_LIMIT:
            return packed, False  # large buffers are not copied
        return Packed(packed.codec, tuple(map(bytes, packed.parts))), True

    def contains(self, key: str) -> bool:
        return key in self.contains_many((key,))

    def contains_many(self, keys: Iterable[str]) -> set[str]:
        wanted = list(keys)
        _check(wanted)
        return self._attempt(lambda store: store.present(wanted), set())

    def delete(self, key: str) -> None:
        _check((key,))
        self._attempt(lambda store: store.remove_key(key), None)

    def clear(self) -> None:
        self._attempt(lambda store: store.remove_all(), None)

    def stats(self) -> CacheStats:
        entries, size = self._attempt(lambda store: store.counts(), (None, None))
        return CacheStats(entries, size, self._hits, self._misses)

    def close(self) -> None:
        with self._lock:
            if self._store is not None and self._used:
                self._note_uses()
            self._close_store()

    # --- looking after it -------------------------------------------------------------------------------------------

    def pin(self, key: str) -> None:
        """Keep an entry from being dropped to make room; `delete` and `clear` still remove it."""
        _check((key,))
        self._attempt(lambda store: store.pin(key), None)

    def unpin(self, key: str) -> None:
        """Allow an entry to be dropped again."""
        _check((key,))
        self._attempt(lambda store: store.unpin(key), None)

    def collect(self, size_limit: int | None = None, unused_for_s: float | None = None) -> Removed:
        """Drop entries by size and age, and delete what killed processes left; safe while others use the directory.

        Args:
            size_limit: When more bytes than this are taken, the entries used longest ago go, until a tenth of it is
                free; the cache's own limit when None.
            unused_for_s: Entries that were not used for so many seconds go; no entry goes by its age when None.

        Returns:
            How many entries, and how many leftovers, were removed.
        """
        limit = self.size_limit if size_limit is None else size_limit

        def run(store: Store) -> Removed:
            entries = eviction.evict(store, limit, unused_for_s)
            return Removed(entries, eviction.tidy(store) + recovery.remove_set_aside(self.path))

        return self._attempt(run, Removed())

    def entries(self) -> Iterator[Entry]:
        """Return what is known about each entry, without loading any value."""
        found = self._attempt(lambda store: [entry for chunk in inspection.entries(store) for entry in chunk], None)
        return iter(found or ())

    # --- values -----------------------------------------------------------------------------------------------------

    def _make_rows(
        self, store: Store, entries: Mapping[str, Any], labels: Mapping[str, str], now: float
    ) -> tuple[list[Row], Exception | None]:
        """Return what is to be written, and the first error of values that cannot be stored."""
        rows: list[Row] = []
        failure: Exception | None = None
        sealer = self._sealer
        assert sealer is not None
        try:
            for key, value in entries.items():
                try:
                    packed = value if type(value) is Packed else pack(value)
                except Exception as error:  # also of a __reduce__ or a __getstate__
                    failure = failure or error
                    continue
                if sum(map(len, packed.parts)) < INLINE_SIZE_LIMIT:
                    rows.append(inline_row(key, labels.get(key), sealer.seal(key, packed), now))
                    continue
                name, path = store.new_file()
                try:
                    size = sealer.write(path, key, packed)
                except OSError as error:
                    self._warn(
                        "storage", f"{self!r} cannot be written: {error}; what cannot be kept is computed again."
                    )
                else:
                    rows.append(file_row(key, labels.get(key), name, size, now))
        except BaseException:
            _remove_files(store, rows)
            raise
        return rows, failure

    def _write(self, store: Store, rows: list[Row]) -> bool:
        is_kept = False
        try:
            is_kept = self._attempt(lambda store: store.write(rows), False)
        finally:
            if not is_kept:
                _remove_files(store, rows)
        if self._used:
            self._note_uses()
        return is_kept

    def _load(self, row: Found) -> Any:
        sealer = self._sealer
        assert sealer is not None
        key, entry, filename = row[:3]
        try:
            if type(entry) is bytes:
                packed = sealer.open(key, entry)
            elif filename is not None:
                found = self._read_file(sealer, row)
                if found is None:
                    return MISS
                packed = found
            else:
                raise UnreadableError("it was not written by DiskCache")
            return unpack(packed.codec, packed.parts)
        except Exception as error:
            reason = str(error) if isinstance(error, UnreadableError) else f"{type(error).__name__}: {error}"
            self._warn("entry", f"an entry of {self!r} cannot be read and is computed again: {reason}")
            return MISS

    def _read_file(self, sealer: Sealer, row: Found) -> Packed | None:
        """Return what is in the file of an entry, or None if it is gone."""
        for _ in range(_MOST_RACES):
            key, entry, filename, rowid, _ = row
            if filename is None:
                return sealer.open(key, entry)
            path = self._attempt(_path_of(filename), None)
            if path is None:
                raise UnreadableError("it names a file that is none of this cache")
            try:
                return sealer.read(path, key)
            except FileNotFoundError:
                # Another process may just have put the same entry, in a file of its own.
                rows = self._attempt(_read(key), None)
                if not rows:
                    return None
                if rows[0][2] == filename:
                    self._attempt(_forget(rowid, filename), None)
                    return None
                row = rows[0]
        return None

    def _make_room(self, written_bytes: int) -> None:
        with self._lock:
            self._written_bytes += written_bytes
            assert self.size_limit is not None
            if self._written_bytes < self.size_limit // 32:
                return
            self._written_bytes = 0
        self._attempt(lambda store: eviction.evict(store, self.size_limit), None)

    def _note_uses(self) -> None:
        with self._lock:
            used, self._used = self._used, []
        self._attempt(lambda store: store.touch_many(used, time.time()), None)

    # --- the directory ----------------------------------------------------------------------------------------------

    def _attempt(self, operation: Callable[[Store], _T], otherwise: _U) -> _T | _U:
        """Return what an operation on the directory gives, or `otherwise` when the directory does not work."""
        with self._lock:
            if self._paused_until and time.monotonic() < self._paused_until:
                return otherwise
            troubles: list[Trouble] = []
            while True:
                is_open = False
                try:
                    store = self._open()
                    is_open = True
                    return operation(store)
                except (MemoryError, RecursionError):
                    raise  # no fault of the directory
                except Exception as error:
                    trouble = recovery.diagnose(error)
                    if not self._can_be_repaired(trouble, troubles, error):
                        if not is_open or trouble is Trouble.BUSY:
                            self._paused_until = time.monotonic() + _PAUSE_S
                        return otherwise
                    troubles.append(trouble)

    def _can_be_repaired(self, trouble: Trouble, before: Sequence[Trouble], error: Exception) -> bool:
        """Do what helps, and say what does not; return whether trying again makes sense."""
        if trouble in (Trouble.DAMAGED, Trouble.CONFUSED):
            was_replaced = self._store is not None and self._store.is_replaced
            self._close_store()
            if not before and (trouble is Trouble.CONFUSED or was_replaced):
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
        if trouble is Trouble.BUSY:
            advice = "another process keeps it locked; the run goes on without it"
        else:
            advice = "the run goes on, and what cannot be kept is computed again next time"
        self._warn("storage", f"{self!r} cannot be used: {error} ({type(error).__name__}); {advice}.")
        return False

    def _open(self) -> Store:
        now = time.monotonic()
        store = self._store
        if store is not None and now >= self._check_at:
            self._check_at = now + _CHECK_REPLACED_EVERY_S
            if store.is_replaced:  # deleted, or set aside by another process
                self._close_store()
                store = None
        if store is None:
            sealer = Sealer(self._find_secret(), int(self.compress))
            self._warn_of_network()
            store = Store(self.path, self.lock_timeout_s)
            self._store, self._sealer = store, sealer
            self._finalizer = weakref.finalize(self, store.close)
            self._check_at = now + _CHECK_REPLACED_EVERY_S
            eviction.tidy_once_a_day(store)
        return store

    def _close_store(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            if self._finalizer is not None:
                self._finalizer.detach()
            store.close()

    def _find_secret(self) -> bytes:
        if self._secret is None:
            inside = os.path.join(os.path.realpath(self.path), "")
            if os.path.realpath(secret.key_file()).startswith(inside):
                raise secret.SecretKeyError(
                    f"the secret key {secret.key_file()} would be inside the cache directory, where it protects nothing"
                )
            self._secret = secret.of_this_user()
        if self._fingerprint is not None and secret.fingerprint(self._secret) != self._fingerprint:
            raise secret.SecretKeyError(
                "it was made with key=..., which is not sent to other processes; "
                f"set {secret.ENVIRONMENT_VARIABLE} instead"
            )
        return self._secret

    def _warn_of_network(self) -> None:
        kind = network_filesystem(self.path)
        if kind is not None:
            self._warn(
                "network",
                f"{self!r} is on a network filesystem ({kind}), where SQLite's locks cannot be trusted: use it from "
                "one machine at a time. Entries that get damaged are noticed and computed again.",
            )

    def _warn(self, topic: str, message: str) -> None:
        """Say something, once for each cache object."""
        if topic not in self._warned:
            self._warned.add(topic)
            warnings.warn(message, CacheWarning, stacklevel=3)

    # --- as an object -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.stats().entries or 0

    def __repr__(self) -> str:
        return f"DiskCache(path={self.path!r})"

    def __getstate__(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("path", "size_limit", "compress", "lock_timeout_s")}
        return {**settings, "_fingerprint": self._fingerprint}  # and not the secret

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._secret = secret.from_environment()
        self._prepare()


def _path_of(filename: Any) -> Callable[[Store], str | None]:
    return lambda store: store.path_of(filename)


def _read(key: str) -> Callable[[Store], list[Found]]:
    return lambda store: store.read((key,))


def _forget(rowid: Any, filename: Any) -> Callable[[Store], None]:
    return lambda store: store.remove_row_of_file(rowid, filename)


def _check(keys: Iterable[Any]) -> None:
    for key in keys:
        if type(key) is not str:
            raise TypeError(f"keys must be str; got {key!r}")
        if not key.isascii():
            key.encode()  # raises for what cannot be stored


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _remove_files(store: Store, rows: Iterable[Row]) -> None:
    for row in rows:
        if row.filename is not None:
            store.disk.remove(row.filename)
