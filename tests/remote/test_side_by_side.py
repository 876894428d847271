"""Several jobs at a time in one process: each has its own modules and classes, whatever the others bring."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hypernodes import MemoryCache, Pipeline, RemoteBackend, node
from hypernodes.remote.channel import Channel

SERVER = """
import pickle, sys, threading
from concurrent.futures import ThreadPoolExecutor
from hypernodes.remote.worker import close_engines, execute
jobs = pickle.load(sys.stdin.buffer)
sys.meeting = threading.Barrier(len(jobs))
with ThreadPoolExecutor(len(jobs)) as pool:
    outcomes = list(pool.map(execute, jobs))
left = [name for name in sys.modules if name.startswith("brought")]
close_engines()
sys.__stdout__.buffer.write(pickle.dumps(outcomes))
"""


class SideBySide(RemoteBackend):
    """Hands two jobs to one process, which executes each in a thread."""

    backend_name = "side by side"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._meeting = threading.Barrier(2)
        self._jobs: dict[int, bytes] = {}
        self._outcomes: list[bytes] = []
        self.packed = threading.Semaphore(0)

    def submit(self, job: bytes, channel: Channel) -> bytes:
        number = len(self._jobs)
        self._jobs[number] = job
        self.packed.release()
        if self._meeting.wait(60) == 0:
            jobs = pickle.dumps([self._jobs[0], self._jobs[1]])
            done = subprocess.run([sys.executable, "-c", SERVER], input=jobs, capture_output=True, cwd="/", timeout=240)
            assert done.returncode == 0, done.stderr.decode()
            self._outcomes = pickle.loads(done.stdout)
        self._meeting.wait(60)
        return self._outcomes[number]


def run_both(pipeline: Pipeline, backend: SideBySide, change: Any) -> dict[int, Any]:
    """Run a pipeline with what `change(1)` makes, and at the same time with what `change(2)` makes."""
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        try:
            found[number] = pipeline.with_backend(backend).map({"x": [10, 20]}, "x")["y"]
        except BaseException as error:
            found[number] = error

    threads = []
    for number in (1, 2):
        change(number)
        threads.append(threading.Thread(target=run, args=(number,)))
        threads[-1].start()
        backend.packed.acquire()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of the user's, `brought`, with a constant that a caller may change."""
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought/__init__.py").write_text("from . import settings\n")
    (tmp_path / "brought/settings.py").write_text(
        "K = 0\n"
        "def scale(x):\n    return x * K\n"
        "class Box:\n"
        "    def __init__(self, x):\n        self.x = x\n"
        "    def scaled(self):\n        return self.x * K\n"
    )
    (tmp_path / "brought/steps.py").write_text(
        "def through_relative_import(x):\n    from . import settings\n    from .settings import scale\n"
        "    return settings.K, scale(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("brought.settings")
    for name in [name for name in sys.modules if name.partition(".")[0] == "brought"]:
        del sys.modules[name]


def test_each_of_two_jobs_finds_its_own_modules_in_every_way(brought: Any) -> None:
    from brought import settings, steps  # type: ignore[import-not-found]

    @node(output_name="y")
    def look(x: int) -> list[Any]:
        import importlib
        import pickle
        import sys
        import threading

        if x == 10:
            sys.meeting.wait(30)  # type: ignore[attr-defined]
        import brought
        import brought.settings as again
        from brought.settings import Box, K

        found = [settings.K, again.K, brought.settings.K, K]
        found += [importlib.import_module("brought.settings").K, sys.modules["brought.settings"].K]
        found += [settings.scale(x) // x, Box(x).scaled() // x, steps.through_relative_import(x)[0]]
        found += [pickle.loads(pickle.dumps(Box(x))).scaled() // x]

        def in_thread() -> None:
            from brought.settings import K as K_IN_THREAD

            found.append(K_IN_THREAD)

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        return found

    found = run_both(Pipeline([look]), SideBySide(), lambda number: setattr(settings, "K", number))
    assert found == {number: [[number] * 11] * 2 for number in (1, 2)}


def test_results_of_jobs_side_by_side_are_stored_for_the_code_that_made_them(brought: Any) -> None:
    @node(output_name="y")
    def multiply(x: int) -> int:
        import sys

        from brought import settings

        if x == 10 and hasattr(sys, "meeting"):
            sys.meeting.wait(30)
        return settings.K * x  # type: ignore[no-any-return]

    def change(number: int) -> None:
        brought.K = number

    pipeline = Pipeline([multiply], cache=MemoryCache())
    assert run_both(pipeline, SideBySide(), change) == {1: [10, 20], 2: [20, 40]}
    for number in (1, 2):
        change(number)
        assert pipeline.map({"x": [10, 20]}, "x") == {"y": [10 * number, 20 * number]}


@pytest.mark.parametrize("execution", [{"map_execution": "parallel"}, {"map_execution": "threaded"}])
def test_workers_of_jobs_side_by_side_have_the_modules_of_their_job(brought: Any, execution: Any) -> None:
    @node(output_name="y")
    def multiply(x: int) -> int:
        from brought.settings import Box

        return Box(x).scaled()  # type: ignore[no-any-return]

    backend = SideBySide(**execution, max_workers=1)
    found = run_both(Pipeline([multiply]), backend, lambda number: setattr(brought, "K", number))
    assert found == {1: [10, 20], 2: [20, 40]}


def test_a_class_that_two_jobs_bring_is_one_class_at_the_caller_and_two_over_there(brought: Any) -> None:
    @node(output_name="y")
    def make(x: int) -> tuple[int, Any]:
        import sys

        box = brought.Box(x)
        if x == 10:
            sys.meeting.wait(30)  # type: ignore[attr-defined]
        return box.scaled(), box

    found = run_both(Pipeline([make]), SideBySide(), lambda number: setattr(brought, "K", number))
    assert {number: [scaled for scaled, _ in column] for number, column in found.items()} == {1: [10, 20], 2: [20, 40]}
    assert {type(box) for column in found.values() for _, box in column} == {brought.Box}


def test_a_module_that_is_imported_over_there_does_not_hide_that_of_the_job(tmp_path: Path, brought: Any) -> None:
    from hypernodes.remote.worker import execute

    class InProcess(RemoteBackend):
        backend_name = "in process"

        def submit(self, job: bytes, channel: Channel) -> bytes:
            brought.K = 5  # another version of the module than the one that was packed
            return execute(job)

    @node(output_name="y")
    def multiply(x: int) -> int:
        from brought.settings import K

        return K * x  # type: ignore[no-any-return]

    brought.K = 3
    assert Pipeline([multiply], backend=InProcess()).run({"x": 2}) == {"y": 6}
    assert sys.modules["brought.settings"] is brought
    assert brought.Box.__module__ == "brought.settings"


def test_a_job_in_this_process_leaves_the_classes_of_the_caller_as_they_are(brought: Any) -> None:
    from tests.remote.transports import InProcess

    method = brought.Box.scaled

    @node(output_name="y")
    def use(x: int) -> int:
        return brought.Box(x).scaled()  # type: ignore[no-any-return]

    brought.K = 3
    assert Pipeline([use], backend=InProcess()).run({"x": 2}) == {"y": 6}
    assert brought.Box.scaled is method
