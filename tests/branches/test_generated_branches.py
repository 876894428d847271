"""Random pipelines with conditions do what lazy evaluation says, in every mode, with and without a cache."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypernodes import Backend, Cache, LocalBackend, MemoryCache, PipelineCallback
from tests.branches.branching_pipelines import Spec, branching_pipelines, build, evaluate
from tests.semantics.build import Calls
from tests.semantics.modes import MODES, MODES_ELSEWHERE, Modes, local_backend, subprocess_backend

INPUTS = st.fixed_dictionaries(
    {"a": st.integers(0, 2), "b": st.integers(0, 2), "xs": st.lists(st.integers(0, 2), max_size=3)}
)
ALL_CHECKS = list(HealthCheck)


class Balance(PipelineCallback):
    """Counts starts and ends."""

    def __init__(self) -> None:
        self.open: Counter[tuple[str, ...]] = Counter()
        self.started: Counter[str] = Counter()

    def on_node_start(self, node_id, inputs, ctx):  # type: ignore[no-untyped-def]
        self.started[node_id] += 1
        self.open[(node_id, *ctx.node_path, *map(str, ctx.item_path))] += 1

    def on_node_end(self, node_id, outputs, duration, ctx):  # type: ignore[no-untyped-def]
        self.open[(node_id, *ctx.node_path, *map(str, ctx.item_path))] -= 1

    def on_nested_pipeline_start(self, parent_id, child_pipeline_id, ctx):  # type: ignore[no-untyped-def]
        self.open[("nested", *ctx.node_path, *map(str, ctx.item_path))] += 1

    def on_nested_pipeline_end(self, parent_id, child_pipeline_id, duration, ctx):  # type: ignore[no-untyped-def]
        self.open[("nested", *ctx.node_path, *map(str, ctx.item_path))] -= 1

    def on_map_item_start(self, item_index, ctx):  # type: ignore[no-untyped-def]
        self.open[("item", *ctx.node_path, *map(str, ctx.item_path))] += 1

    def on_map_item_end(self, item_index, duration, ctx):  # type: ignore[no-untyped-def]
        self.open[("item", *ctx.node_path, *map(str, ctx.item_path))] -= 1


@pytest.fixture(scope="module")
def backends() -> Iterator[Callable[[Modes], Backend]]:
    with ExitStack() as stack:
        yield functools.cache(lambda modes: stack.enter_context(local_backend(modes)))


@pytest.fixture(scope="module")
def remote_backends() -> Iterator[Callable[[Modes], Backend]]:
    with ExitStack() as stack:
        yield functools.cache(lambda modes: stack.enter_context(subprocess_backend(modes)))


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    with tempfile.TemporaryDirectory() as folder:
        yield Calls(folder)


def check(
    spec: Spec,
    inputs: dict[str, object],
    backend: Backend,
    calls: Calls,
    *,
    cache: Cache | None = None,
    inner_backend: Backend | None = None,
) -> None:
    """Run a pipeline and map it, twice each; compare with the evaluation."""

    def add(name: str, arguments: str) -> None:
        calls.add(name, arguments)  # type: ignore[arg-type]

    pipeline = build(spec, add, cache=cache, inner_backend=inner_backend).with_backend(backend)
    inputs = {name: value for name, value in inputs.items() if name in pipeline.inputs}
    expected, evaluation = evaluate(spec, inputs, pipeline.outputs)
    wanted = {(name, repr(arguments)) for name, arguments in evaluation.calls}
    for turn in range(2):
        calls.clear()
        balance = Balance()
        found = pipeline.with_callbacks([balance]).run(inputs)
        assert repr(found) == repr(expected), f"{found} instead of {expected}"
        made = calls.count
        assert set(made) <= wanted, f"called without need: {set(made) - wanted}"
        assert not +balance.open, "something came to no end"
        if cache is None:
            assert sum(made.values()) == balance.started.total()
        elif turn and all_are_cached(spec):
            assert not made, "called again"
    if cache is not None and all_are_cached(spec):
        explanation = pipeline.explain(inputs)
        assert not explanation.runs, explanation
    if "a" not in inputs:
        return
    rows = [evaluate(spec, {**inputs, "a": value}, pipeline.outputs)[0] for value in (0, 1, 2)]
    found_columns = pipeline.map({**inputs, "a": [0, 1, 2]}, "a")
    assert repr(found_columns) == repr({name: [row[name] for row in rows] for name in pipeline.outputs})


def all_are_cached(spec: Spec) -> bool:
    return all(
        all_are_cached(node.inside) if hasattr(node, "inside") else node.is_cached  # type: ignore[union-attr]
        for node in spec.nodes
    )


@settings(max_examples=max(120, settings().max_examples), suppress_health_check=ALL_CHECKS)
@given(spec=branching_pipelines(), inputs=INPUTS, modes=st.sampled_from(MODES), is_cached=st.booleans())
def test_generated_branches_are_evaluated_lazily_in_every_mode(
    backends: Callable[[Modes], Backend],
    calls: Calls,
    spec: Spec,
    inputs: dict[str, object],
    modes: Modes,
    is_cached: bool,
) -> None:
    check(spec, inputs, backends(modes), calls, cache=MemoryCache() if is_cached else None)


@settings(max_examples=max(60, settings().max_examples), suppress_health_check=ALL_CHECKS)
@given(spec=branching_pipelines(), inputs=INPUTS, is_cached=st.booleans())
def test_generated_branches_in_nested_pipelines_with_backends_of_their_own(
    calls: Calls, spec: Spec, inputs: dict[str, object], is_cached: bool
) -> None:
    cache = MemoryCache() if is_cached else None
    check(spec, inputs, LocalBackend(), calls, cache=cache, inner_backend=LocalBackend())


@settings(max_examples=max(24, min(settings().max_examples, 2500)), suppress_health_check=ALL_CHECKS)
@given(spec=branching_pipelines(), inputs=INPUTS, modes=st.sampled_from(MODES_ELSEWHERE), is_cached=st.booleans())
def test_generated_branches_are_evaluated_lazily_in_another_process(
    remote_backends: Callable[[Modes], Backend],
    calls: Calls,
    spec: Spec,
    inputs: dict[str, object],
    modes: Modes,
    is_cached: bool,
) -> None:
    check(spec, inputs, remote_backends(modes), calls, cache=MemoryCache() if is_cached else None)
