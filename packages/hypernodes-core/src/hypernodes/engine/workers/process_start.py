"""The beginning of a worker process, its environment, and its end when its parent process has ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from hypernodes.engine.workers.callers_main import use_empty_main
from hypernodes.engine.workers.process_link import serve

_MAX_FOLDERS = 100
_THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
_PARENT_CHECK_S = 1.0  # between two checks whether the parent is alive
_folders: dict[str, None] = {}
_start_folder = ""
STARTED_NS = time.time_ns()
"""When this process was started, if it is a worker process."""


def serve_orders(connection: Connection, parent: int, is_loky: bool) -> None:
    """Be a worker process: make the calls that arrive, until there are no more.

    Args:
        connection: Its end of the connection to the caller.
        parent: Id of the process that started it.
        is_loky: Whether loky started it, whose main module is not the caller's.
    """
    if is_loky:
        use_empty_main()
    start_process(parent)
    remember_folder()
    serve(connection)


def thread_limits(workers: int) -> dict[str, str]:
    """Return environment variables that share the cores between the thread pools of libraries in several processes.

    Otherwise each process would have a thread for each core. Where `OMP_NUM_THREADS` is set, the user has decided.

    Args:
        workers: Number of processes.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(1, cores // workers))
    return {name: share for name in _THREAD_LIMITS if name not in os.environ}


def remember_folder() -> None:
    """Remember the folder in which this process was started."""
    global _start_folder
    with contextlib.suppress(OSError):  # it was removed
        _start_folder = os.getcwd()


def return_to_folder() -> None:
    """Return to the folder in which this process was started, if a node has left it."""
    with contextlib.suppress(OSError):  # it was removed
        if _start_folder:
            os.chdir(_start_folder)


def use_folder(folder: str) -> None:
    """Register the folder of a run, which the worker removes if the parent process is killed."""
    _folders[folder] = None
    if len(_folders) > _MAX_FOLDERS:
        for known in list(_folders):  # other threads may do the same: a caller's own executor may have threads
            if not os.path.exists(known):
                _folders.pop(known, None)


def start_process(parent: int) -> None:
    """Prepare a worker process.

    A worker ignores keyboard interrupts, which its parent handles, and ends when its parent ends: a killed process
    cannot stop its workers itself.

    Args:
        parent: Id of the process that started it.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _use_ordinary_start_method()
    if "PYTHONFAULTHANDLER" not in os.environ and not faulthandler.is_enabled() and sys.stderr is not None:
        faulthandler.enable()  # where a crash in native code happened can be told by nobody else
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
