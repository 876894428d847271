"""Outlives a control plane that is killed, and cleans up after it: run as a script, with the standard library only.

It reads from its standard input "start PID" and "end PID" for every container, a leader of a process group. When that
ends, so has the control plane; then it kills the groups that are left and removes the directory named on its command
line.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys


def main() -> None:
    """Wait for the end, and clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        what, _, number_text = line.partition(" ")
        (groups.add if what == "start" else groups.discard)(int(number_text))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
