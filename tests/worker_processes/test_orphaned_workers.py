"""When the process of a run is killed, nothing of the run stays: no worker, and no file."""

from __future__ import annotations

import os
import signal
import textwrap
from multiprocessing import Pipe
from pathlib import Path

import pytest

from hypernodes.engine.workers import process_link
from tests.worker_processes.conftest import Scripts, finish
from tests.worker_processes.observe import members_of_session, wait_until

SCRIPT = """
import os, sys, tempfile, time
from pathlib import Path
from hypernodes import LocalBackend, Pipeline, node

folder = Path(__file__).parent
tempfile.tempdir = str(folder / "temporary")

@node(output_name="y")
def work(x, shared, what):
    (folder / f"at-work-{x}").touch()
    while what == "busy":
        pass
    time.sleep(60 if what == "asleep" else 0)
    return x

if __name__ == "__main__":
    what = sys.argv[1]
    with LocalBackend(map_execution="parallel", max_workers=2) as backend:
        Pipeline(nodes=[work], backend=backend).map(
            inputs={"x": [0, 1], "shared": bytes(1_000_000), "what": what}, map_over="x"
        )
        (folder / "idle").touch()
        time.sleep(60)
"""


def kill(scripts: Scripts, what: str) -> Path:
    temporary = scripts.folder / "temporary"
    temporary.mkdir()
    process = scripts.start(scripts.write(SCRIPT), what)
    begun = ["idle"] if what == "idle" else ["at-work-0", "at-work-1"]
    assert wait_until(lambda: all((scripts.folder / name).exists() for name in begun)), finish(process, 0)
    assert len(members_of_session(process.pid)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not members_of_session(process.pid)), members_of_session(process.pid)
    process.communicate()
    return temporary


@pytest.mark.parametrize("what", ["idle", "asleep", "busy"])
def test_workers_end_with_the_process_that_started_them(what: str, scripts: Scripts) -> None:
    assert list(kill(scripts, what).iterdir()) == []


@pytest.mark.parametrize("what", ["idle", "asleep"])
def test_workers_of_the_standard_library_end_with_the_process_that_started_them(
    what: str, scripts_without_loky: Scripts
) -> None:
    assert list(kill(scripts_without_loky, what).iterdir()) == []


def test_workers_end_silently_when_the_process_that_started_them_has_ended_during_a_call(scripts: Scripts) -> None:
    script = """
    import os, time
    from hypernodes import LocalBackend, Pipeline, node

    @node(output_name="y")
    def work(x, caller):
        while x > 5 and os.getppid() == caller:  # until the caller has ended
            time.sleep(0.01)
        return x

    if __name__ == "__main__":
        backend = LocalBackend(map_execution="parallel", max_workers=2)
        pipeline = Pipeline(nodes=[work], backend=backend)
        for _ in pipeline.map_iter(inputs={"x": range(100), "caller": os.getpid()}, map_over="x"):
            os._exit(3)
    """
    process = scripts.start(scripts.write(textwrap.dedent(script)))
    assert wait_until(lambda: not members_of_session(process.pid)), members_of_session(process.pid)
    printed, complaints = process.communicate()
    assert (process.returncode, printed, complaints) == (3, "", "")


def test_a_worker_ends_silently_when_the_process_that_started_it_has_ended_before_it_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_link, "_own", None)  # which is set while one serves, and is none in this process
    own, callers = Pipe()
    callers.close()
    process_link.serve(own)
