"""A run that is killed at one item goes on from that item the next time: results are written item by item."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="nothing kills a process like this here")

ITEMS = 40
KILLED_AT = 25

# Every call says what it is called with, at once; the process is killed in the middle of one.
PROGRAM = """
import os, signal, sys
from hypernodes import DiskCache, Pipeline, PipelineCallback, node

folder, way, killed_at, items = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def say(name, number):
    os.write(1, f"{name} {number}\\n".encode())


@node(output_name="doubled")
def double(x):
    say("double", x)
    return 2 * x


@node(output_name="squared")
def square(doubled):
    say("square", doubled // 2)
    if os.path.exists(os.path.join(folder, "deadly")) and doubled // 2 == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return doubled**2


each = Pipeline(nodes=[double, square], name="each")
settings = {"cache": DiskCache(os.path.join(folder, "cache"))}
if way == "observed":
    settings["callbacks"] = [PipelineCallback()]
if way == "mapped":
    pipeline = Pipeline(nodes=[each.as_node({"xs": "x"}, {"squared": "squares"}, map_over="xs")], **settings)
    found = pipeline.run({"xs": list(range(items))}, output_name="squares")["squares"]
else:
    pipeline = Pipeline(nodes=[each], **settings)
    found = pipeline.map({"x": list(range(items))}, map_over="x")["squared"]
assert found == [4 * x * x for x in range(items)], found
"""


def run(folder: Path, way: str) -> tuple[int, list[str]]:
    """Run the program; return how it ended and what it called."""
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, str(folder / "program.py"), str(folder), way, str(KILLED_AT), str(ITEMS)]
    environment = {**os.environ, "HYPERNODES_CACHE_KEY": "a phrase for this test only"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=120, check=False)
    return done.returncode, done.stdout.decode().splitlines()


@pytest.mark.parametrize("way", ["map", "observed", "mapped"])
def test_a_run_killed_at_an_item_goes_on_from_there(tmp_path: Path, way: str) -> None:
    deadly = tmp_path / "deadly"
    deadly.touch()
    code, calls = run(tmp_path, way)
    assert code == -signal.SIGKILL
    assert calls == [f"{name} {x}" for x in range(KILLED_AT + 1) for name in ("double", "square")]
    deadly.unlink()
    code, calls = run(tmp_path, way)
    assert code == 0
    assert not {call for call in calls if int(call.split()[1]) < KILLED_AT}, "computed again"
    assert calls[-1] == f"square {ITEMS - 1}"
    assert run(tmp_path, way) == (0, [])
