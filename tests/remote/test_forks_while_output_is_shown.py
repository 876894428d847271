"""What nodes print elsewhere is shown by threads that the user knows nothing of; a fork must not catch them at it."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")

SCRIPT = """
import os, sys, threading, time

os.register_at_fork(before=lambda: held_in_fork.append(stream.lock.locked()))  # called last: handlers go backwards

from hypernodes.standard_streams import show_output

os.register_at_fork(before=lambda: go_on.set())  # called first

held_in_fork, is_writing, go_on = [], threading.Event(), threading.Event()

class Stream:
    lock = threading.Lock()

    def write(self, text):
        with self.lock:
            is_writing.set()
            go_on.wait()
            time.sleep(0.05)

    def flush(self):
        pass

stream = sys.{name} = Stream()
threading.Thread(target=show_output, args=("printed elsewhere", {name!r})).start()
is_writing.wait()
if (child := os.fork()) == 0:
    os._exit(int(stream.lock.locked()))
status = os.waitpid(child, 0)[1]
assert not show_output("again", {name!r})
sys.__stdout__.write(f"{{held_in_fork}} {{status}}")
"""


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_fork_waits_for_a_thread_that_shows_what_nodes_printed(name, tmp_path):
    script = "import warnings; warnings.simplefilter('ignore')\n" + textwrap.dedent(SCRIPT.format(name=name))
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert (found.stdout, found.stderr, found.returncode) == ("[False] 0", "", 0)
