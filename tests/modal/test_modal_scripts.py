"""The scripts that show `ModalBackend` at work run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "says"),
    [("test_modal_smoke.py", "5. error: ZeroDivisionError"), ("test_modal_hebrew_minimal.py", "search_all: item 2")],
)
def test_a_script_runs_without_an_account(script, says, tmp_path):
    completed = subprocess.run(
        [sys.executable, ROOT / "scripts" / script],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""
    assert says in completed.stdout
