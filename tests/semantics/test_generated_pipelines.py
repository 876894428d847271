"""Generated pipelines do what the reference interpreter says, whatever way they are run."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis.strategies import sampled_from

from hypernodes import Backend, HyperNodesError, LocalBackend, MapLengthError
from tests.semantics.build import Built, Calls
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.modes import MODES, Modes, local_backend
from tests.semantics.reference import Event, Expected, Reference
from tests.semantics.specification import (
    Behaviour,
    Execution,
    FunctionSpec,
    NestedSpec,
    Parameter,
    PipelineSpec,
    PlannedError,
    without_caches,
)

MAX_CALLS = 300


@pytest.fixture(scope="module")
def backends() -> Iterator[Callable[[Modes], Backend]]:
    """One backend for each pair of modes, made when it is first drawn; worker processes are kept for all examples."""
    with ExitStack() as stack:
        yield functools.cache(lambda modes: stack.enter_context(local_backend(modes)))


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


def _example(nodes: tuple[FunctionSpec | NestedSpec, ...], execution: Execution) -> Scenario:
    return Scenario(PipelineSpec("p1", nodes, "top"), (execution,) * 4)


def _function(number: int, inputs: tuple[str, ...], is_cached: bool = True, fails: bool = False) -> FunctionSpec:
    parameters = tuple(map(Parameter, inputs))
    return FunctionSpec(
        f"f{number}", parameters, (f"o{number}",), Behaviour(number, fails_on=int(fails)), cache=is_cached
    )


# With a cache the second function has to fail, which has to run before the third can be looked up; without one the
# first is the first to fail.
FAILS_BEFORE_IT_IS_IDENTIFIED = _example(
    (_function(1, ("i1",), fails=True), _function(2, ("i1",), is_cached=False, fails=True), _function(3, ("o1", "o2"))),
    Execution({"i1": 0}, "o3"),
)
# Nothing fails, since only an output that nobody asks for takes what the first function makes.
FAILS_FOR_AN_UNWANTED_OUTPUT = _example(
    (
        _function(1, ("i1",), fails=True),
        NestedSpec("n2", PipelineSpec("p2", (_function(3, ("i2",)), _function(4, ("i2", "o1")))), map_over=("i2",)),
    ),
    Execution({"i1": [True, 7], "i2": [0, 1]}, "o3", ("i1",)),
)
# A function that stands in two places with different caches is computed for each of them.
FAILS_BESIDE_A_CACHE_OF_ITS_OWN = _example(
    (
        _function(1, ()),
        NestedSpec("n2", PipelineSpec("p2", (_function(1, ()),), "c2"), output_mapping={"o1": "o2"}),
        _function(3, (), fails=True),
    ),
    Execution({}),
)


@example(FAILS_BEFORE_IT_IS_IDENTIFIED, ("sequential", "sequential"))
@example(FAILS_FOR_AN_UNWANTED_OUTPUT, ("async", "async"))
@example(FAILS_BESIDE_A_CACHE_OF_ITS_OWN, ("threaded", "sequential"))
@settings(
    max_examples=max(120, settings().max_examples),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(scenario=scenarios(), modes=sampled_from(MODES))
def test_generated_pipelines_do_what_the_reference_says(
    backends: Callable[[Modes], Backend], folder: str, scenario: Scenario, modes: Modes
) -> None:
    check_scenario(scenario, backends(modes), folder)


def check_scenario(scenario: Scenario, backend: Backend, calls: str | Calls) -> None:
    """Check that a backend does all that a scenario asks for as the reference says; see `Built` for `calls`."""
    reference = Reference(scenario.pipeline)
    built = Built(scenario.pipeline, calls, backend)
    for execution in scenario.executions:
        side_by_side = reference.without_fresh()
        expected = reference.execute(execution)
        assume(expected.calls.total() <= MAX_CALLS)
        observed = Observed(built, execution)
        if expected.is_contested and made_more_calls(observed, expected):
            check_contest(observed, side_by_side.execute(execution))
            break  # what the caches hold now depends on who came first
        check(observed, expected)
        if expected.failures:
            check_progress_is_kept(observed, Observed(built, execution), expected)
            break
        check_caches(built, reference)
        if not built.caches:
            break
    bare = Built(scenario.pipeline, calls, backend, is_observed=False, is_cached=False)
    # Without caches nothing has to run first to be identified, so other nodes may be the first to fail.
    check_result(Observed(bare, execution), Reference(without_caches(scenario.pipeline)).execute(execution))


@settings(max_examples=max(80, settings().max_examples), suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(may_be_cached=False, may_wait=False))
def test_sequential_runs_without_caches_do_what_the_reference_says(folder: str, scenario: Scenario) -> None:
    """Without caches and `async def` functions the engine runs nodes and items in plain loops."""
    backend = local_backend(("sequential", "sequential"))
    recorded = Built(scenario.pipeline, folder, backend)
    bare = Built(scenario.pipeline, folder, backend, is_observed=False, is_cached=False)
    for execution in scenario.executions:
        expected = Reference(scenario.pipeline).execute(execution)
        assume(expected.calls.total() <= MAX_CALLS)
        check(Observed(recorded, execution), expected)
        check_result(Observed(bare, execution), expected)


@settings(max_examples=max(80, settings().max_examples), suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(may_wait=False))
def test_sequential_runs_without_callbacks_compute_and_store_what_the_reference_says(
    folder: str, scenario: Scenario
) -> None:
    """With caches and without callbacks the engine looks items up, and runs them, in plain loops."""
    backend = local_backend(("sequential", "sequential"))
    reference = Reference(scenario.pipeline)
    built = Built(scenario.pipeline, folder, backend, is_observed=False)
    for execution in scenario.executions:
        expected = reference.execute(execution)
        assume(expected.calls.total() <= MAX_CALLS)
        observed = Observed(built, execution)
        check_result(observed, expected)
        if expected.failures:
            assert observed.calls <= expected.calls
            break
        assert observed.calls == (Counter() if expected.refusals else expected.calls)
        check_caches(built, reference)


@settings(max_examples=max(60, settings().max_examples), suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(may_wait=False))
def test_nested_pipelines_with_backends_of_their_own_do_what_the_reference_says(
    folder: str, scenario: Scenario
) -> None:
    """Where a nested pipeline runs changes neither what is computed nor what is observed and stored.

    Two things are left out: what is wrong inside is found out there, also when there are no items to run; and results
    in it are looked up together, also those that only steps need whose own results are found.
    """
    backend = local_backend(("sequential", "sequential"))
    reference = Reference(scenario.pipeline)
    built = Built(scenario.pipeline, folder, backend, inner_backend=LocalBackend())
    for execution in scenario.executions:
        expected = reference.execute(execution)
        assume(expected.calls.total() <= MAX_CALLS)
        if expected.refusals or expected.failures or expected.is_contested:
            break
        observed = Observed(built, execution)
        if isinstance(observed.error, MapLengthError):
            assert 0 in (carried for event, carried in expected.events.items() if event.hook == "map_start")
            break
        of_calls = {"node_start", "node_end", "error"}
        observed.events = [own for own in observed.events if own[0] in expected.events or own[0].hook in of_calls]
        check(observed, expected)
        check_caches(built, reference)


class Observed:
    """What an execution gave: a result or an error, events and calls."""

    def __init__(self, built: Built, execution: Execution) -> None:
        built.recorder.events.clear()
        built.calls.clear()
        self.outputs = None
        self.error: Exception | None = None
        try:
            self.outputs = built.execute(execution)
        except (PlannedError, HyperNodesError) as error:
            self.error = error
        self.events = list(built.recorder.events)
        self.calls = built.calls.count


def check(observed: Observed, expected: Expected) -> None:
    check_result(observed, expected)
    if expected.refusals:
        assert not observed.events
        assert not observed.calls
        return
    position = check_event_tree(observed, expected)
    if expected.is_contested:
        return
    for event, carried in observed.events:
        if event.hook == "error" and carried == "CancelledError" and expected.failures:
            continue  # what was under way elsewhere when a node failed
        assert event in expected.events, f"unexpected {event}"
        if event.hook == "map_start" and carried == -1:
            continue  # over a list of which the elements are still being made
        if event.hook == "pipeline_end" and expected.failures:
            continue
        assert written(carried) == written(expected.events[event]), event
    for earlier, later in expected.order:
        if earlier in position and later in position:
            assert position[earlier] < position[later], f"{later} came before {earlier}"
    if not expected.failures:
        assert not expected.events.keys() - position.keys(), "events that did not come"
        assert observed.calls == expected.calls
        return
    for earlier, later in expected.order:
        if later in position and is_beginning(later):
            assert earlier in position, f"{later} came without {earlier}"
    assert observed.calls <= expected.calls


def made_more_calls(observed: Observed, expected: Expected) -> bool:
    """Whether an item made calls, while another one computed what it needed, that it would not have made after it."""
    return not observed.calls <= expected.calls


def check_contest(observed: Observed, most: Expected) -> None:
    """Check an execution against all the calls that items which run side by side may make."""
    assert observed.calls <= most.calls
    check_event_tree(observed, most)
    if observed.error is not None or not most.failures:
        check_result(observed, most)


def check_result(observed: Observed, expected: Expected) -> None:
    if expected.refusals:
        assert type(observed.error).__name__ in expected.refusals
    elif expected.failures:
        assert observed.error is not None, f"should have failed; gave {observed.outputs}"
        kind = type(observed.error).__name__
        message = str(observed.error) if isinstance(observed.error, PlannedError) else ""
        notes = "\n".join(getattr(observed.error, "__notes__", ()))
        places = [(node, items) for k, m, node, items in expected.failures if (k, m) == (kind, message)]
        assert places, f"{kind}: {message} is none of {expected.failures}"
        assert any(f"in node {node!r}" in notes for node, _ in places), notes
        assert any(not items or f"map item {' → '.join(map(str, items))};" in notes for _, items in places), notes
    else:
        if observed.error is not None:
            raise observed.error
        assert written(observed.outputs) == written(expected.outputs)


def check_event_tree(observed: Observed, expected: Expected) -> dict[Event, int]:
    """Check that everything that began came once and came to its end; return the position of each event."""
    position = {event: i for i, (event, _) in enumerate(observed.events)}
    assert len(position) == len(observed.events), "an event came twice"
    for event, _ in observed.events:
        if event.hook.endswith("_start"):
            ends = {event.hook.replace("_start", "_end")} | ({"error"} if event.hook == "node_start" else set())
            found = [event._replace(hook=hook) for hook in ends if event._replace(hook=hook) in position]
            assert len(found) == 1, f"{event} came to no end"
    return position


def check_nesting(observed: Observed) -> None:
    """Check that everything happened between the start and the end of what it is a part of."""
    open_now: set[Event] = set()
    for event, _ in observed.events:
        path, items = event.path, event.items
        is_item = event.hook.startswith("map_item")
        around = items[:-1] if is_item else items
        if around:
            assert any(
                one.hook == "map_item_start" and one.items == around and one.path == path[: len(one.path)]
                for one in open_now
            ), f"{event} came outside of its item"
        if is_item:
            assert Event("map_start", path, around) in open_now, f"{event} came outside of its map"
        if event.hook.endswith("_start"):
            open_now.add(event)
        elif event.hook.endswith("_end") or event.hook == "error":
            start = "node_start" if event.hook == "error" else event.hook.replace("_end", "_start")
            open_now.discard(event._replace(hook=start))
        if event.hook in ("map_item_end", "map_end", "nested_pipeline_end"):
            depth = len(path) + (event.hook == "nested_pipeline_end")
            inside = [
                one
                for one in open_now
                if one.path[: len(path)] == path
                and len(one.path) >= depth
                and one.items[: len(items)] == items
                and (event.hook != "map_end" or len(one.items) > len(items))
                and (event.hook != "nested_pipeline_end" or one.path[len(path)][1] == event.subject)
            ]
            assert not inside, f"{event} came before the end of {inside}"


def written(carried: object) -> object:
    """Return something that differs when values differ in anything, types included; dicts have no order."""
    return {name: repr(value) for name, value in carried.items()} if isinstance(carried, dict) else repr(carried)


def is_beginning(event: Event) -> bool:
    return event.hook.endswith(("_start", "_cached"))


def check_repeated_work(observed: Observed, expected: Expected) -> None:
    """Check results and events where workers were lost, so that some calls were made again."""
    if expected.is_contested and observed.error is not None:
        return
    check_result(observed, expected)
    if not expected.refusals:
        check_event_tree(observed, expected)
        check_nesting(observed)


def check_caches(built: Built, reference: Reference) -> None:
    for label, cache in built.caches.items():
        held = [value for key, value in cache.entries.items() if not key.endswith("-items")]
        assert Counter(map(repr, held)) == Counter(map(repr, reference.entries.get(label, {}).values())), label


def check_progress_is_kept(before: Observed, after: Observed, expected: Expected) -> None:
    """Check that the calls that returned before a failure are not made again in the same place.

    In another place the same values may have come about in another way, which makes it another computation.
    """

    def calls(observed: Observed) -> dict[Event, str]:
        return {event: repr(tuple(inputs.values())) for event, inputs in observed.events if event.hook == "node_start"}

    kept = expected.kept - expected.not_kept
    failed = {event[1:] for event, _ in before.events if event.hook == "error"}
    returned = {event: given for event, given in calls(before).items() if event[1:] not in failed}
    again = [event for event, given in calls(after).items() if returned.get(event) == given]
    again = [event for event in again if (event.subject, returned[event]) in kept]
    assert not again, f"called again: {again}"
