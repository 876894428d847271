"""Results that count for some time only (`cache_for`): found while they are fresh, replaced afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hypernodes import (
    Cache,
    ConfigurationError,
    LocalBackend,
    MemoryCache,
    Node,
    Pipeline,
    PipelineCallback,
    SubprocessBackend,
    node,
)
from hypernodes.engine.frames import dated_results
from tests.semantics.build import Calls, DictCache
from tests.semantics.modes import REMOTE_MODES, Modes, local_backend


class Clock:
    """The time of day, which goes on when a test says so."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(dated_results, "seconds_since_epoch", clock)
    return clock


class Seen(PipelineCallback):
    def __init__(self) -> None:
        self.started: list[str] = []
        self.cached: list[str] = []

    def on_node_start(self, node_id: str, inputs: Any, ctx: Any) -> None:
        self.started.append(node_id)

    def on_node_cached(self, node_id: str, signature: str, ctx: Any) -> None:
        self.cached.append(node_id)

    def take(self) -> tuple[list[str], list[str]]:
        found = sorted(self.started), sorted(self.cached)
        self.started, self.cached = [], []
        return found


class Service:
    """A service whose answer changes, which is no part of the identity of the node that asks it."""

    def __init__(self) -> None:
        self.version = 1

    def __cache_key__(self) -> str:
        return "service"


def asking(service: Service, *, is_text_cached: bool = True) -> list[Node[..., Any]]:
    @node(output_name="text", cache=is_text_cached)
    def clean(doc: str) -> str:
        return doc.strip()

    @node(output_name="answer", cache_for=60)
    def ask(text: str) -> str:
        return f"{text} v{service.version}"

    @node(output_name="size")
    def measure(answer: str) -> int:
        return len(answer)

    return [clean, ask, measure]


@pytest.mark.parametrize("modes", REMOTE_MODES[:3])
@pytest.mark.parametrize("is_text_cached", [True, False])
def test_a_result_is_found_while_it_is_fresh_and_computed_again_afterwards(
    clock: Clock, modes: Modes, is_text_cached: bool
) -> None:
    service, seen = Service(), Seen()
    nodes = asking(service, is_text_cached=is_text_cached)
    pipeline = Pipeline(nodes, cache=DictCache(), callbacks=[seen]).with_backend(local_backend(modes))
    docs = {"doc": [" a", "b ", " a"]}
    cleaned = [] if is_text_cached else ["clean"] * 3

    def run() -> dict[str, list[Any]]:
        return pipeline.map(docs, "doc", output_name=["answer", "size"])

    assert run() == {"answer": ["a v1", "b v1", "a v1"], "size": [4, 4, 4]}
    assert seen.take()[0].count("ask") == 2
    clock.at += 59
    service.version = 2
    assert run()["answer"] == ["a v1", "b v1", "a v1"]
    assert seen.take()[0] == cleaned
    clock.at += 1
    assert run()["answer"] == ["a v2", "b v2", "a v2"]
    started = seen.take()[0]
    assert (started.count("ask"), started.count("measure")) == (2, 2)
    clock.at += 61
    run()
    assert [name for name in seen.take()[0] if name != "clean"] == ["ask", "ask"], (
        "what depends on an equal answer runs"
    )


def test_workers_processes_and_items_of_mapped_pipelines_know_the_time_too(clock: Clock, tmp_path: Path) -> None:
    calls = Calls(str(tmp_path))

    @node(output_name="answer", cache_for=60)
    def ask(doc: str) -> str:
        calls.add("ask", (doc,))
        return doc.upper()

    inner = Pipeline([ask]).as_node({"docs": "doc"}, {"answer": "answers"}, map_over="docs")
    pipeline = Pipeline([inner], cache=DictCache())
    backend = LocalBackend(map_execution="parallel", max_workers=2)
    for wait, expected in [(0, 2), (30, 0), (31, 2)]:
        clock.at += wait
        calls.clear()
        assert pipeline.with_backend(backend).run({"docs": ["a", "b"]}) == {"answers": ["A", "B"]}
        assert calls.count.total() == expected


@pytest.mark.slow
@pytest.mark.parametrize("modes", REMOTE_MODES)
def test_another_process_asks_the_cache_of_the_caller(clock: Clock, tmp_path: Path, modes: Modes) -> None:
    calls = Calls(str(tmp_path))

    @node(output_name="text", cache=False)
    def clean(doc: str) -> str:
        return doc.strip()

    @node(output_name="answer", cache_for=60)
    def ask(text: str) -> str:
        calls.add("ask", (text,))
        return text.upper()

    import time

    clock.at = time.time()  # the other process has a clock of its own
    node_execution, map_execution = modes
    with SubprocessBackend(node_execution=node_execution, map_execution=map_execution) as backend:
        for nodes, given in (([ask], "text"), ([clean, ask], "doc")):
            pipeline = Pipeline(nodes, cache=DictCache()).with_backend(backend)
            inner = Pipeline(nodes).as_node({"many": given}, map_over="many")
            outer = Pipeline([inner], cache=DictCache()).with_backend(backend)
            for expected in (3, 0):
                calls.clear()
                assert pipeline.map({given: ["a", "b"]}, given)["answer"] == ["A", "B"]
                assert pipeline.run({given: "c"})["answer"] == "C"
                assert calls.count.total() == expected
                assert outer.run({"many": ["a", "b"]})["answer"] == ["A", "B"]
                assert calls.count.total() == expected + (2 if expected else 0)


def test_several_outputs_have_one_age(clock: Clock) -> None:
    @node(output_name=("low", "high"), cache_for=10)
    def bounds(x: int) -> tuple[int, int]:
        return x - 1, x + 1

    cache, seen = DictCache(), Seen()
    pipeline = Pipeline([bounds], cache=cache, callbacks=[seen])
    for expected in (["bounds"], [], ["bounds"]):
        assert pipeline.run({"x": 5}, "high") == {"high": 6}
        assert seen.take()[0] == expected
        assert len(cache.entries) == 2
        clock.at += 5


def test_an_entry_from_the_future_counts_as_absent(clock: Clock) -> None:
    service = Service()
    pipeline = Pipeline(asking(service), cache=DictCache())
    pipeline.run({"doc": "a"})
    clock.at -= 5
    service.version = 2
    assert pipeline.explain({"doc": "a"})["ask"].reasons == (
        "its result is from 5 s in the future, so it is not known how old it is (cache_for=60 s)",
    )
    assert pipeline.run({"doc": "a"})["answer"] == "a v2"


def test_explain_says_how_old_a_result_is_and_goes_on_with_fresh_ones(clock: Clock) -> None:
    pipeline = Pipeline(asking(Service()), cache=MemoryCache())
    assert pipeline.explain({"doc": "a"})["ask"].reasons[0].startswith("not computed yet for these inputs")
    pipeline.run({"doc": "a"})
    fresh = pipeline.explain({"doc": "a"})
    assert fresh.is_fully_cached
    assert [fresh[name].status for name in ("clean", "ask", "measure")] == ["hit", "hit", "hit"]
    clock.at += 90
    old = pipeline.explain({"doc": "a"})
    assert old["ask"].status == "run"
    assert old["ask"].reasons == ("its result is 90 s old, and counts for 60 s",)
    assert old["measure"].status == "unknown"


@pytest.mark.parametrize("make_cache", [MemoryCache, DictCache])
def test_a_new_result_replaces_the_old_one(clock: Clock, make_cache: Callable[[], Cache]) -> None:
    service = Service()
    cache = make_cache()
    pipeline = Pipeline(asking(service), cache=cache)
    for version in (1, 2, 3):
        service.version = version
        assert pipeline.run({"doc": "a"})["answer"] == f"a v{version}"
        assert pipeline.run({"doc": "a"})["answer"] == f"a v{version}"
        clock.at += 61


def test_a_node_without_a_cache_is_called_each_time() -> None:
    service = Service()
    pipeline = Pipeline(asking(service))
    assert pipeline.run({"doc": "a"})["answer"] == "a v1"
    service.version = 2
    assert pipeline.run({"doc": "a"})["answer"] == "a v2"


@pytest.mark.parametrize("value", [0, -1, "60", float("inf"), True, float("nan")])
def test_a_time_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="cache_for of node 'f' must be seconds, more than 0"):
        Node(abs, "y", name="f", cache_for=value)


def test_a_time_for_results_that_are_not_stored_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cache_for of node 'f' has no use with cache=False"):
        Node(abs, "y", name="f", cache_for=3, cache=False)


def test_explain_follows_results_that_age_one_after_the_other(clock: Clock) -> None:
    @node(output_name="first", cache_for=60)
    def ask_first(q: int) -> int:
        return q

    @node(output_name="second", cache_for=60)
    def ask_second(first: int) -> int:
        return first

    @node(output_name="last")
    def use(second: int) -> int:
        return second

    pipeline = Pipeline([ask_first, ask_second, use], cache=MemoryCache())
    pipeline.run({"q": 1})
    assert pipeline.explain({"q": 1}).is_fully_cached
    assert pipeline.explain({"q": [1, 1]}, map_over="q").is_fully_cached
