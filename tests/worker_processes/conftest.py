"""Worker processes, and scripts that are run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypernodes import LocalBackend
from tests.support import end_idle_workers

# Processes are observed through /proc.
collect_ignore_glob = [] if Path("/proc/self/stat").exists() else ["test_*.py"]

ABSENT = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in ("loky", "cloudpickle") else find(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
"""


@pytest.fixture(scope="module")
def items_backend() -> Iterator[LocalBackend]:
    """Items of a map in two worker processes, which the tests of a module share."""
    with LocalBackend(map_execution="parallel", max_workers=2) as backend:
        yield backend


@pytest.fixture(scope="module")
def nodes_backend() -> Iterator[LocalBackend]:
    """Nodes in two worker processes, which the tests of a module share."""
    with LocalBackend(node_execution="parallel", max_workers=2) as backend:
        yield backend


@pytest.fixture(autouse=True)
def no_idle_workers() -> Iterator[None]:
    """Let each test start worker processes of its own, or share those of the fixtures above."""
    end_idle_workers()
    yield
    end_idle_workers()


class Scripts:
    """Runs scripts in fresh interpreters.

    Args:
        folder: Where they are written; also their working directory.
        environ: Added to the environment.

    Attributes:
        environ: Their environment.
    """

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environ}

    def write(self, source: str, name: str = "script.py") -> Path:
        path = self.folder / name
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start an interpreter in a session of its own."""
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str | Path) -> str:
        """Return what the script printed; it must succeed."""
        process = self.start(*arguments)
        out, err = finish(process)
        assert process.returncode == 0, err
        assert err == ""
        return out


def finish(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[str, str]:
    """Return what a process printed, killing its whole session should it not end by itself."""
    try:
        return process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        raise AssertionError(f"it did not end within {timeout_s} s\n{out}\n{err}") from None


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path, {})


@pytest.fixture
def scripts_without_loky(tmp_path: Path) -> Scripts:
    """Scripts, and processes started by them, for which loky and cloudpickle are not installed."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(ABSENT)
    return Scripts(tmp_path, {"PYTHONPATH": str(tmp_path / "site")})
