from __future__ import annotations

import functools
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def core_alone(tmp_path_factory: pytest.TempPathFactory, wheels: Wheels) -> Environment:
    """Core and nothing else, for the tests that install nothing more."""
    return with_core(Environment(tmp_path_factory.mktemp("core") / "environment"), wheels)


@pytest.fixture
def core_environment(empty_environment: Environment, wheels: Wheels) -> Environment:
    """Core and nothing else, for a test that changes it."""
    return with_core(empty_environment, wheels)


@pytest.fixture(scope="session")
def extended(tmp_path_factory: pytest.TempPathFactory, wheels: Wheels) -> Callable[[str], Environment]:
    """Environments of core and one extension, by its name, for the tests that install nothing more."""

    @functools.cache
    def environment(extension: str) -> Environment:
        made = with_core(Environment(tmp_path_factory.mktemp(extension) / "environment"), wheels)
        made.install(wheels[extension])
        return made

    return environment


def with_core(environment: Environment, wheels: Wheels) -> Environment:
    environment.install(wheels["hypernodes-core"], index=False)
    return environment
