"""Looks whether the code that a worker process has imported is that of now."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import NamedTuple

from hypernodes.engine.workers.process_start import STARTED_NS

_MARGIN_NS = 2_000_000_000  # of the times of files, which may be rounded
_installed: tuple[str, ...] = ()


class _State(NamedTuple):
    changed_ns: int
    size_bytes: int
    inode: int


_files: dict[str, tuple[str, _State] | None] = {}  # by name of a module: its file, and what it was like


def are_unchanged() -> bool:
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
            if state is None or state.changed_ns > STARTED_NS - _MARGIN_NS:
                return False
            _files[name] = path, state
        elif (known := _files[name]) is not None and _state_of(known[0]) != known[1]:
            return False
    return True


def _state_of(path: str) -> _State | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _State(max(found.st_mtime_ns, found.st_ctime_ns), found.st_size, found.st_ino)


def _installed_folders() -> tuple[str, ...]:
    global _installed
    if not _installed:
        paths = sysconfig.get_paths()
        _installed = tuple({paths[kind] + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
    return _installed
