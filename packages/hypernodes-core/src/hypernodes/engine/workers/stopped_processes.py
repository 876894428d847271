"""Says that a process is stopped (SIGSTOP, a debugger), which otherwise looks like a call that is slow."""

from __future__ import annotations

LOOK_S = 10.0
"""Seconds without a message from a process that executes something, after which it is looked at."""


class StopWatch:
    """Watches one process; it warns once for each time that the process is stopped.

    Args:
        what: What the process is, for the message.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_stopped = False

    def look(self, pid: int) -> None:
        """Warn if the process is stopped; where the system does not tell, do nothing."""
        was_stopped, self._is_stopped = self._is_stopped, _is_stopped(pid)
        if self._is_stopped and not was_stopped:
            import logging  # imported when it is needed: it would slow down `import hypernodes`

            logging.getLogger("hypernodes").warning(
                "%s (process %d) is stopped, and the run waits for it: `kill -CONT %d` lets it go on, `kill -KILL %d` "
                "ends it",
                self._what,
                pid,
                pid,
                pid,
            )


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
