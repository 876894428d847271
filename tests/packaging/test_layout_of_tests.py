"""The table in tests/README.md leads to every test, and a file name of a test stands once in the repository."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py"))
ROWS = [line.split(" | ") for line in (TESTS / "README.md").read_text(encoding="utf-8").splitlines() if "` | `" in line]
SHORT = {
    "core/": "packages/hypernodes-core/src/hypernodes/",
    "cache/": "packages/hypernodes-cache/src/hypernodes_cache/",
    "dask/": "packages/hypernodes-dask/src/hypernodes_dask/",
    "modal/": "packages/hypernodes-modal/src/hypernodes_modal/",
}


def quoted(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def test_the_name_of_a_test_file_stands_once() -> None:
    assert [name for name, count in Counter(Path(file).name for file in FILES).items() if count > 1] == []


def test_every_test_file_is_in_the_table_by_itself_or_by_its_folder() -> None:
    assert len(ROWS) > 30
    named = {path for row in ROWS for path in quoted(row[2])}
    assert [path for path in named if not (TESTS / path).exists()] == []
    folders = tuple(path for path in named if path.endswith("/"))
    assert [file for file in FILES if file not in named and not file.startswith(folders)] == []


def test_the_code_in_the_table_exists() -> None:
    for row in ROWS:
        for path in quoted(row[1]):
            start = path.partition("/")[0] + "/"
            full = SHORT.get(start, start) + path.partition("/")[2] if "/" in path else path
            assert list(ROOT.glob(full)), path
