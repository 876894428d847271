"""Fixtures for all tests."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from hypernodes_modal.loopback.pytest_plugin import modal_loopback, modal_loopback_session

__all__ = ["modal_loopback", "modal_loopback_session"]  # fixtures; Modal is imported when one is used

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

_numbers = itertools.count()


@pytest.fixture
def load_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Write source to a file of its own and import it, as a user's module; for comparing versions of code."""

    def load(source: str, name: str | None = None) -> ModuleType:
        name = name or "users_module"
        path = tmp_path / f"version_{next(_numbers)}" / f"{name}.py"
        path.parent.mkdir()
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session", autouse=True)
def _configuration_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the tests configure, such as the secret key of caches, away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        patch.delenv("HYPERNODES_CACHE_KEY", raising=False)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--live", action="store_true", help="tests/test_modal_backend.py: use Modal's cloud")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of all modes and of real containers, which take minutes: `tox` runs them on one Python only."""
    for item in items:
        if {"modal", "modes", "processes", "semantics"} & set(item.path.parts):
            item.add_marker(pytest.mark.slow)
