"""What a transport mixes up, repeats, damages or loses is refused: no wrong result, and none in the cache."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from hypernodes import (
    CacheWarning,
    LocalBackend,
    MapRequest,
    MemoryCache,
    Pipeline,
    RemoteBackend,
    RemoteError,
    RunRequest,
    SerializationError,
    node,
)
from hypernodes.backend.base import Backend
from hypernodes.engine.cancellation import RunRegistry, current_registry
from hypernodes.remote import wire
from hypernodes.remote.channel import Channel
from hypernodes.remote.job import MapResult
from hypernodes.remote.messages import wants_reply
from hypernodes.remote.packing import pack_ours, unpack
from hypernodes.remote.worker import execute
from tests.remote.transports import InProcess
from tests.support import Recorder


@node(output_name="y")
def double(x: int) -> int:
    return 2 * x


@node(output_name="y")
def fail(x: int) -> int:
    raise ValueError(f"no {x}")


class Through(RemoteBackend):
    """Executes jobs here, and does something to what comes back."""

    backend_name = "through"

    def __init__(self, change: Callable[[bytes], Any] = lambda outcome: outcome) -> None:
        super().__init__()
        self._change = change

    def submit(self, job: bytes, channel: Channel) -> bytes:
        return self._change(execute(job, channel.handle))  # type: ignore[no-any-return]


# --- outcomes --------------------------------------------------------------------------------------------------------


def test_an_outcome_of_an_earlier_job_is_refused() -> None:
    outcomes: list[bytes] = []

    def first_one(outcome: bytes) -> bytes:
        outcomes.append(outcome)
        return outcomes[0]

    cache = MemoryCache()
    pipeline = Pipeline([double], cache=cache).with_backend(Through(first_one))
    assert pipeline.run({"x": 1}) == {"y": 2}
    with pytest.raises(RemoteError, match="backend 'through' returned the outcome of another job"):
        pipeline.run({"x": 5})
    assert Pipeline([double], cache=cache).run({"x": 5}) == {"y": 10}


def test_an_error_is_not_replaced_by_the_success_of_an_earlier_job() -> None:
    kept: list[bytes] = []
    Pipeline([double], backend=Through(lambda outcome: kept.append(outcome) or outcome)).run({"x": 1})
    with pytest.raises(RemoteError, match="another job"):
        Pipeline([fail], backend=Through(lambda outcome: kept[0])).run({"x": 1})


def test_the_outcome_of_a_job_with_this_id_but_other_content_is_refused() -> None:
    def forge(outcome: bytes) -> bytes:
        header, payload, _ = wire.open_sealed(outcome, "here", "there")
        return wire.sealed({**header, "job_digest": "00000000 0000000000000001"}, bytes(payload))

    with pytest.raises(RemoteError, match="another job"):
        Pipeline([double], backend=Through(forge)).run({"x": 1})


@pytest.mark.parametrize("function", [double, pytest.param(fail, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_in_an_outcome_is_noticed(function: Any) -> None:
    position = 0
    sizes: list[int] = []

    def flip(outcome: bytes) -> bytes:
        sizes.append(len(outcome))
        at = position % len(outcome)
        return outcome[:at] + bytes([outcome[at] ^ (1 << position % 8)]) + outcome[at + 1 :]

    cache = MemoryCache()
    pipeline = Pipeline([function], cache=cache, backend=Through(flip))
    position = 1
    with pytest.raises(RemoteError):
        pipeline.run({"x": 0})
    for position in range(0, sizes[0], 7):
        with pytest.raises(RemoteError):
            pipeline.run({"x": 1 + position})


def test_a_flipped_bit_anywhere_in_a_job_is_noticed() -> None:
    jobs: list[bytes] = []

    class Keeping(Through):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            jobs.append(job)
            return super().submit(job, channel)

    Pipeline([double], backend=Keeping()).run({"x": 1})
    (job,) = jobs
    for at in range(0, len(job), 7):
        damaged = job[:at] + bytes([job[at] ^ (1 << at % 8)]) + job[at + 1 :]
        assert wire.open_sealed(execute(damaged), "here", "there").header["kind"] == "refused"


def test_a_job_that_is_refused_is_a_remote_error_that_says_why() -> None:
    class Cutting(RemoteBackend):
        backend_name = "cutting"

        def submit(self, job: bytes, channel: Channel) -> bytes:
            return execute(job[:-1])

    with pytest.raises(RemoteError, match=r"cutting refused the job: \d+ bytes .* damaged on the way"):
        Pipeline([double], backend=Cutting()).run({"x": 1})


def reworked(outcome: bytes, change: Callable[[Any], Any]) -> bytes:
    """What a faulty transport that opens outcomes might make of one."""
    header, payload, _ = wire.open_sealed(outcome, "here", "there")
    result, messages, count = unpack(payload)
    facts = {name: value for name, value in header.items() if name != "versions"}
    return wire.sealed(facts, pack_ours((change(result), messages, count)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: MapResult(r.indexes[:-1], {n: c[:-1] for n, c in r.columns.items()}), "1 items instead of 2"),
        (lambda r: MapResult([*r.indexes, 7], {n: [*c, 0] for n, c in r.columns.items()}), "3 items instead of 2"),
        (lambda r: MapResult([0, 5], r.columns), "other indexes"),
        (lambda r: MapResult([0, 0], r.columns), "other indexes"),
        (lambda r: MapResult(r.indexes, {**r.columns, "z": [1, 2]}), "outputs 'y', 'z' instead of 'y'"),
        (lambda r: MapResult(r.indexes, {}), "instead of 'y'"),
        (lambda r: MapResult(r.indexes, {"y": [1]}), "one value for each of 2 items"),
        (lambda r: {"y": 1}, "a dict instead of items"),
    ],
)
def test_items_that_are_lost_or_added_are_noticed(change: Any, message: str) -> None:
    backend = Through(lambda outcome: reworked(outcome, change))
    with pytest.raises(RemoteError, match=message):
        Pipeline([double], backend=backend).map({"x": [1, 2]}, "x")


@pytest.mark.parametrize("change", [lambda r: {}, lambda r: {**r, "z": 1}, lambda r: None, lambda r: [1]])
def test_outputs_that_are_lost_or_added_are_noticed(change: Any) -> None:
    backend = Through(lambda outcome: reworked(outcome, change))
    with pytest.raises(RemoteError, match="backend 'through' returned outputs"):
        Pipeline([double], backend=backend).run({"x": 1})


# --- messages --------------------------------------------------------------------------------------------------------


class Carrying(RemoteBackend):
    """Does something to messages on their way, and to replies."""

    backend_name = "carrying"

    def __init__(self, message: Callable[[bytes], bytes], reply: Callable[[bytes], bytes] = lambda r: r) -> None:
        super().__init__()
        self._message = message
        self._reply = reply

    def submit(self, job: bytes, channel: Channel) -> bytes:
        def exchange(message: bytes) -> bytes | None:
            changed = channel.handle(self._message(message))
            return None if changed is None else self._reply(changed)

        return execute(job, exchange)


def flip_in(message: bytes, at: int) -> bytes:
    at %= len(message)
    return message[:at] + bytes([message[at] ^ (1 << at % 8)]) + message[at + 1 :]


def test_messages_of_another_job_are_not_taken() -> None:
    notes: list[bytes] = []

    def keep(message: bytes) -> bytes:
        notes.append(message)
        return message

    observed = Recorder()
    Pipeline([double], backend=Carrying(keep), callbacks=[observed]).run({"x": 1})
    observed.clear()
    old, cache = list(notes), MemoryCache()
    pipeline = Pipeline([double], backend=Carrying(lambda message: old[0]), callbacks=[observed], cache=cache)
    with (
        pytest.warns(CacheWarning, match="dropped a message from backend 'carrying'.*belongs to another job"),
        pytest.warns(CacheWarning, match="messages of backend 'carrying' were lost"),
    ):
        assert pipeline.run({"x": 3}) == {"y": 6}
    assert observed.computed == []


def test_a_flipped_bit_anywhere_in_a_message_is_noticed_and_nothing_wrong_is_stored() -> None:
    for at in range(0, 700, 7):
        cache, observed = MemoryCache(), Recorder()

        def damage(message: bytes, at: int = at) -> bytes:
            return message if wants_reply(message) else flip_in(message, at)

        pipeline = Pipeline([double], backend=Carrying(damage), callbacks=[observed], cache=cache)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert pipeline.run({"x": at}) == {"y": 2 * at}
        assert any("lost on the way" in str(warning.message) for warning in warned)
        assert Pipeline([double], cache=cache).run({"x": at}) == {"y": 2 * at}


def asking(backend: RemoteBackend, cache: MemoryCache) -> Pipeline:
    """A pipeline whose cached node can only be looked up over there."""

    @node(output_name="n", cache=False)
    def first(x: int) -> int:
        return x + 1

    @node(output_name="y")
    def second(n: int) -> int:
        return 10 * n

    return Pipeline([first, second], backend=backend, cache=cache)


def test_a_damaged_reply_is_not_taken_for_a_result() -> None:
    cache = MemoryCache()
    asking(Through(), cache).run({"x": 1})
    for at in range(0, 120, 5):
        backend = Carrying(lambda message: message, lambda reply, at=at: flip_in(reply, at))  # type: ignore[misc]
        with pytest.warns(CacheWarning, match="nothing can be read from <the caller's cache>"):
            assert asking(backend, cache).run({"x": 1}, "y") == {"y": 20}


def test_the_reply_to_an_earlier_question_is_not_taken() -> None:
    cache = MemoryCache()
    replies: list[bytes] = []

    def first_one(reply: bytes) -> bytes:
        replies.append(reply)
        return replies[0]

    asking(Through(), cache).run({"x": 1})
    asking(Through(), cache).run({"x": 2})
    backend = Carrying(lambda message: message, first_one)
    assert asking(backend, cache).run({"x": 1}, "y") == {"y": 20}
    with pytest.warns(CacheWarning, match="belongs to another job"):
        assert asking(backend, cache).run({"x": 2}, "y") == {"y": 30}


# --- values that raise -----------------------------------------------------------------------------------------------


class Trap:
    """Raises when it is pickled, or when it is unpickled."""

    def __init__(self, kind: type[BaseException], is_sprung_by_loading: bool) -> None:
        self.kind = kind
        self.is_sprung_by_loading = is_sprung_by_loading

    def __reduce__(self) -> Any:
        if not self.is_sprung_by_loading:
            raise self.kind("mine")
        return spring, (self.kind,)


def spring(kind: type[BaseException]) -> None:
    raise kind("mine")


KINDS = [ValueError, asyncio.CancelledError, GeneratorExit, SystemExit]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_result_raises_as_it_is_packed_is_reported(kind: type[BaseException]) -> None:
    @node(output_name="y")
    def make(x: int) -> Trap:
        return Trap(kind, is_sprung_by_loading=False)

    for run in (lambda p: p.run({"x": 1}), lambda p: p.map({"x": [1]}, "x")):
        with pytest.raises(
            SerializationError, match=rf"the result 'y'.* cannot be sent back from through: {kind.__name__}: mine"
        ):
            run(Pipeline([make], backend=Through()))


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_an_input_raises_as_it_is_loaded_is_reported(kind: type[BaseException]) -> None:
    with pytest.raises(RemoteError, match=f"could not run the job: .*{kind.__name__}: mine"):
        Pipeline([double], backend=Through()).run({"x": Trap(kind, is_sprung_by_loading=True)})


# --- transports that raise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, SystemExit, ConnectionError, KeyError])
def test_whatever_exchange_raises_ends_the_messages_and_not_the_job(kind: type[BaseException]) -> None:
    class Raising(RemoteBackend):
        backend_name = "raising"

        def submit(self, job: bytes, channel: Channel) -> bytes:
            def exchange(message: bytes) -> bytes | None:
                raise kind("the line is gone")

            return execute(job, exchange)

    observed, cache = Recorder(), MemoryCache()
    pipeline = Pipeline([double], backend=Raising(), callbacks=[observed], cache=cache)
    assert pipeline.map({"x": [1, 2]}, "x") == {"y": [2, 4]}
    assert len(observed.computed) == 2
    assert Pipeline([double], cache=cache).explain({"x": 1})["double"].status == "hit"


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, ConnectionError])
def test_whatever_exchange_raises_for_a_question_costs_only_the_answer(kind: type[BaseException]) -> None:
    class Mute(RemoteBackend):
        backend_name = "mute"

        def submit(self, job: bytes, channel: Channel) -> bytes:
            def exchange(message: bytes) -> bytes | None:
                if wants_reply(message):
                    raise kind("the line is gone")
                return channel.handle(message)

            return execute(job, exchange)

    with pytest.warns(CacheWarning, match="nothing can be read from <the caller's cache>.*the line is gone"):
        assert asking(Mute(), MemoryCache()).run({"x": 1}) == {"n": 2, "y": 20}


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, CancelledError, SystemExit])
def test_an_exception_of_the_transport_is_told_from_one_of_a_node(kind: type[BaseException]) -> None:
    class Failing(RemoteBackend):
        backend_name = "failing"

        def submit(self, job: bytes, channel: Channel) -> bytes:
            raise kind("no 1")

    with pytest.raises(kind, match="no 1") as of_transport:
        Pipeline([fail], backend=Failing()).run({"x": 1})
    assert of_transport.value.__notes__ == [
        "raised by the transport of backend 'failing' (Failing.submit), not by a node"
    ]
    with pytest.raises(ValueError, match="no 1") as of_node:
        Pipeline([fail], backend=Through()).run({"x": 1})
    assert not any("transport" in note for note in of_node.value.__notes__)
    assert any("node 'fail'" in note for note in of_node.value.__notes__)


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("kind", [OSError, asyncio.CancelledError, SystemExit])
def test_a_run_is_cancelled_although_the_backend_fails_to_end_the_job(kind: type[BaseException], is_late: bool) -> None:
    runs = RunRegistry()

    class Stubborn(RemoteBackend):
        backend_name = "stubborn"

        def submit(self, job: bytes, channel: Channel) -> bytes:
            def end() -> None:
                raise kind("cannot reach it")

            if is_late:
                runs.cancel()
            channel.when_cancelled(end)
            runs.cancel()
            return execute(job)

    caught: list[BaseException] = []

    def run() -> None:
        current_registry.set(runs)
        try:
            Pipeline([double], backend=Stubborn()).run({"x": 1})
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert isinstance(caught[0], CancelledError)
    assert caught[0].__notes__ == [f"backend 'stubborn' could not end the job: {kind.__name__}: cannot reach it"]


# --- backends that schedule themselves -------------------------------------------------------------------------------


@node(output_name=("y", "z"))
def both(x: int) -> tuple[int, int]:
    return x, -x


class Changed(LocalBackend):
    """Does something to what `LocalBackend` returns."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self._change = change

    def run(self, request: RunRequest) -> Any:
        return self._change(super().run(request))

    def map(self, request: MapRequest) -> Any:
        return self._change(super().map(request))

    def map_iter(self, request: MapRequest) -> Any:
        return iter(self._change(list(super().map_iter(request))))

    async def arun(self, request: RunRequest) -> Any:
        return self._change(await super().arun(request))

    async def amap(self, request: MapRequest) -> Any:
        return self._change(await super().amap(request))


class ChangedMap(Backend):
    """Implements no more than it has to."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self._change = change

    def run(self, request: RunRequest) -> Any:
        return LocalBackend().run(request)

    def map(self, request: MapRequest) -> Any:
        return self._change(request.to_columns([self.run(run) for run in request.runs()]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"y": r["y"]}, "backend 'Changed' returned outputs 'y' instead of outputs 'y', 'z'"),
        (lambda r: {**r, "extra": r["y"]}, "outputs 'y', 'z', 'extra' instead of"),
        (lambda r: None, "a NoneType instead of outputs 'y', 'z'"),
    ],
)
def test_a_backend_that_loses_or_adds_an_output_is_named(change: Any, message: str) -> None:
    pipeline = Pipeline([both], backend=Changed(change))
    with pytest.raises(RemoteError, match=message):
        pipeline.run({"x": 1})
    with pytest.raises(RemoteError, match=message):
        pipeline.map({"x": [1, 2]}, "x")
    with pytest.raises(RemoteError, match=message):
        asyncio.run(pipeline.arun({"x": 1}))
    with pytest.raises(RemoteError, match=message):
        asyncio.run(pipeline.amap({"x": [1, 2]}, "x"))


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: [*c, 1], lambda c: None, lambda c: "abc", lambda c: dict.fromkeys("abc")]
)
def test_a_backend_that_loses_or_adds_an_item_is_named(change: Any) -> None:
    backend = Changed(lambda found: {name: change(column) for name, column in found.items()})
    with pytest.raises(RemoteError, match=r"backend 'Changed' returned"):
        Pipeline([both], backend=backend).map({"x": [1, 2, 3]}, "x")
    simple = ChangedMap(lambda found: {name: change(column) for name, column in found.items()})
    with pytest.raises(RemoteError, match=r"backend 'ChangedMap' returned"):
        Pipeline([both], backend=simple).map({"x": [1, 2, 3]}, "x")
    nested = Pipeline([both], name="inner", backend=simple).as_node({"xs": "x"}, map_over="xs")
    with pytest.raises(RemoteError, match=r"backend 'ChangedMap' returned"):
        Pipeline([nested]).run({"xs": [1, 2, 3]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[:-1], "no item 2 of 3"),
        (lambda found: found[1:], "item 1 where item 0 was to come"),
        (lambda found: [*found, found[-1]], "item 2 where item 3 was to come"),
        (lambda found: found[::-1], "item 2 where item 0 was to come"),
        (lambda found: [(index, {}) for index, _ in found], r"outputs \(none\) instead of"),
    ],
)
def test_a_stream_that_loses_or_repeats_an_item_is_noticed(change: Any, message: str) -> None:
    with pytest.raises(RemoteError, match=message):
        list(Pipeline([both], backend=Changed(change)).map_iter({"x": [1, 2, 3]}, "x"))


def test_items_of_a_stream_may_come_out_of_order_if_they_may() -> None:
    backend = Changed(lambda found: found[::-1])
    found = list(Pipeline([both], backend=backend).map_iter({"x": [1, 2, 3]}, "x", in_order=False))
    assert [row["y"] for row in found] == [3, 2, 1]


def test_what_a_backend_rightly_returns_is_taken() -> None:
    for backend in (Changed(lambda found: found), ChangedMap(lambda found: found)):
        pipeline = Pipeline([both], backend=backend)
        assert pipeline.run({"x": 1}) == {"y": 1, "z": -1}
        assert pipeline.map({"x": iter([1, 2])}, "x", output_name="z") == {"z": [-1, -2]}
        assert pipeline.map({"x": []}, "x") == {"y": [], "z": []}
        assert list(pipeline.map_iter({"x": [1]}, "x", output_name="z")) == [{"z": -1}]


@pytest.mark.parametrize("mode", ["sequential", "threaded"])
def test_a_map_whose_outputs_are_all_given_returns_none(mode: Any) -> None:
    @node(output_name=("low", "high"))
    def bounds(x: int) -> tuple[int, int]:
        return x, x

    given = {"x": [1, 2], "low": 0}
    local = Pipeline([bounds]).map(given, map_over="x")
    assert Pipeline([bounds], backend=InProcess(map_execution=mode)).map(given, map_over="x") == local == {}
