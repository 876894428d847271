"""Ctrl-C: the call is cancelled, and no container is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.modal.test_modal_app import HEADER

SCRIPT = textwrap.dedent(
    """
    import asyncio
    from hypernodes import PipelineCallback

    @node(output_name="never")
    def wait(doubled):
        import threading
        threading.Event().wait()

    class Tell(PipelineCallback):
        def on_node_start(self, node_id, inputs, ctx):
            if node_id == "wait":
                print("waiting", flush=True)

    pipeline = Pipeline([double, wait], backend=backend, callbacks=[Tell()])

    async def cell():
        pipeline.run({"x": 1})

    try:
        if "--loop" in sys.argv:
            loop = asyncio.new_event_loop()  # as a notebook has it: an interrupt reaches the cell, not the loop
            loop.run_until_complete(cell())
        else:
            pipeline.run({"x": 1})
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.stdin.readline()  # still there, and the container must end all the same
    """
)


@pytest.mark.parametrize("where", [[], ["--loop"]], ids=["script", "notebook"])
def test_an_interrupt_cancels_the_call_and_leaves_no_container(modal_loopback, tmp_path, wait_for, where):
    (tmp_path / "script.py").write_text(HEADER + SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "script.py", "--quiet", *where],
        cwd=tmp_path,
        env={**os.environ, **modal_loopback.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "waiting\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        (call,) = modal_loopback.calls
        own = set(call.inputs[0].container_ids)
        wait_for(lambda: {each.state for each in modal_loopback.containers if each.id in own} == {"ended"})
        (call,) = modal_loopback.calls
        assert [given.state for given in call.inputs] == ["cancelled"]
        process.communicate("\n", timeout=240)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
