"""Our own code gets into containers as links to files that are there, compiled: half of what starting them takes.

Otherwise it is copied for each container, and compiled in each.
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # its tests are skipped where it is not installed
    from hypernodes_modal.loopback import ModalLoopback
    from hypernodes_modal.loopback.mounts import Mounts


running: list[ModalLoopback] = []

_compiling = threading.Lock()  # a file that is replaced while it is linked to is, for the link, not there


@pytest.fixture(scope="session")
def modal_loopback_session() -> Iterator[ModalLoopback]:
    """The fixture of `hypernodes_modal.loopback.pytest_plugin`, with our own code compiled."""
    from hypernodes_modal.loopback import ModalLoopback  # tests that do not ask for it do without Modal
    from hypernodes_modal.loopback.mounts import Mounts

    lay_out_copies = Mounts.lay_out

    def lay_out(mounts: Mounts, files: list[Any], root: Path, below: PurePosixPath | None = None) -> None:
        own = {f.filename: f for f in files if f.filename.startswith("/root/hypernodes") and f.filename.endswith(".py")}
        lay_out_copies(mounts, [file for file in files if file.filename not in own], root, below)
        folder = root / str(below or "").lstrip("/")
        for name in {os.path.dirname(name) for name in own}:
            (folder / name.lstrip("/") / "__pycache__").mkdir(parents=True, exist_ok=True)
        for name, file in own.items():
            path = f"{folder}{name}"
            os.link(mounts.content(file.sha256_hex), path)
            os.link(compiled(mounts, file.sha256_hex, name), importlib.util.cache_from_source(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mounts, "lay_out", lay_out)
        with ModalLoopback() as plane:
            running.append(plane)
            yield plane
            running.remove(plane)


def end_containers() -> None:
    """End what runs on the control plane of the session, if there is one, and come back when it has ended."""
    for plane in running:
        plane.stop_apps()
        deadline = time.monotonic() + 30
        while alive := [container for container in plane.containers if container.state != "ended"]:
            assert time.monotonic() < deadline, f"not ended: {alive}"
            time.sleep(0.02)


def compiled(mounts: Mounts, sha256_hex: str, name: str) -> Path:
    """Return where a file that has been uploaded is compiled, for as long as it has this content."""
    path = mounts.content(f"{sha256_hex}.pyc")
    with _compiling:
        if not path.exists():
            mode = py_compile.PycInvalidationMode.CHECKED_HASH
            py_compile.compile(str(mounts.content(sha256_hex)), str(path), name, doraise=True, invalidation_mode=mode)
    return path
