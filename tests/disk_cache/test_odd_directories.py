"""Directories that may only be read, and files that are no files, or are cut off while they are used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hypernodes import MISS, CacheWarning
from hypernodes_cache import DiskCache, secret_key
from tests.support import run_python, start_python

KEY = "a key that all of them share"
KEYS = [f"{number:064x}" for number in range(4)]
FIRST = {KEYS[0]: "small", KEYS[1]: bytes(100_000)}

# --- directories that may only be read -----------------------------------------------------------------------------

READ = """
import json, os, sys, warnings
from hypernodes import DiskCache

KEY, KEYS = sys.argv[1], sys.argv[2].split()
with DiskCache("warm-up", key=KEY) as cache:  # so that everything is imported while it can be read
    cache.put("k", bytes(100_000))
    cache.get("k")
if os.geteuid() == 0:  # to whom nothing is forbidden
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
cache = DiskCache("cache", key=KEY)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = cache.get_many(KEYS)
    entries = len(list(cache.entries()))
    cache.put(KEYS[3], 4)
    cache.pin(KEYS[0])
    cache.delete(KEYS[0])
    cache.clear()
    cache.collect(unused_for_s=0)
    cache.close()
    again = cache.get(KEYS[0])
lengths = {key: len(value) for key, value in found.items()}
print(json.dumps([lengths, entries, str(again), [str(w.message) for w in caught]]))
"""


def read_as_another_user(folder: Path) -> tuple[dict[str, int], int, str, list[str]]:
    """Have a process that may not write read a cache; return what it found, and its warnings."""
    cache = folder / "cache"
    inside = [cache, *cache.rglob("*")]
    for path in inside:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "read.py").write_text(READ)
    try:
        lengths, entries, again, caught = json.loads(run_python("read.py", KEY, " ".join(KEYS), cwd=folder))
    finally:
        for path in inside:
            path.chmod(0o755 if path.is_dir() else 0o644)
    return lengths, entries, again, caught


LENGTHS = {key: len(value) for key, value in FIRST.items()}


def test_a_cache_that_may_only_be_read_is_read_with_one_warning(shown_to_all: Path) -> None:
    with DiskCache(shown_to_all / "cache", key=KEY) as cache:
        cache.put_many(FIRST)
    lengths, entries, again, caught = read_as_another_user(shown_to_all)
    assert (lengths, entries, again) == (LENGTHS, 2, "small")
    (warning,) = caught
    assert warning.startswith("DiskCache(path=")
    assert warning.endswith("can be read but not written: what is not in it is computed again next time.")


WRITE = """
import sys
from hypernodes import DiskCache
cache = DiskCache("cache", key=sys.argv[1])
cache.put(sys.argv[2], "small")
cache.put(sys.argv[3], bytes(100_000))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("is_alive", [True, False], ids=["beside a writer", "after a crash"])
def test_a_cache_that_may_only_be_read_shows_what_is_only_in_the_log(is_alive: bool, shown_to_all: Path) -> None:
    (shown_to_all / "write.py").write_text(WRITE)
    writer = start_python("write.py", KEY, *FIRST, cwd=shown_to_all, stdin=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        if not is_alive:
            writer.kill()
            writer.wait()
        assert (shown_to_all / "cache" / "cache.db-wal").stat().st_size > 0
        lengths, entries, again, caught = read_as_another_user(shown_to_all)
    finally:
        end(writer)
    assert (lengths, entries, again, len(caught)) == (LENGTHS, 2, "small", 1), caught


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# --- an index of the log that is cut off ---------------------------------------------------------------------------

CUT_OFF = """
import os, sys
from hypernodes import DiskCache
caches = [DiskCache("cache", key=sys.argv[1]) for _ in range(2)]
keys = []
for size in (0, 100, 1, 32767, 0, 5000):
    for cache in caches:
        for n in range(3):
            keys.append(f"{len(keys):064x}")
            cache.put(keys[-1], keys[-1])
        for other in caches:
            os.truncate("cache/cache.db-shm", size)
            assert len(other.get_many(keys)) == len(keys), size
            os.truncate("cache/cache.db-shm", size)
            keys.append(f"{len(keys):064x}")
            cache.put(keys[-1], keys[-1])
for cache in caches:
    os.truncate("cache/cache.db-shm", 0)
    cache.close()
assert len(DiskCache("cache", key=sys.argv[1]).get_many(keys)) == len(keys)
print(sorted(name for name in os.listdir("cache") if "aside" in name))
"""


def test_an_index_of_the_log_that_is_cut_off_ends_no_process_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(CUT_OFF)
    assert run_python("-W", "error", "job.py", KEY, cwd=tmp_path) == "[]\n"


# --- something else in the place of files ---------------------------------------------------------------------------


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = [make_fifo, make_socket, make_device, Path.mkdir]


@pytest.mark.parametrize("make", KINDS)
def test_a_secret_key_that_is_no_file_costs_the_cache_and_is_not_waited_for(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    secret_key.key_file().parent.mkdir()
    make(secret_key.key_file())
    with DiskCache(tmp_path / "cache") as cache:
        with pytest.warns(CacheWarning, match="the secret key .* cannot be read: .* give DiskCache"):
            cache.put("k", 1)
        assert cache.get("k") is MISS


@pytest.mark.parametrize("make", KINDS)
def test_an_entry_that_is_no_file_is_a_miss_and_is_not_waited_for(make: Callable[[Path], None], tmp_path: Path) -> None:
    with DiskCache(tmp_path / "cache", key=KEY) as cache:
        cache.put("k", bytes(100_000))
        (file,) = (tmp_path / "cache").rglob("*.val")
        file.unlink()
        make(file)
        [entry] = cache.entries()
        assert entry.codec == "damaged"
        with pytest.warns(CacheWarning, match="an entry of .* cannot be read and is computed again"):
            assert cache.get("k") is MISS


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal", "cache.db-tidied"])
def test_an_index_that_is_no_file_is_not_waited_for(
    name: str, make: Callable[[Path], None], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with DiskCache(tmp_path / "cache", key=KEY) as cache:
        cache.put("k", 1)
    path = tmp_path / "cache" / name
    path.unlink(missing_ok=True)
    make(path)
    if make is not make_device:
        os.utime(path, (0, 0))
    with DiskCache(tmp_path / "cache", key=KEY) as cache:
        cache.put("k", 1)
        assert cache.get("k") in (1, MISS)
    assert len(recwarn) <= 1
