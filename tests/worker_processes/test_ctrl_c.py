"""Ctrl-C ends a run at once, whatever the mode; nothing goes on behind it, and what was computed is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker_processes.conftest import Scripts, finish
from tests.worker_processes.observe import members_of_session, wait_until

SCRIPT = """
import asyncio, json, sys, time
from pathlib import Path
from hypernodes import DiskCache, LocalBackend, Node, Pipeline, PipelineCallback

folder = Path(__file__).parent
QUICK = 4

def sleep(x):
    if x >= QUICK:
        (folder / f"asleep-{x}").touch()
        for _ in range(36_000):  # Python notices an interrupt in the moment before a sleep only after it
            time.sleep(0.1)
    return 10 * x

async def sleep_async(x):
    if x >= QUICK:
        (folder / f"asleep-{x}").touch()
        await asyncio.sleep(3600)
    return 10 * x

class Progress(PipelineCallback):
    done = 0

    def on_node_end(self, node_id, outputs, duration, ctx):
        self.done += 1
        (folder / f"done-{self.done}").touch()

def main(node_execution, map_execution, what, kind, again=""):
    function = {"def": sleep, "async def": sleep_async}[kind]
    progress = Progress()
    settings = {
        "cache": DiskCache(path=folder / "cache"),
        "callbacks": [progress],
        "backend": LocalBackend(node_execution, map_execution, max_workers=2),
    }
    items = range(QUICK if again else 2 * QUICK)
    try:
        if what == "map":
            Pipeline(nodes=[Node(function, output_name="y")], **settings).map(inputs={"x": items}, map_over="x")
        else:
            nodes = [Pipeline(nodes=[Node(function, output_name="y")]).as_node(
                input_mapping={f"x{x}": "x"}, output_mapping={"y": f"y{x}"}, name=f"n{x}") for x in items]
            Pipeline(nodes=nodes, **settings).run(inputs={f"x{x}": x for x in items})
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        raise
    if again:
        print(progress.done, "computed again")

if __name__ == "__main__":
    main(*sys.argv[1:])
"""

CASES = [
    ("sequential", "sequential", "map", "def"),
    ("sequential", "sequential", "map", "async def"),
    ("sequential", "sequential", "run", "def"),
    ("sequential", "async", "map", "async def"),
    ("sequential", "async", "map", "def"),
    ("sequential", "threaded", "map", "def"),
    ("threaded", "sequential", "run", "def"),
    ("threaded", "threaded", "map", "async def"),
    ("sequential", "parallel", "map", "def"),
    ("sequential", "parallel", "map", "async def"),
    ("parallel", "sequential", "run", "def"),
]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_control_c_ends_a_run_and_what_was_computed_is_found_again(case: tuple[str, ...], scripts: Scripts) -> None:
    interrupt(scripts, case, whole_session=True)


def test_an_interrupt_of_the_main_process_only_ends_its_workers_too(scripts: Scripts) -> None:
    interrupt(scripts, ("sequential", "parallel", "map", "def"), whole_session=False)


def interrupt(scripts: Scripts, case: tuple[str, ...], whole_session: bool) -> None:
    script = scripts.write(SCRIPT)
    process = scripts.start(script, *case)
    is_ready = wait_until(
        lambda: (
            ((scripts.folder / "done-4").exists() and any(scripts.folder.glob("asleep-*")))
            or process.poll() is not None
        )
    )
    assert is_ready, finish(process, 0)
    assert process.poll() is None, process.communicate()

    if whole_session:
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    else:
        os.kill(process.pid, signal.SIGINT)
    _, err = finish(process)  # within a minute, and not the hour that the calls sleep
    _, interrupt, note = err.rpartition("\nKeyboardInterrupt\n")
    assert interrupt, err
    assert note == "" or note.startswith("in node 'sleep")  # where it came while the calling thread made a call
    assert process.returncode == -signal.SIGINT
    assert (scripts.folder / "interrupted").exists()
    assert wait_until(lambda: not members_of_session(process.pid)), members_of_session(process.pid)

    assert scripts.run(script, *case, "again") == "0 computed again\n"


def test_an_interrupt_in_the_moment_in_which_the_run_goes_to_sleep_is_noticed(scripts: Scripts) -> None:
    """The system hands the signal to another thread, so the wait of the main thread is not broken off."""
    body = """
    import signal, threading, time
    from hypernodes import LocalBackend, Pipeline, node

    @node(output_name="y")
    def interrupt_here(x):
        time.sleep(0.5)  # the main thread goes to sleep meanwhile; if it does not, the test is easier, but as true
        # Only this thread takes the signal; nothing wakes up the main thread.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        time.sleep(3600)

    try:
        Pipeline(nodes=[interrupt_here], backend=LocalBackend("threaded")).run(inputs={"x": 1})
    except KeyboardInterrupt:
        print("interrupted")
    """
    process = scripts.start(scripts.write(body))
    out, err = finish(process)
    assert (out, err) == ("interrupted\n", "")


def test_an_interrupt_in_the_middle_of_a_coroutine_ends_the_run_at_once(scripts: Scripts) -> None:
    """The coroutine runs in the main thread, and a plain function that cannot be stopped runs beside it."""
    body = """
    import asyncio, os, signal, time
    from hypernodes import LocalBackend, Pipeline, node

    @node(output_name="a")
    def sleep(x):
        time.sleep(3600)

    @node(output_name="b")
    async def interrupt_here(x):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1_000_000):
            pass
        await asyncio.sleep(3600)

    try:
        Pipeline(nodes=[sleep, interrupt_here], backend=LocalBackend("async")).run(inputs={"x": 1})
    except KeyboardInterrupt:
        print("interrupted")
    """
    process = scripts.start(scripts.write(body))
    out, err = finish(process)
    assert (out, err) == ("interrupted\n", "")


def test_these_tests_get_interrupts_also_where_they_are_ignored() -> None:
    """As when a shell script starts them in the background: what they interrupt would not notice."""
    one = f"{__file__}::test_an_interrupt_in_the_middle_of_a_coroutine_ends_the_run_at_once"
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", one]
    done = subprocess.run(
        [*ignoring, *tests], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout
