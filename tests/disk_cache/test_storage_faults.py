"""Whatever is wrong with the directory: the run succeeds, one warning says what it is, and nothing wrong comes back."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hypernodes import MISS, CacheWarning, Pipeline, node
from hypernodes_cache import DiskCache
from hypernodes_cache.filesystems import network_filesystem
from hypernodes_cache.recovery import set_aside
from tests.support import run_python

RUN = """
import json, os, resource, sys, warnings
from hypernodes import DiskCache, Pipeline, node
import hypernodes_cache  # before the permissions go

@node(output_name="small")
def make_small(x):
    return x

@node(output_name="large")
def make_large(small):
    return bytes(200_000)

with DiskCache("warm-up", key="a key that all of them share") as cache:
    # So that everything is imported while it can be read.
    Pipeline(nodes=[make_small, make_large], cache=cache).run({{"x": 1}})
    cache.clear()

cache = DiskCache("cache", key="a key that all of them share")
pipeline = Pipeline(nodes=[make_small, make_large], cache=cache)
{prepare}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    outputs = [pipeline.run({{"x": x}}) for x in range(20)]
    cache.close()
print(json.dumps([
    [o["small"] for o in outputs] == list(range(20)) and all(len(o["large"]) == 200_000 for o in outputs),
    [w.category.__name__ + ": " + str(w.message) for w in caught],
]))
"""


def run_with_trouble(folder: Path, prepare: str = "") -> list[str]:
    """Run a pipeline in a process that prepares its own trouble; return the warnings."""
    (folder / "job.py").write_text(RUN.format(prepare=textwrap.dedent(prepare)))
    is_right, caught = json.loads(run_python("job.py", cwd=folder))
    assert is_right
    return list(caught)


def test_a_run_on_a_sound_directory_warns_of_nothing(tmp_path: Path) -> None:
    assert run_with_trouble(tmp_path) == []


def test_a_limit_for_the_size_of_files_costs_the_cache_and_not_the_run(tmp_path: Path) -> None:
    (warning,) = run_with_trouble(tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))")
    assert warning.startswith("CacheWarning: DiskCache(path=")
    assert not list((tmp_path / "cache").rglob("*.val"))  # nothing half written is left


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with two megabytes of room."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or os.geteuid() != 0
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("mounting a filesystem takes a privilege that these tests do not have here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_costs_the_cache_and_not_the_run(small_filesystem: Path) -> None:
    (warning,) = run_with_trouble(small_filesystem)
    assert "No space left on device" in warning or "disk is full" in warning
    with DiskCache(small_filesystem / "cache", key="a key that all of them share") as cache:
        assert 0 < len(cache) < 40  # what was stored before is still there
        cache.clear()
        cache.put("k", 1)
        assert cache.get("k") == 1


DROP_PRIVILEGES = """
if os.geteuid() == 0:  # to whom nothing is forbidden
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read-only", "no permission"])
@pytest.mark.parametrize("is_filled", [False, True])
def test_a_directory_that_may_not_be_written_costs_the_cache_and_not_the_run(
    mode: int, is_filled: bool, shown_to_all: Path
) -> None:
    folder = shown_to_all / "cache"
    folder.mkdir()
    if is_filled:
        with DiskCache(folder, key="a key that all of them share") as cache:
            cache.put("k", 1)
    folder.chmod(mode)
    try:
        (warning,) = run_with_trouble(shown_to_all, DROP_PRIVILEGES)
    finally:
        folder.chmod(0o755)
    assert warning.startswith("CacheWarning: DiskCache(path=")
    assert ("can be read but not written" if is_filled and mode == 0o555 else "cannot be used") in warning


def test_a_path_that_is_a_file_costs_the_cache_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    (warning,) = run_with_trouble(tmp_path)
    assert "File exists" in warning
    assert (tmp_path / "cache").read_text() == "mine"


def test_an_index_that_somebody_keeps_locked_costs_the_cache_and_is_not_touched(
    open_cache: Callable[..., DiskCache],
) -> None:
    with open_cache() as cache:
        cache.put("k", 1)
    with closing(sqlite3.connect(Path(cache.path) / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        kept_out = open_cache(lock_timeout_s=0.05)
        with pytest.warns(CacheWarning, match="another process keeps it locked"):
            kept_out.put("l", 2)
        assert kept_out.get("k") is MISS  # and does not wait again
        other.execute("ROLLBACK")
    assert open_cache().get("k") == 1


# --- the index ---------------------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def another_schema(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE Cache (name TEXT)")


def drop_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE Cache")
        database.execute("DROP TABLE Settings")


@pytest.mark.parametrize("destroy", [garbage, cut_off, another_schema])
def test_a_destroyed_index_is_set_aside_and_the_cache_starts_empty(
    destroy: Callable[[Path], None], open_cache: Callable[..., DiskCache]
) -> None:
    with open_cache() as cache:
        cache.put_many({f"{number}": "x" * number for number in range(200)})
    destroy(Path(cache.path) / "cache.db")
    size = (Path(cache.path) / "cache.db").stat().st_size
    with pytest.warns(CacheWarning, match="is damaged .* was set aside in"):
        assert cache.get("no such key") is MISS
    cache.put_many({f"{number}": number for number in range(200)})
    found = cache.get_many([f"{number}" for number in range(200)])
    assert found == {f"{number}": number for number in range(200)}
    (aside,) = Path(cache.path).glob("cache.db-set-aside-*")
    assert (aside / "cache.db").stat().st_size == size
    assert cache.collect().leftovers >= 1
    assert not aside.exists()


@pytest.mark.parametrize("is_open", [False, True], ids=["before it is opened", "while it is open"])
def test_deleted_tables_are_made_again(is_open: bool, open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put("k", 1)
    if not is_open:
        cache.close()
    drop_tables(Path(cache.path) / "cache.db")
    assert cache.get("k") is MISS
    cache.put("k", 2)
    assert open_cache().get("k") == 2


def test_a_directory_deleted_while_it_is_used_is_noticed(
    open_cache: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypernodes_cache.disk_cache._CHECK_REPLACED_EVERY_S", 0)
    cache = open_cache()
    cache.put_many({"k": 1, "l": b"x" * 100_000})
    shutil.rmtree(cache.path)
    assert cache.get("k") is MISS
    cache.put_many({"k": 2, "l": b"y" * 100_000})
    assert open_cache().get_many(["k", "l"]) == {"k": 2, "l": b"y" * 100_000}


def test_one_process_sets_an_index_aside_and_the_other_follows(
    open_cache: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypernodes_cache.disk_cache._CHECK_REPLACED_EVERY_S", 0)
    first, second = open_cache(), open_cache()
    first.put("k", 1)
    assert second.get("k") == 1
    first.close()
    set_aside(first.path)
    first.put_many({"k": 2, "l": b"x" * 100_000})
    assert second.get_many(["k", "l"]) == {"k": 2, "l": b"x" * 100_000}


# --- files -------------------------------------------------------------------------------------------------------


def value_files(cache: DiskCache) -> list[Path]:
    return list(Path(cache.path).rglob("*.val"))


def test_what_a_killed_writer_left_is_deleted_once_it_is_old(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put("k", b"x" * 100_000)
    (kept,) = value_files(cache)
    old, fresh = kept.with_name("a" * 28 + ".val"), kept.with_name("b" * 28 + ".val")
    for leftover in (old, fresh):
        shutil.copy(kept, leftover)
    os.utime(old, (0, 0))
    os.utime(kept, (0, 0))
    assert cache.collect() == (0, 1)
    assert set(value_files(cache)) == {kept, fresh}
    assert cache.get("k") == b"x" * 100_000


def test_leftovers_are_deleted_without_being_asked_once_a_day(open_cache: Callable[..., DiskCache]) -> None:
    with open_cache() as cache:
        cache.put("k", b"x" * 100_000)
    (kept,) = value_files(cache)
    leftover = kept.with_name("a" * 28 + ".val")
    shutil.copy(kept, leftover)
    os.utime(leftover, (0, 0))
    assert open_cache().get("k") == b"x" * 100_000
    assert leftover.exists()
    os.utime(Path(cache.path) / "cache.db-tidied", (0, 0))
    assert open_cache().get("k") == b"x" * 100_000
    assert not leftover.exists()


def test_an_entry_without_its_file_is_forgotten(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put_many({"k": b"x" * 100_000, "l": b"y" * 100_000})
    for file in value_files(cache):
        file.unlink()
    assert cache.get("k") is MISS
    assert not cache.contains("k")
    assert cache.contains("l")
    assert cache.collect() == (0, 1)
    assert not cache.contains("l")


# --- network filesystems -----------------------------------------------------------------------------------------

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local ext4 rw 0 0
me@there:/ /mnt/with\\040space fuse.sshfs rw 0 0
//there/share /share cifs rw 0 0
/dev/vdc /share ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tmp/cache", None),
        ("/home/me/cache", "nfs4"),
        ("/homestead", None),
        ("/home/local/cache", None),
        ("/mnt/with space/x", "fuse.sshfs"),
        ("/share/x", None),
    ],
)
def test_network_filesystems_are_recognised(path: str, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert network_filesystem(path, str(tmp_path / "mounts")) == kind


def test_where_the_system_does_not_say_nothing_is_said(tmp_path: Path) -> None:
    assert network_filesystem("/home", str(tmp_path / "nothing")) is None


def test_a_cache_on_a_network_filesystem_says_so_once_and_works(
    open_cache: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypernodes_cache.disk_cache.network_filesystem", lambda path: "nfs4")
    cache = open_cache()
    with pytest.warns(CacheWarning, match=r"network filesystem \(nfs4\).*one machine at a time"):
        cache.put("k", 1)
    cache.close()
    assert cache.get("k") == 1


# --- through a pipeline ------------------------------------------------------------------------------------------


def test_a_run_recomputes_what_was_damaged_and_only_that(open_cache: Callable[..., DiskCache]) -> None:
    @node(output_name="y")
    def double(x: int) -> int:
        return 2 * x

    cache = open_cache()
    pipeline = Pipeline(nodes=[double], cache=cache)
    pipeline.map({"x": range(5)}, map_over="x")
    with closing(sqlite3.connect(Path(cache.path) / "cache.db")) as database, database:
        ((first,),) = database.execute("SELECT MIN(rowid) FROM Cache").fetchall()
        database.execute("UPDATE Cache SET value = x'00' WHERE rowid = ?", (first,))
    with pytest.warns(CacheWarning, match="computed again"):
        assert pipeline.map({"x": range(5)}, map_over="x") == {"y": [0, 2, 4, 6, 8]}
    assert pipeline.map({"x": range(5)}, map_over="x") == {"y": [0, 2, 4, 6, 8]}
