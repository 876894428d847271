"""What a remote run finds in the caches here: what is found neither runs nor travels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hypernodes import Cache, CacheWarning, Failure, MemoryCache, Pipeline, node
from hypernodes.engine.identity.records import Outline
from tests.remote.transports import InProcess, Patient, Silent
from tests.support import Recorder, RecordingCache

LARGE = 50_000


@node(output_name="vector")
def encode(text: bytes, scale: int = 1) -> bytes:
    return bytes(reversed(text)) * scale


@node(output_name="length")
def measure(vector: bytes) -> int:
    return len(vector)


@node(output_name="total")
def add_up(lengths: list[int]) -> int:
    return sum(lengths)


@node(output_name="texts")
def split(document: bytes) -> list[bytes]:
    return [document[i : i + 10] for i in range(0, len(document), 10)]


@node(output_name="drawn", cache=False)
def draw(document: bytes) -> bytes:
    return document[:35]


@node(output_name="inverse")
def invert(x: int) -> float:
    return 1 / x


def large(number: int) -> bytes:
    """A text that is unlike others and cannot be made smaller."""
    return number.to_bytes(4, "big") * (LARGE // 4)


def encode_all() -> Any:
    return Pipeline([encode, measure], name="inner").as_node(
        input_mapping={"texts": "text"}, output_mapping={"vector": "vectors", "length": "lengths"}, map_over="texts"
    )


@pytest.fixture
def place() -> InProcess:
    return InProcess()


@pytest.fixture
def observed() -> Recorder:
    return Recorder()


# --- nothing to do ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_cached_makes_no_call(place: InProcess, observed: Recorder) -> None:
    pipeline = Pipeline([encode, measure], backend=place, cache=MemoryCache(), callbacks=[observed])
    first = pipeline.run({"text": b"abc"})
    place.clear()
    observed.clear()
    assert pipeline.run({"text": b"abc"}) == first
    assert place.jobs == []
    assert sorted(observed.cached) == ["encode", "measure"]
    assert [event[0] for event in observed.events][:: len(observed.events) - 1] == ["pipeline_start", "pipeline_end"]


def test_a_map_that_is_cached_makes_no_call(place: InProcess, observed: Recorder) -> None:
    pipeline = Pipeline([encode, measure], backend=place, cache=MemoryCache(), callbacks=[observed])
    first = pipeline.map({"text": [b"a", b"bc"]}, map_over="text")
    place.clear()
    observed.clear()
    assert pipeline.map({"text": [b"a", b"bc"]}, map_over="text") == first
    assert place.jobs == []
    assert observed.cached_items == [0, 1]


def test_a_mapped_node_that_is_cached_makes_no_call(place: InProcess, observed: Recorder) -> None:
    pipeline = Pipeline([encode_all(), add_up], backend=place, cache=MemoryCache(), callbacks=[observed])
    first = pipeline.run({"texts": [b"a", b"bc"]})
    place.clear()
    assert pipeline.run({"texts": [b"a", b"bc"]}) == first
    assert place.jobs == []


def test_a_map_over_nothing_makes_no_call(place: InProcess) -> None:
    assert Pipeline([encode], backend=place).map({"text": []}, map_over="text") == {"vector": []}
    assert place.jobs == []


# --- a part to do ----------------------------------------------------------------------------------------------------


def test_only_the_missing_items_of_a_map_travel(place: InProcess, observed: Recorder) -> None:
    pipeline = Pipeline([encode, measure], backend=place, cache=MemoryCache(), callbacks=[observed])
    pipeline.map({"text": [large(i) for i in range(0, 20, 2)]}, map_over="text")
    place.clear()
    observed.clear()
    found = pipeline.map({"text": [large(i) for i in range(20)]}, map_over="text")
    assert found["vector"] == [large(i)[::-1] for i in range(20)]
    assert observed.cached_items == list(range(0, 20, 2))
    assert [event[1] for event in observed.events if event[0] == "map_item_start"] == list(range(1, 20, 2))
    (job,) = place.jobs
    assert 10 * LARGE < len(job) < 10.5 * LARGE
    assert all((large(i)[:400] in job) == bool(i % 2) for i in range(20))


def test_only_the_missing_items_of_a_mapped_node_travel(place: InProcess, observed: Recorder) -> None:
    pipeline = Pipeline([encode_all(), add_up], backend=place, cache=MemoryCache(), callbacks=[observed])
    pipeline.run({"texts": [large(i) for i in range(0, 20, 2)]})
    place.clear()
    observed.clear()
    found = pipeline.run({"texts": [large(i) for i in range(20)]})
    assert found["total"] == 20 * LARGE
    assert found["vectors"] == [large(i)[::-1] for i in range(20)]
    assert observed.computed.count("encode") == 10
    (job,) = place.jobs
    assert len(job) < 10.5 * LARGE
    assert place.questions == 0  # all that could be asked was looked up before


def test_results_travel_where_something_takes_them_and_inputs_only_for_what_runs(
    place: InProcess, observed: Recorder
) -> None:
    cache = MemoryCache()
    Pipeline([encode], backend=place, cache=cache).run({"text": large(1)})
    place.clear()
    pipeline = Pipeline([encode, measure], backend=place, cache=cache, callbacks=[observed])
    assert pipeline.run({"text": large(1)}, "length") == {"length": LARGE}
    assert (observed.cached, observed.computed) == (["encode"], ["measure"])
    (job,) = place.jobs
    assert large(1)[::-1][:400] in job
    assert len(job) < 1.5 * LARGE  # the result, and not the text that it was made from
    place.clear()
    Pipeline([encode, measure, invert], backend=place, cache=cache).run({"text": large(1), "x": 2})
    (job,) = place.jobs
    assert len(job) < LARGE  # neither: nothing that runs takes them


def test_a_value_that_appears_several_times_travels_once(place: InProcess) -> None:
    text = large(7)
    Pipeline([encode], backend=place).map({"text": [text] * 30}, map_over="text")
    twice = Pipeline([encode], name="a").as_node(input_mapping={"one": "text"}, output_mapping={"vector": "v1"})
    again = Pipeline([encode], name="b").as_node(input_mapping={"two": "text"}, output_mapping={"vector": "v2"})
    Pipeline([twice, again], backend=place).run({"one": text, "two": text})
    assert all(len(job) < 1.5 * LARGE for job in place.jobs)


def test_overridden_and_unrequested_outputs_do_not_run(place: InProcess, observed: Recorder) -> None:
    pipeline = Pipeline([encode, measure, invert], backend=place, cache=MemoryCache(), callbacks=[observed])
    assert pipeline.run({"vector": b"12"}, "length") == {"length": 2}
    assert observed.computed == ["measure"]


def test_an_output_that_is_given_and_asked_for_comes_back(place: InProcess) -> None:
    pipeline = Pipeline([encode, measure, invert], backend=place, cache=MemoryCache())
    assert pipeline.run({"length": 7, "x": 2}, ["length", "inverse"]) == {"length": 7, "inverse": 0.5}
    found = pipeline.map({"length": [7, 8], "x": 4}, "length", output_name=["length", "inverse"])
    assert found == {"length": [7, 8], "inverse": [0.25, 0.25]}


def test_nested_maps_and_lists_of_lists_send_what_is_missing(place: InProcess, observed: Recorder) -> None:
    documents = Pipeline([split, encode_all(), add_up], name="document").as_node(
        input_mapping={"documents": "document"}, output_mapping={"total": "totals"}, map_over="documents"
    )
    pipeline = Pipeline([documents], backend=place, cache=MemoryCache(), callbacks=[observed])
    first = pipeline.run({"documents": [b"x" * 25, b"y" * 12]})
    place.clear()
    observed.clear()
    assert pipeline.run({"documents": [b"x" * 25, b"y" * 12]}) == first
    assert place.jobs == []
    found = pipeline.run({"documents": [b"x" * 25, b"z" * 31, b"y" * 12]})
    assert found["vectors"] == [[b"x" * 10, b"x" * 10, b"x" * 5], [b"z" * 10] * 3 + [b"z"], [b"y" * 10, b"y" * 2]]
    assert observed.computed.count("split") == 1
    assert observed.computed.count("encode") == 2  # three of the four are the same


def test_a_product_computes_the_missing_combinations(place: InProcess, observed: Recorder) -> None:
    table = Pipeline([encode], name="inner").as_node(map_over=["text", "scale"], map_mode="product")
    pipeline = Pipeline([table], backend=place, cache=MemoryCache(), callbacks=[observed])
    pipeline.run({"text": [b"a", b"b"], "scale": [1, 2]})
    observed.clear()
    found = pipeline.run({"text": [b"a", b"c"], "scale": [1, 2]})
    assert found == {"vector": [b"a", b"aa", b"c", b"cc"]}
    assert observed.computed == ["encode", "encode"]
    observed.clear()
    assert pipeline.map({"text": [[b"a"], [b"c"]], "scale": [1, 3]}, "text") == {
        "vector": [[b"a", b"aaa"], [b"c", b"ccc"]]
    }
    assert observed.computed == ["encode", "encode"]


def test_each_pipeline_asks_its_own_cache(place: InProcess, observed: Recorder) -> None:
    outer, inner = RecordingCache(), RecordingCache()
    nested = Pipeline([measure], name="measures", cache=inner)
    uncached = Pipeline([add_up], name="sums", cache=False)
    pipeline = Pipeline([encode, nested, uncached], backend=place, cache=outer, callbacks=[observed])
    pipeline.run({"text": b"ab", "lengths": [1]})
    assert (len(outer.stored), len(inner.stored)) == (1, 1)
    observed.clear()
    pipeline.run({"text": b"ab", "lengths": [1]})
    assert sorted(observed.cached) == ["encode", "measure"]
    assert observed.computed == ["add_up"]


# --- what is known only there ----------------------------------------------------------------------------------------


def uncertain(place: Any, cache: Cache, observed: Recorder) -> Pipeline:
    """Items that come from a node whose result is never cached, so that they are not known beforehand."""
    texts = Pipeline([split], name="texts").as_node(input_mapping={"drawn": "document"})
    return Pipeline([draw, texts, encode_all(), add_up], backend=place, cache=cache, callbacks=[observed])


def test_what_could_not_be_looked_up_before_is_asked_back(place: InProcess, observed: Recorder) -> None:
    pipeline = uncertain(place, MemoryCache(), observed)
    first = pipeline.run({"document": b"0123456789abc"})
    place.clear()
    observed.clear()
    assert pipeline.run({"document": b"0123456789abc"}) == first
    assert observed.computed == ["draw"]
    assert len(place.jobs) == 1
    assert place.questions <= 6


def test_what_may_turn_out_to_be_needed_there_travels(place: InProcess, observed: Recorder) -> None:
    @node(output_name="combined")
    def combine(drawn: bytes, vector: bytes) -> bytes:
        return drawn + vector

    pipeline = Pipeline([draw, encode, combine], backend=place, cache=MemoryCache(), callbacks=[observed])
    for _ in range(2):
        assert pipeline.run({"document": b"ab", "text": b"cd"}, "combined") == {"combined": b"abdc"}
    assert observed.computed.count("encode") == 1


@node(output_name="repeated")
def repeat(vector: bytes, times: int) -> bytes:
    return vector * times


def in_items_known_over_there() -> list[Any]:
    """The title is encoded in one place where nothing takes it, and in an item that comes from a node over there."""
    title = Pipeline([encode], name="title").as_node(
        input_mapping={"title": "text"}, output_mapping={"vector": "encoded_title"}
    )
    texts = Pipeline([split], name="texts").as_node(input_mapping={"drawn": "document"})
    each = Pipeline([encode, repeat], name="each").as_node(input_mapping={"texts": "text"}, map_over="texts")
    return [title, draw, texts, each]


def in_a_call_known_over_there() -> list[Any]:
    """The same with a call whose input comes from a node over there."""
    title = Pipeline([encode], name="title").as_node(
        input_mapping={"title": "text"}, output_mapping={"vector": "encoded_title"}
    )
    drawn = Pipeline([encode, repeat], name="drawn").as_node(input_mapping={"drawn": "text"})
    return [title, draw, drawn]


@pytest.mark.parametrize("nodes", [in_items_known_over_there, in_a_call_known_over_there])
@pytest.mark.parametrize("place", [InProcess(), Silent()], ids=["with messages", "without messages"])
def test_what_stands_for_a_result_is_given_to_no_node(place: Any, nodes: Callable[[], list[Any]]) -> None:
    inputs = {"document": [b"0123456789", b"abc"], "title": [b"0123456789", b"0123456789"]}
    remote = Pipeline(nodes(), backend=place, cache=MemoryCache())
    for times in (1, 2):
        found = remote.map({**inputs, "times": times}, ["document", "title"])
        assert found == Pipeline(nodes()).map({**inputs, "times": times}, ["document", "title"])


def test_many_items_take_few_round_trips(place: InProcess, observed: Recorder) -> None:
    @node(output_name="numbers", cache=False)
    def count(limit: int) -> list[int]:
        return list(range(1, limit + 1))

    each = Pipeline([invert], name="each").as_node(
        input_mapping={"numbers": "x"}, output_mapping={"inverse": "inverses"}, map_over="numbers"
    )
    pipeline = Pipeline([count, each], backend=place, cache=MemoryCache(), callbacks=[observed])
    pipeline.run({"limit": 900})
    place.clear()
    observed.clear()
    pipeline.run({"limit": 1000})
    assert observed.computed.count("invert") == 100
    assert place.questions <= 3


def test_a_backend_without_messages_computes_what_it_cannot_ask_for(observed: Recorder) -> None:
    cache = MemoryCache()
    pipeline = uncertain(Silent(), cache, observed)
    first = pipeline.run({"document": b"0123456789abc"})
    observed.clear()
    assert pipeline.run({"document": b"0123456789abc"}) == first
    assert observed.computed.count("encode") == 2
    local = Pipeline(pipeline.nodes, cache=cache, callbacks=[observed])
    observed.clear()
    assert local.run({"document": b"0123456789abc"}) == first
    assert observed.computed == ["draw"]  # what it computed came with the outcome


def test_an_item_that_comes_again_is_not_computed_again(place: InProcess, observed: Recorder) -> None:
    pipeline = Pipeline([invert], backend=place, cache=MemoryCache(), callbacks=[observed])
    found = pipeline.map({"x": [*range(1, 600), *range(1, 600)]}, "x")["inverse"]
    assert found == [1 / x for x in range(1, 600)] * 2
    assert len(observed.computed) == 599


# --- failures --------------------------------------------------------------------------------------------------------


def test_failures_are_collected_and_pass_on(place: InProcess, observed: Recorder) -> None:
    @node(output_name="rounded")
    def round_up(inverse: float) -> int:
        return int(inverse) + 1

    cache = MemoryCache()
    pipeline = Pipeline([invert], backend=place, cache=cache, callbacks=[observed])
    found = pipeline.map({"x": [1, 0, 2]}, "x", on_error="collect")["inverse"]
    assert isinstance(failure := found[1], Failure)
    assert isinstance(failure.error, ZeroDivisionError)
    assert (failure.item_index, found[0], found[2]) == (1, 1.0, 0.5)
    observed.clear()
    again = pipeline.map({"x": [1, 0, 2, 4]}, "x", on_error="collect")["inverse"]
    assert [type(value) for value in again] == [float, Failure, float, float]
    assert observed.computed == ["invert", "invert"]
    rest = Pipeline([round_up], backend=place, cache=cache)
    passed_on = rest.map({"inverse": found}, "inverse", on_error="collect")["rounded"]
    assert [type(value) for value in passed_on] == [int, Failure, int]
    assert isinstance(passed_on[1].error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        rest.map({"inverse": found}, "inverse")


def test_generators_are_read_once(place: InProcess) -> None:
    def texts() -> Iterator[bytes]:
        yield from (b"a", b"bc")

    pipeline = Pipeline([encode_all(), add_up], backend=place, cache=MemoryCache())
    assert pipeline.run({"texts": texts()})["total"] == 3
    assert Pipeline([encode, measure], backend=place).map({"text": texts()}, "text")["length"] == [1, 2]


# --- the same results here and there ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verse:
    text: str
    number: int


@node(output_name="verses")
def read(source: str) -> list[Verse]:
    return [Verse(word, i) for i, word in enumerate(source.split())]


@node(output_name="size")
def size_of(verse: Verse) -> int:
    return len(verse.text)


@pytest.mark.parametrize("first_is_remote", [True, False])
def test_results_made_here_and_there_have_the_same_keys(first_is_remote: bool, observed: Recorder) -> None:
    @dataclass
    class Note:
        verse: Verse

    @node(output_name="note", cache=False)
    def comment(size: int) -> Note:
        return Note(Verse("local", size))

    @node(output_name="seen")
    def look(note: Note) -> str:
        return note.verse.text

    sizes = Pipeline([size_of, comment, look], name="each").as_node(
        input_mapping={"verses": "verse"}, map_over="verses"
    )
    cache = MemoryCache()
    here = Pipeline([read, sizes], cache=cache, callbacks=[observed])
    there = here.with_backend(InProcess())
    first, second = (there, here) if first_is_remote else (here, there)
    expected = first.run({"source": "in the beginning"}, ["size", "seen"])
    observed.clear()
    assert second.run({"source": "in the beginning"}, ["size", "seen"]) == expected
    assert set(observed.computed) == {"comment"}


def test_what_a_short_job_has_to_say_comes_with_its_outcome() -> None:
    backend, recorder, cache = Patient(), Recorder(), MemoryCache()
    pipeline = Pipeline([encode, measure], backend=backend, callbacks=[recorder], cache=cache)
    assert pipeline.run({"text": b"abc"}) == {"vector": b"cba", "length": 3}
    assert (backend.notes, backend.questions) == (0, 0)
    assert recorder.computed == ["encode", "measure"]
    assert pipeline.run({"text": b"abc"}) == {"vector": b"cba", "length": 3}
    assert len(backend.jobs) == 1


def test_a_question_waits_for_nothing_and_comes_after_what_was_said_before_it() -> None:
    backend, recorder = Patient(), Recorder()
    split_drawn = Pipeline([split]).as_node(input_mapping={"drawn": "document"})
    nodes = [draw, split_drawn, encode_all()]
    pipeline = Pipeline(nodes, backend=backend, callbacks=[recorder], cache=MemoryCache())
    first = pipeline.run({"document": bytes(range(60))})
    assert backend.questions > 0
    assert backend.notes > 0
    recorder.clear()
    assert pipeline.run({"document": bytes(range(60))}) == first
    assert recorder.computed == ["draw"]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_remote_side_stores_only_under_keys_that_its_job_can_have(
    place: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands for the caller's cache over there tries everything: another key, a key with an origin that is made up
    or belongs to another node, a list, a record.
    """
    from hypernodes.cache.record import RECORD_PREFIX
    from hypernodes.engine.identity.plan_code import CALL, Origin
    from hypernodes.engine.store.run_store import manifest_key
    from hypernodes.remote.proxies import CacheProxy

    made_up = [
        Origin(CALL, b"c" * 32, (b"i" * 32,)),
        Origin(b"map zip over a of a", b"c" * 32, ()),
        Origin(b"", b"", ()),
    ]
    foreign = {"ab" * 32: "poison", manifest_key("cd" * 32): b"", f"{RECORD_PREFIX}{'ef' * 32}": {"format": "1"}}
    foreign |= {origin.signature().hex(): "poison" for origin in made_up}
    original = CacheProxy.put_many

    def put_many(self: CacheProxy, entries: Any, labels: Any = None) -> None:
        self.note_origins({origin.signature().hex(): origin for origin in made_up})
        genuine = next(iter(self._origins.values()))
        self.note_origins({"ab" * 32: genuine, manifest_key("cd" * 32): genuine})
        original(self, {**entries, **foreign}, labels)

    monkeypatch.setattr(CacheProxy, "put_many", put_many)
    cache = RecordingCache()
    pipeline = Pipeline([encode, measure], backend=place, cache=cache)
    with pytest.warns(CacheWarning, match="its key is not one that the nodes that were sent there can have"):
        assert pipeline.run({"text": b"abc"})["length"] == 3
    assert len(cache.stored) == 2
    assert not cache.contains_many(foreign)
    assert set(cache._records) == set(Outline(pipeline.plan_for(["text"], None), ()).keys.values())


def test_lists_and_several_outputs_made_over_there_are_stored(place: InProcess, observed: Recorder) -> None:
    @node(output_name=("head", "tail"))
    def divide(vectors: list[bytes]) -> tuple[bytes, list[bytes]]:
        return vectors[0], vectors[1:]

    pipeline = Pipeline([split, encode_all(), divide, add_up], backend=place, cache=MemoryCache(), callbacks=[observed])
    first = pipeline.run({"document": bytes(range(35))})
    observed.clear()
    assert pipeline.run({"document": bytes(range(35))}) == first
    assert observed.computed == []


inner_cache = MemoryCache()
inner_pipeline = Pipeline([encode], cache=inner_cache, name="inside a node")


def test_pipelines_that_nodes_run_over_there_store_their_results(place: InProcess) -> None:
    @node(output_name="found")
    def look(text: bytes) -> bytes:
        found: bytes = inner_pipeline.run({"text": text})["vector"]
        return found

    assert Pipeline([look], backend=place).run({"text": b"ab"})["found"] == b"ba"
    assert inner_cache.stats().entries == 1
