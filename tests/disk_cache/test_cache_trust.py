"""The secret key and the seal: what is not known to come from somebody trusted is never unpickled."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache
import pytest

from hypernodes import MISS, CacheWarning, ConfigurationError
from hypernodes_cache import DiskCache
from tests.support import run_python, start_python

PHRASE = "a phrase that two people know"


class Bomb:
    """Would leave a trace if it were unpickled."""

    exploded = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "exploded", True)


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration directory in which there is no key yet."""
    folder = tmp_path / "configuration"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


def execute(cache: DiskCache, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(Path(cache.path) / "cache.db")) as database, database:
        database.execute(statement, values)


# --- the key -----------------------------------------------------------------------------------------------------


def test_the_key_is_made_on_first_use_for_its_user_only_and_outside_the_cache(
    configuration: Path, open_cache: Callable[..., DiskCache]
) -> None:
    cache = open_cache()
    assert not configuration.exists()
    cache.put("k", 1)
    (file,) = [path for path in configuration.rglob("*") if path.is_file()]
    assert file == configuration / "hypernodes" / "cache.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(bytes.fromhex(file.read_text())) == 32
    key = file.read_bytes()
    assert open_cache().get("k") == 1
    assert file.read_bytes() == key
    assert not any(key.strip() in path.read_bytes() for path in Path(cache.path).rglob("*") if path.is_file())


def test_processes_that_make_the_key_at_the_same_time_agree_on_one(configuration: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from hypernodes_cache import secret_key; sys.stdin.readline(); print(secret_key.user_key().hex())"
    )
    running = [start_python("-c", script, stdin=True) for _ in range(6)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=240)[0] for process in running}
    assert len(keys) == 1
    assert [path.name for path in (configuration / "hypernodes").iterdir()] == ["cache.key"]


def test_without_the_key_of_the_writer_an_entry_is_a_miss_and_with_it_a_hit(
    open_cache: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cache(key=PHRASE).put("k", 1)
    with pytest.warns(CacheWarning, match="another secret key"):
        assert open_cache().get("k") is MISS
    monkeypatch.setenv("HYPERNODES_CACHE_KEY", PHRASE)
    assert open_cache().get("k") == 1
    assert open_cache(key=PHRASE.encode()).get("k") == 1


@pytest.mark.parametrize("mode", [0o644, 0o620])
def test_a_key_that_others_can_read_or_write_is_not_trusted(
    mode: int, configuration: Path, open_cache: Callable[..., DiskCache]
) -> None:
    open_cache().put("k", 1)
    (configuration / "hypernodes" / "cache.key").chmod(mode)
    cache = open_cache()
    with pytest.warns(CacheWarning, match="chmod 600"):
        assert cache.get("k") is MISS
    cache.put("l", 2)  # said once is enough
    assert len(cache) == 0


def test_a_key_file_that_holds_no_key_is_said_and_the_cache_is_left_alone(
    configuration: Path, open_cache: Callable[..., DiskCache]
) -> None:
    path = configuration / "hypernodes" / "cache.key"
    path.parent.mkdir(parents=True)
    path.write_text("what is this?")
    path.chmod(0o600)
    with pytest.warns(CacheWarning, match="does not hold a secret key"):
        open_cache().put("k", 1)
    assert path.read_text() == "what is this?"


def test_a_configuration_directory_that_cannot_be_made_costs_the_cache_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_cache: Callable[..., DiskCache]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    cache = open_cache()
    with pytest.warns(CacheWarning, match="HYPERNODES_CACHE_KEY"):
        cache.put("k", 1)
    assert cache.get("k") is MISS


def test_a_key_inside_the_cache_directory_protects_nothing(
    configuration: Path, open_cache: Callable[..., DiskCache]
) -> None:
    with pytest.warns(CacheWarning, match="inside the cache directory"):
        open_cache("configuration").put("k", 1)
    assert not (configuration / "hypernodes").exists()


@pytest.mark.parametrize("key", ["short", b"short", 7])
def test_a_key_that_could_be_guessed_is_refused(key: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="key must"):
        DiskCache(tmp_path, key=key)


def test_a_short_key_in_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERNODES_CACHE_KEY", "short")
    with pytest.raises(ConfigurationError, match="HYPERNODES_CACHE_KEY must have at least 16"):
        DiskCache(tmp_path)


def test_the_secret_does_not_travel_with_a_pickled_cache(
    open_cache: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(key=PHRASE)
    cache.put("k", 1)
    data = pickle.dumps(cache)
    secret = cache._secret
    assert secret is not None
    assert PHRASE.encode() not in data
    assert secret not in data
    copy = pickle.loads(data)
    with pytest.warns(CacheWarning, match="set HYPERNODES_CACHE_KEY"):
        assert copy.get("k") is MISS
    monkeypatch.setenv("HYPERNODES_CACHE_KEY", PHRASE)
    with pickle.loads(data) as there:
        assert there.get("k") == 1


# --- the seal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 100_000], ids=["in the index", "in a file"])
def test_a_valid_entry_moved_to_another_key_is_refused(size: int, open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put_many({"a": b"a" * size, "b": b"b" * size})
    execute(cache, "DELETE FROM Cache WHERE key = 'b'")
    execute(cache, "UPDATE Cache SET key = 'b' WHERE key = 'a'")
    with pytest.warns(CacheWarning, match="moved"):
        assert cache.get_many(["a", "b"]) == {}


@pytest.mark.parametrize("size", [10, 100_000], ids=["in the index", "in a file"])
@pytest.mark.parametrize("compress", [False, True])
def test_no_flipped_bit_goes_unnoticed(size: int, compress: bool, open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache(compress=compress)
    cache.put("k", os.urandom(size))
    if size > 1000:
        (file,) = Path(cache.path).rglob("*.val")
        entry = file.read_bytes()
    else:
        with closing(sqlite3.connect(Path(cache.path) / "cache.db")) as database:
            ((entry,),) = database.execute("SELECT value FROM Cache").fetchall()
    positions = {*range(min(len(entry), 48)), len(entry) // 2, *range(len(entry) - 34, len(entry))}
    for position in sorted(positions):
        changed = bytearray(entry)
        changed[position] ^= 1 << (position % 8)
        if size > 1000:
            file.write_bytes(changed)
        else:
            execute(cache, "UPDATE Cache SET value = ?", bytes(changed))
        with DiskCache(cache.path) as fresh, pytest.warns(CacheWarning, match="cannot be read"):
            assert fresh.get("k") is MISS, position


def test_an_entry_is_no_entry_with_any_of_its_ends_cut_off(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put("k", {"a": 1})
    with closing(sqlite3.connect(Path(cache.path) / "cache.db")) as database:
        ((entry,),) = database.execute("SELECT value FROM Cache").fetchall()
    for length in range(len(entry)):
        for part in (entry[:length], entry[-length:] if length else b""):
            execute(cache, "UPDATE Cache SET value = ?", part)
            with DiskCache(cache.path) as fresh, pytest.warns(CacheWarning):
                assert fresh.get("k") is MISS


BOMB = pickle.dumps(Bomb())
FORGERIES = {
    "value marked as a pickle": ("UPDATE Cache SET mode = 4, filename = NULL, value = ?", BOMB),
    "bytes that are a pickle": ("UPDATE Cache SET filename = NULL, value = ?", BOMB),
    "key marked as a pickle": ("UPDATE Cache SET raw = 0, key = ?", BOMB),
    "tag that is a pickle": ("UPDATE Cache SET tag = ?", BOMB),
    "columns of other types": (
        "UPDATE Cache SET store_time = ?, access_time = 'never', expire_time = x'80', size = 'big'",
        BOMB,
    ),
    "setting that is a pickle": ("INSERT OR REPLACE INTO Settings VALUES ('_disk', ?)", BOMB),
}


@pytest.mark.filterwarnings("ignore::hypernodes.CacheWarning")
@pytest.mark.parametrize("forgery", FORGERIES)
def test_nothing_unpickles_what_others_wrote(forgery: str, open_cache: Callable[..., DiskCache]) -> None:
    """CVE-2025-69872: diskcache 5.6.3 unpickles whatever its database says is a pickle."""
    cache = open_cache()
    cache.put_many({"k": 1, "l": b"x" * 100_000}, {"k": "node"})
    cache.close()
    statement, value = FORGERIES[forgery]
    if forgery == "key marked as a pickle":
        statement += " WHERE key = 'k'"
    execute(cache, statement, value)
    with DiskCache(cache.path, size_limit=1000) as opened:
        assert opened.get_many(["k", "l"]) in ({}, {"k": 1, "l": b"x" * 100_000}, {"l": b"x" * 100_000})
        opened.contains("k")
        list(opened.entries())
        opened.stats()
        opened.pin("k")
        opened.put_many({"k": 2, "m": b"y" * 100_000})
        opened.collect(size_limit=1, unused_for_s=0)
        opened.delete("k")
        opened.clear()
    assert Bomb.exploded is False


def test_the_bombs_of_these_tests_do_explode_in_diskcache_itself(tmp_path: Path) -> None:
    try:
        with diskcache.Cache(tmp_path) as cache:
            cache.set("k", Bomb())
            cache.get("k")
        assert Bomb.exploded
    finally:
        Bomb.exploded = False


def test_settings_in_the_database_neither_run_pragmas_nor_change_the_object(
    open_cache: Callable[..., DiskCache],
) -> None:
    cache = open_cache()
    cache.put("k", 1)
    cache.close()
    for key, value in (("sqlite_query_only", 1), ("directory", "/"), ("read", 7), ("eviction_policy", "x")):
        execute(cache, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", key, value)
    assert cache.get("k") == 1
    cache.put("l", 2)
    assert cache.get_many(["k", "l"]) == {"k": 1, "l": 2}


@pytest.mark.parametrize("depth", ["..", "../..", ""])
def test_files_outside_the_directory_are_neither_read_nor_deleted(
    depth: str, open_cache: Callable[..., DiskCache], tmp_path: Path
) -> None:
    outside = tmp_path / "outside.val"
    cache = open_cache()
    cache.put("k", b"x" * 100_000)
    (file,) = Path(cache.path).rglob("*.val")
    shutil.copy(file, outside)  # a valid entry, even
    name = os.path.join(depth, "outside.val") if depth else str(outside)
    execute(cache, "UPDATE Cache SET filename = ?", name)
    with pytest.warns(CacheWarning, match="does not belong to this cache"):
        assert cache.get("k") is MISS
    cache.put("k", 1)
    execute(cache, "UPDATE Cache SET filename = ?", name)
    cache.delete("k")
    cache.put("k", 1)
    execute(cache, "UPDATE Cache SET filename = ?", name)
    cache.collect(size_limit=1)
    cache.clear()
    assert outside.exists()


def test_a_link_that_somebody_put_there_is_not_followed_to_a_file_of_the_user(
    open_cache: Callable[..., DiskCache], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.db-tidied").symlink_to(mine)
    os.utime(mine, (0, 0))
    cache = open_cache()
    cache.put("k", 1)
    assert cache.get("k") == 1
    assert mine.read_text() == "precious"
    assert mine.stat().st_mtime == 0


def test_a_directory_of_ours_is_one_that_diskcache_can_open(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    cache.put_many({"small": 1, "large": b"x" * 100_000})
    cache.close()
    with diskcache.Cache(cache.path) as bare:
        assert set(bare) == {"small", "large"}
        assert isinstance(bare["small"], bytes)
        assert len(bare) == 2
        assert bare.check() == []
    assert cache.get_many(["small", "large"]) == {"small": 1, "large": b"x" * 100_000}


def test_where_the_key_is_kept_on_other_systems(tmp_path: Path) -> None:
    script = """
import json, os, sys
from hypernodes_cache import secret_key
found = []
for platform, environment in json.loads(sys.argv[1]):
    sys.platform = platform
    for name in ("XDG_CONFIG_HOME", "APPDATA"):
        os.environ.pop(name, None)
    os.environ.update(environment, HOME="/home/me")
    found.append(str(secret_key.key_file()))
print(json.dumps(found))
"""
    cases = [
        ("linux", {}),
        ("linux", {"XDG_CONFIG_HOME": "/x"}),
        ("linux", {"XDG_CONFIG_HOME": "relative"}),
        ("darwin", {}),
        ("win32", {"APPDATA": "/roaming"}),
    ]
    assert json.loads(run_python("-c", script, json.dumps(cases))) == [
        "/home/me/.config/hypernodes/cache.key",
        "/x/hypernodes/cache.key",
        "/home/me/.config/hypernodes/cache.key",
        "/home/me/Library/Application Support/hypernodes/cache.key",
        "/roaming/hypernodes/cache.key",
    ]
