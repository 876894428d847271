"""Stops calls that exceed their time limit, and worker processes whose parent process ended."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from hypernodes.engine.step import timeout_error

if TYPE_CHECKING:
    from hypernodes.nodes import Node

_GRACE_S = 1.0  # after a time limit, for a call that ignores the interrupt
_PARENT_CHECK_S = 1.0  # between two checks whether the parent is alive
_LATE = "late-"
_is_worker = False
_folders: set[str] = set()


def use_folder(folder: str) -> None:
    """Register the folder of a run, which the worker removes if the parent process is killed."""
    _folders.add(folder)
    if len(_folders) > 100:
        _folders.intersection_update([known for known in _folders if os.path.exists(known)])


def start_process(parent: int) -> None:
    """Prepare a worker process.

    A worker ignores keyboard interrupts, which its parent handles, and ends when its parent ends: a killed process
    cannot stop its workers itself.

    Args:
        parent: Id of the process that started it.
    """
    global _is_worker
    _is_worker = True
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _use_ordinary_start_method()
    threading.Thread(target=_watch_parent, args=(parent,), name="hypernodes-parent-watch", daemon=True).start()


def _use_ordinary_start_method() -> None:
    """Let processes that nodes start be started as anywhere else, rather than by loky, which they need not know."""
    import multiprocessing

    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        multiprocessing.set_start_method(None, force=True)


def _watch_parent(parent: int) -> None:
    import multiprocessing

    process = multiprocessing.parent_process()
    if os.name == "posix":
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_S)
    elif process is not None:
        process.join()
    else:
        return
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


class TimeLimit:
    """Interrupts a call that takes too long; for one that ignores it, writes a marker file and ends the process.

    Args:
        node: The node that is called.
        folder: Folder for the marker file.
        marker: Identifies the call in the name of the file.
    """

    def __init__(self, node: Node[..., Any], folder: str, marker: str) -> None:
        self._node = node
        self._path = os.path.join(folder, _LATE + marker)
        self._is_over: threading.Event | None = None
        self._has_alarm = False

    def __enter__(self) -> None:
        limit = self._node.timeout
        if limit is None:
            return
        self._is_over = threading.Event()
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            self._has_alarm = True
            self._previous = signal.signal(signal.SIGALRM, self._interrupt)
            signal.setitimer(signal.ITIMER_REAL, limit)
        if _is_worker:
            threading.Thread(target=self._watch, args=(self._is_over, limit + _GRACE_S), daemon=True).start()

    def __exit__(self, *exc_info: object) -> None:
        if self._is_over is not None:
            self._is_over.set()
        if self._has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        raise timeout_error(self._node)

    def _watch(self, is_over: threading.Event, limit_s: float) -> None:
        if not is_over.wait(limit_s):
            open(self._path, "w").close()
            os._exit(1)


def late_call(folder: str, number: int) -> tuple[int, int] | None:
    """Return which call of an order ended its process by exceeding its time limit; None when none did.

    Args:
        folder: Folder for marker files.
        number: Number of the order.

    Returns:
        Position of the item in the order, and of the step in the program.
    """
    for name in os.listdir(folder):
        if name.startswith(f"{_LATE}{number}-"):
            _, item, step = name.removeprefix(_LATE).split("-")
            return int(item), int(step)
    return None
