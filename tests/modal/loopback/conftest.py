"""Fixtures for the tests of the loopback control plane: the real client, real containers."""

from __future__ import annotations

import importlib
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # its tests are skipped where it is not installed
    import modal

OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def image() -> modal.Image:
    """The image of Modal's own documentation."""
    import modal

    return modal.Image.debian_slim(python_version=OWN_PYTHON)


@pytest.fixture
def serve(modal_loopback: Any, image: modal.Image) -> Iterator[Callable[..., modal.Function]]:
    """Makes functions of running apps: what it is called with is served, with the options of `app.function`."""
    import modal

    with ExitStack() as apps:

        def make(function: Callable[..., Any], **options: Any) -> modal.Function:
            app = modal.App()
            function = FunctionType(
                function.__code__, function.__globals__, None, function.__defaults__, function.__closure__
            )
            # It travels by value, as from a notebook, and is recorded under its bare name.
            function.__module__, function.__qualname__ = "__main__", function.__name__
            served = app.function(**{"serialized": True, "image": image, **options})(function)
            apps.enter_context(app.run())
            return served

        yield make


@pytest.fixture
def queue(modal_loopback: Any) -> Iterator[modal.Queue]:
    """A queue, for the test and its containers to wait for each other."""
    import modal

    with modal.Queue.ephemeral() as made:
        yield made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str], str], ModuleType]]:
    """Write a user's project and import one of its modules: `project({"job.py": "..."}, "job")`."""
    imported: set[str] = set()

    def make(files: dict[str, str], module: str) -> ModuleType:
        for name, source in files.items():
            path = tmp_path / "project" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path / "project"))
        before = set(sys.modules)
        made = importlib.import_module(module)
        imported.update(set(sys.modules) - before)
        return made

    yield make
    for name in imported:
        sys.modules.pop(name, None)


@pytest.fixture
def wait_for() -> Callable[[Callable[[], Any]], Any]:
    """Look again and again until something is so, at most half a minute: for what the client cannot wait for."""

    def wait(look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 30
        while not (seen := look()):
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.02)
        return seen

    return wait
