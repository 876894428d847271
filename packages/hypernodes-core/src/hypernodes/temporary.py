"""Temporary folders that are removed also when the process that made them was killed.

The process holds a lock on a file in its folder for as long as it uses it; the system releases the lock when the
process ends, however it does. A folder whose lock is free has no owner: the next process of the same user that makes
one removes it. Folders of other users, and whatever else has such a name, are left alone.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not a POSIX system: folders of killed processes stay
    fcntl = None

_LOCK = ".owner"
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class OwnedFolder:
    """A folder in the temporary directory that only this user can open, and that is removed in the end.

    Args:
        prefix: What its name begins with.

    Attributes:
        path: The folder.
    """

    def __init__(self, prefix: str) -> None:
        remove_abandoned(prefix)
        self._lock: int | None = None
        while True:
            self.path = tempfile.mkdtemp(prefix=prefix)
            if fcntl is None:
                return
            try:
                self._lock = _create_lock(self.path)
                return
            except BlockingIOError:  # another process has just taken the folder for an abandoned one, and removes it
                continue

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def remove_abandoned(prefix: str) -> int:
    """Remove folders whose owners are gone; return their number.

    Args:
        prefix: What their names begin with.
    """
    if fcntl is None:
        return 0
    removed = 0
    try:
        with os.scandir(tempfile.gettempdir()) as found:
            names = [entry.path for entry in found if entry.name.startswith(prefix) and _is_ours(entry)]
    except OSError:
        return 0
    for path in names:
        removed += _remove_if_abandoned(path)
    return removed


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    except OSError:  # removed in the meantime
        return False


def _create_lock(folder: str) -> int | None:
    """Create the lock of a new folder and take it; None where there are no locks.

    Raises:
        BlockingIOError: Another process removes the folder.
    """
    path = os.path.join(folder, _LOCK)
    try:
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    except FileNotFoundError:
        raise BlockingIOError from None
    try:
        _take(descriptor)
        if not _is_at(folder, descriptor):
            raise BlockingIOError
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # the filesystem knows no locks: without the file, nobody takes the folder for an abandoned one
        os.close(descriptor)
        os.remove(path)
        return None
    return descriptor


def _remove_if_abandoned(folder: str) -> bool:
    try:
        descriptor = os.open(os.path.join(folder, _LOCK), _FLAGS)
    except OSError:  # it is not one of these folders, or was removed in the meantime
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        _take(descriptor)
        if not _is_at(folder, descriptor):
            return False
        shutil.rmtree(folder, ignore_errors=True)  # while the lock is held, so that two do not remove it
    except OSError:  # it has an owner
        return False
    finally:
        os.close(descriptor)
    return not os.path.exists(folder)


def _take(descriptor: int) -> None:
    """Take a lock.

    Raises:
        BlockingIOError: It is taken.
        OSError: There are no locks.
    """
    assert fcntl is not None
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(folder: str, descriptor: int) -> bool:
    """Whether the lock is still the one in the folder."""
    try:
        return os.path.samestat(os.stat(os.path.join(folder, _LOCK)), os.fstat(descriptor))
    except OSError:
        return False
