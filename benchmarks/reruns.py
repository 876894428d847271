"""Running again what a cache holds: against reading the same entries from the same store by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import diskcache

from benchmarks import functions
from benchmarks.measure import Case, Suite
from benchmarks.peers import measured_by_peers
from hypernodes import Cache, MemoryCache, Node, Pipeline
from hypernodes_cache import DiskCache

SUITE = Suite("Running again what the cache holds")

SIZE = 100
KEYS = [f"{number:064x}" for number in range(SIZE)]


def _chain(cache: Cache) -> Pipeline:
    nodes = [Node(function, output_name=function.__name__) for function in functions.chain(SIZE)]
    return Pipeline(nodes=nodes, cache=cache)


@SUITE.workload(f"a chain of {SIZE} nodes, all in memory", ideal=f"{SIZE} look-ups in a dict", unit="node")
def _in_memory() -> Iterator[Case]:
    pipeline = _chain(MemoryCache())
    held = dict.fromkeys(KEYS, 1)
    yield Case(lambda: pipeline.run({"x0": 1}), lambda: [held[key] for key in KEYS], repeats=5, units=SIZE)


@SUITE.workload(f"a chain of {SIZE} nodes, all on disk", ideal="reading as many entries with diskcache", unit="node")
def _on_disk() -> Iterator[Case]:
    with ExitStack() as stack:
        pipeline = _chain(DiskCache(path=stack.enter_context(tempfile.TemporaryDirectory())))
        read = stack.enter_context(_diskcache_reads(stack.enter_context(tempfile.TemporaryDirectory())))
        peers = stack.enter_context(measured_by_peers("run_warm", size=SIZE))
        yield Case(lambda: pipeline.run({"x0": 1}), read, peers=peers, units=SIZE)


@SUITE.workload(
    f"a chain of {SIZE} nodes on disk of which the last one changed",
    ideal="reading as many entries with diskcache",
    unit="node",
)
def _one_changed() -> Iterator[Case]:
    with ExitStack() as stack:
        *kept, _ = functions.chain(SIZE)
        cache = DiskCache(path=stack.enter_context(tempfile.TemporaryDirectory()))
        nodes = [Node(function, output_name=function.__name__) for function in kept]
        numbers = count()

        def run_changed() -> object:
            last: Any = _version(next(numbers), f"x{SIZE - 1}")
            return Pipeline(nodes=[*nodes, Node(last, output_name="last")], cache=cache).run({"x0": 1})

        run_changed()
        read = stack.enter_context(_diskcache_reads(stack.enter_context(tempfile.TemporaryDirectory())))
        yield Case(run_changed, read, units=SIZE)


def _version(number: int, parameter: str) -> Callable[..., object]:
    """Another version of a function: its code differs in a constant."""
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(f"def last({parameter}): return {number}", namespace)
    found: Callable[..., object] = namespace["last"]
    return found


class _diskcache_reads:  # noqa: N801 - used like a function
    """Reads all entries of a bare diskcache that holds as many as there are nodes."""

    def __init__(self, folder: str) -> None:
        self._cache = diskcache.Cache(folder)

    def __enter__(self) -> Callable[[], object]:
        for key in KEYS:
            self._cache.set(key, 1)
        return lambda: [self._cache.get(key) for key in KEYS]

    def __exit__(self, *exc_info: object) -> None:
        self._cache.close()
