"""Opens files that somebody else may have replaced by something that blocks who opens or reads it."""

from __future__ import annotations

import io
import os
import stat

_NEVER_WAITS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class NotAFileError(OSError):
    """There is something else than a file: a named pipe, a device, a directory."""


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file for reading, unbuffered and without waiting.

    Raises:
        NotAFileError: It is not a regular file.
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | _NEVER_WAITS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFileError(f"{os.fspath(path)} is not a regular file")
        return open(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check a file that a library will open, and that need not be there.

    Raises:
        NotAFileError: There is something that is not a regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise NotAFileError(f"{os.fspath(path)} is not a regular file")
