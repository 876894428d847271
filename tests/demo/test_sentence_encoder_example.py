"""The example that encodes sentences in batches with a real model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_example_runs_as_a_program() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "examples.sentence_encoder", "200"]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120).stdout
    lines = printed.splitlines()
    assert [line.split(":")[0] for line in lines[1:4]] == ["batches of  1", "batches of  8", "batches of 64"]
    assert lines[-1].endswith("(1 of 200 encoded)")
