"""The last jobs of a divided map that take long: others compute their items too, where the nodes allow it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypernodes import ConfigurationError, MemoryCache, Pipeline, node
from hypernodes.plan import Plan
from hypernodes.remote import stragglers
from hypernodes.remote.channel import Channel
from hypernodes.remote.stragglers import Doubled, is_late, may_be_repeated
from tests.remote.fatal_items import calls_in
from tests.remote.transports import SeveralAtOnce
from tests.support import Recorder

STUCK = 3


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(stragglers, "_LONG_S", 0.0)
    yield
    (tmp_path / "released").touch()


def compute(x: int, folder: str) -> int:
    """Double a number; the first call for one of them does not return before it is released."""
    with open(f"{folder}/calls", "a") as file:
        file.write(f"{x}\n")
    mark = Path(folder, "first")
    if x == STUCK and not mark.exists():
        mark.touch()
        while not Path(folder, "released").exists():
            time.sleep(0.01)
    return 2 * x


cached = node(output_name="y")(compute)
repeatable = node(output_name="y", cache=False, idempotent=True)(compute)
once = node(output_name="y", idempotent=False)(compute)


class Divided(SeveralAtOnce):
    """Counts the jobs that were ended before their time."""

    def __init__(self) -> None:
        super().__init__(2, chunk_size=2)
        self.ended = 0

    def submit(self, job: bytes, channel: Channel) -> bytes:
        channel.when_cancelled(self._end)
        return super().submit(job, channel)

    def _end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize(
    ("which", "cache"), [(cached, MemoryCache()), (repeatable, None)], ids=["cached", "idempotent"]
)
def test_the_items_of_a_late_job_are_given_to_an_idle_worker_too(which: Any, cache: Any, tmp_path: Path) -> None:
    recorder, place = Recorder(), Divided()
    pipeline = Pipeline([which], backend=place, cache=cache, callbacks=[recorder])
    assert pipeline.map({"x": range(10), "folder": str(tmp_path)}, "x") == {"y": [2 * x for x in range(10)]}
    assert calls_in(tmp_path)[STUCK] == 2  # and nobody waited for the first of them, which goes on
    assert place.ended == 1
    observed = Counter(
        (event, context.item_path) for event, context in zip(recorder.events, recorder.contexts, strict=True)
    )
    assert max(observed.values()) == 1
    for start, end in [("node_start", "node_end"), ("map_item_start", "map_item_end")]:
        assert len(recorder.of(start)) == len(recorder.of(end)) == 10


def test_map_iter_yields_each_item_once(tmp_path: Path) -> None:
    pipeline = Pipeline([repeatable], backend=Divided())
    assert [item["y"] for item in pipeline.map_iter({"x": range(10), "folder": str(tmp_path)}, "x")] == [
        2 * x for x in range(10)
    ]
    assert calls_in(tmp_path)[STUCK] == 2


@pytest.mark.parametrize(("which", "cache"), [(once, MemoryCache()), (cached, None)], ids=["forbidden", "not cached"])
def test_other_nodes_are_not_called_twice(which: Any, cache: Any, tmp_path: Path) -> None:
    threading.Timer(1.5, (tmp_path / "released").touch).start()
    pipeline = Pipeline([which], backend=Divided(), cache=cache)
    assert pipeline.map({"x": range(10), "folder": str(tmp_path)}, "x") == {"y": [2 * x for x in range(10)]}
    assert max(calls_in(tmp_path).values()) == 1


def plan_of(*nodes: Any, cache: Any = None) -> Plan:
    return Pipeline(list(nodes), cache=cache).plan_for(["x", "folder"])


def test_all_nodes_have_to_allow_it() -> None:
    other = node(output_name="z")(lambda y: y)
    assert may_be_repeated(plan_of(repeatable))
    assert not may_be_repeated(plan_of(cached))
    assert may_be_repeated(plan_of(cached, cache=MemoryCache()))
    assert not may_be_repeated(plan_of(once, cache=MemoryCache()))
    assert not may_be_repeated(plan_of(repeatable, other))
    mapped = Pipeline([other]).as_node(map_over="y")
    assert not may_be_repeated(Pipeline([mapped]).plan_for(["y"]))


def test_a_job_is_late_when_it_takes_much_longer_than_its_items_did_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not is_late(100.0, 10, None)
    assert not is_late(1.9, 10, 0.01)
    assert is_late(2.1, 10, 0.01)
    assert not is_late(19.0, 10, 1.0)
    assert is_late(21.0, 10, 1.0)


def test_of_two_results_the_first_counts_and_what_both_lost_is_given_out_again() -> None:
    doubled = Doubled()
    assert list(doubled.new([4, 5])) == [0, 1]
    doubled.add([6, 7, 8], 1, 2)
    assert list(doubled.new([6, 9])) == [0, 1]
    assert list(doubled.new([6, 7])) == [1]
    assert doubled.unheld(1, [6, 7, 8, 3]) == [3]  # one that only job 1 had
    assert doubled.unheld(2, [6, 7, 8]) == [8]


def test_idempotent_is_a_flag() -> None:
    with pytest.raises(ConfigurationError, match="idempotent of node 'compute' must be True or False"):
        node(output_name="y", idempotent="yes")(compute)  # type: ignore[call-overload]
