"""Writes to standard output and standard error what nodes printed in other processes."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Literal

_writing = threading.RLock()


def show_output(text: str, stream: Literal["stdout", "stderr"]) -> None:
    """Write what was printed elsewhere to a standard stream of this process, if it has one that is open.

    A fork waits for it: the streams have locks that no fork frees, so that a process that was forked while another
    thread wrote could never print. Those who fork know nothing of threads that write what is printed elsewhere.
    """
    with _writing, suppress(Exception):  # there may be none, or one of the user's that fails; the run goes on
        file = getattr(sys, stream)
        file.write(text)
        file.flush()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_writing.release)
