"""What the documentation says of the code is so: versions of formats, and names of files."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/*.md"))]

# | format | version | `NAME` in `path/of/module.py` | ... |
FORMAT_ROW = re.compile(r'^\| [^|]+ \| "?(\w+)"? \| `(\w+)` in `([\w/]+)\.py` \|', re.MULTILINE)


def formats() -> list[tuple[str, str, str]]:
    return FORMAT_ROW.findall((ROOT / "docs/compatibility.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("version", "name", "module"), formats())
def test_the_version_of_a_format_is_the_documented_one(version: str, name: str, module: str) -> None:
    assert str(getattr(importlib.import_module(module.replace("/", ".")), name)) == version


def test_every_format_with_a_version_is_documented() -> None:
    assert {module.rpartition("/")[2] for _, _, module in formats()} == {"wire", "code", "entry_format", "record"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    files = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venvs" not in path.parts}
    named = re.findall(r"`([\w./]+\.py)`", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in files)]
    assert missing == []
