"""Reads `pip install` and `uv pip install` command lines as the client writes them into image layers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import NamedTuple

_INSTALL = re.compile(
    r"^(?:(?:python3?|\S*/python3?) -m )?(?:pip3?|(?:\S*/)?uv pip) install\s+(?P<rest>.+)$", re.DOTALL
)
_WITH_VALUE = {
    "--index-url", "-i", "--extra-index-url", "--find-links", "-f", "--requirement", "--requirements", "-r",
    "--python", "--prerelease", "--constraint", "-c", "--target", "--index-strategy", "--index", "--default-index",
    "--torch-backend",
}  # fmt: skip
_KEPT = {"--index-url", "-i", "--extra-index-url", "--find-links", "-f", "--pre", "--no-deps", "--no-index"}


class PipInstall(NamedTuple):
    """What a command installs.

    Attributes:
        requirements: One per entry, as in a requirements file.
        options: Options that say where to look and how, for pip.
    """

    requirements: list[str]
    options: list[str]


def read_pip_install(command: str, read_file: Callable[[str], str]) -> PipInstall | None:
    """Read a command line.

    Args:
        command: The command, without RUN.
        read_file: Returns the content of a file of the image.

    Returns:
        What it installs, or None if it is another kind of command.
    """
    match = _INSTALL.match(command.strip())
    if match is None:
        return None
    rest = re.sub(r"\$\([^)]*\)", "python", match["rest"])  # the client writes --python $(command -v python)
    words = iter(shlex.split(rest))
    requirements: list[str] = []
    options: list[str] = []
    for word in words:
        name, has_value, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if not word.startswith("-"):
            requirements.append(word)
            continue
        if not has_value and name in _WITH_VALUE:
            value = next(words, "")
        if name in ("--requirement", "--requirements", "-r"):
            requirements.extend(_read_requirements(read_file(value)))
        elif name == "--prerelease":
            options.append("--pre")
        elif name in _KEPT:
            options.extend([name, value] if value else [name])
    return PipInstall(requirements, options)


def _read_requirements(text: str) -> list[str]:
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.replace("\\\n", " ").splitlines())
    return [re.sub(r"\s--hash=\S+", "", line) for line in lines if line and not line.startswith("-")]
