"""All packages have one version, and accept each other at it. Needs nothing built: runs with the other tests."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VERSION_FILE = ROOT / "packages/hypernodes-core/src/hypernodes/_version.py"
PROJECTS = {path.parent: tomllib.loads(path.read_text()) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))}

all_projects = pytest.mark.parametrize(("folder", "project"), PROJECTS.items(), ids=[path.name for path in PROJECTS])


def current_version() -> str:
    match = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', VERSION_FILE.read_text(), re.MULTILINE)
    assert match
    return match[1]


@all_projects
def test_every_package_takes_its_version_from_the_one_file(folder: Path, project: dict[str, Any]) -> None:
    assert project["project"]["dynamic"] == ["version"]
    assert (folder / project["tool"]["hatch"]["version"]["path"]).resolve() == VERSION_FILE


@all_projects
def test_packages_accept_each_other_at_this_minor_version_and_no_other(folder: Path, project: dict[str, Any]) -> None:
    major, minor, _ = map(int, current_version().split("."))
    extras = project["project"].get("optional-dependencies", {})
    required = [*project["project"]["dependencies"], *(entry for extra in extras.values() for entry in extra)]
    siblings = [entry for entry in required if re.match(r"hypernodes-(?!core\[)", entry)]
    assert siblings
    for requirement in siblings:
        name = re.match(r"[\w-]+", requirement)
        assert name
        assert requirement == f"{name[0]}>={major}.{minor},<{major}.{minor + 1}"


@all_projects
def test_every_package_carries_the_licence_and_says_it_is_typed(folder: Path, project: dict[str, Any]) -> None:
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert list(folder.glob("src/*/py.typed"))


def test_the_development_group_has_what_the_demo_needs_and_the_packages_of_this_checkout() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = (ROOT / "examples/hebrew_retrieval/requirements.txt").read_text().splitlines()
    assert {line for line in requirements if line and not line.startswith("#")} <= set(
        root["dependency-groups"]["test"]
    )
    assert root["tool"]["uv"]["sources"] == {folder.name: {"workspace": True} for folder in PROJECTS}


def test_the_changelog_has_a_section_for_this_version() -> None:
    assert f"## [{current_version()}]" in (ROOT / "CHANGELOG.md").read_text()
