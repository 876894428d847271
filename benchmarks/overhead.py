"""What running costs beside the nodes themselves: trivial nodes, against the same calls written by hand.

"Bare keyword calls" are a loop over (function, parameter names, output name) that calls
`values[output] = function(**{name: values[name] for name in names})`: the least that a library does which wires
functions by name and looks at the names while it runs. The "hand-written loop" of a map calls three functions by their
names for each item, and collects the three results in lists.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import functions
from benchmarks.measure import Case, Reading, Suite
from benchmarks.peers import measured_by_peers
from hypernodes import CallbackContext, Node, Pipeline, PipelineCallback

SUITE = Suite("What running costs beside the nodes themselves")

ROOT = Path(__file__).parent.parent


class NoOp(PipelineCallback):
    """Observes the run and its nodes, and does nothing."""

    def on_pipeline_start(self, pipeline_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        pass

    def on_pipeline_end(
        self, pipeline_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext
    ) -> None:
        pass

    def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        pass

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        pass


def _nodes(source: list[functions.Function]) -> list[Node[..., Any]]:
    return [Node(function, output_name=function.__name__) for function in source]


def _read_signatures(source: list[functions.Function]) -> list[tuple[functions.Function, tuple[str, ...], str]]:
    return [(f, f.__code__.co_varnames[: f.__code__.co_argcount], f.__name__) for f in source]


def _bare_keyword_calls(source: list[functions.Function]) -> Callable[[], object]:
    steps = _read_signatures(source)

    def run() -> dict[str, Any]:
        values: dict[str, Any] = {"x0": 1}
        for function, names, output in steps:
            values[output] = function(**{name: values[name] for name in names})
        return values

    return run


def _hand_written(values: list[int]) -> Callable[[], object]:
    def run() -> tuple[list[int], list[int], list[int]]:
        added, doubled, subtracted = [], [], []
        for x in values:
            first = functions.add(x)
            second = functions.double(first)
            third = functions.subtract(second)
            added.append(first)
            doubled.append(second)
            subtracted.append(third)
        return added, doubled, subtracted

    return run


# --- run() ---------------------------------------------------------------------------------------------------------


def _add_chain(size: int, budget: float | None, lead: float | None) -> None:
    @SUITE.workload(
        f"run() a chain of {size:,} nodes",
        budget=budget,
        lead=lead,
        ideal="bare keyword calls",
        unit="node",
        family="run() a chain",
        size=size,
    )
    def _() -> Iterator[Case]:
        source = functions.chain(size)
        pipeline = Pipeline(nodes=_nodes(source))
        with measured_by_peers("run_chain", size=size) as peers:
            yield Case(
                lambda: pipeline.run({"x0": 1}),
                ideal=_bare_keyword_calls(source),
                peers=peers,
                repeats=max(1, 20_000 // size),
                units=size,
            )


def _add_observed_chain(size: int, budget: float | None) -> None:
    @SUITE.workload(
        f"run() a chain of {size:,} nodes with a callback that does nothing",
        budget=budget,
        ideal="bare keyword calls",
        unit="node",
        family="run() a chain with a callback",
        size=size,
    )
    def _() -> Iterator[Case]:
        source = functions.chain(size)
        pipeline = Pipeline(nodes=_nodes(source), callbacks=[NoOp()])
        yield Case(
            lambda: pipeline.run({"x0": 1}),
            ideal=_bare_keyword_calls(source),
            repeats=max(1, 10_000 // size),
            units=size,
        )


for _size, _budget, _lead in ((10, 1 / 0.8, 10), (100, None, 10), (1_000, 1 / 0.5, 10), (10_000, 1 / 0.5, None)):
    _add_chain(_size, _budget, _lead)


@SUITE.workload(
    "run() a fan of 1,000 nodes and one that takes them all", ideal="bare keyword calls", unit="node", lead=10
)
def _fan() -> Iterator[Case]:
    source = functions.fan(1_000)
    pipeline = Pipeline(nodes=_nodes(source))
    with measured_by_peers("run_fan", size=1_000) as peers:
        yield Case(
            lambda: pipeline.run({"x0": 1}), ideal=_bare_keyword_calls(source), peers=peers, repeats=20, units=1_001
        )


for _size, _budget in ((10, 1 / 6), (100, 1 / 6), (1_000, 1 / 6)):
    _add_observed_chain(_size, _budget)


# --- building ------------------------------------------------------------------------------------------------------


def _add_build(size: int) -> None:
    @SUITE.workload(
        f"build a chain of {size:,} nodes and compile it",
        ideal="reading the parameters",
        unit="node",
        family="build a chain",
        size=size,
    )
    def _() -> Iterator[Case]:
        source = functions.chain(size)
        with measured_by_peers("build_chain", size=size) as peers:
            yield Case(
                lambda: Pipeline(nodes=_nodes(source)).plan_for(["x0"]),
                ideal=lambda: _read_signatures(source),
                peers=peers,
                repeats=max(1, 2_000 // size),
                units=size,
            )


for _size in (10, 100, 1_000, 10_000):
    _add_build(_size)


# --- maps ----------------------------------------------------------------------------------------------------------

MAP_BUDGET = 1 / 4


def _flat(size: int) -> Callable[[], object]:
    pipeline = Pipeline(nodes=_nodes(functions.THREE))
    values = list(range(size))
    return lambda: pipeline.map({"x": values}, map_over="x")


def _nested(size: int) -> Callable[[], object]:
    pipeline = Pipeline(nodes=[Pipeline(nodes=_nodes(functions.THREE)).as_node(map_over="x")])
    values = list(range(size))
    return lambda: pipeline.run({"x": values})


def _by_hand(size: int) -> Callable[[], object]:
    return _hand_written(list(range(size)))


def _add_map(size: int, make: Callable[[int], Callable[[], object]], what: str, family: str, peer_work: str) -> None:
    has_peers = size <= 10_000
    is_large = size > 100_000

    @SUITE.workload(
        f"{what}, {size:,} items of 3 nodes",
        budget=MAP_BUDGET,
        lead=20 if has_peers else None,
        ideal="hand-written loop",
        unit="item",
        family=family,
        size=size,
        is_large=is_large,
    )
    def _() -> Iterator[Case]:
        repeats = max(1, 20_000 // size)
        if has_peers:
            with measured_by_peers(peer_work, size=size) as peers:
                yield Case(make(size), ideal=_by_hand(size), peers=peers, repeats=repeats, units=size)
        else:
            yield Case(make(size), ideal=_by_hand(size), repeats=repeats, units=size)

    if size < 100_000:
        return

    @SUITE.workload(
        f"{what}, {size:,} items of 3 nodes: peak memory above the inputs",
        ideal="hand-written loop",
        unit="",
        family=f"{family}: peak memory",
        size=size,
        is_large=is_large,
        is_memory=True,
    )
    def _() -> Iterator[Case]:
        yield Case(lambda: peak_mib(make, size), ideal=lambda: peak_mib(_by_hand, size))


for _size in (1_000, 100_000, 1_000_000):
    _add_map(_size, _flat, "map()", "map()", "map_items")
    _add_map(_size, _nested, "run() a pipeline mapped by as_node", "mapped by as_node", "run_items")


@SUITE.workload("a mapped pipeline against a flat map, 10,000 items", budget=1 / 1.2, ideal="flat map", unit="item")
def _nested_against_flat() -> Iterator[Case]:
    yield Case(_nested(10_000), ideal=_flat(10_000), repeats=5, units=10_000)


@SUITE.workload(
    "map() with a callback that does nothing, 1,000 items of 3 nodes", ideal="hand-written loop", unit="item"
)
def _observed_map() -> Iterator[Case]:
    pipeline = Pipeline(nodes=_nodes(functions.THREE), callbacks=[NoOp()])
    values = list(range(1_000))
    yield Case(lambda: pipeline.map({"x": values}, map_over="x"), ideal=_hand_written(values), repeats=5, units=1_000)


def peak_mib(make: Callable[[int], Callable[[], object]], size: int) -> Reading:
    """Return by how many MiB the peak memory of a fresh process grows when it does the work once."""
    command = [sys.executable, "-m", __name__, make.__name__, str(size)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return Reading(float(printed))


def _peak() -> float:
    """The peak memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere the peak of the parent counts too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    run = globals()[sys.argv[1]](int(sys.argv[2]))
    before = _peak()
    kept = run()
    print(_peak() - before)
