"""Fixtures for the tests of `ModalBackend`: the real client and real containers, on a control plane on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import modal
import pytest

from hypernodes_modal import ModalBackend

OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

MakeBackend = Callable[..., ModalBackend]


@pytest.fixture
def image() -> modal.Image:
    """The image of Modal's own documentation."""
    return modal.Image.debian_slim(python_version=OWN_PYTHON).uv_pip_install("cloudpickle")


@pytest.fixture
def make_backend(modal_loopback: Any, image: modal.Image) -> Iterator[MakeBackend]:
    """Makes backends that are closed at the end."""
    with ExitStack() as stack:

        def make(**settings: Any) -> ModalBackend:
            return stack.enter_context(ModalBackend(**{"image": image, **settings}))

        yield make


@pytest.fixture
def backend(make_backend: MakeBackend) -> ModalBackend:
    return make_backend()


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
