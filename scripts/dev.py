"""The commands of `./dev`, each in a virtual environment of its own under `.venvs/`, made on first use."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

USAGE = """\
./dev demo [ARGS]       run the retrieval demo (examples/hebrew_retrieval); `./dev demo --help` lists its arguments
./dev test [ARGS]       lint, types, tests on every supported Python found, and the wheels
                          ./dev test -e lint        one tox environment: lint, types, py311, py312, py313, wheels,
                                                    or libraries, which runs only when it is named
                          ./dev test -- -k name     only the tests, with these arguments for pytest
./dev bench [ARGS]      measure against the budgets (benchmarks/)
                          ./dev bench --list        what is measured; names of suites or workloads choose some of it
                          ./dev bench --peers       other tools too, in environments of their own
                          ./dev bench --output DIR  write tables (Markdown, JSON) and pictures (SVG)
./dev version [X.Y.Z]   print the version of the packages, or set it for all of them"""

ROOT = Path(__file__).resolve().parent.parent
VERSION_FILE = ROOT / "packages/hypernodes-core/src/hypernodes/_version.py"
SUPPORTED_PYTHONS = ("3.11", "3.12", "3.13")
CANDIDATE_PYTHONS = ("3.14",)  # not promised yet; tested where it is found
LONGEST = "py312"  # the environment with all tests


def main(argv: list[str]) -> int:
    match argv:
        case ["demo", *args]:
            return run_module("examples.hebrew_retrieval", args)
        case ["bench", *args]:
            return run_module("benchmarks", args)
        case ["test", *args]:
            return test(args)
        case ["version"]:
            print(current_version())
            return 0
        case ["version", new]:
            return set_version(new)
        case ["help" | "-h" | "--help"]:
            print(USAGE)
            return 0
        case _:
            print(USAGE, file=sys.stderr)
            return 2


def run_module(module: str, args: list[str]) -> int:
    """Run a module of this checkout with the packages, and what its folder's requirements.txt asks for, installed."""
    requirements = ROOT / module.replace(".", "/") / "requirements.txt"
    if not requirements.exists():
        sys.exit(f"./dev: {requirements.relative_to(ROOT)} is not in this checkout")
    editable = [arg for package in packages() for arg in ("-e", str(package))]
    python = environment(
        module.rpartition(".")[2],
        [*editable, "-r", str(requirements)],
        depends_on=[requirements, VERSION_FILE, *(package / "pyproject.toml" for package in packages())],
    )
    return subprocess.call([python, "-m", module, *args], cwd=ROOT, env=clean_environ())


def test(args: list[str]) -> int:
    """Run tox in the environments that can run here; a missing Python is skipped, and said.

    All of them together run side by side, as many as there are CPUs, since each waits a good deal: for downloads, for
    containers. What one prints is shown when it ends. The one that takes longest starts first.
    """
    python = environment("tox", ["tox>=4.24,<5"])
    found = {version: find_python(version) for version in (*SUPPORTED_PYTHONS, *CANDIDATE_PYTHONS)}
    if not any(found[version] for version in SUPPORTED_PYTHONS):
        sys.exit(f"./dev: the tests need one of Python {', '.join(SUPPORTED_PYTHONS)}, and none is on this machine.")
    tox_args = args[: args.index("--")] if "--" in args else args
    command = ["run"]
    if not any(arg.startswith(("-e", "-f", "-m")) for arg in tox_args):
        envs = [f"py{version.replace('.', '')}" for version, path in found.items() if path]
        if "--" not in args:
            envs = [*sorted(envs, key=lambda env: env != LONGEST), "lint", "types", "wheels"]
            command = ["run-parallel"] if sys.stdout.isatty() else ["run-parallel", "--parallel-no-spinner"]
            print(
                f"Running {', '.join(envs)}, some of them side by side; each takes minutes, and is shown when it ends."
            )
            sys.stdout.flush()
        args = ["-e", ",".join(envs), *args]
    environ = clean_environ() | {"TOX_DISCOVER": os.pathsep.join(path for path in found.values() if path)}
    status = subprocess.call([python, "-m", "tox", *command, *args], cwd=ROOT, env=environ)
    for version, path in found.items():
        if path is None:
            print(f"Skipped: the tests on Python {version}, which is not on this machine.")
    return status


def environment(name: str, install: list[str], depends_on: Iterable[Path] = ()) -> Path:
    """The Python of the virtual environment `name`, made anew when it is missing or out of date.

    Args:
        name: Folder under `.venvs/`.
        install: Arguments of `pip install`.
        depends_on: Files whose content decides what is installed.
    """
    home = ROOT / ".venvs" / name
    python = home / "bin" / "python"
    stamp = home / "made-from"
    made_from = hashlib.sha256(repr([sys.version, sys.base_prefix, install]).encode())
    for path in depends_on:
        made_from.update(path.read_bytes())
    if python.exists() and stamp.exists() and stamp.read_text() == made_from.hexdigest():
        return python

    print(f"Making .venvs/{name} (Python {sys.version.split()[0]}; a minute at most, only once) ...", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    pip_install: list[str | Path] = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *install]
    if subprocess.call([sys.executable, "-m", "venv", home], env=clean_environ()) != 0:
        sys.exit(f"./dev: {sys.executable} could not make a virtual environment in {home}; its reason is above.")
    if subprocess.call(pip_install, cwd=ROOT, env=clean_environ()) != 0:
        sys.exit(
            "./dev: pip could not install what is needed; its reason is above. This needs a package index within reach:"
            " the network, or a mirror set in pip's configuration."
        )
    stamp.write_text(made_from.hexdigest())
    return python


def find_python(version: str) -> str | None:
    """Path of an interpreter of this version ("3.12") that really runs, or None."""
    for candidate in python_candidates(version):
        probe = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            answer = subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):  # a pyenv shim whose version is not switched on
            continue
        if answer == version:
            return candidate
    return None


def python_candidates(version: str) -> Iterator[str]:
    yield sys.executable
    for folder in os.get_exec_path():
        if found := shutil.which(f"python{version}", path=folder):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True):
        yield str(path)


def current_version() -> str:
    match = re.search(r'^__version__ = "(.+)"$', VERSION_FILE.read_text(), re.MULTILINE)
    assert match, f'{VERSION_FILE} has no line like: __version__ = "1.2.3"'
    return match[1]


def set_version(new: str) -> int:
    """Write the version, and move the ranges in which the packages accept each other along with it."""
    parts = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", new)
    if parts is None:
        print(f"./dev version: {new!r} is not of the form X.Y.Z", file=sys.stderr)
        return 2
    major, minor = int(parts[1]), int(parts[2])
    VERSION_FILE.write_text(VERSION_FILE.read_text().replace(f'"{current_version()}"', f'"{new}"'))
    for package in packages():
        pyproject = package / "pyproject.toml"
        pinned = rf"\g<1>>={major}.{minor},<{major}.{minor + 1}"
        pyproject.write_text(re.sub(r"(hypernodes-[a-z]+)>=[\d.]+,<[\d.]+", pinned, pyproject.read_text()))
    print(f"{new}, in {VERSION_FILE.relative_to(ROOT)}. Say what is new in CHANGELOG.md.")
    return 0


def packages() -> list[Path]:
    return sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


def clean_environ() -> dict[str, str]:
    """The environment of this process without what would leak another Python's modules into a virtual environment."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
