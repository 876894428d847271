"""The Python in the documentation runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md"))]


def python_blocks(markdown: str) -> str:
    """The ```python blocks as one script, each on the lines it has in the page, so that tracebacks point there."""
    lines, inside = [], False
    for line in markdown.splitlines():
        if line.startswith("```"):
            inside = not inside and re.fullmatch(r"```python\b.*", line) is not None
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(python_blocks(page.read_text(encoding="utf-8")), encoding="utf-8")
    command = [sys.executable, "-W", "error", script.name]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr.replace(script.name, str(page.relative_to(ROOT)))
