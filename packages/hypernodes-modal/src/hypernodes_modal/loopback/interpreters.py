"""Finds an interpreter of a given Python version on this machine."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

OWN_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class Interpreter(NamedTuple):
    """An interpreter.

    Attributes:
        version: "3.12".
        executable: The program itself, not that of a virtual environment.
        prefix: The directory with its standard library.
    """

    version: str
    executable: Path
    prefix: Path


@cache
def find_interpreter(version: str) -> Interpreter | None:
    """Find an interpreter.

    Args:
        version: Major and minor version, such as "3.12".

    Returns:
        The interpreter, or None if there is none on this machine.
    """
    for candidate in _candidates(version):
        found = _ask(candidate)
        if found is not None and found.version == version:
            return found
    return None


def _candidates(version: str) -> list[str]:
    candidates: list[str] = []
    if version == OWN_VERSION:
        candidates.append(sys.executable)
    on_path = shutil.which(f"python{version}")
    if on_path:
        candidates.append(on_path)
    home = os.path.expanduser("~")
    pyenv = os.path.join(os.environ.get("PYENV_ROOT", f"{home}/.pyenv"), "versions", f"{version}*")
    uv = os.path.join(os.environ.get("XDG_DATA_HOME", f"{home}/.local/share"), "uv", "python", f"cpython-{version}.*")
    for folder in (pyenv, uv, "/usr", "/usr/local"):
        candidates.extend(sorted(glob.glob(os.path.join(folder, "bin", f"python{version}"))))
    return candidates


def _ask(executable: str) -> Interpreter | None:
    code = (
        "import sys; print('%d.%d' % sys.version_info[:2], getattr(sys, '_base_executable', sys.executable),"
        " sys.base_prefix, sep='\\n')"
    )
    try:
        answer = subprocess.run(
            [executable, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None  # such as a shim whose version is not installed
    version, base_executable, prefix = answer
    return Interpreter(version, Path(base_executable).resolve(), Path(prefix).resolve())
