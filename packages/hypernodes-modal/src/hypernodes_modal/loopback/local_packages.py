"""Takes packages for an image from what is installed in the environment of the control plane."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePath
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


class Selection(NamedTuple):
    """What is here of some requirements.

    Attributes:
        distributions: Those that are installed and fit, with all they need.
        missing: Requirements that nothing installed here meets.
    """

    distributions: dict[str, Distribution]
    missing: list[str]


def select(requirements: Iterable[str]) -> Selection:
    """Look requirements up among the installed distributions.

    Args:
        requirements: As in a requirements file.

    Returns:
        What was found, and what not. A distribution that is there but lacks something it needs counts as missing, and
        so does one in editable mode, which consists of a link to somebody's working copy.
    """
    chosen: dict[str, Distribution] = {}
    missing: list[str] = []
    for line in requirements:
        tentative: dict[str, Distribution] = {}
        if _take(line, tentative, set()):
            chosen.update(tentative)
        else:
            missing.append(line)
    return Selection(chosen, missing)


def link(distributions: Iterable[Distribution], site: Path) -> None:
    """Put distributions into a directory, as links. Blocks.

    Whole packages are linked where that is possible, and single files where several distributions share a directory.

    Args:
        distributions: Which.
        site: The directory, which stands for `site-packages`.
    """
    for each in distributions:
        files = [file for file in each.files or () if ".." not in file.parts and file.suffix != ".pth"]
        packages = {str(file.parent) for file in files if file.name == "__init__.py"}
        for name in {_outermost(file, packages) for file in files}:
            source, target = str(each.locate_file(name)), site / name
            if not os.path.lexists(target) and os.path.exists(source):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(os.path.realpath(source))


def locations(distributions: Iterable[Distribution]) -> set[Path]:
    """The directories that the links lead to."""
    return {Path(os.path.realpath(str(each.locate_file("")))) for each in distributions}


def is_editable(name: str) -> bool:
    """Whether a distribution is installed here in editable mode."""
    try:
        text = distribution(name).read_text("direct_url.json")
    except PackageNotFoundError:
        return False
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))


def name_of(line: str) -> str | None:
    """The name of the distribution a requirement asks for, if it has one."""
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return None


def _outermost(file: PurePath, packages: set[str]) -> str:
    """The outermost package (or metadata directory) a file is in; the file itself if it is in none."""
    for folder in reversed(file.parents):
        if str(folder) in packages or folder.name.endswith(".dist-info"):
            return str(folder)
    return str(file)


def _take(line: str, chosen: dict[str, Distribution], in_progress: set[str]) -> bool:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return False
    if requirement.url:
        return False
    name = canonicalize_name(requirement.name)
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return False
    if not requirement.specifier.contains(found.version, prereleases=True) or is_editable(name) or not found.files:
        return False
    key = f"{name}[{','.join(sorted(requirement.extras))}]"
    if key in in_progress:
        return True
    in_progress.add(key)
    chosen[name] = found
    for need in found.requires or ():
        wanted = Requirement(need)
        if wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in (requirement.extras or {""})
        ):
            plain = f"{wanted.name}{'[' + ','.join(wanted.extras) + ']' if wanted.extras else ''}{wanted.specifier}"
            if not _take(plain, chosen, in_progress):
                return False
    return True
