"""Values are released when nothing needs them any more, and the number of open items is bounded."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from hypernodes import ConfigurationError, LocalBackend, Node, Pipeline, PipelineExecutionEngine, node, replay
from hypernodes.cache.memory import MemoryCache
from hypernodes.engine import ExecutionMode
from tests.concurrency.kit import NAMES
from tests.support import Recorder

MODES = list(product(NAMES, NAMES))
ROADS = ["plain", "observed", "cached"]


class Alive:
    """Counts the values that are alive.

    Attributes:
        peak: The largest number so far.
    """

    def __init__(self) -> None:
        self.peak = self._current = 0
        self._lock = threading.Lock()

    def make(self) -> Large:
        """Return a value that counts as long as it is alive."""
        return Large(self)

    def add(self, change: int) -> None:
        with self._lock:
            self._current += change
            self.peak = max(self.peak, self._current)

    def __cache_key__(self) -> str:
        return "alive"


class Large:
    """A value that counts as long as it is alive."""

    def __init__(self, alive: Alive) -> None:
        self._alive = alive
        alive.add(1)

    def __del__(self) -> None:
        self._alive.add(-1)

    def __cache_key__(self) -> str:
        return "large"


class Forgetful(MemoryCache):
    """A cache that holds nothing."""

    def put(self, key: str, value: Any) -> None:
        pass

    def put_many(self, entries: Any, *arguments: Any) -> None:
        pass


def chain(alive: Alive, length: int) -> list[Node[..., Any]]:
    """Return nodes that each take a large value and make another one, and a last one that makes a number."""

    def link(number: int) -> Node[..., Any]:
        names: dict[str, Any] = {"__name__": __name__, "alive": alive}
        exec(f"def f{number}(v{number}): return alive.make()", names)
        return Node(names[f"f{number}"], f"v{number + 1}")

    names: dict[str, Any] = {"__name__": __name__}
    exec(f"def last(v{length}): return 1", names)
    return [*map(link, range(length)), Node(names["last"], "last")]


def piped(alive: Alive, road: str, backend: LocalBackend) -> Pipeline:
    pipeline = Pipeline(nodes=chain(alive, 20), backend=backend)
    if road == "observed":
        return pipeline.with_callbacks([Quiet()])
    return pipeline.with_cache(Forgetful()) if road == "cached" else pipeline


class Quiet(Recorder):
    """Observes every event, and keeps nothing."""

    def _note(self, ctx: Any, *event: Any, **payload: Any) -> None:
        pass


@pytest.mark.parametrize("modes", MODES, ids="-".join)
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.filterwarnings("ignore:node 'f:hypernodes.CacheWarning")
def test_a_chain_of_large_values_holds_three_of_them_at_most(
    modes: tuple[ExecutionMode, ExecutionMode], road: str
) -> None:
    backend = LocalBackend(node_execution=modes[0], map_execution=modes[1])
    alive = Alive()
    pipeline = piped(alive, road, backend)
    assert pipeline.run(inputs={"v0": 0}, output_name="last") == {"last": 1}
    assert alive.peak <= 3
    outer = Pipeline(nodes=[pipeline.as_node(name="inner", outputs=["last"])], backend=backend)
    assert outer.run(inputs={"v0": 0}) == {"last": 1}
    assert alive.peak <= 3


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.filterwarnings("ignore:node 'f:hypernodes.CacheWarning")
def test_items_of_a_map_hold_no_more(road: str) -> None:
    alive = Alive()
    pipeline = piped(alive, road, LocalBackend())
    assert pipeline.map(inputs={"v0": range(5)}, map_over="v0", output_name="last") == {"last": [1] * 5}
    assert alive.peak <= 3


def test_what_is_asked_for_stays() -> None:
    alive = Alive()
    found = piped(alive, "plain", LocalBackend()).run(inputs={"v0": 0}, output_name=["v3", "last"])
    assert isinstance(found["v3"], Large)
    assert alive.peak <= 4


@pytest.mark.parametrize("modes", MODES, ids="-".join)
@pytest.mark.parametrize("road", ["plain", "observed"])
def test_a_value_with_several_readers_stays_until_the_last_has_taken_it(
    modes: tuple[ExecutionMode, ExecutionMode], road: str
) -> None:
    nodes = [
        Node(lambda x: [x], "a"),
        Node(lambda a: [*a, 1], "b"),
        Node(lambda b: [*b, 2], "c"),
        Node(lambda a, c: [*a, *c], "d"),
        Node(lambda a, d, b: [*a, *d, *b], "e"),
    ]
    backend = LocalBackend(node_execution=modes[0], map_execution=modes[1])
    pipeline = Pipeline(nodes=nodes, backend=backend, callbacks=[Quiet()] if road == "observed" else None)
    expected = [5, 5, 5, 1, 2, 5, 1]
    assert pipeline.run(inputs={"x": 5}, output_name="e") == {"e": expected}
    assert pipeline.map(inputs={"x": [5, 5]}, map_over="x", output_name="e") == {"e": [expected, expected]}


def test_the_list_that_a_mapped_pipeline_made_is_released() -> None:
    alive = Alive()

    @node(output_name="large")
    def make(x: int) -> Large:
        return alive.make()

    @node(output_name="count")
    def count(larges: list[Large]) -> int:
        return len(larges)

    @node(output_name="later")
    def later(count: int) -> int:
        gc.collect()
        return alive._current

    mapped = Pipeline(nodes=[make]).as_node({"xs": "x"}, {"large": "larges"}, map_over="xs")
    pipeline = Pipeline(nodes=[mapped, count, later])
    assert pipeline.run(inputs={"xs": range(4)}, output_name="later") == {"later": 0}
    assert pipeline.with_callbacks([Quiet()]).run(inputs={"xs": range(4)}, output_name="later") == {"later": 0}


def test_a_failed_call_can_be_made_again_although_what_came_before_it_was_released() -> None:
    nodes = [Node(lambda x: x + 1, "a"), Node(lambda a: a * 2, "b"), Node(lambda b: 1 // (b - 4), "c")]
    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline(nodes=nodes).run(inputs={"x": 1}, output_name="c")
    with pytest.raises(ZeroDivisionError):
        replay(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_batched", [False, True], ids=["single", "batched"])
def test_no_more_items_are_open_than_may_be_in_flight(name: ExecutionMode, is_batched: bool) -> None:
    alive = Alive()

    @node(output_name="large")
    def make(x: int) -> Large:
        return alive.make()

    def use(large: Any) -> Any:
        return [1] * len(large) if is_batched else 1

    options: dict[str, Any] = {"batch_over": "large", "batch_size": 8} if is_batched else {}
    nodes = [make, Node(use, "used", **options), Node(lambda used: used, "last")]
    backend = LocalBackend(map_execution=name, max_in_flight=3)
    for pipeline in (
        Pipeline(nodes=nodes, backend=backend),
        Pipeline(nodes=nodes, backend=backend, callbacks=[Quiet()]),
    ):
        found = pipeline.map(inputs={"x": range(40)}, map_over="x", output_name="last")
        assert found == {"last": [1] * 40}
        assert alive.peak <= 4  # one that is being made, besides


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3", True], ids=str)
def test_a_wrong_number_of_items_in_flight_is_refused(wrong: Any) -> None:
    makers: list[Callable[..., Any]] = [PipelineExecutionEngine, LocalBackend]
    for make in makers:
        with pytest.raises(ConfigurationError, match="max_in_flight must be a positive whole number or None"):
            make(max_in_flight=wrong)
