"""The short forms of what a cache has to survive; HYPERNODES_TORTURE=full runs the full ones, which take minutes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import start_python

IS_FULL = os.environ.get("HYPERNODES_TORTURE") == "full"
SCRIPT = Path(__file__).with_name("torture.py")

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked"),
    pytest.mark.slow,
]


def report_of(*arguments: str) -> dict[str, Any]:
    process = start_python("-W", "error::ResourceWarning", str(SCRIPT), *arguments)
    out, err = process.communicate(timeout=1200)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    print(report, file=sys.stderr)
    return dict(report)


def test_a_writer_killed_at_any_moment_leaves_no_wrong_value_and_loses_nothing_it_committed() -> None:
    count = 1000 if IS_FULL else 25
    report = report_of("kills", str(count))
    assert (report["kills"], report["wrong"], report["lost"], report["exceptions"]) == (count, 0, 0, 0)
    assert report["found"] > count  # or nothing was put to the test


def test_processes_on_the_same_keys_see_neither_torn_values_nor_miss_what_is_committed() -> None:
    report = report_of("storm", *(("16", "60") if IS_FULL else ("6", "3")))
    assert {name: report[name] for name in ("torn", "false_misses", "exceptions", "crashed")} == {
        "torn": 0,
        "false_misses": 0,
        "exceptions": 0,
        "crashed": 0,
    }
    assert report["hits"] > 0
    assert report["puts"] > 0


def test_whatever_is_changed_on_disk_is_computed_again() -> None:
    report = report_of("mutations", "10000" if IS_FULL else "200")
    bad = ("wrong", "unnoticed", "lost_after_put", "exceptions", "exploded", "other_warnings", "second_warnings")
    assert {name: report[name] for name in bad} == dict.fromkeys(bad, 0)
    assert report["misses"] > 0
    assert report["hits"] > 0  # one bad entry does not take the others with it
