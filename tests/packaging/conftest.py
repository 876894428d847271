from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.environments import PACKAGES, Environment, build

Wheels = dict[str, Path]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Each package of the repository: its source distribution, and the wheel built from that alone."""
    return {name: build(path, tmp_path_factory.mktemp(name)) for name, path in PACKAGES.items()}


@pytest.fixture(scope="session")
def wheels(distributions: dict[str, list[Path]]) -> Wheels:
    return {name: next(file for file in files if file.suffix == ".whl") for name, files in distributions.items()}


@pytest.fixture
def empty_environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


@pytest.fixture
def core_environment(empty_environment: Environment, wheels: Wheels) -> Environment:
    empty_environment.install(wheels["hypernodes-core"], index=False)
    return empty_environment
