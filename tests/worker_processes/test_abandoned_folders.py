"""Folders in the temporary directory: the next run removes those of killed processes, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypernodes import LocalBackend, Pipeline, node
from hypernodes.temporary import OwnedFolder, remove_abandoned
from tests.support import start_python
from tests.worker_processes.observe import wait_until

PREFIX = "hypernodes-"

RUN = """
import os, sys, time
from pathlib import Path
from hypernodes import LocalBackend, Pipeline, node

@node(output_name="y")
def wait(x):
    Path(sys.argv[1], f"started-{os.getpid()}").touch()
    time.sleep(3600)

if __name__ == "__main__":
    backend = LocalBackend(node_execution="parallel", max_workers=1)
    Pipeline([wait], backend=backend).run({"x": b"a secret of the caller" * 100_000})
"""

OWN = """
import sys
from hypernodes.temporary import OwnedFolder
folder = OwnedFolder("hypernodes-")
open(f"{folder.path}/value", "w").close()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of the test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def owner(here: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process, and the folder that it made."""
    process = start_python("-c", OWN, stdin=True)
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()


def test_the_next_run_removes_what_a_killed_one_left(here: Path) -> None:
    (here / "job.py").write_text(RUN)
    command = [sys.executable, "job.py", str(here)]
    killed = subprocess.Popen(command, cwd=here, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert wait_until(lambda: list(here.glob("started-*")))
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    (left,) = here.glob(f"{PREFIX}*")
    assert any(b"a secret" in file.read_bytes() for file in left.iterdir())
    backend = LocalBackend(node_execution="parallel", max_workers=1)
    assert Pipeline([double], backend=backend).run({"x": 2}) == {"y": 4}
    assert list(here.glob(f"{PREFIX}*")) == []


@node(output_name="y")
def double(x: int) -> int:
    return 2 * x


def test_the_folder_of_a_living_process_is_left_alone_until_it_ends(
    owner: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = owner
    assert remove_abandoned(PREFIX) == 0
    assert (folder / "value").exists()
    process.kill()
    process.wait()
    own = OwnedFolder(PREFIX)
    assert not folder.exists()
    assert remove_abandoned(PREFIX) == 0
    own.close()
    assert not os.path.exists(own.path)


def test_what_is_not_one_of_these_folders_is_left_alone(here: Path) -> None:
    outside = here / "outside"
    outside.mkdir()
    (outside / ".owner").touch()
    (here / f"{PREFIX}link").symlink_to(outside)
    (here / f"{PREFIX}file").touch()
    (here / f"{PREFIX}foreign").mkdir()
    odd = here / f"{PREFIX}odd"
    odd.mkdir()
    os.mkfifo(odd / ".owner")
    linked = here / f"{PREFIX}linked"
    linked.mkdir()
    (linked / ".owner").symlink_to(outside / ".owner")
    before = sorted(here.rglob("*"))
    assert remove_abandoned(PREFIX) == 0
    assert sorted(here.rglob("*")) == before


def test_folders_of_other_users_are_left_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / f"{PREFIX}theirs"
    folder.mkdir()
    (folder / ".owner").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert remove_abandoned(PREFIX) == 0
    assert remove_abandoned(PREFIX) == 1


def test_a_folder_that_another_process_takes_for_abandoned_while_it_is_made_is_made_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is made, but not yet taken: a process that comes just then removes the folder."""
    import fcntl

    removed: list[int] = []
    flock = fcntl.flock

    def flock_later(descriptor: int, how: int) -> None:
        if not removed:
            removed.append(0)
            removed.append(remove_abandoned(PREFIX))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock_later)
    folder = OwnedFolder(PREFIX)
    assert removed == [0, 1]
    assert os.listdir(here) == [os.path.basename(folder.path)]
    folder.close()


def test_without_locks_a_folder_is_made_and_never_taken_for_an_abandoned_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(descriptor: int, how: int) -> None:
        raise OSError("no locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        folder = OwnedFolder(PREFIX)
        assert remove_abandoned(PREFIX) == 0
    assert remove_abandoned(PREFIX) == 0
    assert os.listdir(folder.path) == []
    folder.close()
    assert os.listdir(here) == []
