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
    # Where this was started with interrupts ignored, its callers would ignore those that arrive while they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        report = soak(Path(folder), arguments.minutes * 60, random.Random(arguments.seed))
    print(json.dumps(report, indent=2))
    return bool(report["wrong"] or report["left behind"])


def soak(folder: Path, duration_s: float, chance: random.Random) -> dict[str, Any]:
    """Run callers for some time; return what happened."""
    ends_at = time.monotonic() + duration_s
    temporary = folder / "tmp"
    temporary.mkdir()
    steady = _Caller(folder, "steady", chance, duration_s)
    happened: Counter[str] = Counter()
    wrong: list[str] = []
    left: list[str] = []
    number = 0
    while time.monotonic() < ends_at and steady.process.poll() is None:
        number += 1
        victim = _Caller(folder, f"victim-{number}", chance, PATIENCE_S)
        how = chance.choice([signal.SIGINT, signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
        time.sleep(chance.uniform(0.5, 15.0))
        victim.process.send_signal(how)
        happened[f"callers ended by {how.name}"] += 1
        has_ended = victim.ends()
        if not has_ended and how is signal.SIGINT and victim.ignored_interrupts():
            # The interpreter drops what is raised in a finaliser or a callback of the garbage collector, such as the
            # one of Hypothesis, and says so: one has to press Ctrl-C again.
            happened["interrupts that the interpreter ignored"] += 1
            victim.process.send_signal(how)
            has_ended = victim.ends()
        if not has_ended:
            victim.kill_with_stacks()
            left.append(f"caller {number} did not end {PATIENCE_S:.0f} s after {how.name}: {victim.last_errors()}")
        wrong += victim.wrong_results()
        if not wait_until(lambda pid=victim.process.pid: not members_of_session(pid), PATIENCE_S):  # type: ignore[misc]
            commands = [process.command[:120] for process in members_of_session(victim.process.pid)]
            left.append(f"processes of caller {number}, {PATIENCE_S:.0f} s after {how.name}: {commands}")
            victim.kill()
    if not steady.ends(2 * PATIENCE_S):
        steady.kill_with_stacks()
    wrong += steady.wrong_results()
    if steady.process.wait() != 0 and not wrong:
        wrong.append(f"the steady caller ended with {steady.process.returncode}: {steady.last_errors()}")
    figures = [json.loads(line) for line in steady.output.read_text().splitlines()]
    happened.update(figures[-1]["happened"] if figures else {})
    survivors = [path.name for path in temporary.iterdir()]
    return {
        "happened": happened,
        "wrong": wrong,
        "left behind": left,
        "left in the temporary folder by killed callers": len(survivors),
        "steady caller, first and last": [figures[min(2, len(figures) - 1)], figures[-1]] if figures else [],
    }


class _Caller:
    """A caller that was started, in a session of its own.

    Attributes:
        process: Its process.
        output: The file of its figures. A pipe that nobody reads for an hour would fill up.
    """

    def __init__(self, folder: Path, name: str, chance: random.Random, duration_s: float) -> None:
        self.output = folder / f"{name}.output"
        self._errors = folder / f"{name}.errors"
        seed = chance.randrange(2**31)
        with self.output.open("w") as output, self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.caller", name, str(folder), str(seed), str(duration_s)],
                env={**os.environ, "TMPDIR": str(folder / "tmp")},
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    def ends(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait for its end; return whether it came."""
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it and all that it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_with_stacks(self) -> None:
        """Have it write where its threads are, and end it and all that it started."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(1.0)
        self.kill()

    def errors(self) -> str:
        """Return what it wrote to its stderr so far."""
        return self._errors.read_text(errors="replace")

    def last_errors(self) -> str:
        """Return the end of that, with the stacks if it was killed with them."""
        return self.errors()[-STACKS_CHARACTERS:]

    def wrong_results(self) -> list[str]:
        """Return its reports of wrong results."""
        return [line for line in self.errors().splitlines() if line.startswith("WRONG")]

    def ignored_interrupts(self) -> bool:
        """Return whether the interpreter said that it ignored a KeyboardInterrupt."""
        errors = self.errors()
        return "Exception ignored in" in errors and "\nKeyboardInterrupt" in errors


if __name__ == "__main__":
    sys.exit(main())
