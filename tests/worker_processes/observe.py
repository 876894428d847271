"""What can be seen of processes from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """An entry of /proc."""

    pid: int
    state: str
    parent: int
    session: int
    command: str


def processes() -> list[Process]:
    """Every process that can be seen and has not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it ended meanwhile
            continue
        if fields[0] not in "ZX":
            found.append(Process(int(entry.name), fields[0], int(fields[1]), int(fields[3]), command))
    return found


def workers() -> list[Process]:
    """Child processes of this one, except those that clean up after others: of Python, of loky, of Modal's loopback."""
    children = [process for process in processes() if process.parent == os.getpid()]
    return [child for child in children if not any(kind in child.command for kind in ("resource_tracker", "watchdog"))]


def members_of_session(session: int) -> list[Process]:
    """The processes that were started, directly or not, by the leader of a session."""
    return [p for p in processes() if p.session == session]


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
