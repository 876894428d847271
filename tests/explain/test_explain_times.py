"""How long a run would take, going by how long its nodes took when they were computed last."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, Pipeline, node
from hypernodes.cache.record import describe_record, is_record_key
from hypernodes.durations import in_words
from tests.remote.transports import InProcess
from tests.semantics.build import DictCache


@node(output_name="y")
def rest(x: int, seconds: float) -> int:
    time.sleep(seconds)
    return x


@node(output_name="z")
def add(y: int) -> int:
    return y + 1


@pytest.mark.parametrize(
    "backend", [LocalBackend(), LocalBackend("threaded"), InProcess()], ids=["sequential", "threaded", "remote"]
)
def test_an_edited_input_says_how_long_the_nodes_took_last(backend: Any) -> None:
    pipeline = Pipeline([rest, add], cache=MemoryCache(), backend=backend, name="resting")
    assert pipeline.explain({"x": 1, "seconds": 0.3}).seconds == 0.0  # nobody knows
    pipeline.run({"x": 1, "seconds": 0.3})
    found = pipeline.explain({"x": 2, "seconds": 0.3})
    seconds = found["rest"].seconds
    assert seconds is not None
    assert 0.3 <= seconds < 30
    assert found.seconds >= seconds
    assert "would run, about " in repr(found)
    assert "of work" in found.summary
    assert pipeline.explain({"x": 1, "seconds": 0.3}).seconds == 0.0


def test_the_time_of_a_map_is_that_of_the_items_that_would_run() -> None:
    pipeline = Pipeline([rest, add], cache=MemoryCache())
    pipeline.map({"x": [1, 2], "seconds": 0.02}, "x")
    found = pipeline.explain({"x": [1, 2, *range(3, 103)], "seconds": 0.02}, map_over="x")
    node_explanation = found["rest"]
    assert (node_explanation.hits, node_explanation.runs) == (2, 100)
    assert node_explanation.seconds is not None
    assert node_explanation.seconds == pytest.approx(100 * (node_explanation.seconds_per_run or 0.0))
    assert node_explanation.seconds >= 2.0


def test_a_record_says_how_long_the_computation_took() -> None:
    cache = DictCache()
    Pipeline([rest], cache=cache).run({"x": 1, "seconds": 0.05})
    (record,) = [value for key, value in cache.records.items() if is_record_key(key)]
    assert record["duration_s"] >= 0.05
    assert describe_record(record)[0].endswith(f", in {in_words(record['duration_s'])}")
    without = {name: value for name, value in record.items() if name != "duration_s"}
    assert ", in " not in describe_record(without)[0]  # one that an older version wrote
    assert describe_record({**record, "duration_s": "long"}) == ["a record that this version cannot read"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "less than 1 ms"),
        (0.0123, "12 ms"),
        (0.002, "2 ms"),
        (1.34, "1.3 s"),
        (40.2, "40 s"),
        (119.4, "119 s"),
        (840.0, "14 min"),
        (9000.0, "2.5 h"),
        (267840.0, "3.1 days"),
    ],
)
def test_durations_are_written_with_two_digits(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
