"""What a cache has to survive, at any length: `python tests/disk_cache/torture.py kills|storm|mutations ...`.

The short forms run with the tests. With the figures of the full forms:
`python tests/disk_cache/torture.py kills 1000`, `... storm 16 60` and `... mutations 10000`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import pickle
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from hypernodes import CacheWarning
from hypernodes_cache import DiskCache


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def value_of(number: int) -> Any:
    """A value that says which it is from its first byte to its last; every fourth is kept in a file."""
    word = f"{number:08d}-".encode()
    if number % 4 == 0:
        return word * (5_000 + number % 7_000)
    return {"number": number, "text": word.decode() * (number % 50), "list": [number] * (number % 9)}


# --- kills -------------------------------------------------------------------------------------------------------


def kills(count: int, seed: int = 1) -> dict[str, Any]:
    """Kill a process that writes, again and again, and look at what it left."""
    chance = random.Random(seed)
    report: Counter[str] = Counter()
    slowest_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            first = 1000 * number
            committed = _kill_a_writer(folder, first, kill_after=chance.randrange(12), wait_s=chance.random() / 200)
            started_at = time.perf_counter()
            try:
                with DiskCache(folder) as cache:
                    found = cache.get_many([key_of(first)])
                    slowest_s = max(slowest_s, time.perf_counter() - started_at)
                    numbers = range(first, first + 200)
                    found = cache.get_many([key_of(n) for n in numbers])
                    report["wrong"] += sum(found[key_of(n)] != value_of(n) for n in numbers if key_of(n) in found)
                    report["lost"] += sum(key_of(n) not in found for n in range(first, committed))
                    report["found"] += len(found)
                    if number % 50 == 49:
                        cache.clear()
            except Exception:
                traceback.print_exc()
                report["exceptions"] += 1
            report["kills"] += 1
    return {**_zeros("wrong", "lost", "exceptions"), **report, "slowest_reopening_s": round(slowest_s, 3)}


def _kill_a_writer(folder: str, first: int, kill_after: int, wait_s: float) -> int:
    """Return the number after the last one that the writer said was committed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with DiskCache(folder) as cache:
            for start in range(first, first + 200, 5):
                cache.put_many({key_of(n): value_of(n) for n in range(start, start + 5)}, {key_of(start): "writer"})
                os.write(writer, (start + 5).to_bytes(8, "little"))
        os._exit(0)
    os.close(writer)
    said = first
    with open(reader, "rb", buffering=0) as recorder:
        for _ in range(kill_after):
            if data := recorder.read(8):
                said = int.from_bytes(data, "little")
        time.sleep(wait_s)  # so that the kill comes at any moment of a write; nothing waits for it
        os.kill(child, signal.SIGKILL)
        while data := recorder.read(8):
            said = int.from_bytes(data, "little")
    os.waitpid(child, 0)
    return said


# --- many processes ----------------------------------------------------------------------------------------------


def storm(processes: int, seconds: float) -> dict[str, Any]:
    """Let processes put and get the same keys all the time."""
    keys = 400
    names = ("torn", "false_misses", "exceptions", "gets", "puts", "hits")
    # What was committed, seen by all; after that, the counters of each process.
    shared = mmap.mmap(-1, keys + 8 * len(names) * processes)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for number in range(processes):
            child = os.fork()
            if child == 0:
                counts = _take_part(folder, number, seconds, keys, shared)
                for index, name in enumerate(names):
                    start = keys + 8 * (len(names) * number + index)
                    shared[start : start + 8] = counts[name].to_bytes(8, "little")
                os._exit(0)
            children.append(child)
        statuses = [os.waitpid(child, 0)[1] for child in children]
    totals = dict.fromkeys(names, 0)
    for number in range(processes):
        for index, name in enumerate(names):
            start = keys + 8 * (len(names) * number + index)
            totals[name] += int.from_bytes(shared[start : start + 8], "little")
    return {**totals, "crashed": sum(map(bool, statuses)), "committed_keys": shared[:keys].count(1)}


def _take_part(folder: str, number: int, seconds: float, keys: int, shared: mmap.mmap) -> Counter[str]:
    chance = random.Random(number)
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    warnings.simplefilter("error")
    try:
        with DiskCache(folder) as cache:
            while time.monotonic() < end:
                chosen = chance.sample(range(keys), 8)
                if chance.random() < 0.3:
                    cache.put_many({key_of(n): value_of(n) for n in chosen})
                    for n in chosen:
                        shared[n] = 1
                    counts["puts"] += len(chosen)
                else:
                    promised = [n for n in chosen if shared[n]]
                    found = cache.get_many([key_of(n) for n in chosen])
                    counts["gets"] += len(chosen)
                    counts["hits"] += len(found)
                    counts["torn"] += sum(found[key_of(n)] != value_of(n) for n in chosen if key_of(n) in found)
                    counts["false_misses"] += sum(key_of(n) not in found for n in promised)
    except BaseException:
        traceback.print_exc()
        counts["exceptions"] += 1
    return counts


# --- mutations ---------------------------------------------------------------------------------------------------


MOVE = "UPDATE Cache SET (value, filename) = (SELECT value, filename FROM Cache WHERE rowid = ?) WHERE rowid = ?"


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.putenv, ("HYPERNODES_EXPLODED", "1")


# What is changed there is the same whether or not it has reached a disk, and waiting for the disk at each of the many
# commits is most of the time otherwise.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
NUMBERS = range(24)
EVERYTHING = {key_of(n): value_of(n) for n in NUMBERS}


def mutations(count: int, seed: int = 1) -> dict[str, Any]:
    """Change what is on disk at random, and use the cache as if nothing had happened."""
    chance = random.Random(seed)
    report: Counter[str] = Counter()
    kinds: list[Callable[[Path, random.Random], bool]] = [
        *(_change_rows, _change_rows, _change_value_file, _change_value_file),
        *(_change_bytes, _cut_off, _change_schema, _change_log, _replace_database),
    ]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        pristine, scratch = Path(folder, "pristine"), Path(folder, "scratch")
        with DiskCache(pristine) as cache:
            cache.put_many(EVERYTHING, dict.fromkeys(EVERYTHING, "node"))
        for _ in range(count):
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(pristine, scratch)
            mutate = chance.choice(kinds)
            must_miss = mutate(scratch, chance)
            report[mutate.__name__] += 1
            try:
                _use(scratch, must_miss, report)
            except Exception:
                traceback.print_exc()
                report["exceptions"] += 1
    report["exploded"] = int("HYPERNODES_EXPLODED" in os.environ or _was_put("HYPERNODES_EXPLODED"))
    bad = ("wrong", "exceptions", "exploded", "lost_after_put", "unnoticed", "other_warnings", "second_warnings")
    return {**_zeros(*bad), **report}


def _use(folder: Path, must_miss: bool, report: Counter[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with DiskCache(folder, lock_timeout_s=1) as cache:
            found = cache.get_many(list(EVERYTHING))
            report["hits"] += len(found)
            report["misses"] += len(EVERYTHING) - len(found)
            report["wrong"] += sum(found[key] != EVERYTHING.get(key) for key in found)
            report["unnoticed"] += must_miss and len(found) == len(EVERYTHING)
            for _ in range(2):  # where two rows named one file, what replaces the one takes it from the other
                cache.put_many({key: value for key, value in EVERYTHING.items() if key not in found})
                found = cache.get_many(list(EVERYTHING))
                report["wrong"] += sum(found[key] != EVERYTHING.get(key) for key in found)
            report["lost_after_put"] += len(found) != len(EVERYTHING)
            cache.stats()
            list(cache.entries())
            cache.collect(size_limit=10**9)
    report["other_warnings"] += sum(not issubclass(warning.category, CacheWarning) for warning in caught)
    report["second_warnings"] += max(0, len(caught) - len({str(warning.message) for warning in caught}))


def _change_rows(folder: Path, chance: random.Random) -> bool:
    bomb = pickle.dumps(Bomb())
    name = chance.choice(["../../outside.val", "/etc/hostname", "aa/bb/" + "c" * 28 + ".val", "", b"\xff\xfe", 7])
    statement, values = chance.choice(
        [
            ("UPDATE Cache SET value = ?, mode = 4, filename = NULL WHERE rowid = ?", (bomb,)),
            ("UPDATE Cache SET value = ?, mode = 1, filename = NULL WHERE rowid = ?", (bomb,)),
            ("UPDATE Cache SET value = ?, filename = NULL WHERE rowid = ?", (chance.randbytes(chance.randrange(99)),)),
            ("UPDATE Cache SET value = ?, filename = NULL WHERE rowid = ?", (chance.choice([None, 1, 1.5, "text"]),)),
            ("UPDATE Cache SET filename = ?, value = NULL WHERE rowid = ?", (name,)),
            (MOVE, (1,)),
            ("UPDATE Cache SET value = SUBSTR(value, 1, LENGTH(value) - ?), filename = NULL WHERE rowid = ?", (1,)),
            ("UPDATE Cache SET raw = ? WHERE rowid = ?", (0,)),
            ("UPDATE Cache SET key = ?, raw = 0 WHERE rowid = ?", (bomb,)),
            ("UPDATE Cache SET key = CAST(? AS TEXT) WHERE rowid = ?", (b"\xff\xfe",)),
        ]
    )
    _execute(folder, statement, (*values, chance.randrange(2, len(EVERYTHING) + 1)))
    _execute(folder, "UPDATE Cache SET tag = ?, access_time = ?, store_time = 'x', size = 'big'", (bomb, "never"))
    return True


def _change_value_file(folder: Path, chance: random.Random) -> bool:
    files = sorted(folder.rglob("*.val"))
    path = chance.choice(files)
    data = bytearray(path.read_bytes())
    kind = chance.randrange(5)
    if kind == 0:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[chance.randrange(len(data)) :]
    elif kind == 2:
        data += b"\0"
    elif kind == 3:
        path.unlink()
        return True
    else:
        other = chance.choice([file for file in files if file != path])
        data = bytearray(other.read_bytes())
    path.write_bytes(data)
    return True


def _change_bytes(folder: Path, chance: random.Random) -> bool:
    path = folder / "cache.db"
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 10, 1000])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)
    return False  # it may have been a byte that nobody needs


def _cut_off(folder: Path, chance: random.Random) -> bool:
    path = folder / "cache.db"
    os.truncate(path, chance.choice([0, 1, 100, chance.randrange(path.stat().st_size)]))
    return False


def _change_schema(folder: Path, chance: random.Random) -> bool:
    statement, values = chance.choice(
        [
            ("DROP TABLE Cache", ()),
            ("DROP TABLE Settings", ()),
            ("DROP TABLE Pins", ()),
            ("DROP INDEX Cache_key_raw", ()),
            ("ALTER TABLE Cache RENAME COLUMN value TO other", ()),
            ("ALTER TABLE Cache RENAME TO Other", ()),
            ("DELETE FROM Settings", ()),
            ("INSERT INTO Settings VALUES ('sqlite_writable_schema', 1)", ()),
            ("INSERT OR REPLACE INTO Settings VALUES ('eviction_policy', 'no such')", ()),
            ("INSERT INTO Settings VALUES ('_disk', ?)", (pickle.dumps(Bomb()),)),
            ("INSERT INTO Settings VALUES (CAST(? AS TEXT), 1)", (b"\xff\xfe",)),
            ("INSERT INTO Settings VALUES ('disk_no_such', 1)", ()),
            ("UPDATE Settings SET value = 'many' WHERE key IN ('size', 'count')", ()),
        ]
    )
    _execute(folder, statement, values)
    return False


def _change_log(folder: Path, chance: random.Random) -> bool:
    suffix = chance.choice(["-wal", "-shm", "-journal"])
    (folder / f"cache.db{suffix}").write_bytes(chance.randbytes(chance.choice([1, 32, 5000, 40000])))
    return False


def _replace_database(folder: Path, chance: random.Random) -> bool:
    path = folder / "cache.db"
    path.unlink()
    if chance.random() < 0.5:
        path.write_bytes(chance.randbytes(chance.choice([1, 100, 5000, 100_000])))
    return False


def _execute(folder: Path, statement: str, values: tuple[Any, ...]) -> None:
    with closing(sqlite3.connect(folder / "cache.db")) as database, database:
        database.execute(statement, values)


def _was_put(name: str) -> bool:
    """Whether the environment of the process itself has a variable: `os.putenv` does not tell `os.environ`."""
    import subprocess

    script = f"import os; print({name!r} in os.environ)"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "True\n"


def _zeros(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 0)


if __name__ == "__main__":
    command, *numbers = sys.argv[1:]
    work: Callable[..., dict[str, Any]] = {"kills": kills, "storm": storm, "mutations": mutations}[command]
    print(json.dumps(work(*map(int, numbers))))
