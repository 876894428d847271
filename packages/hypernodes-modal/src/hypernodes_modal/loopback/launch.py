"""Starts a container: run as a script, with nothing but the standard library, in the process that becomes it.

Where the system allows it (Linux, mount namespaces), the process first gets a file system of its own: its root is the
container's directory, into which the system's directories and the few others it needs are bound. So absolute paths of
mounts and volumes mean what they mean in the cloud, and files that were forgotten are missing. This is for fidelity,
not for security: nothing here keeps hostile code in.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

SYSTEM = (
    "bin",
    "dev",
    "etc",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "nix",
    "opt",
    "proc",
    "run",
    "sbin",
    "sys",
    "usr",
    "var",
)


def main() -> None:
    """Become what the file named on the command line describes; with "--probe" only try whether that works."""
    if sys.argv[1] == "--probe":
        _own_namespace()
        return
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    if plan["own_root"]:
        _own_namespace()
        _enter(plan["root"], plan["visible"])
    os.chdir(plan["workdir"])
    os.execve(plan["arguments"][0], plan["arguments"], plan["environment"])


def _own_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace of its own")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    _mount(libc, None, "/", MS_REC | MS_PRIVATE)


def _enter(root: str, visible: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    bound: set[str] = set()
    for path in [*(f"/{name}" for name in SYSTEM), *visible]:
        if os.path.lexists(path):
            _show(libc, root, path, bound)
    os.chroot(root)
    os.chdir("/")


def _show(libc: ctypes.CDLL, root: str, path: str, bound: set[str]) -> None:
    """Make a path of this machine visible at the same place in the container, beneath what the container has there."""
    target = root + path
    if os.path.islink(path):
        if not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(path), target)
    elif any(path == above or path.startswith(f"{above}/") for above in bound):
        return
    elif not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(path):
            os.mkdir(target)
        else:
            with open(target, "wb"):
                pass
        _mount(libc, path, target, MS_BIND | MS_REC)
        bound.add(path)
    elif os.path.isdir(path) and os.path.isdir(target) and not os.path.islink(target):
        # The image has something of its own in this directory: show what else there is, one by one.
        for name in os.listdir(path):
            _show(libc, root, os.path.join(path, name), bound)


def _mount(libc: ctypes.CDLL, source: str | None, target: str, flags: int) -> None:
    encoded = os.fsencode(source) if source is not None else None
    if libc.mount(encoded, os.fsencode(target), None, flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"cannot bind {source}", target)


if __name__ == "__main__":
    main()
