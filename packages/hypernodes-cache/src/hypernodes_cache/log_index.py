"""The index of a database's write-ahead log (`cache.db-shm`), which SQLite maps into the memory of all who read.

If another program cuts this file off, the next look into the mapping ends the process (bus error). So it gets its size
back before every access. Where it holds zeros instead of an index, SQLite makes one again from the log.
"""

from __future__ import annotations

import os
import threading

_PAGE_BYTES = 32 * 1024  # SQLite maps pages of this size
_HEAD_BYTES = 136

_lock = threading.Lock()
_sizes: dict[str, int] = {}  # of the files that this process may have mapped, by path
_users: dict[str, int] = {}


class LogIndex:
    """The index of one database, for one connection.

    Args:
        database_path: The database.
        can_write: Whether the file may be written.
    """

    def __init__(self, database_path: str, can_write: bool) -> None:
        self._can_write = can_write
        self._path = f"{database_path}-shm"
        self._is_used = False

    def begin(self) -> None:
        """Take note that a connection is about to be opened."""
        if not self._is_used:
            self._is_used = True
            with _lock:
                _users[self._path] = _users.get(self._path, 0) + 1
        self.mend()

    def end(self) -> None:
        """Take note that the connection was closed."""
        if self._is_used:
            self._is_used = False
            with _lock:
                _users[self._path] -= 1
                if _users[self._path] <= 0:  # nothing of this process maps it any more
                    _users.pop(self._path)
                    _sizes.pop(self._path, None)

    def mend(self) -> None:
        """Give the file its size back.

        Raises:
            OSError: It was cut off, and cannot be written.
        """
        try:
            size = os.stat(self._path).st_size
        except OSError:  # deleted, which does no harm to those who have it mapped
            return
        known = _sizes.get(self._path, 0)
        if size == known:
            return
        if size > known and size % _PAGE_BYTES == 0:
            _sizes[self._path] = size
            return
        if not self._can_write:
            if size < known:
                raise OSError(f"{self._path} was cut off")
            return
        descriptor = os.open(self._path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            os.write(descriptor, bytes(_HEAD_BYTES))  # first, so that nobody believes what is left
            os.ftruncate(descriptor, max(known, -(-size // _PAGE_BYTES) * _PAGE_BYTES))
        finally:
            os.close(descriptor)
