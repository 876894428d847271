"""Makes the Python environment of an image: an interpreter, Modal's client, and what the image pip-installed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

from hypernodes_modal.loopback import local_packages
from hypernodes_modal.loopback.interpreters import OWN_VERSION, Interpreter, find_interpreter
from hypernodes_modal.loopback.local_packages import Selection, select
from hypernodes_modal.loopback.recipes import Recipe

_PIP_TIMEOUT_S = 900


class BuildError(Exception):
    """An image cannot be built here. The message says why and what to do."""


@dataclass(frozen=True)
class Environment:
    """An environment that containers can run in.

    Attributes:
        python: Its interpreter.
        directory: Where it is.
        visible: Other directories it consists of.
    """

    python: Path
    directory: Path
    visible: tuple[Path, ...]


class Environments:
    """Makes environments, each once.

    Args:
        directory: Where to put them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[str, Environment] = {}
        self._making: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # containers may start together

    def get(self, recipe: Recipe, log: Callable[[str], None] = lambda line: None) -> Environment:
        """Return the environment of an image, made if need be. Blocks; may use the network.

        Args:
            recipe: The image.
            log: Called with what happens, line by line.

        Raises:
            BuildError: There is no such interpreter here, or a package cannot be had.
        """
        wanted = json.dumps([recipe.python_version, recipe.requirements, recipe.pip_options])
        key = hashlib.sha256(wanted.encode()).hexdigest()[:16]
        with self._making[key]:
            if key not in self._made:
                directory = self._directory / key
                try:
                    self._made[key] = self._make(directory, recipe, log)
                except BaseException:
                    shutil.rmtree(directory, ignore_errors=True)  # so that it can be tried again
                    raise
        return self._made[key]

    def _make(self, directory: Path, recipe: Recipe, log: Callable[[str], None]) -> Environment:
        wanted_version = recipe.python_version or OWN_VERSION
        interpreter = find_interpreter(wanted_version)
        if interpreter is None:
            raise BuildError(
                f"The image wants Python {wanted_version}, and no such interpreter was found on this machine (looked "
                f"for python{wanted_version} on PATH, in pyenv and in uv). Install it, or use another python_version."
            )
        modal_itself = f"modal=={version('modal')}"
        if interpreter.version == OWN_VERSION:
            here = select([modal_itself, *recipe.requirements])
            missing = here.missing
        else:  # what is installed here is for another version of Python
            here = Selection({}, [])
            missing = [modal_itself, *recipe.requirements]
        self._refuse_editable(missing)
        site = directory / "lib" / f"python{interpreter.version}" / "site-packages"
        site.mkdir(parents=True)
        visible = {interpreter.prefix, *local_packages.locations(here.distributions.values())}
        if missing:
            log(f"pip install {' '.join(missing)}")
            fetched = _fetch(interpreter, missing, recipe.pip_options, log)
            visible.add(fetched)
            local_packages.link(distributions(path=[str(fetched)]), site)
        local_packages.link(here.distributions.values(), site)
        _make_venv(directory, interpreter)
        return Environment(directory / "bin" / "python", directory, tuple(sorted(visible)))

    def _refuse_editable(self, missing: Sequence[str]) -> None:
        editable = [name for name in map(local_packages.name_of, missing) if name and local_packages.is_editable(name)]
        if editable:
            raise BuildError(
                f"{', '.join(editable)}: installed here in editable mode, as a link to a working copy, which cannot be "
                "installed into an image. Bring the code along with Image.add_local_python_source(...) instead."
            )


def _make_venv(directory: Path, interpreter: Interpreter) -> None:
    """What `python -m venv` would make, without starting an interpreter."""
    programs = directory / "bin"
    programs.mkdir()
    for name in ("python", "python3", f"python{interpreter.version}"):
        (programs / name).symlink_to(interpreter.executable)
    (directory / "pyvenv.cfg").write_text(
        f"home = {interpreter.executable.parent}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )


def _fetch(
    interpreter: Interpreter, requirements: Sequence[str], options: Sequence[str], log: Callable[[str], None]
) -> Path:
    """Have pip fetch packages into a directory that is kept for the next time."""
    wanted = json.dumps([interpreter.version, sorted(requirements), options])
    kept = _cache_directory() / hashlib.sha256(wanted.encode()).hexdigest()[:24]
    if kept.is_dir():
        log(f"taken from {kept}, where it was put before")
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=kept.parent))
    try:
        _run_pip(interpreter, requirements, options, partial, log)
        try:
            partial.rename(kept)
        except OSError:  # somebody else was faster
            if not kept.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return kept


def _run_pip(
    interpreter: Interpreter,
    requirements: Sequence[str],
    options: Sequence[str],
    target: Path,
    log: Callable[[str], None],
) -> None:
    arguments = ["install", "--quiet", "--target", str(target), "--no-input", "--disable-pip-version-check", *options]
    if interpreter.version != OWN_VERSION:
        arguments += ["--python-version", interpreter.version, "--only-binary=:all:"]
    try:
        outcome = subprocess.run(
            [sys.executable, "-m", "pip", *arguments, *requirements],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"pip took more than {_PIP_TIMEOUT_S} s for: {' '.join(requirements)}") from None
    for line in outcome.stdout.splitlines():
        log(line)
    if outcome.returncode != 0:
        raise BuildError(
            f"{' '.join(requirements)}: not installed here, and pip could not install it for Python "
            f"{interpreter.version}:\n{outcome.stdout.strip()}"
        )


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "hypernodes-modal" / "loopback"
