"""What a cache on disk costs per item, beside bare diskcache and joblib; `python -m benchmarks.caching N` fills one.

The values of items are small, so that what is measured is the cache and not the disk; arrays of 100 MB are the
opposite.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diskcache
import joblib
import numpy

from benchmarks import functions
from benchmarks.measure import Case, Reading, Suite
from benchmarks.peers import measured_by_peers
from hypernodes import DiskCache, Node, Pipeline, node

SUITE = Suite("A cache on disk, item by item")

ITEMS = 300


def keys_of(text: str) -> list[str]:
    return [hashlib.sha256(f"{name}{text}".encode()).hexdigest() for name in ("clean", "words", "count")]


def values_of(text: str) -> list[Any]:
    return [text.strip(), text.strip().split("-"), len(text.split("-"))]


class _Candidates:
    """The same three results of each item, kept by one tool or another."""

    def __init__(self, folder: Path) -> None:
        self.cache = DiskCache(folder / "ours")
        nodes = [Node(step, output_name=step.__name__) for step in functions.TEXT]
        self.pipeline = Pipeline(nodes=nodes, cache=self.cache)
        self.bare = diskcache.Cache(str(folder / "bare"), eviction_policy="none")
        memory = joblib.Memory(folder / "joblib", verbose=0)
        self._joblib = [memory.cache(step) for step in functions.TEXT]

    def ours(self, texts: list[str]) -> None:
        self.pipeline.map({"text": texts}, map_over="text")

    def with_bare(self, texts: list[str]) -> None:
        for text in texts:
            with self.bare.transact():
                for key, value in zip(keys_of(text), values_of(text), strict=True):
                    self.bare.set(key, value)

    def read_bare(self, texts: list[str]) -> None:
        for text in texts:
            for key in keys_of(text):
                self.bare.get(key)

    def with_joblib(self, texts: list[str]) -> None:
        first, second, third = self._joblib
        for text in texts:
            third(second(first(text)))

    def store(self, texts: list[str]) -> None:
        for text in texts:
            self.cache.put_many(dict(zip(keys_of(text), values_of(text), strict=True)))

    def load(self, texts: list[str]) -> None:
        for text in texts:
            self.cache.get_many(keys_of(text))

    def close(self) -> None:
        self.cache.close()
        self.bare.close()


@node(output_name="array")
def make_array(seed: int) -> numpy.ndarray:
    return numpy.full(12_500_000, float(seed))


class _ArrayCandidates:
    """An array of 100 MB, kept by one tool or another."""

    def __init__(self, folder: Path) -> None:
        self.cache = DiskCache(folder / "ours")
        self.pipeline = Pipeline(nodes=[make_array], cache=self.cache)
        self.bare = diskcache.Cache(str(folder / "bare"), eviction_policy="none")
        self._memory = joblib.Memory(folder / "joblib", verbose=0)
        self.with_joblib = self._memory.cache(make_array.func)
        self._file = folder / "array.npy"
        self._seeds = itertools.count()

    def ours(self, seed: int) -> object:
        return self.pipeline.run({"seed": seed})

    def to_file(self, seed: int) -> None:
        numpy.save(self._file, make_array(seed))

    def from_file(self) -> object:
        return numpy.load(self._file)

    def to_bare(self, seed: int) -> None:
        self.bare.set("array", make_array(seed))

    def from_bare(self) -> object:
        return self.bare.get("array")

    def timed(self, work: Callable[[int], object]) -> Callable[[], Reading]:
        """Return what measures the work on an array that nobody has seen, and removes what was written."""

        def measure() -> Reading:
            started_at = time.perf_counter()
            work(next(self._seeds))
            elapsed = time.perf_counter() - started_at
            self.cache.clear()
            self.bare.clear()
            self._memory.clear(warn=False)
            return Reading(elapsed)

        return measure

    def close(self) -> None:
        self.cache.close()
        self.bare.close()


def _on_fresh(work: Callable[[list[str]], None]) -> Callable[[], None]:
    return lambda: work(functions.fresh_texts(ITEMS))


@SUITE.workload(
    f"cold: {ITEMS} items, 3 nodes each, beside 3 puts in a transaction", budget=1 / 1.5, lead=4, lead_over="joblib"
)
def _cold() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        tools = _Candidates(Path(folder))
        with measured_by_peers("cold_items", size=ITEMS) as peers:
            yield Case(
                _on_fresh(tools.ours),
                ideal=_on_fresh(tools.with_bare),
                peers={"joblib": _on_fresh(tools.with_joblib), **peers},
            )
        tools.close()


@SUITE.workload(f"warm: {ITEMS} items, 3 nodes each, beside 3 gets", budget=1 / 1.5, lead=4, lead_over="joblib")
def _warm() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        tools = _Candidates(Path(folder))
        texts = functions.fresh_texts(ITEMS)
        for fill in (tools.ours, tools.with_bare, tools.with_joblib):
            fill(texts)
        with measured_by_peers("warm_items", size=ITEMS) as peers:
            yield Case(
                lambda: tools.ours(texts),
                ideal=lambda: tools.read_bare(texts),
                peers={"joblib": lambda: tools.with_joblib(texts), **peers},
            )
        tools.close()


@SUITE.workload("cold: an array of 100 MB", ideal="making it and writing it to a bare file")
def _cold_array() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        tools = _ArrayCandidates(Path(folder))
        yield Case(
            tools.timed(tools.ours),
            ideal=tools.timed(tools.to_file),
            peers={"diskcache": tools.timed(tools.to_bare), "joblib": tools.timed(tools.with_joblib)},
        )
        tools.close()


@SUITE.workload("warm: an array of 100 MB", ideal="reading it from a bare file")
def _warm_array() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        tools = _ArrayCandidates(Path(folder))
        for fill in (tools.ours, tools.to_file, tools.to_bare, tools.with_joblib):
            fill(0)
        yield Case(
            lambda: tools.ours(0),
            ideal=tools.from_file,
            peers={"diskcache": tools.from_bare, "joblib": lambda: tools.with_joblib(0)},
        )
        tools.close()


@SUITE.workload(f"storage alone: {ITEMS} × put_many of 3, beside 3 puts in a transaction", budget=1 / 1.1)
def _storing() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        tools = _Candidates(Path(folder))
        yield Case(_on_fresh(tools.store), ideal=_on_fresh(tools.with_bare))
        tools.close()


@SUITE.workload(f"storage alone: {ITEMS} × get_many of 3, beside 3 gets", budget=1 / 1.2)
def _loading() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        tools = _Candidates(Path(folder))
        texts = functions.fresh_texts(ITEMS)
        tools.store(texts)
        tools.with_bare(texts)
        yield Case(lambda: tools.load(texts), ideal=lambda: tools.read_bare(texts))
        tools.close()


def grow(entries: int) -> None:
    """Fill a cache, and bare diskcache beside it, and measure both on the way; microseconds for 3 entries.

    A map over items of three nodes, nothing cached and everything cached, stands beside three puts and three gets.
    """
    with tempfile.TemporaryDirectory() as folder:
        tools = _Candidates(Path(folder))
        print("entries | cold item | put_many of 3 | 3 bare puts | warm item | get_many of 3 | 3 bare gets")
        filled = 0
        for size in (10**power for power in range(3, len(str(entries)))):
            while filled < size - 3 * ITEMS:
                texts = [text for _ in range(10) for text in functions.fresh_texts(ITEMS)]
                batch = {
                    key: value for text in texts for key, value in zip(keys_of(text), values_of(text), strict=True)
                }
                tools.cache.put_many(batch)
                with tools.bare.transact():
                    for key, value in batch.items():
                        tools.bare.set(key, value)
                filled += len(batch)
            work = (tools.ours, tools.store, tools.with_bare, tools.ours, tools.load, tools.read_bare)
            rounds: list[list[float]] = [[] for _ in work]
            for _ in range(9):
                texts = functions.fresh_texts(ITEMS)
                for times, run in zip(rounds, work, strict=True):
                    started_at = time.perf_counter()
                    run(texts)
                    times.append((time.perf_counter() - started_at) / ITEMS * 1e6)
                filled += len(texts) * 6
            print(f"{size:>9,} | " + " | ".join(f"{statistics.median(times):.1f}" for times in rounds), flush=True)
        tools.close()


if __name__ == "__main__":
    grow(int(sys.argv[1]))
