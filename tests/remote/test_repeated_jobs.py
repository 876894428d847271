"""A job that begins again in another worker: callbacks observe each event once, in order, and an end of all that began.

`HYPERNODES_SCHEDULES=10000 pytest tests/remote/test_repeated_jobs.py` tries that many schedules.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.strategies import integers, lists, sampled_from

from hypernodes import Cache, MemoryCache, Pipeline, PipelineCallback, RemoteBackend, node
from hypernodes.remote import outbox
from hypernodes.remote.channel import Channel
from hypernodes.remote.worker import execute
from tests.remote.transports import Restarting
from tests.semantics.build import Built
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.reference import Reference
from tests.semantics.test_generated_pipelines import (
    MAX_CALLS,
    Observed,
    check_repeated_work,
)
from tests.support import Recorder

SCHEDULES = int(os.environ.get("HYPERNODES_SCHEDULES", "60"))


@pytest.fixture(autouse=True)
def _no_company() -> Iterator[None]:
    """Send every message on its own, so that a worker can be lost between any two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "_MAX_WAITING", 1)
        yield


@node(output_name="words")
def split(text: str) -> list[str]:
    return text.split()


@node(output_name="length")
def measure(word: str) -> int:
    return len(word)


@node(output_name="total")
def add_up(lengths: list[int]) -> int:
    return sum(lengths)


def whole(backend: RemoteBackend | None, cache: Cache | None, *callbacks: PipelineCallback) -> Pipeline:
    each = Pipeline([measure], name="each").as_node({"words": "word"}, {"length": "lengths"}, map_over="words")
    inner = Pipeline([split, each], name="inner")
    return Pipeline([inner, add_up], name="outer", backend=backend, cache=cache, callbacks=list(callbacks))


INPUTS = {"text": "in the beginning"}


@pytest.mark.parametrize("messages", [*range(24), 100])
@pytest.mark.parametrize("cache", [None, MemoryCache])
def test_callbacks_observe_what_they_do_when_no_worker_is_lost(messages: int, cache: Callable[[], Any] | None) -> None:
    expected, observed = Recorder(), Recorder()
    whole(None, None, expected).run(INPUTS)
    whole(Restarting([messages]), cache() if cache else None, observed).run(INPUTS)
    assert observed.events == expected.events
    for (_, _, local), (_, _, remote) in zip(expected.of("node_end"), observed.of("node_end"), strict=True):
        assert remote["outputs"] == local["outputs"] or (
            cache is not None and "the worker that computed it was lost" in repr(remote["outputs"])
        )


def only(hooks: Sequence[str], counts: Counter[str]) -> PipelineCallback:
    """Return a callback that overrides nothing but some hooks, and counts their calls."""
    callback = PipelineCallback()
    for hook in hooks:
        setattr(callback, hook, lambda *arguments, hook=hook: counts.update([hook]))
    return callback


@pytest.mark.parametrize(
    "hooks",
    [
        ("on_node_start",),
        ("on_node_end", "on_node_cached"),
        ("on_map_item_end", "on_map_item_cached", "on_map_end"),
        ("on_map_start", "on_nested_pipeline_end"),
        ("on_node_start", "on_node_cached", "on_map_item_start", "on_map_item_cached"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("cache", [None, MemoryCache])
def test_callbacks_that_override_some_hooks_only_count_right(hooks: tuple[str, ...], cache: Any) -> None:
    expected: Counter[str] = Counter()
    whole(None, None, only(hooks, expected)).run(INPUTS)
    for messages in range(0, 24, 3):
        counts: Counter[str] = Counter()
        whole(Restarting([messages, 3]), cache() if cache else None, only(hooks, counts)).run(INPUTS)
        assert set(counts) <= set(hooks)
        for kind in ("node", "map_item"):
            of_kind = [f"on_{kind}_start", f"on_{kind}_end", f"on_{kind}_cached"]
            # A node is not reported when its item, which nothing was observed of, comes from the cache as a whole.
            assert total_of(of_kind, expected) - 3 * bool(cache) <= total_of(of_kind, counts)
            assert total_of(of_kind, counts) <= total_of(of_kind, expected)
        for hook in ("on_map_start", "on_map_end", "on_nested_pipeline_end"):
            assert counts[hook] == expected[hook]


def total_of(hooks: Sequence[str], counts: Counter[str]) -> int:
    return sum(counts[hook] for hook in hooks)


class Interrupted(RemoteBackend):
    """A place whose first worker is lost once the caller's callbacks have observed something."""

    backend_name = "interrupted"

    def __init__(self, is_time: Callable[[], bool]) -> None:
        super().__init__()
        self._is_time = is_time

    def submit(self, job: bytes, channel: Channel) -> bytes:
        def exchange(message: bytes) -> bytes | None:
            if self._is_time():
                raise ConnectionError("nobody is there any more")
            return channel.handle(message)

        execute(job, exchange)
        return execute(job, channel.handle, is_repeated=True)


class StoredMeanwhile(Recorder):
    """Has another run store all results when it observes the start of a node."""

    def __init__(self, cache: Cache, node_name: str) -> None:
        super().__init__()
        self._store: Callable[[], Any] | None = lambda: whole(None, cache).run(INPUTS)
        self._node_name = node_name

    @property
    def is_stored(self) -> bool:
        return self._store is None

    def on_node_start(self, node_id: str, inputs: Any, ctx: Any) -> None:
        super().on_node_start(node_id, inputs, ctx)
        if node_id == self._node_name and self._store is not None:
            self._store()
            self._store = None


@pytest.mark.parametrize("node_name", ["split", "measure", "add_up"])
def test_what_a_lost_worker_began_and_the_next_one_finds_in_the_cache_ends(node_name: str) -> None:
    cache = MemoryCache()
    observed = StoredMeanwhile(cache, node_name)
    assert whole(Interrupted(lambda: observed.is_stored), cache, observed).run(INPUTS)["total"] == 14
    began = [event[1:] for event in observed.events if event[0].endswith("_start") and event[0] != "map_start"]
    ended = [event[1:] for event in observed.events if event[0].endswith("_end") and event[0] != "map_end"]
    assert sorted(map(repr, ended)) == sorted(map(repr, began))
    assert len(observed.of("map_start")) == len(observed.of("map_end"))
    assert node_name not in observed.cached
    ((_, _, payload),) = [row for row in observed.of("node_end") if row[0][1] == node_name]
    (name,) = payload["outputs"]
    value = {"split": "words", "measure": "length", "add_up": "total"}
    assert name == value[node_name]
    if node_name == "add_up":
        assert payload["outputs"] == {"total": 14}


def test_a_node_that_failed_in_a_lost_worker_does_not_end_twice() -> None:
    failed: list[str] = []

    @node(output_name="length")
    def measure(word: str, failed: Any) -> int:
        if word == "the" and not failed:
            failed.append(word)
            raise ValueError("the first time only")
        return len(word)

    class Same(RemoteBackend):
        backend_name = "same"

        def submit(self, job: bytes, channel: Channel) -> bytes:
            execute(job, channel.handle)
            failed.append("once")
            return execute(job, channel.handle, is_repeated=True)

    observed = Recorder()
    each = Pipeline([measure], name="each", backend=Same(), callbacks=[observed])
    each.map({"word": ["in", "the"], "failed": failed}, map_over="word", on_error="collect")
    ends = [event for event in observed.events if event[0] in ("node_end", "error")]
    assert len(ends) == len(observed.of("node_start")) == 2


@pytest.mark.slow
@settings(max_examples=SCHEDULES, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    scenario=scenarios(),
    losses=lists(integers(0, 12), min_size=1, max_size=3),
    modes=sampled_from([("sequential", "sequential"), ("threaded", "threaded"), ("sequential", "threaded")]),
)
def test_workers_that_are_lost_change_neither_results_nor_the_order_of_events(
    scenario: Scenario, losses: list[int], modes: tuple[Any, Any]
) -> None:
    execution = scenario.executions[0]
    expected = Reference(scenario.pipeline).execute(execution)
    assume(expected.calls.total() <= MAX_CALLS)
    with tempfile.TemporaryDirectory() as folder:
        backend = Restarting(losses, node_execution=modes[0], map_execution=modes[1], max_workers=3)
        observed = Observed(Built(scenario.pipeline, folder, backend), execution)
    check_repeated_work(observed, expected)
