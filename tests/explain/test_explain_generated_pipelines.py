"""What `explain` says comes true: generated pipelines, caches that lost entries, and a run afterwards."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hypernodes import HyperNodesError
from hypernodes.explain import Explanation
from tests.semantics.build import Built
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.modes import local_backend
from tests.semantics.specification import Execution, PlannedError

pytestmark = pytest.mark.slow

Path = tuple[str, ...]


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


def explain(built: Built, execution: Execution) -> Explanation:
    name = list(execution.output_name) if isinstance(execution.output_name, tuple) else execution.output_name
    if not execution.map_over:
        return built.pipeline.explain(execution.inputs, name)
    return built.pipeline.explain(
        execution.inputs, name, map_over=list(execution.map_over), map_mode=execution.map_mode
    )


def calls_by_path(built: Built) -> Counter[Path]:
    """How often each node was called, by the names of the pipelines around it and its own."""
    found: Counter[Path] = Counter()
    for event, _ in built.recorder.events:
        if event.hook == "node_start":
            found[(*(name for name, _ in event.path[1:]), event.subject)] += 1
    return found


def state_of(built: Built) -> dict[str, Any]:
    return {label: (dict(cache.entries), dict(cache.records)) for label, cache in built.caches.items()}


@settings(
    max_examples=max(80, settings().max_examples),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(scenario=scenarios(), data=st.data())
def test_a_run_calls_what_explain_said(folder: str, scenario: Scenario, data: st.DataObject) -> None:
    built = Built(scenario.pipeline, folder, local_backend(("sequential", "sequential")))
    for execution in scenario.executions:
        for label, cache in sorted(built.caches.items()):
            keys = sorted(cache.entries)
            for key in data.draw(st.lists(st.sampled_from(keys), unique=True), label=label) if keys else ():
                cache.delete(key)
        before = state_of(built)
        built.recorder.events.clear()
        built.calls.clear()
        try:
            explanation = explain(built, execution)
        except HyperNodesError as error:
            with pytest.raises(type(error)):
                built.execute(execution)
            continue
        assert state_of(built) == before, "explaining changed a cache"
        assert not built.recorder.events, "explaining was observed"
        assert not built.calls.count, "explaining called a node"
        try:
            built.execute(execution)
        except (PlannedError, HyperNodesError):
            break
        called = calls_by_path(built)
        assume(called.total() <= 300)
        check(explanation, called)
        if not any(node.repeats or node.unknown or node.has_unknown_items for node in explanation.nodes):
            check_items(explanation, built)


def check_items(explanation: Explanation, built: Built) -> None:
    if explanation.items is None or explanation.items_found is None:
        return
    called = {event.items[0] for event, _ in built.recorder.events if event.hook == "node_start"}
    assert explanation.items_found <= explanation.items - len(called), repr(explanation)
    if explanation.hits:
        assert explanation.items_found == explanation.items - len(called), repr(explanation)


def check(explanation: Explanation, called: Counter[Path]) -> None:
    explained: Counter[Path] = Counter()
    undecided: set[Path] = set()
    for node in explanation.nodes:
        path = (*node.path, node.name)
        explained[path] += node.runs
        if node.unknown or node.has_unknown_items:
            undecided.add(path)
    for path in called.keys() | explained.keys():
        if path in undecided:
            assert called[path] >= explained[path], f"{path} in\n{explanation!r}"
        else:
            assert called[path] == explained[path], f"{path} in\n{explanation!r}"
    if explanation.is_fully_cached:
        assert not called
