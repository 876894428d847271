"""What a worker process does between two runs: releases what the last one left, and looks whether its code is old."""

from __future__ import annotations

import gc
import os
import sys
import sysconfig

from hypernodes.engine.workers.process_main import evict_removed_files
from hypernodes.engine.workers.process_start import STARTED_NS, return_to_folder

_MARGIN_NS = 2_000_000_000  # of the times of files, which may be rounded
_files: dict[str, tuple[str, tuple[int, int]] | None] = {}  # by name of a module: its file, and what it was like
_installed: tuple[str, ...] = ()


def refresh(argument: bytes) -> bytes:
    """Release the values of the last run; return nothing if the process can be used on, else why it cannot."""
    return_to_folder()
    if evict_removed_files():
        gc.collect()
    return b"" if _is_code_up_to_date() else b"a module has changed since it was imported"


def _is_code_up_to_date() -> bool:
    """Whether all modules, but for installed ones, are as they were when this process imported them.

    One that is not yet known was imported since the last look, and counts as changed if its file was written after the
    start of this process: whether that was before the import cannot be told.
    """
    for name, module in list(sys.modules.items()):
        if name not in _files:
            path = getattr(module, "__file__", None)
            if not isinstance(path, str) or path.startswith(_installed_folders()):
                _files[name] = None
                continue
            state = _state_of(path)
            if state is None or state[0] > STARTED_NS - _MARGIN_NS:
                return False
            _files[name] = path, state
        elif (known := _files[name]) is not None and _state_of(known[0]) != known[1]:
            return False
    return True


def _state_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _installed_folders() -> tuple[str, ...]:
    global _installed
    if not _installed:
        paths = sysconfig.get_paths()
        _installed = tuple({paths[kind] + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
    return _installed
