"""What can go wrong on Modal's side: what is said, and what is kept."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import modal
import modal.exception as modal_errors
import pytest

from hypernodes import (
    MemoryCache,
    Pipeline,
    PipelineCallback,
    RemoteError,
    RemoteVersionError,
    SerializationError,
    WorkerLostError,
    node,
)
from hypernodes_modal import (
    ContainerLostError,
    ModalBackend,
    ModalConnectionError,
    ModalSetupError,
    ModalTimeoutError,
)
from hypernodes_modal.loopback import ModalLoopback
from hypernodes_modal.loopback.faults import (
    DropReplies,
    KillContainer,
    PreemptContainer,
    RefuseConnections,
    RunOutOfMemory,
)
from tests.support import Recorder


@node(output_name="doubled")
def double(x: int) -> int:
    return 2 * x


@node(output_name="out")
def wait_for_the_word(x: int, gate: str) -> int:
    """Tell how far it has come, and go on when it is told to."""
    import modal

    queue = modal.Queue.from_name(gate, create_if_missing=True)
    queue.put(x, partition="reached")
    queue.get(partition="go")
    return -x


def load_only_there() -> Any:
    import a_package_that_only_the_image_has

    return a_package_that_only_the_image_has


class OnlyThere:
    def __reduce__(self) -> Any:
        return load_only_there, ()


class Gate:
    """The test's side of `wait_for_the_word`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._queue = modal.Queue.from_name(name, create_if_missing=True)

    def reached(self) -> Any:
        return self._queue.get(timeout=60, partition="reached")

    def open(self, times: int = 1) -> None:
        self._queue.put_many([True] * times, partition="go")

    def count_reached(self) -> int:
        return self._queue.len(partition="reached")


@pytest.fixture
def gate(plane: ModalLoopback, request: pytest.FixtureRequest) -> Gate:
    return Gate(f"gate-{abs(hash(request.node.name))}")


class When(PipelineCallback):
    """Does something when an item, or a node, has ended."""

    def __init__(self, act: Callable[[], Any], item: int | None = None) -> None:
        self._act, self._item = act, item

    def on_map_item_end(self, item_index: int, duration: float, ctx: Any) -> None:
        if item_index == self._item:
            self._act()

    def on_node_end(self, node_id: str, outputs: Any, duration: float, ctx: Any) -> None:
        if self._item is None:
            self._act()


# --- the container ------------------------------------------------------------------------------------------------


def test_a_callback_observes_the_first_item_while_the_second_waits(warm_backend, gate):
    pipeline = Pipeline([wait_for_the_word], backend=warm_backend, callbacks=[When(gate.open, item=0)])
    gate.open()  # for item 0; the callback opens for item 1
    assert pipeline.map({"x": [1, 2], "gate": gate.name}, map_over="x") == {"out": [-1, -2]}


def test_what_only_becomes_known_there_is_looked_up_here(warm_backend, plane):
    @node(output_name="xs", cache=False)
    def make_items(n: int) -> list[int]:
        return list(range(n))

    recorder = Recorder()
    mapped = Pipeline([double]).as_node(input_mapping={"xs": "x"}, map_over="xs")
    pipeline = Pipeline([make_items, mapped], backend=warm_backend, cache=MemoryCache(), callbacks=[recorder])
    pipeline.run({"n": 40})
    recorder.clear()
    assert pipeline.run({"n": 42})["doubled"] == [2 * x for x in range(42)]
    assert recorder.computed.count("double") == 2


def test_a_container_that_is_killed_in_the_middle_does_not_cost_what_was_computed(make_backend, plane, gate):
    """Modal starts the call again in another container, which asks what is known by now."""

    def kill_the_container() -> None:
        running = next(each for each in reversed(plane.containers) if each.state == "ready")
        assert running.pid is not None
        os.kill(running.pid, 9)
        gate.open(4)

    once: list[bool] = []
    killer = When(lambda: once or (once.append(True), kill_the_container()), item=1)
    pipeline = Pipeline([wait_for_the_word], backend=make_backend(), cache=MemoryCache(), callbacks=[killer])
    gate.open(2)
    assert pipeline.map({"x": [1, 2, 3], "gate": gate.name}, map_over="x") == {"out": [-1, -2, -3]}
    assert len(set(plane.calls[-1].inputs[0].container_ids)) == 2
    reached = [gate.reached() for _ in range(gate.count_reached())]
    assert reached.count(1) == 1
    assert reached.count(2) == 1


def test_after_a_container_was_lost_for_good_only_the_rest_is_computed(make_backend, plane):
    @node(output_name="out")
    def die_of_three(x: int, dies: Any) -> int:
        if x == 3 and dies:
            import os

            os._exit(3)
        return -x

    recorder = Recorder()
    pipeline = Pipeline([double, die_of_three], backend=make_backend(), cache=MemoryCache(), callbacks=[recorder])
    with pytest.raises(ContainerLostError, match="exit code: 3") as caught:
        pipeline.map({"x": [1, 2, 3, 4], "dies": True}, map_over="x")
    assert isinstance(caught.value, WorkerLostError)
    assert isinstance(caught.value.__cause__, modal_errors.RemoteError)
    assert "stored in the cache" in str(caught.value)
    recorder.clear()
    with pytest.raises(ContainerLostError):
        pipeline.map({"x": [1, 2, 3, 4], "dies": True}, map_over="x")
    starts = [payload["inputs"]["x"] for _, _, payload in recorder.of("node_start")]
    assert set(starts) <= {3, 4}


def test_a_container_that_is_killed_twice_is_lost(make_backend, plane):
    plane.inject_faults(KillContainer("input", times=2))
    with pytest.raises(ContainerLostError, match="137"):
        Pipeline([double], backend=make_backend()).run({"x": 1})


def test_out_of_memory_says_how_to_get_more(make_backend, plane):
    plane.inject_faults(RunOutOfMemory("input", times=2))
    with pytest.raises(ContainerLostError, match=r"out of memory.*memory="):
        Pipeline([double], backend=make_backend()).run({"x": 1})


def test_preempted_containers_are_replaced(make_backend, plane):
    plane.inject_faults(PreemptContainer("input", times=2))
    assert Pipeline([double], backend=make_backend()).run({"x": 1}) == {"doubled": 2}
    tried = plane.calls[-1].inputs[0].container_ids
    reasons = {each.id: each.end_reason for each in plane.containers}
    assert [reasons[container] for container in tried[:2]] == ["preempted"] * 2


def test_a_time_out_says_which_limit_and_keeps_what_was_computed(make_backend, plane, gate):
    cache = MemoryCache()
    pipeline = Pipeline([double, wait_for_the_word], backend=make_backend(timeout=3), cache=cache)
    with pytest.raises(ModalTimeoutError, match=r"timeout=3 s.*larger timeout") as caught:
        pipeline.run({"x": 1, "gate": gate.name})
    assert caught.value.timeout_s == 3
    assert isinstance(caught.value, TimeoutError)
    calls = len(plane.calls)
    assert pipeline.run({"x": 1, "gate": gate.name}, "doubled") == {"doubled": 2}
    assert len(plane.calls) == calls


# --- before anything runs -----------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_built_says_why(make_backend, image):
    with pytest.raises(ModalSetupError, match="no-such-package-at-all") as caught:
        Pipeline([double], backend=make_backend(image=image.uv_pip_install("no-such-package-at-all==1.0"))).run(
            {"x": 1}
        )
    assert isinstance(caught.value.__context__, modal_errors.ImageBuildError)


def test_another_version_of_python_is_named_before_anything_is_unpickled(make_backend):
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = "3.11" if own != "3.11" else "3.12"
    try:
        image = modal.Image.from_registry(f"python:{other}-slim")  # which says nothing before it is built
        with pytest.raises(RemoteVersionError, match=rf"Python {own} at the caller and {other} at modal") as caught:
            Pipeline([double], backend=make_backend(image=image)).run({"x": 1})
        assert f'debian_slim(python_version="{own}")' in str(caught.value)
    except ModalSetupError as error:
        pytest.skip(f"needs Python {other} on this machine: {error}")


def test_another_version_of_python_in_a_nested_pipelines_image_is_refused_before_anything_is_sent(
    make_backend, image, modal_loopback
):
    other = modal.Image.debian_slim(python_version="3.11" if sys.version_info.minor != 11 else "3.12")
    inner = Pipeline([double], backend=make_backend(image=other, gpu="A10G"), name="inner")
    with pytest.raises(RemoteVersionError, match=r"at modal\. Nothing was sent\. Make the image with"):
        Pipeline([inner], backend=make_backend(image=image)).run({"x": 1})
    assert modal_loopback.calls == []


def test_a_secret_that_does_not_exist_is_named(make_backend):
    backend = make_backend(secrets=[modal.Secret.from_name("no-such-secret")])
    with pytest.raises(ModalSetupError, match="no-such-secret") as caught:
        Pipeline([double], backend=backend).run({"x": 1})
    assert isinstance(caught.value.__context__, modal_errors.NotFoundError)
    printed = "".join(traceback.format_exception(caught.value))
    assert printed.count("Traceback") == 1
    assert printed.count("no-such-secret") == 1
    assert len(printed.splitlines()) < 25


@pytest.mark.parametrize("gpu", ["NOSUCH", "NOSUCH:2", ["A10G", "NOSUCH"]], ids=repr)
def test_a_gpu_that_does_not_exist_is_named(make_backend, plane, gpu):
    with pytest.raises(ModalSetupError, match=r"unknown type, 'NOSUCH'.*gpu=") as caught:
        Pipeline([double], backend=make_backend(gpu=gpu)).run({"x": 1})
    assert isinstance(caught.value.__context__, modal_errors.InvalidError)
    assert repr(gpu) in str(caught.value)
    assert not plane.calls


def test_an_app_that_was_not_deployed_is_named(plane):
    with pytest.raises(ModalSetupError, match="retrieval-app"):
        Pipeline([double], backend=ModalBackend.deployed("retrieval-app")).run({"x": 1})


def test_wrong_credentials_say_what_to_do(modal_loopback, tmp_path):
    from tests.modal.test_modal_app import HEADER, run_script

    script = HEADER + "\ntry: pipeline.run({'x': 1})\nexcept Exception as error: print(type(error).__name__, error)\n"
    without = "import os; del os.environ['MODAL_TOKEN_ID'], os.environ['MODAL_TOKEN_SECRET']\n" + script
    wrong = "import os; os.environ['MODAL_TOKEN_SECRET'] = 'as-wrong'\n" + script
    for each in (without, wrong):
        printed = run_script(each, tmp_path, modal_loopback)
        assert printed.startswith("ModalSetupError")
        assert "modal setup" in printed
        assert "as-wrong" not in printed


# --- the connection -----------------------------------------------------------------------------------------------


def test_a_connection_that_is_lost_for_a_while_costs_nothing(make_backend, plane, gate):
    pipeline = Pipeline([wait_for_the_word], backend=make_backend(), callbacks=[Recorder()])
    plane.inject_faults(RefuseConnections("FunctionGetOutputs", nth=1, seconds=3.0))
    gate.open()
    assert pipeline.run({"x": 1, "gate": gate.name}) == {"out": -1}
    assert gate.reached() == 1
    assert gate.count_reached() == 0  # the work was done once
    assert len(plane.calls) == 1


def test_messages_that_were_taken_by_replies_that_got_lost_are_observed(make_backend, plane):
    @node(output_name="late")
    def take_a_while(doubled: int) -> int:
        import time

        time.sleep(0.5)
        return doubled

    recorder, cache = Recorder(), MemoryCache()
    pipeline = Pipeline([double, take_a_while], backend=make_backend(), callbacks=[recorder], cache=cache)
    plane.inject_faults(DropReplies("QueueGet", probability=1.0))
    assert pipeline.run({"x": 1}) == {"doubled": 2, "late": 2}
    assert plane.rpc_counts["QueueGet"] > 1
    assert recorder.computed == ["double", "take_a_while"]
    pipeline.run({"x": 1})
    assert len(plane.calls) == 1


@pytest.mark.parametrize("moment", ["AppCreate", "QueueGetOrCreate"])
def test_a_connection_that_fails_before_the_call_is_tried_again(make_backend, plane, moment):
    plane.inject_faults(RefuseConnections(moment, seconds=2.0))
    assert Pipeline([double], backend=make_backend(), callbacks=[Recorder()]).run({"x": 1}) == {"doubled": 2}
    assert len(plane.calls) == 1


def test_a_call_that_may_have_been_started_is_not_started_again(make_backend, plane):
    plane.inject_faults(RefuseConnections("FunctionMap", seconds=3.0))
    pipeline = Pipeline([double], backend=make_backend(), callbacks=[Recorder()])
    with pytest.raises(ModalConnectionError, match="not known whether the call was started") as caught:
        pipeline.run({"x": 1})
    assert caught.value.call_id == ""
    assert isinstance(caught.value.__cause__, modal_errors.ConnectionError)
    assert len(plane.calls) <= 1
    assert pipeline.run({"x": 1}) == {"doubled": 2}  # as soon as there is a connection


def test_a_connection_that_is_lost_for_good_names_the_call(make_backend, plane, gate):
    backend = make_backend()
    backend.patience_s = 0.5
    plane.inject_faults(RefuseConnections("FunctionGetOutputs", nth=1, seconds=6.0))
    cache = MemoryCache()
    with pytest.raises(ModalConnectionError, match="may still be running") as caught:
        Pipeline([double, wait_for_the_word], backend=backend, cache=cache).run({"x": 1, "gate": gate.name})
    assert isinstance(caught.value, RemoteError)
    assert caught.value.call_id == plane.calls[-1].id
    backend.patience_s = 60
    assert Pipeline([double], backend=backend, cache=cache).run({"x": 2}) == {"doubled": 4}


# --- results ------------------------------------------------------------------------------------------------------


def test_a_result_that_cannot_be_sent_back_from_a_container_is_named(warm_backend, plane):
    @node(output_name="lock")
    def make_lock(x: int) -> Any:
        import threading

        return threading.Lock()

    cache = MemoryCache()
    pipeline = Pipeline([double, make_lock], backend=warm_backend, cache=cache)
    with pytest.warns(UserWarning, match="lock"), pytest.raises(SerializationError, match="'lock' cannot be sent back"):
        pipeline.run({"x": 1})
    calls = len(plane.calls)
    assert pipeline.run({"x": 1}, "doubled") == {"doubled": 2}
    assert len(plane.calls) == calls


def test_a_result_that_cannot_be_loaded_here_says_so(warm_backend, plane):
    @node(output_name="odd")
    def make_odd(x: int) -> Any:
        return OnlyThere()

    with pytest.raises(RemoteError, match=r"result.*cannot be loaded here.*a_package_that_only_the_image_has"):
        Pipeline([make_odd], backend=warm_backend).run({"x": 1})


def test_an_error_in_a_node_carries_the_traceback_from_there(warm_backend, plane):
    @node(output_name="never")
    def fail(x: int) -> int:
        raise LookupError(f"no {x}")

    with pytest.raises(LookupError, match="no 7") as caught:
        Pipeline([fail], name="job", backend=warm_backend).run({"x": 7})
    assert "in node 'fail'" in caught.value.__notes__[0]
    assert "backend: modal" in caught.value.__notes__[0]
    assert 'raise LookupError(f"no {x}")' in str(caught.value.__cause__) or "in fail" in str(caught.value.__cause__)
