"""Maps divided among several Modal containers, and backends that share an app but not their containers."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import modal
import pytest

from hypernodes import (
    ConfigurationError,
    Failure,
    LocalBackend,
    MemoryCache,
    Pipeline,
    RemoteError,
    WorkerDiedError,
    node,
)
from hypernodes_modal import ModalBackend, ModalSetupError
from hypernodes_modal.call import CallContext, JobCall
from hypernodes_modal.shared_data import SharedData
from tests.support import Recorder


@node(output_name="documents")
def load(count: int) -> list[int]:
    return list(range(count))


@node(output_name="vector")
def encode(document: int, weights: bytes = b"") -> tuple[int, int]:
    return document + len(weights), os.getpid()


@node(output_name="total")
def add(vectors: list[tuple[int, int]]) -> int:
    return sum(vector for vector, _ in vectors)


@node(output_name="where")
def see(total: int) -> int:
    return os.getpid()


encode_all = Pipeline([encode], name="encode").as_node(
    input_mapping={"documents": "document"}, output_mapping={"vector": "vectors"}, map_over="documents", name="all"
)
whole = Pipeline([load, encode_all, add, see], name="whole")


class Referee:
    """Hears of each call that is made in a container, and says when it may go on, or that it has to end its process.

    Attributes:
        address: Where it is reached.
        kills: How many times the call for a number is still to end its process.
        most: The number of processes that have to have begun before a call may go on.
        calls: The numbers, with how many calls there were.
        processes: The processes that made them.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.kills: Counter[int] = Counter()
        self.most = 1
        self.calls: Counter[int] = Counter()
        self.processes: set[int] = set()
        self.changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile() as file:
            process, x = map(int, file.readline().split())
            with self.changed:
                self.calls[x] += 1
                self.processes.add(process)
                self.changed.notify_all()
                self.changed.wait_for(lambda: len(self.processes) >= self.most, timeout=240)
                is_fatal = self.kills[x] > 0
                self.kills[x] -= is_fatal
            connection.sendall(b"k" if is_fatal else b".")

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def referee() -> Iterator[Referee]:
    made = Referee()
    yield made
    made.close()


@node(output_name="y")
def double(x: int, referee: tuple[str, int]) -> int:
    with socket.create_connection(referee) as connection:
        connection.sendall(f"{os.getpid()} {x}\n".encode())
        if connection.recv(1) == b"k":
            os.kill(os.getpid(), signal.SIGKILL)
    return 2 * x


def test_items_are_divided_among_containers(make_backend, plane, referee):
    referee.most = 2
    backend = make_backend(mode="distributed", max_concurrent=2, chunk_size=5)
    found = Pipeline([double], backend=backend).map({"x": range(20), "referee": referee.address}, "x")["y"]
    assert found == [2 * x for x in range(20)]
    assert len(plane.calls) == 4
    assert len(referee.processes) == 2


def test_a_map_inside_a_run_is_divided(make_backend, plane):
    backend = make_backend(mode="distributed", max_concurrent=2, chunk_size=10)
    assert whole.with_backend(backend).run({"count": 20}, "total") == {"total": 190}
    assert len(plane.calls) == 4  # load, two halves of the map, add


def test_what_items_share_travels_once_and_is_found_again_by_later_maps(make_backend, plane, monkeypatch):
    sent: list[int] = []
    submit = ModalBackend.submit

    def counted(backend, job, channel):
        sent.append(len(job))
        return submit(backend, job, channel)

    monkeypatch.setattr(ModalBackend, "submit", counted)
    backend = make_backend(mode="distributed", max_concurrent=2, chunk_size=5)
    pipeline = Pipeline([encode], backend=backend)
    weights = os.urandom(20_000_000)
    found = pipeline.map({"document": range(20), "weights": weights}, "document")["vector"]
    assert [vector for vector, _ in found] == [20_000_000 + document for document in range(20)]
    updates = plane.rpc_counts["DictUpdate"]
    assert updates <= 4  # three pieces of the input, and the code
    pipeline.map({"document": range(20, 30), "weights": weights}, "document")
    assert plane.rpc_counts["DictUpdate"] <= updates + 1
    assert sum(sent) < 200_000


def test_events_and_cache_are_those_of_a_run_here(make_backend, plane):
    def observed(backend, cache):
        recorder = Recorder()
        whole.with_backend(backend).with_cache(cache).with_callbacks([recorder]).run({"count": 7}, "total")
        contexts = [(context.node_path, context.item_path) for context in recorder.contexts]
        return Counter(map(repr, zip(recorder.events, contexts, strict=True)))

    there = MemoryCache()
    backend = make_backend(mode="distributed", max_concurrent=2, chunk_size=3)
    assert observed(backend, there) == observed(LocalBackend(), MemoryCache())
    calls = len(plane.calls)
    assert whole.with_backend(backend).with_cache(there).run({"count": 7}, "total") == {"total": 21}
    assert len(plane.calls) == calls


def test_a_lost_container_costs_only_what_it_had_not_done(make_backend, plane, referee):
    referee.kills.update({11: 1, 40: 1})
    backend = make_backend(mode="distributed", max_concurrent=2, chunk_size=25)
    found = Pipeline([double], backend=backend).map({"x": range(50), "referee": referee.address}, "x")["y"]
    assert found == [2 * x for x in range(50)]
    assert max(referee.calls.values()) == 2
    assert referee.calls[11] == referee.calls[40] == 2


def test_an_item_that_ends_every_container_becomes_one_failure(make_backend, plane, referee):
    referee.kills.update({3: 99})
    backend = make_backend(mode="distributed", max_concurrent=2, chunk_size=4)
    inputs = {"x": range(8), "referee": referee.address}
    found = Pipeline([double], backend=backend).map(inputs, "x", on_error="collect")["y"]
    assert [x for x, value in enumerate(found) if isinstance(value, Failure)] == [3]
    assert isinstance(found[3].error, WorkerDiedError)
    assert referee.calls[3] == 4  # with the others, in pieces, and twice alone


def test_with_options_shares_the_app_and_has_containers_of_its_own(make_backend, plane):
    cpu = make_backend()
    gpu = cpu.with_options(gpu="A10G", memory="1GB", node_execution="threaded")
    pipeline = Pipeline([see], name="see")
    here = pipeline.with_backend(cpu).run({"total": 1})["where"]
    there = pipeline.with_backend(gpu).run({"total": 1})["where"]
    assert here != there
    assert plane.rpc_counts["AppCreate"] == plane.rpc_counts["FunctionCreate"] == 1
    assert repr(gpu) == "ModalBackend(gpu='A10G', memory=954)"
    assert (gpu.node_execution, gpu.image) == ("threaded", cpu.image)
    assert not cpu.runs_here(gpu)
    assert gpu.runs_here(cpu.with_options(gpu="A10G", memory="1GB"))


def test_the_app_of_backends_that_share_it_closes_after_the_last_of_their_blocks(plane, image):
    cpu = ModalBackend(image)
    gpu = cpu.with_options(gpu="A10G")
    pipeline = Pipeline([see], name="see")
    with cpu:
        with gpu:
            pipeline.with_backend(gpu).run({"total": 1})
        pipeline.with_backend(cpu).run({"total": 1})
        assert plane.rpc_counts["AppCreate"] == 1
    assert plane.rpc_counts["AppClientDisconnect"] == 1


def test_nodes_with_places_in_one_app(make_backend, plane):
    cpu = make_backend(mode="distributed", max_concurrent=2, chunk_size=10)
    placed = whole.with_backend(cpu, nodes={"load": LocalBackend(), "see": cpu.with_options(gpu="A10G", mode="single")})
    found = placed.run({"count": 20})
    assert found["total"] == 190
    assert found["where"] not in {os.getpid(), *(process for _, process in found["vectors"])}
    assert plane.rpc_counts["AppCreate"] == 1


def test_a_nested_pipeline_with_other_options_is_called_from_the_container(make_backend, plane):
    cpu = make_backend()
    inner = Pipeline([see], name="inner", backend=cpu.with_options(gpu="A10G"))
    found = Pipeline([add, inner], backend=cpu).run({"vectors": [(1, 2)]})
    assert found["total"] == 1
    assert len(plane.containers) == 2


def test_an_app_that_somebody_else_stopped_is_opened_again_with_what_is_shared(make_backend, plane):
    backend = make_backend(mode="distributed", max_concurrent=2, chunk_size=5)
    pipeline = Pipeline([encode], backend=backend)
    weights = os.urandom(2_000_000)
    for _ in range(3):
        found = pipeline.map({"document": range(10), "weights": weights}, "document")["vector"]
        assert [vector for vector, _ in found] == [2_000_000 + document for document in range(10)]
        plane.stop_apps()


def test_a_backend_that_is_closed_during_a_map_ends_it_and_opens_nothing_again(make_backend, plane, referee):
    referee.most = 99
    backend = make_backend(mode="distributed", max_concurrent=2, chunk_size=5)

    def close() -> None:
        with referee.changed:
            referee.changed.wait_for(lambda: referee.processes, timeout=240)
        backend.close()
        referee.most = 0

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(RemoteError, match="the backend was closed while it executed a job"):
        Pipeline([double], backend=backend).map({"x": range(20), "referee": referee.address}, "x")
    closing.join()
    assert plane.rpc_counts["AppCreate"] == 1


def test_data_that_cannot_be_shared_is_a_problem_of_modal(make_backend, plane, monkeypatch):
    backend = make_backend(mode="distributed", max_concurrent=2)

    def refuse(*arguments: object) -> str:
        raise modal.exception.AuthError("Token missing")

    monkeypatch.setattr(SharedData, "put", refuse)
    with pytest.raises(ModalSetupError, match="Modal does not accept the credentials"):
        Pipeline([encode], backend=backend).map({"document": range(20), "weights": bytes(2_000_000)}, "document")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_shares_data_of_its_own(make_backend, plane):
    shared = make_backend(mode="distributed")._shared_app
    shared.share("key", b"data")
    before = shared.shared
    reading, writing = os.pipe()
    if os.fork() == 0:
        shared._forget_those_of_parent()
        os.write(writing, b"yes" if shared.shared is None else b"no")
        os._exit(0)
    assert os.read(reading, 3) == b"yes"
    assert shared.shared is before


def test_nobody_waits_for_a_cancelled_call_while_the_connection_is_lost():
    class Lost:
        object_id = "fc-1"

        def get(self, timeout: float) -> None:
            raise modal.exception.ConnectionError("lost")

        def cancel(self, terminate_containers: bool) -> None:
            raise modal.exception.ConnectionError("lost")

    call = JobCall(None, 1e9, CallContext([], [], False))
    call._call = Lost()  # type: ignore[assignment]
    call.cancel()
    with pytest.raises(modal.exception.ConnectionError):
        call._wait()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "many"}, "mode must be 'single' or 'distributed'; got 'many'"),
        ({"mode": "distributed", "max_concurrent": 0}, "max_concurrent must be"),
        ({"mode": "distributed", "chunk_size": 0}, 'chunk_size must be a whole number of at least 1, or "auto"'),
        ({"max_concurrent": 3}, "max_concurrent has no use in mode 'single': choose mode='distributed'"),
        ({"chunk_size": 3}, "chunk_size has no use in mode 'single'"),
        ({"mode": "distributed", "cache_location": "remote", "volumes": {"/v": "volume"}}, "does not go with"),
    ],
)
def test_wrong_settings_are_refused_when_the_backend_is_made(plane, image, settings, message):
    if "volumes" in settings:
        settings = {**settings, "volumes": {"/v": modal.Volume.from_name("v", create_if_missing=True)}}
    with pytest.raises(ConfigurationError, match=message):
        ModalBackend(image, **settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": 3}, "gpu"),
        ({"image": 3}, "with_options cannot change image; it takes: gpu, memory,"),
        ({"memory": "lots"}, "memory"),
        ({"gpu": ["A10G", "T4"]}, "one kind of GPU, not a list"),
        ({"volumes": {}}, "cannot remove volumes"),
        ({"region": 3}, "Modal does not accept the settings"),
        ({"cloud": 3}, "cloud must be"),
    ],
)
def test_wrong_options_are_refused(plane, image, options, message):
    with pytest.raises(ConfigurationError, match=message):
        ModalBackend(image).with_options(**options)


def test_max_concurrent_is_the_number_of_containers_if_nothing_else_is_said(plane, image):
    assert ModalBackend(image).jobs_at_once == 1
    assert ModalBackend(image, mode="distributed").jobs_at_once == 10
    assert ModalBackend(image, mode="distributed", max_containers=4).jobs_at_once == 4
    changed = ModalBackend(image, mode="distributed", max_concurrent=7, chunk_size=50).with_options(gpu="A10G")
    assert (changed.mode, changed.jobs_at_once, changed.chunk_size) == ("distributed", 7, 50)
    single = changed.with_options(mode="single")
    assert (single.jobs_at_once, single.chunk_size) == (1, None)
    assert ModalBackend(image, max_containers=4).with_options(gpu="A10G", mode="distributed").jobs_at_once == 4


def test_options_that_are_empty_or_zero_replace_those_there_are(plane, image):
    backend = ModalBackend(image, retries=3, secrets=[modal.Secret.from_dict({"A": "b"})])
    changed = backend.with_options(retries=0, secrets=[])
    assert changed.function_options["retries"] == 0
    assert changed.function_options["secrets"] == []


def test_a_cache_in_a_volume_stays_safe(plane, image, monkeypatch):
    monkeypatch.setenv("HYPERNODES_CACHE_KEY", "5e" * 32)
    volumes = {"/v": modal.Volume.from_name("v", create_if_missing=True)}
    backend = ModalBackend(image, cache_location="remote", volumes=volumes)
    with pytest.raises(ConfigurationError, match="does not go with mode='distributed'"):
        backend.with_options(mode="distributed")
    with pytest.raises(ConfigurationError, match="which hold the cache"):
        backend.with_options(volumes=volumes)
    assert len(backend.with_options(secrets=[]).function_options["secrets"]) == 1  # the key of the cache


def test_a_kind_of_gpu_that_does_not_exist_is_refused(make_backend, plane):
    with pytest.raises(ModalSetupError, match="NOSUCH"):
        Pipeline([see], backend=make_backend().with_options(gpu="NOSUCH")).run({"total": 1})


def test_a_backend_says_why_it_cannot_be_pickled(plane, image):
    with pytest.raises(TypeError, match="belongs to the process that made it"):
        pickle.dumps(ModalBackend(image))
