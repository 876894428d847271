"""Fixtures for the tests of `ModalBackend`: the real client and real containers, on a control plane on this machine."""

from __future__ import annotations

import importlib
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:  # its tests are skipped where it is not installed
    import modal

    from hypernodes_modal import ModalBackend
    from hypernodes_modal.loopback import ModalLoopback

OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

MakeBackend: TypeAlias = "Callable[..., ModalBackend]"


@pytest.fixture(scope="session")
def image() -> modal.Image:
    """The image of Modal's own documentation."""
    import modal

    return modal.Image.debian_slim(python_version=OWN_PYTHON).uv_pip_install("cloudpickle")


@pytest.fixture
def make_backend(plane: ModalLoopback, image: modal.Image) -> Iterator[MakeBackend]:
    """Makes backends that are closed at the end."""
    from hypernodes_modal import ModalBackend

    with ExitStack() as stack:

        def make(**settings: Any) -> ModalBackend:
            return stack.enter_context(ModalBackend(**{"image": image, **settings}))

        yield make


@pytest.fixture
def backend(make_backend: MakeBackend) -> ModalBackend:
    return make_backend()


@pytest.fixture(scope="module")
def warm_backend(modal_loopback_session: ModalLoopback, image: modal.Image) -> Iterator[ModalBackend]:
    """One backend for all tests of a module, which leave its container alive."""
    from hypernodes_modal import ModalBackend

    with ModalBackend(image) as made:
        yield made


@pytest.fixture
def plane(modal_loopback_session: ModalLoopback) -> Iterator[ModalLoopback]:
    """The control plane, with no records of the tests before, but with apps that are still open."""
    modal_loopback_session.inject_faults()
    modal_loopback_session.forget()
    yield modal_loopback_session
    modal_loopback_session.inject_faults()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str], str], ModuleType]]:
    """Write a user's project and import one of its modules: `project({"job.py": "..."}, "job")`."""
    before = set(sys.modules)

    def make(files: dict[str, str], module: str) -> ModuleType:
        for name, source in files.items():
            path = tmp_path / "project" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path / "project"))
        return importlib.import_module(module)

    yield make
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def wait_for() -> Callable[[Callable[[], Any]], Any]:
    """Look again and again until something is so, at most half a minute: for what nothing else tells."""

    def wait(look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 30
        while not (seen := look()):
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.02)
        return seen

    return wait
