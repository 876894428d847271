"""The control plane's side of the guard, the process that cleans up when the control plane is killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from hypernodes_modal.loopback import watchdog_main


class Watchdog:
    """Starts the guard and keeps it informed.

    Args:
        directory: What it is to remove in the end.
    """

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog_main.__file__, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def started(self, group: int) -> None:
        """A process group is to be killed in the end."""
        self._tell(f"start {group}")

    def ended(self, group: int) -> None:
        """A process group is no more."""
        self._tell(f"end {group}")

    def close(self) -> None:
        """End: the guard kills what is left, and removes the directory."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, what: str) -> None:
        assert self._process.stdin is not None
        # If somebody killed the guard, tidying up is left to the control plane, which does it anyway when it can.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{what}\n".encode())
            self._process.stdin.flush()
