"""Containers that die, inputs that take too long or are cancelled, functions that fail and are tried again."""

from __future__ import annotations

import modal.exception
import pytest


def die(code=3):
    import os

    os._exit(code)


def test_a_container_that_dies_is_replaced_once_and_then_its_input_fails(modal_loopback, serve):
    with pytest.raises(modal.exception.RemoteError, match="exit code: 3"):
        serve(die).remote()
    (call,) = modal_loopback.calls
    assert len(set(call.inputs[0].container_ids)) == 2
    assert [(each.exit_code, each.end_reason) for each in modal_loopback.containers[:2]] == [(3, "crashed")] * 2


def test_an_input_survives_the_death_of_its_first_container(modal_loopback, serve, queue):
    def die_once(queue):
        if queue.get(block=False) is not None:
            import os

            os._exit(1)
        return "alive"

    queue.put("first")
    assert serve(die_once).remote(queue) == "alive"


def test_exit_zero_without_an_output_is_a_crash(modal_loopback, serve):
    with pytest.raises(modal.exception.RemoteError, match="exit code: 0"):
        serve(die).remote(0)


def test_a_segmentation_fault_is_shown_as_a_shell_would(modal_loopback, serve):
    def fault():
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(modal.exception.RemoteError, match="exit code: 139"):
        serve(fault).remote()


def test_a_time_out_ends_the_input_and_its_container(modal_loopback, serve, wait_for):
    def never_ends():
        import threading

        threading.Event().wait()

    with pytest.raises(modal.exception.FunctionTimeoutError, match="timeout of 1s"):
        serve(never_ends, timeout=1).remote()
    (ended,) = wait_for(lambda: [each for each in modal_loopback.containers if each.state == "ended"])
    assert (ended.end_reason, ended.exit_code) == ("timeout", 137)


@pytest.mark.parametrize("how", ["remote", "spawn", "map"])
def test_a_function_that_fails_is_tried_again(modal_loopback, serve, queue, how):
    def fail_twice(queue):
        if queue.get(block=False) is not None:
            raise ValueError("not yet")
        return "at last"

    queue.put_many([1, 2])
    served = serve(fail_twice, retries=modal.Retries(max_retries=2, initial_delay=0.0), max_containers=1)
    if how == "remote":
        result = served.remote(queue)
    elif how == "spawn":
        result = served.spawn(queue).get()
    else:
        (result,) = served.map([queue])
    assert result == "at last"
    (call,) = modal_loopback.calls
    assert call.inputs[0].retry_count == 2


def test_retries_come_to_an_end(modal_loopback, serve):
    def fail():
        raise ValueError("never")

    served = serve(fail, retries=modal.Retries(max_retries=1, initial_delay=0.0))
    with pytest.raises(ValueError, match="never"):
        served.remote()
    with pytest.raises(ValueError, match="never"):
        served.spawn().get()
    assert [len(call.inputs[0].container_ids) for call in modal_loopback.calls] == [2, 2]


def test_a_running_input_is_cancelled_and_its_container_goes_on(modal_loopback, serve, queue):
    def wait(queue):
        queue.put("started")
        queue.get(partition="never")

    def run(queue):
        return "works"

    served = serve(wait, max_containers=1)
    call = served.spawn(queue)
    assert queue.get() == "started"
    call.cancel()
    with pytest.raises(modal.exception.RemoteError, match="cancelled"):
        call.get()
    second = served.spawn(queue)
    assert queue.get() == "started"
    assert len(modal_loopback.containers) == 1
    second.cancel(terminate_containers=True)


def test_a_waiting_input_is_cancelled_without_ever_running(modal_loopback, serve, queue):
    def wait(queue):
        queue.put("started")
        return queue.get(partition="go")

    served = serve(wait, max_containers=1)
    running = served.spawn(queue)
    assert queue.get() == "started"
    waiting = served.spawn(queue)
    waiting.cancel()
    with pytest.raises(modal.exception.RemoteError, match="cancelled"):
        waiting.get()
    queue.put("done", partition="go")
    assert running.get() == "done"
    assert [call.inputs[0].state for call in modal_loopback.calls] == ["finished", "cancelled"]
    assert modal_loopback.calls[1].inputs[0].container_ids == ()


def test_cancelling_can_terminate_the_container(modal_loopback, serve, queue, wait_for):
    def wait(queue):
        import contextlib

        queue.put("started")
        while True:
            with contextlib.suppress(BaseException):  # it does not want to be cancelled
                queue.get(partition="never")

    call = serve(wait).spawn(queue)
    assert queue.get() == "started"
    call.cancel(terminate_containers=True)
    with pytest.raises(modal.exception.RemoteError, match="cancelled"):
        call.get()
    (ended,) = wait_for(lambda: [each for each in modal_loopback.containers if each.state == "ended"])
    assert ended.end_reason == "cancelled"


def test_code_that_cannot_be_imported_fails_the_call_with_the_reason(modal_loopback, project):
    job = project(
        {
            "broken_job.py": """
                import modal

                app = modal.App()
                if not modal.is_local():
                    raise RuntimeError("only breaks in the container")

                @app.function(image=modal.Image.debian_slim())
                def use():
                    pass
            """
        },
        "broken_job",
    )
    with job.app.run(), pytest.raises(RuntimeError, match="only breaks in the container"):
        job.use.remote()


def test_a_container_that_dies_while_it_starts_is_given_up_after_two(modal_loopback, project):
    job = project(
        {
            "dying_job.py": """
                import os
                import sys

                import modal

                app = modal.App()
                if not modal.is_local():
                    print("about to die", file=sys.stderr)
                    os._exit(7)

                @app.function(image=modal.Image.debian_slim())
                def use():
                    pass
            """
        },
        "dying_job",
    )
    with job.app.run(), pytest.raises(modal.exception.RemoteError, match=r"(?s)exit code: 7.*about to die"):
        job.use.remote()
    assert len(modal_loopback.containers) == 2


def test_leaving_the_app_ends_what_runs(modal_loopback, image, queue, wait_for):
    app = modal.App()

    @app.function(image=image, serialized=True)
    def wait(queue):
        queue.put("started")
        queue.get(partition="never")

    with app.run():
        call = wait.spawn(queue)
        assert queue.get() == "started"
    with pytest.raises(modal.exception.RemoteError, match="stopped"):
        call.get()
    wait_for(lambda: [each.state for each in modal_loopback.containers] == ["ended"])
