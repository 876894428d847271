"""Maps inside runs, at a place that executes several jobs at a time: they are divided like maps of their own."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from typing import Any

import pytest

from hypernodes import Failure, LocalBackend, MapInputError, MemoryCache, Pipeline, WorkerLostError, node
from hypernodes.backend import SubprocessBackend
from hypernodes.remote.channel import Channel
from hypernodes.remote.job_shares import JobShares
from tests.remote.transports import InProcess, SeveralAtOnce
from tests.support import Recorder, notes_of


class Watched(SeveralAtOnce):
    """Remembers the names of the nodes of each job, and how many were executed at a time."""

    def __init__(self, jobs_at_once: int = 3, **settings: object) -> None:
        super().__init__(jobs_at_once, **settings)
        self.nodes: list[tuple[str, ...]] = []
        self.most = self._now = 0
        self._lock = threading.Lock()

    def submit(self, job: bytes, channel: Channel) -> bytes:
        with self._lock:
            self.nodes.append(channel.node_names)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            return super().submit(job, channel)
        finally:
            with self._lock:
                self._now -= 1


@node(output_name="documents")
def load(count: int) -> list[int]:
    return list(range(count))


@node(output_name="words")
def split(document: int) -> list[int]:
    return [document] * 3


@node(output_name="vector")
def encode(word: int) -> int:
    if word == 13:
        raise ValueError("thirteen")
    return word + 1


@node(output_name="total")
def add(vectors: list[int]) -> int:
    return sum(vectors)


@node(output_name="index")
def build(encoded: list[int], scale: int = 1) -> int:
    return scale * sum(encoded)


def len_of(documents: list[int]) -> int:
    return len(documents)


encode_all = Pipeline([encode], name="encode")
flat = Pipeline(
    [
        load,
        encode_all.as_node(
            input_mapping={"documents": "word"}, output_mapping={"vector": "encoded"}, map_over="documents", name="all"
        ),
        build,
    ],
    name="flat",
)
of_document = Pipeline(
    [
        split,
        encode_all.as_node(
            input_mapping={"words": "word"}, output_mapping={"vector": "vectors"}, map_over="words", name="each"
        ),
        add,
    ],
    name="document",
)
nested = Pipeline(
    [
        load,
        of_document.as_node(
            input_mapping={"documents": "document"},
            output_mapping={"total": "encoded"},
            map_over="documents",
            name="all",
        ),
        build,
    ],
    name="nested",
)


def test_a_map_inside_a_run_is_divided_and_the_nodes_around_it_are_jobs_of_their_own() -> None:
    place = Watched(chunk_size=4)
    assert flat.with_backend(place).run({"count": 10}, "index") == {"index": 55}
    assert place.nodes[0] == ("load",)
    assert place.nodes[-1] == ("build",)
    assert Counter(place.nodes)[("encode",)] == 3


def test_neighbouring_nodes_around_a_map_are_one_job() -> None:
    @node(output_name="answer")
    def ask(index: int) -> int:
        return -index

    place = Watched(chunk_size=4)
    whole = Pipeline([flat, ask], name="whole")
    assert whole.with_backend(place).run({"count": 10}, "answer") == {"answer": -55}
    assert place.nodes[-1] == ("build", "ask")


def test_a_run_without_maps_is_one_job() -> None:
    place = Watched()
    assert Pipeline([load, node(output_name="n")(len_of)]).with_backend(place).run({"count": 3})["n"] == 3
    assert place.nodes == [("load", "len_of")]


def test_one_job_at_a_time_gets_the_whole_run() -> None:
    place = InProcess()
    assert flat.with_backend(place).run({"count": 10}, "index") == {"index": 55}
    assert len(place.jobs) == 1


def test_maps_inside_maps_are_executed_in_the_jobs_of_the_outer_map() -> None:
    place = Watched(chunk_size=5)
    assert nested.with_backend(place).run({"count": 10}, "index") == {"index": 165}
    assert Counter(place.nodes) == {("load",): 1, ("split", "each", "add"): 2, ("build",): 1}


def test_maps_inside_few_items_are_divided_themselves() -> None:
    place = Watched(4, chunk_size=1)
    assert nested.with_backend(place).run({"count": 2}, "index") == {"index": 9}
    assert Counter(place.nodes)[("encode",)] == 6
    place.nodes.clear()
    assert nested.with_backend(place).map({"count": [2, 3]}, "count", output_name="index")["index"] == [9, 18]
    assert Counter(place.nodes)[("encode",)] == 15
    found = nested.with_backend(place).map_iter({"count": [2, 3]}, "count", output_name="index")
    assert [item["index"] for item in found] == [9, 18]


def test_no_more_jobs_than_the_place_takes_are_executed_at_a_time() -> None:
    place = Watched(3, chunk_size=1)
    twice = Pipeline(
        [
            flat.as_node(name="left", prefix="left_"),
            flat.as_node(name="right", prefix="right_", input_mapping={"other": "count"}),
        ],
        name="twice",
    )
    found = twice.with_backend(place).run({"count": 9, "other": 8}, ["left_index", "right_index"])
    assert found == {"left_index": 45, "right_index": 36}
    assert place.most <= 3


def test_the_jobs_of_a_place_are_shared_by_the_runs_and_maps_that_use_it() -> None:
    shares = JobShares()
    with shares.of_map() as first:
        assert first(5) == 5
        with shares.of_map() as second, shares.of_run():
            assert (first(5), second(5)) == (2, 2)
            assert (first(6), second(6)) == (3, 2)
            assert (first(1), second(1)) == (1, 1)
        assert first(5) == 5


class Job:
    """What the shares of a place ask of a channel."""

    is_cancelled = False


def test_a_job_waits_while_others_have_all_places_unless_there_are_more_runs_and_maps_than_these() -> None:
    shares, begun, other = JobShares(), threading.Event(), Job()

    def job(of: object) -> AbstractContextManager[None]:
        channel: Any = of
        return shares.of_job(channel, lambda: 2)

    def wait() -> None:
        with job(Job()):
            begun.set()

    with shares.of_map(), shares.of_map(), job(Job()), job(other):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not begun.wait(0.3)
        with shares.of_run():
            assert begun.wait(60)
        thread.join()
        cancelled = Job()
        cancelled.is_cancelled = True
        with pytest.raises(CancelledError), job(cancelled):
            pass
        other.is_cancelled = True  # nobody waits for it
        with job(Job()):
            pass


@pytest.mark.parametrize("pipeline", [flat, nested])
def test_events_and_cache_entries_are_those_of_a_run_here(pipeline: Pipeline) -> None:
    def observed(backend: Any, cache: MemoryCache) -> Any:
        recorder = Recorder()
        pipeline.with_backend(backend).with_cache(cache).with_callbacks([recorder]).run({"count": 7})
        contexts = [(context.node_path, context.item_path) for context in recorder.contexts]
        return Counter(map(repr, zip(recorder.events, contexts, strict=True)))

    here, there = MemoryCache(), MemoryCache()
    assert observed(SeveralAtOnce(3, chunk_size=2), there) == observed(LocalBackend(), here)
    again = Recorder()
    pipeline.with_cache(there).with_callbacks([again]).run({"count": 7})
    assert again.computed == []


def test_only_what_changed_is_sent_again() -> None:
    place = Watched(chunk_size=100)
    cached = flat.with_backend(place).with_cache(MemoryCache())
    cached.run({"count": 10}, "index")
    place.nodes.clear()
    assert cached.run({"count": 10}, "index") == {"index": 55}
    assert place.nodes == []
    assert cached.run({"count": 10, "scale": 2}, "index") == {"index": 110}
    assert place.nodes == [("build",)]
    place.nodes.clear()
    assert cached.run({"count": 12}, "index") == {"index": 78}
    assert place.nodes == [("load",), ("encode",), ("build",)]


def test_a_failed_item_is_collected_or_ends_the_run() -> None:
    with pytest.raises(ValueError, match="thirteen") as raised:
        flat.with_backend(Watched(chunk_size=4)).run({"count": 20})
    assert any("in node 'encode'" in note and "flat → all, map item 13" in note for note in notes_of(raised.value))
    collecting = Pipeline(
        [load, encode_all.as_node(input_mapping={"documents": "word"}, map_over="documents", on_error="collect")]
    )
    found = collecting.with_backend(Watched(chunk_size=4)).run({"count": 20}, "vector")["vector"]
    assert [index for index, value in enumerate(found) if isinstance(value, Failure)] == [13]


def test_what_cannot_be_mapped_over_is_named_as_here() -> None:
    @node(output_name="documents")
    def load_badly(count: int) -> int:
        return count

    bad = Pipeline([load_badly, *flat.nodes[1:]], name="bad")
    errors = []
    for backend in (LocalBackend(), Watched()):
        with pytest.raises(MapInputError) as raised:
            bad.with_backend(backend).run({"count": 3})
        errors.append((str(raised.value), [note.partition("; backend")[0] for note in notes_of(raised.value)]))
    assert errors[0] == errors[1]


class LosesFirst(Watched):
    """Loses the first worker that gets some node."""

    def __init__(self, name: str) -> None:
        super().__init__(2)
        self._lost_with = {name}

    def submit(self, job: bytes, channel: Channel) -> bytes:
        for name in self._lost_with.intersection(channel.node_names):
            self._lost_with.remove(name)
            super().submit(job, channel)  # its messages arrive
            raise WorkerLostError("gone", backend_name="several", exit_code=None, log_tail="")
        return super().submit(job, channel)


@pytest.mark.parametrize("name", ["load", "encode", "build"])
def test_a_job_whose_worker_is_lost_is_given_to_another_one(name: str) -> None:
    recorder = Recorder()
    pipeline = flat.with_backend(LosesFirst(name)).with_callbacks([recorder])
    assert pipeline.run({"count": 10}, "index") == {"index": 55}
    started = Counter(event for event in recorder.events if event[0] in ("node_start", "node_end"))
    assert started[("node_start", "load")] == started[("node_end", "build")] == 1


def test_a_worker_that_is_lost_twice_fails_the_run() -> None:
    class Loses(Watched):
        def submit(self, job: bytes, channel: Channel) -> bytes:
            self.nodes.append(channel.node_names)
            raise WorkerLostError("gone", backend_name="several", exit_code=None, log_tail="")

    place = Loses(2)
    with pytest.raises(WorkerLostError, match="gone"):
        flat.with_backend(place).run({"count": 10})
    assert place.nodes == [("load",)] * 2


def test_real_processes_divide_a_map_inside_a_run() -> None:
    with SubprocessBackend(jobs_at_once=2, chunk_size=5) as place:
        assert nested.with_backend(place).run({"count": 12}, "index") == nested.run({"count": 12}, "index")


def test_preflight_says_what_is_divided() -> None:
    place = Watched()
    found = place.preflight(flat, {"count": 10})
    assert (found.divided, found.jobs_at_once) == (("all",), 3)
    assert "divided among jobs: all; now up to 3 at a time" in str(found)
    assert place.preflight(encode_all, {"word": [1, 2]}, map_over="word").divided == ("encode",)
    assert InProcess().preflight(flat, {"count": 10}).divided == ()
    assert place.nodes == []
