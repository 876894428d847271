"""What the documentation says of the code is so: versions of formats, and names of files."""

from __future__ import annotations

import functools
import importlib
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/*.md"))]

# | format | version | `NAME` in `path/of/module.py` | ... |
FORMAT_ROW = re.compile(r'^\| [^|]+ \| "?(\w+)"? \| `(\w+)` in `([\w/]+)\.py` \|', re.MULTILINE)


@functools.cache
def python_files() -> frozenset[str]:
    """Paths of the Python files of the repository, without hidden folders, which hold whole environments."""
    found: list[Path] = []
    for folder, inside, names in os.walk(ROOT):
        inside[:] = [name for name in inside if not name.startswith(".")]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return frozenset(path.relative_to(ROOT).as_posix() for path in found)


def formats() -> list[tuple[str, str, str]]:
    return FORMAT_ROW.findall((ROOT / "docs/compatibility.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("version", "name", "module"), formats())
def test_the_version_of_a_format_is_the_documented_one(version: str, name: str, module: str) -> None:
    assert str(getattr(importlib.import_module(module.replace("/", ".")), name)) == version


def test_every_format_with_a_version_is_documented() -> None:
    assert {module.rpartition("/")[2] for _, _, module in formats()} == {"wire", "code", "entry_format", "record"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`([\w./]+\.py)`", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in python_files())]
    assert missing == []
