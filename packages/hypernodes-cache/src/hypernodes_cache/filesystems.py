"""Detection of network filesystems, on which SQLite's locks cannot be trusted."""

from __future__ import annotations

import os

_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "gcsfuse", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("orangefs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "virtiofs"),
    *("fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
}


def network_filesystem(path: str, mounts: str = "/proc/mounts") -> str | None:
    """Return the type of network filesystem that `path` is on; None if it is on another one, or if that is unknown.

    Args:
        path: A file or directory; it need not exist.
        mounts: The file in which Linux lists what is mounted.
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:  # not Linux
        return None
    where = os.path.realpath(path)
    best, kind = -1, None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        folder = _unescape(fields[1])
        # The later of two mounts on one folder hides the earlier.
        if (where == folder or where.startswith(folder.rstrip("/") + "/")) and len(folder) >= best:
            best, kind = len(folder), fields[2]
    return kind if kind in _NETWORK else None


def _unescape(text: str) -> str:
    for escaped, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escaped, plain)
    return text
