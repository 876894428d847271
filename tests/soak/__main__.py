"""Generated pipelines for hours, under fire: `python -m tests.soak --minutes 60 [--seed N]`, from the checkout.

Callers (`caller.py`) run generated pipelines in all modes, here and in subprocesses, with caches on disk that all of
them share, while their workers are killed. One caller lives as long as the soak: its open files, threads, processes and
memory must not grow. Others are interrupted or killed in turn, and must leave no process and no file behind.

It ends with 1 when a result was wrong or something was left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.worker_processes.observe import members_of_session, wait_until

PATIENCE_S = 60.0
STACKS_CHARACTERS = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(Path(folder), arguments.minutes * 60, random.Random(arguments.seed))
    print(json.dumps(report, indent=2))
    return bool(report["wrong"] or report["left behind"])


def soak(folder: Path, duration_s: float, chance: random.Random) -> dict[str, Any]:
    """Run callers for some time; return what happened."""
    ends_at = time.monotonic() + duration_s
    temporary = folder / "tmp"
    temporary.mkdir()
    figures_file = folder / "figures"
    with figures_file.open("w") as figures_stream:  # a pipe that nobody reads for an hour would fill up
        steady = _start(folder, "steady", chance, duration_s, figures_stream.fileno())
    happened: Counter[str] = Counter()
    wrong: list[str] = []
    left: list[str] = []
    number = 0
    while time.monotonic() < ends_at and steady.poll() is None:
        number += 1
        victim = _start(folder, f"victim-{number}", chance, PATIENCE_S)
        how = chance.choice([signal.SIGINT, signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
        time.sleep(chance.uniform(0.5, 15.0))
        victim.send_signal(how)
        happened[f"callers ended by {how.name}"] += 1
        try:
            _, errors = victim.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            victim.send_signal(signal.SIGUSR1)  # it writes where its threads are
            time.sleep(1.0)
            os.killpg(victim.pid, signal.SIGKILL)
            _, errors = victim.communicate()
            stacks = errors[-STACKS_CHARACTERS:]
            left.append(f"caller {number} did not end {PATIENCE_S:.0f} s after {how.name}: {stacks}")
        wrong += [line for line in errors.splitlines() if line.startswith("WRONG")]
        if not wait_until(lambda pid=victim.pid: not members_of_session(pid), PATIENCE_S):  # type: ignore[misc]
            commands = [process.command[:120] for process in members_of_session(victim.pid)]
            left.append(f"processes of caller {number}, {PATIENCE_S:.0f} s after {how.name}: {commands}")
            os.killpg(victim.pid, signal.SIGKILL)
    _, errors = steady.communicate(timeout=2 * PATIENCE_S)
    wrong += [line for line in errors.splitlines() if line.startswith("WRONG")]
    if steady.returncode != 0 and not wrong:
        wrong.append(f"the steady caller ended with {steady.returncode}: {errors[-3000:]}")
    figures = [json.loads(line) for line in figures_file.read_text().splitlines()]
    happened.update(figures[-1]["happened"] if figures else {})
    survivors = [path.name for path in temporary.iterdir()]
    return {
        "happened": happened,
        "wrong": wrong,
        "left behind": left,
        "left in the temporary folder by killed callers": len(survivors),
        "steady caller, first and last": [figures[min(2, len(figures) - 1)], figures[-1]] if figures else [],
    }


def _start(
    folder: Path, name: str, chance: random.Random, duration_s: float, output: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    seed = chance.randrange(2**31)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.soak.caller", name, str(folder), str(seed), str(duration_s)],
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.exit(main())
