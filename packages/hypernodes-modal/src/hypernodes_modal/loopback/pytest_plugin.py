"""Fixtures for tests that use Modal.

In the `conftest.py` next to `pyproject.toml`: `pytest_plugins = ["hypernodes_modal.loopback.pytest_plugin"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hypernodes_modal.loopback.modal_loopback import ModalLoopback


@pytest.fixture(scope="session")
def modal_loopback_session() -> Iterator[ModalLoopback]:
    """A control plane that all tests of the session share, so that images are built once."""
    from hypernodes_modal.loopback.modal_loopback import ModalLoopback  # tests that do not ask for it do without Modal

    with ModalLoopback() as plane:
        yield plane


@pytest.fixture
def modal_loopback(modal_loopback_session: ModalLoopback) -> Iterator[ModalLoopback]:
    """A control plane for one test: the shared one, with no records and no misbehaviour from the tests before."""
    modal_loopback_session.forget()
    yield modal_loopback_session
    modal_loopback_session.inject_faults()
    modal_loopback_session.stop_apps()
