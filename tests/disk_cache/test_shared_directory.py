"""A directory that threads, forks and processes share, and how room is made in it meanwhile."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from hypernodes import MISS
from hypernodes_cache import DiskCache
from hypernodes_cache.database import EntryDatabase

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def set_last_use(cache: DiskCache, key: str, days_ago: float) -> None:
    with closing(sqlite3.connect(Path(cache.path) / "cache.db")) as database, database:
        statement = "UPDATE Cache SET access_time = ?, store_time = ? WHERE key = ?"
        moment = time.time() - 86400 * days_ago
        database.execute(statement, (moment, moment, key))


# --- threads and forks -------------------------------------------------------------------------------------------


def test_threads_that_end_leave_no_connection_behind(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: cache.put(str(number), number), range(40)))
    cache.close()
    folder = Path("/proc/self/fd")
    if folder.exists():
        opened = [os.readlink(file) for file in folder.iterdir() if file.is_symlink() and os.path.lexists(file)]
        assert not [path for path in opened if path.startswith(cache.path)]
    assert len(cache.get_many([str(number) for number in range(40)])) == 40


@needs_fork
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_process_uses_a_connection_of_its_own(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put("before", 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            cache.put("child", cache.get("before") + 1)
            code = 0
        finally:
            os._exit(code)
    assert cache.get("before") == 1
    cache.put("parent", 3)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get_many(["before", "child", "parent"]) == {"before": 1, "child": 2, "parent": 3}


@needs_fork
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_while_other_threads_write_harms_nobody(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        number = 0
        while not stop.is_set():
            cache.put_many({f"{threading.get_ident()}-{number}": number})
            written.append(f"{threading.get_ident()}-{number}")
            number += 1

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    statuses = []
    for number in range(10):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                cache.put(f"child-{number}", number)
                code = 0
            finally:
                os._exit(code)
        statuses.append(os.waitpid(child, 0)[1])
    stop.set()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 10
    assert len(cache.get_many([f"child-{number}" for number in range(10)])) == 10
    assert len(cache.get_many(written)) == len(written)


def test_a_put_of_another_process_between_finding_and_reading_a_file_is_no_miss(
    open_cache: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_cache(), open_cache()
    first.put("k", b"x" * 100_000)
    read = EntryDatabase.read
    puts = iter([b"y" * 100_000, b"z" * 100_000, 5])

    def read_too_late(database: EntryDatabase, keys: list[str]) -> object:
        found = read(database, keys)
        if database is first._database and (value := next(puts, None)) is not None:
            second.put("k", value)
        return found

    monkeypatch.setattr(EntryDatabase, "read", read_too_late)
    assert first.get("k") == 5


# --- room --------------------------------------------------------------------------------------------------------


def test_entries_used_longest_ago_make_room(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    for number in range(10):
        cache.put(f"k{number}", b"x" * 100_000)
        set_last_use(cache, f"k{number}", days_ago=20 - number)
    assert cache.get("k0") == b"x" * 100_000  # which counts as a use
    cache.close()
    removed = cache.collect(size_limit=600_000)
    left = cache.contains_many(f"k{number}" for number in range(10))
    assert removed.entries == 10 - len(left)
    assert left == {"k0", *(f"k{number}" for number in range(11 - len(left), 10))}
    assert 3 <= len(left) <= 5
    assert cache.stats().size_bytes is not None
    assert cache.stats().size_bytes <= 600_000
    assert len(list(Path(cache.path).rglob("*.val"))) == len(left)


def test_entries_that_were_not_used_for_long_go_whatever_room_there_is(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put_many({"old": 1, "new": 2, "pinned": 3})
    for key in ("old", "pinned"):
        set_last_use(cache, key, days_ago=31)
    cache.pin("pinned")
    assert cache.collect(unused_for_s=30 * 86400) == (1, 0)
    assert cache.contains_many(["old", "new", "pinned"]) == {"new", "pinned"}


def test_what_is_pinned_stays_until_it_is_unpinned(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache(size_limit=300_000)
    cache.put("keep", b"x" * 100_000)
    cache.pin("keep")
    for number in range(20):
        cache.put(f"k{number}", b"x" * 50_000)
    assert cache.get("keep") == b"x" * 100_000
    assert len(cache) < 10
    cache.unpin("keep")
    assert cache.collect(size_limit=1).entries > 0
    assert cache.get("keep") is MISS


def test_room_is_made_while_others_read(open_cache: Callable[..., DiskCache]) -> None:
    """What is dropped just then is a miss, and never an error or half a value."""
    writer, reader = open_cache(size_limit=500_000), open_cache()
    values = {f"k{number}": bytes([number]) * 60_000 for number in range(40)}
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [writer.put(key, value) for key, value in values.items()])
        while not writing.done():
            for key, value in reader.get_many(list(values)).items():
                assert value == values[key]
        writing.result()
    assert 0 < len(writer) < 20


def test_a_disk_cache_counts_what_was_asked_of_it(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put_many({"a": 1, "b": b"x" * 100_000})
    cache.get("a")
    cache.get_many(["a", "b", "c"])
    entries, size, hits, misses = cache.stats()
    assert (entries, hits, misses) == (2, 3, 1)
    assert size is not None
    assert size > 100_000


def test_more_keys_than_one_query_takes_are_looked_up_at_a_time(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    entries = {f"k{number}": number for number in range(3000)}
    cache.put_many(entries)
    assert cache.get_many(entries) == entries
    assert cache.contains_many([*entries, "nothing"]) == set(entries)
    assert cache.get_many([]) == {}


def test_putting_again_replaces_also_from_one_kind_of_storage_to_the_other(
    open_cache: Callable[..., DiskCache],
) -> None:
    cache = open_cache()
    for value in (b"x" * 100_000, 1, b"y" * 100_000, b"z" * 100_000):
        cache.put_many({"k": value, "other": 1})
        assert open_cache().get("k") == value
    assert len(list(Path(cache.path).rglob("*.val"))) == 1
    assert len(cache) == 2


@pytest.mark.parametrize("key", [1, b"k", None, "\ud800"])
def test_keys_that_cannot_be_kept_are_refused(key: object, open_cache: Callable[..., DiskCache]) -> None:
    with pytest.raises((TypeError, UnicodeEncodeError)):
        open_cache().put(key, 1)  # type: ignore[arg-type]


def test_a_with_block_closes_the_cache(tmp_path: Path) -> None:
    with DiskCache(tmp_path) as cache:
        cache.put("k", 1)
    assert not (tmp_path / "cache.db-wal").exists()  # SQLite deletes it with the last connection
