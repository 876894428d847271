"""Places that the tests share, and projects in folders of their own."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

import hypernodes
from hypernodes.backend import SubprocessBackend


@pytest.fixture(scope="module")
def kept() -> Iterator[SubprocessBackend]:
    """A process that the tests of a module share."""
    with SubprocessBackend() as backend:
        yield backend


@pytest.fixture(scope="session")
def essentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hypernodes-core and cloudpickle, and nothing else; compiled once, and not by each process."""
    folder = tmp_path_factory.mktemp("essentials")
    for module in (hypernodes, cloudpickle):
        source = Path(module.__file__ or "").parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder, quiet=1)
    return folder


class Project:
    """A project of a user's: modules and scripts in a folder.

    Args:
        folder: The folder.
        essentials: What the other Python finds besides the standard library.
    """

    def __init__(self, folder: Path, essentials: Path) -> None:
        self.folder = folder
        self._essentials = essentials

    def write(self, **files: str) -> None:
        """Write modules; a name with double underscores is one in a package (`pkg__mod` for pkg/mod.py)."""
        for name, source in files.items():
            path = self.folder.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            for package in path.parents:
                if package == self.folder:
                    break
                (package / "__init__.py").touch()
            path.write_text(textwrap.dedent(source), encoding="utf-8")

    def run(self, script: str, *arguments: str) -> str:
        """Run a script in which `elsewhere` is a backend that finds nothing of the project; return what it printed."""
        process = self.start(script, *arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a script likewise."""
        empty = self.folder / "elsewhere"
        empty.mkdir(exist_ok=True)
        head = f"""
from hypernodes import *
from hypernodes.backend import SubprocessBackend

elsewhere = SubprocessBackend(
    python={sys.executable!r},
    env={{"PYTHONPATH": {str(self._essentials)!r}, "PYTHONSAFEPATH": "1"}},
    cwd={str(empty)!r},
)
"""
        path = self.folder / "script.py"
        path.write_text(head + textwrap.dedent(script), encoding="utf-8")
        return subprocess.Popen(
            [sys.executable, str(path), *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def project(tmp_path: Path, essentials: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder, essentials)
