"""What a user may add to a map, and must not leave its workers idle: a cache, a callback, nesting, a subprocess."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from hypernodes import CallbackContext, LocalBackend, MemoryCache, Node, Pipeline, PipelineCallback
from hypernodes.backend import SubprocessBackend

Mode = Literal["sequential", "async", "threaded", "parallel"]


class CountNodes(PipelineCallback):
    """Counts the calls of nodes."""

    def __init__(self) -> None:
        self.calls = 0

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        self.calls += 1


@dataclass(frozen=True)
class Variant:
    """One way to do a map.

    Attributes:
        label: What it adds to the name of a workload.
        node_execution: How the nodes of an item are executed.
        is_cached: Whether all results are stored in a cache in memory, which holds nothing before.
        is_observed: Whether a callback counts the calls of nodes.
        is_nested: Whether the items are those of a mapped node.
        is_in_subprocess: Whether all this happens in another process, which is warm.
    """

    label: str = ""
    node_execution: Mode = "sequential"
    is_cached: bool = False
    is_observed: bool = False
    is_nested: bool = False
    is_in_subprocess: bool = False

    @contextmanager
    def prepare(
        self, nodes: Iterable[Node[..., Any]], map_over: str, map_execution: Mode, max_workers: int
    ) -> Iterator[Callable[[Mapping[str, Any]], dict[str, Any]]]:
        """Yield what maps the nodes over one of its inputs; workers are kept meanwhile, and stored results are not."""
        make = SubprocessBackend if self.is_in_subprocess else LocalBackend
        with make(node_execution=self.node_execution, map_execution=map_execution, max_workers=max_workers) as backend:
            pipeline = Pipeline(nodes=nodes, name="item")
            if self.is_nested:
                pipeline = Pipeline(nodes=[pipeline.as_node(map_over=map_over)])
            pipeline = pipeline.with_backend(backend)

            def act(inputs: Mapping[str, Any]) -> dict[str, Any]:
                chosen = pipeline.with_cache(MemoryCache()) if self.is_cached else pipeline
                if not self.is_observed:
                    return self._map(chosen, inputs, map_over)
                counter = CountNodes()
                found = self._map(chosen.with_callbacks([counter]), inputs, map_over)
                if counter.calls != len(inputs[map_over]) * len(found):
                    raise AssertionError(f"observed {counter.calls} calls of nodes")
                return found

            yield act

    def _map(self, pipeline: Pipeline, inputs: Mapping[str, Any], map_over: str) -> dict[str, Any]:
        return pipeline.run(inputs=inputs) if self.is_nested else pipeline.map(inputs=inputs, map_over=map_over)


PLAIN = Variant()
VARIANTS = (
    PLAIN,
    Variant(", stored in memory", is_cached=True),
    Variant(", observed", is_observed=True),
    Variant(", in a mapped node", is_nested=True),
    Variant(", in a subprocess", is_in_subprocess=True),
)
NODES_IN_PARALLEL = Variant(", nodes in parallel too", node_execution="parallel")
