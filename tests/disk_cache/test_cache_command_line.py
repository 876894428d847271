"""`hypernodes cache`: looking into a directory, and making room in it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hypernodes.cli import main
from hypernodes_cache import DiskCache

DOUBLE, ENCODE, OTHER = "d" * 64, "e" * 64, "0" * 64
RECORD = {
    "format": "1",
    "node": "double",
    "computed_at": 1.7e9,
    "code_digest": b"d",
    "code": {"function double (text.py:3)": b"f", "constant LIMIT": b"c"},
    "inputs": {"x": {}, "k": {"digest": b"i", "shown": "5"}, "clean": {"digest": b"j", "from": "strip"}},
}


@pytest.fixture
def filled(open_cache: Callable[..., DiskCache]) -> DiskCache:
    cache = open_cache()
    values = {DOUBLE: 4, ENCODE: b"x" * 100_000, OTHER: 1, "about-0123": RECORD}
    cache.put_many(values, {DOUBLE: "double", ENCODE: "encode", "about-0123": "double"})
    with closing(sqlite3.connect(Path(cache.path) / "cache.db")) as database, database:
        moment = time.time() - 3 * 86400
        database.execute("UPDATE Cache SET store_time = ?, access_time = ? WHERE key = ?", (moment, moment, ENCODE))
    return cache


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["cache", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_ls_shows_keys_nodes_sizes_and_ages(filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "ls", filled.path)
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.startswith(ENCODE)]
    assert line.split() == [ENCODE, "encode", "100.0", "KB", "3", "d", "3", "d"]
    assert out.splitlines()[-1].startswith(ENCODE)  # the oldest


def test_ls_sorts_and_selects(filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "ls", filled.path, "--sort", "size", "--limit", "1")[1].splitlines()
    assert out[1].startswith(ENCODE)
    assert out[2:] == ["... and 2 more (--limit 0 shows all)"]
    assert DOUBLE in (out := run(capsys, "ls", filled.path, "--node", "double")[1])
    assert ENCODE not in out


def test_stats_adds_up_for_each_node(filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "stats", filled.path)
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [["-", "1"], ["double", "1"], ["encode", "1"]]
    assert out.splitlines()[-1].startswith("3 entries, ")


@pytest.mark.parametrize("what", ["double", DOUBLE, DOUBLE[:8]])
def test_why_shows_what_is_recorded(what: str, filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "why", filled.path, what)
    assert status == 0
    assert out.startswith(f"{DOUBLE}\n  node    double\n  stored  ")
    assert "pickle" in out
    assert ENCODE not in out
    _, *lines = out.partition("recorded when double was last computed:\n")[2].splitlines()
    assert lines == [
        "  code      function double (text.py:3)",
        "            constant LIMIT",
        "  inputs    x, which varies from item to item",
        "            k = 5",
        "            clean, made by strip",
    ]


def test_why_says_when_what_was_noted_cannot_be_read(filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    filled.put_many({"about-0123": {"format": "99"}}, {"about-0123": "double"})
    status, out, _ = run(capsys, "why", filled.path, "double")
    assert status == 0
    assert out.endswith("computed:\n  a record that this version cannot read\n")


def test_invalidate_forgets_entries_by_node_and_by_key(filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "invalidate", filled.path, "double", ENCODE[:6])[:2] == (0, "2 entries removed\n")
    assert filled.contains_many([DOUBLE, ENCODE, OTHER, "about-0123"]) == {OTHER}


def test_invalidate_by_key_keeps_what_was_noted_about_the_node(
    filled: DiskCache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "invalidate", filled.path, DOUBLE)[0] == 0
    assert filled.contains_many([DOUBLE, "about-0123"]) == {"about-0123"}


def test_invalidate_forgets_nothing_when_a_name_is_wrong(filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "invalidate", filled.path, "double", "enode")
    assert status == 1
    assert "'enode'" in err
    assert filled.contains(DOUBLE)


def test_gc_drops_by_age_and_size_but_not_what_is_pinned(filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "pin", filled.path, "double")[:2] == (0, "1 entry pinned\n")
    assert run(capsys, "gc", filled.path, "--unused-for", "2d")[1] == "1 entry and 0 leftovers removed\n"
    assert run(capsys, "gc", filled.path, "--size-limit", "1 KB")[1] == "1 entry and 0 leftovers removed\n"
    assert filled.contains("about-0123")  # as long as there are results of the node
    assert "pinned" in run(capsys, "ls", filled.path)[1]
    assert run(capsys, "unpin", filled.path, "double")[:2] == (0, "1 entry unpinned\n")
    assert run(capsys, "gc", filled.path, "--size-limit", "1b")[1] == "2 entries and 0 leftovers removed\n"
    assert len(filled) == 0


@pytest.mark.parametrize(
    "arguments", [("--size-limit", "much"), ("--size-limit", "0"), ("--unused-for", "5 parsecs"), ("--unused-for", "")]
)
def test_gc_refuses_what_is_no_size_and_no_time(
    arguments: tuple[str, str], filled: DiskCache, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["cache", "gc", filled.path, *arguments])
    assert len(filled) == 4


def test_clear_forgets_everything(filled: DiskCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "clear", filled.path)[:2] == (0, "4 entries removed\n")
    assert len(filled) == 0


@pytest.mark.parametrize("command", ["ls", "stats", "gc", "clear"])
def test_a_directory_without_a_cache_is_left_alone(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, command, str(tmp_path))
    assert status == 2
    assert f"there is no cache in {tmp_path}" in err
    assert list(tmp_path.iterdir()) == []


def test_labels_cannot_speak_to_the_terminal(
    open_cache: Callable[..., DiskCache], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = open_cache()
    cache.put_many({DOUBLE: 1}, {DOUBLE: "\x1b[2Jred"})
    assert "\x1b" not in "".join(run(capsys, command, cache.path)[1] for command in ("ls", "stats"))
