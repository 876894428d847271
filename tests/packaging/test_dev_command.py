"""`./dev` on machines that lack something. Needs nothing built: runs with the other tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder to be the whole PATH, with what the shell script itself calls and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "dirname").symlink_to(shutil.which("dirname") or "")
    return folder


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def dev(*args: str, path: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([root / "dev", *args], env={"PATH": str(path)}, capture_output=True, text=True)


def test_without_python_it_says_which_one_is_needed(bare_path: Path) -> None:
    result = dev("version", path=bare_path)
    assert result.returncode == 1
    assert "Python 3.11 or newer" in result.stderr


def test_without_the_venv_module_it_says_how_to_get_it(bare_path: Path) -> None:
    executable(bare_path / "python3", f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac')
    result = dev("version", path=bare_path)
    assert result.returncode == 1
    assert "python3 cannot make virtual environments" in result.stderr
    assert "apt-get install python3-venv" in result.stderr


def test_a_python_that_does_not_run_or_is_too_old_is_passed_over(bare_path: Path) -> None:
    executable(bare_path / "python3.13", "echo not switched on >&2; exit 127")
    executable(bare_path / "python3.12", "exit 1")
    executable(bare_path / "python3", f'exec {sys.executable} "$@"')
    result = dev("version", path=bare_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_setting_the_version_sets_it_for_all_packages(bare_path: Path, tmp_path: Path) -> None:
    executable(bare_path / "python3", f'exec {sys.executable} "$@"')
    copy = tmp_path / "checkout"
    version_file = ROOT / "packages/hypernodes-core/src/hypernodes/_version.py"
    for file in (ROOT / "dev", ROOT / "scripts/dev.py", version_file, *ROOT.glob("packages/*/pyproject.toml")):
        target = copy / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)

    assert dev("version", "7.8.9", path=bare_path, root=copy).returncode == 0
    assert dev("version", path=bare_path, root=copy).stdout == "7.8.9\n"
    for pyproject in copy.glob("packages/*/pyproject.toml"):
        assert ">=7.8,<7.9" in pyproject.read_text()
