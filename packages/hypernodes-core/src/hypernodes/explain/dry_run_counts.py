"""Counts what a run would do: executes the plan as far as possible without calling any node.

It loads only lists of items' signatures, and lists that one node made and that a mapped pipeline would have to map
over: their items are identified by their values only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, Protocol

from hypernodes.callbacks import CallbackContext
from hypernodes.conditions import SKIPPED
from hypernodes.engine.engine import map_plan
from hypernodes.engine.frames.columns import check_given_columns, is_mapped_inside
from hypernodes.engine.frames.demand import DemandFrame
from hypernodes.engine.frames.dry_run import dry_run_state, item_frames, plans_in
from hypernodes.engine.frames.items import ItemFrames
from hypernodes.engine.identity.records import Outline
from hypernodes.engine.store.manifests import origin_of
from hypernodes.errors import DependencyError, MapInputError
from hypernodes.explain.explanation import Explanation, NodeExplanation
from hypernodes.explain.probing import CachedValue, ProbingStore, UnavailableError
from hypernodes.explain.reasons import Reasons
from hypernodes.failure import Failure
from hypernodes.graph import Graph, GraphNode
from hypernodes.newer_code import newer_functions
from hypernodes.nodes import Node
from hypernodes.plan import UNSET, CallStep, NestedStep, Plan, Step
from hypernodes.request import MapRequest, RunnablePipeline, RunRequest

_LATER = "depends on a step that would run first"


class Explainable(RunnablePipeline, Protocol):
    """The part of a pipeline that explanations need."""

    @property
    def graph(self) -> Graph: ...


def explain_run(pipeline: Explainable, request: RunRequest) -> Explanation:
    """Explain what running a pipeline once would do.

    Raises:
        DependencyError: The inputs or outputs do not fit.
    """
    plan, inputs = request.plan(), request.inputs
    _refuse_iterators((n, value) for n, value in inputs.items() if is_mapped_inside(plan, plan.inputs[n]))
    values = list(plan.template)
    for name, value in inputs.items():
        values[plan.inputs[name]] = value
    check_given_columns(plan, values)
    counter = _DryRunCounter(pipeline, plan, ())
    if plan.runs_on_demand:
        frame = DemandFrame(plan, counter.state, values, counter.root)
        frame.start()
        counter.count(frame)
    else:
        counter.count_uncached(plan, 1, values)
    return counter.explanation()


def explain_map(pipeline: Explainable, request: MapRequest) -> Explanation:
    """Explain what running a pipeline once per item would do.

    Raises:
        DependencyError: The inputs or outputs do not fit.
    """
    columns, inputs = request.columns, request.inputs
    _refuse_iterators(columns.items())
    plan = request.plan()
    _refuse_iterators((n, value) for n, value in inputs.items() if is_mapped_inside(plan, plan.inputs[n]))
    plan, given = map_plan(request)
    counter = _DryRunCounter(pipeline, plan, columns)
    if plan.runs_on_demand:
        items = ItemFrames(plan, counter.state, counter.root, given)
        found = sum(counter.count(frame) for _, frame in item_frames(items))
        return counter.explanation(items.count, found)
    total = given.total() or 0
    counter.count_uncached(plan, total)
    return counter.explanation(total, 0)


def _refuse_iterators(given: Iterable[tuple[str, Any]]) -> None:
    for name, value in given:
        if isinstance(value, Iterator):
            raise MapInputError(
                f"to explain what happens, the items of {name!r} have to be read, and {type(value).__name__} can be "
                f"read only once; pass list({name})",
                input_name=name,
            )


class Tally:
    """Counts for one node.

    Attributes:
        hits: How often its result is in the cache.
        repeats: How often its result would be in the cache by then, because the same run computes an equal one before.
        runs: How often it would run.
        unknown: How often it is not known yet whether it would run.
        skipped: How often it would be skipped, because a condition does not hold.
        has_unknown_items: Whether the number of items is not known either.
        first: The first execution in which it would run.
        reasons: Why this is not known yet.
    """

    __slots__ = ("first", "has_unknown_items", "hits", "reasons", "repeats", "runs", "skipped", "unknown")

    def __init__(self) -> None:
        self.hits = self.repeats = self.runs = self.unknown = self.skipped = 0
        self.has_unknown_items = False
        self.first: DemandFrame | None = None
        self.reasons: dict[str, None] = {}


class _DryRunCounter:
    """Counts hits, calls and undecided steps, execution by execution.

    Attributes:
        state: State of a dry run.
        root: Context of the pipeline.
    """

    def __init__(self, pipeline: Explainable, plan: Plan, varying: Iterable[str]) -> None:
        self._pipeline = pipeline
        self._plan = plan
        self._warnings: dict[tuple[str, str], str] = {}
        self._not_cached = 0  # counts the results that would be computed, or may be
        self.root = CallbackContext((pipeline.id,))
        self.state = dry_run_state(self.root, "explain")
        self._store = self.state.store = ProbingStore(self.state.warn)
        self.state.show_warning = self._note_warning
        self._outline = Outline(plan, varying)
        self._tallies = {step: Tally() for step in self._outline.keys}
        for node, text in newer_functions(pipeline.graph):
            self._warnings[node.name, "newer"] = f"{text}: build the pipeline again to use it"

    def _note_warning(self, subject: str, reason: str, message: str, category: type[Warning]) -> None:
        self._warnings[subject, reason] = message

    # --- counting -------------------------------------------------------------------------------------------------

    def count(self, frame: DemandFrame) -> bool:
        """Count one execution, after its look-up; return whether all results that it needs are in the caches now."""
        before = self._not_cached
        self._count_found(frame)
        self._count_skipped(frame)
        if frame.is_done:
            return self._not_cached == before
        remaining, undecided = frame.remaining_steps(), set(frame.undecided_steps())
        missing = {slot for step in remaining for slot in step.outputs if slot is not None}
        for step in remaining:
            if step in undecided:
                self._count_unknown(frame, step, missing)
            elif isinstance(step, CallStep):
                self._count_call(frame, step)
            else:
                self._count_nested(frame, step, missing)
        if undecided:
            self._count_possibly_needed(frame, undecided, missing)
        return self._not_cached == before

    def _count_call(self, frame: DemandFrame, step: CallStep) -> None:
        """Count a call that has to be made, unless an equal one comes before it in the same run."""
        self._not_cached += 1
        tally = self._tallies[step]
        key = frame.key_of(step)
        cache = frame.plan.scopes[step.scope].cache
        if key is not None and cache is not None:
            keys = frame.keys_of(step)
            if self._store.expects(cache, keys):
                tally.repeats += 1
                return
            self._store.expect(cache, keys)
            self.state.record_computed(key)
        tally.runs += 1
        tally.first = tally.first or frame

    def _count_skipped(self, frame: DemandFrame) -> None:
        """Count the steps that would be skipped."""
        for step in frame.skipped_steps():
            assert frame.decisions is not None
            reason = frame.decisions.why_skipped(step)
            for call in _all_calls(step.inner) if isinstance(step, NestedStep) else [step]:
                self._tallies[call].skipped += 1
                self._tallies[call].reasons[reason] = None

    def _count_found(self, frame: DemandFrame) -> None:
        for step in frame.found_steps():
            if isinstance(step, CallStep):
                self._count_hits(step, [frame.values[slot] for slot in step.outputs if slot is not None][:1])
                continue
            if not step.mapped:
                self._count_found(frame.inside[step.index])
                continue
            if step.inner.has_branches and self._count_found_items(frame, step):
                continue
            counted: set[CallStep] = set()
            for inner, slot in zip(step.inner.outputs.values(), step.outputs, strict=True):
                if slot is not None:
                    self._count_lists(step.inner, inner, [frame.values[slot]], counted)

    def _count_found_items(self, frame: DemandFrame, step: NestedStep) -> bool:
        """Count a mapped pipeline whose results are found, item by item; return whether its items are known."""
        if any(frame.values[slot] is UNSET for slot in step.arguments):
            return False
        try:
            self._open(frame, step)
        except (UnavailableError, DependencyError):
            return False
        return True

    def _count_hits(self, step: CallStep, values: Sequence[Any]) -> None:
        expected = sum(isinstance(value, CachedValue) and value.is_expected for value in values)
        self._tallies[step].hits += len(values) - expected
        self._tallies[step].repeats += expected
        self._not_cached += expected

    def _count_lists(self, plan: Plan, slot: int, lists: Sequence[Any], counted: set[CallStep]) -> None:
        """Count the cached results of a mapped pipeline: lists of the values in a slot, one per item."""
        _, producer, slot = origin_of(plan, slot)
        if isinstance(producer, NestedStep):
            inner = list(producer.inner.outputs.values())[producer.outputs.index(slot)]
            self._count_lists(producer.inner, inner, [element for found in lists for element in found], counted)
        elif producer not in counted:
            counted.add(producer)
            made = [value for values in lists for value in values if value is not SKIPPED]
            self._count_hits(producer, made)

    def _count_unknown(self, frame: DemandFrame, step: Step, missing: set[int], reason: str = "") -> None:
        """Count a step for which it is not known yet whether it would run."""
        self._not_cached += 1
        if not reason and frame.decisions is not None and frame.decisions.of(step.index) is None:
            reason = _depends_on(frame.plan.steps[source].node.name for source in frame.decisions.awaited(step))
        if not reason:
            sources = frame.identities.unidentified_sources(step)
            reason = _depends_on(frame.plan.steps[source].node.name for source in sources)
        if isinstance(step, CallStep):
            tally = self._tallies[step]
            tally.unknown += 1
            tally.reasons[reason] = None
        else:
            self._count_unknown_items(step.inner, _item_count(step, frame.values, missing), reason)

    def _count_unknown_items(self, plan: Plan, count: int | None, reason: str) -> None:
        self._not_cached += 1
        for step in plan.steps:
            if isinstance(step, NestedStep):
                self._count_unknown_items(step.inner, None if step.mapped else count, reason)
                continue
            tally = self._tallies[step]
            tally.unknown += count or 0
            tally.has_unknown_items |= count is None
            tally.reasons[reason] = None

    def _count_possibly_needed(self, frame: DemandFrame, undecided: set[Step], missing: set[int]) -> None:
        """Count the steps that are needed only if an undecided step has to run."""
        steps = frame.plan.steps
        settled = {step.index for step in (*frame.remaining_steps(), *frame.found_steps())}
        for first in sorted(undecided, key=lambda step: step.index):
            stack = list(first.needs)
            while stack:
                index = stack.pop()
                if index not in settled:
                    settled.add(index)
                    reason = f"needed only if `{first.node.name}` has to run"
                    self._count_unknown(frame, steps[index], missing, reason)
                    stack += steps[index].needs

    # --- nested pipelines that are not inlined --------------------------------------------------------------------

    def _count_nested(self, frame: DemandFrame, step: NestedStep, missing: set[int]) -> None:
        if not step.inner.runs_on_demand:
            self.count_uncached(step.inner, _item_count(step, frame.values, missing))
            return
        if not step.mapped and all(frame.signatures[slot] or slot not in missing for slot in step.arguments):
            self.count(frame.look_inside(step))
            return
        awaited = [slot for slot in step.arguments if slot in missing or frame.values[slot] is UNSET]
        if awaited:
            plan = frame.plan
            sources = [plan.producers[slot] for slot in awaited if slot in missing]
            reason = _depends_on(plan.steps[source].node.name for source in sources) if sources else _LATER
            self._count_unknown_items(step.inner, _item_count(step, frame.values, missing), reason)
            return
        try:
            self._open(frame, step)
        except UnavailableError as error:
            self._count_unknown_items(step.inner, None, str(error))
        except DependencyError as error:
            self._count_unknown_items(step.inner, None, f"would fail: {error}")

    def _open(self, frame: DemandFrame, step: NestedStep) -> None:
        """Look up a mapped pipeline whose inputs are known."""
        for slot in step.arguments[: len(step.mapped)]:
            if slot not in frame.elements:
                frame.values[slot] = self._store.load(frame.values[slot])
        if any(isinstance(frame.values[slot], Failure) for slot in step.arguments):
            self._count_unknown_items(step.inner, None, "an input is a failure")
            return
        inputs = frame.map_inputs(step)
        self._count_items(frame, step, ItemFrames(step.inner, self.state, frame.base, inputs))

    def _count_items(self, frame: DemandFrame, step: NestedStep, items: ItemFrames) -> None:
        elements: list[list[bytes]] = [[] for _ in step.outputs]
        for _, item in item_frames(items):
            self.count(item)
            for known, slot in zip(elements, step.inner.outputs.values(), strict=True):
                known.append(item.signatures[slot] or b"")
        cache = step.inner.scopes[0].cache
        for outer, known in zip(step.outputs, elements, strict=True):
            own = None if outer is None else frame.signatures[outer]
            if cache is not None and own and all(known) and len(known) == items.count:
                self._store.expect_list(cache, own, known)

    def count_uncached(self, plan: Plan, count: int | None, values: Sequence[Any] | None = None) -> None:
        """Count a plan without any cached step.

        Args:
            plan: The plan.
            count: How often it would run; None if unknown.
            values: Value of every slot before it runs; None if unknown.
        """
        missing = {slot for step in plan.steps for slot in step.outputs if slot is not None}
        self._not_cached += count != 0
        for step in plan.steps:
            if isinstance(step, CallStep):
                self._tallies[step].runs += count or 0
                self._tallies[step].has_unknown_items |= count is None
            elif step.mapped:
                inner = _item_count(step, values, missing)
                self.count_uncached(step.inner, None if inner is None or count is None else inner * count)
            else:
                self.count_uncached(step.inner, count, None if values is None else _values_inside(step, values))

    # --- the explanation ------------------------------------------------------------------------------------------

    def explanation(self, items: int | None = None, items_found: int | None = None) -> Explanation:
        """Return the explanation of all counted executions."""
        reasons = Reasons(self._store, self._outline, self._warnings, self.state)
        nodes = [*self._overridden(), *self._explained(self._plan, (), reasons)]
        return Explanation(self._pipeline.id, nodes, items, items_found, list(self._warnings.values()))

    def _overridden(self) -> Iterator[NodeExplanation]:
        """Return the explanations of the nodes that do not run because values for their outputs are given."""
        graph = self._pipeline.graph
        given: dict[tuple[tuple[str, ...], GraphNode], list[str]] = {}
        for name in self._plan.inputs:
            if name in graph.producers:
                given.setdefault(_maker(graph, name), []).append(name)
        running = set(_running(self._plan, ()))
        for (path, node), names in given.items():
            if (path, node) not in running:
                reasons = ("a value is given for " + " and ".join([f"`{name}`" for name in names]),)
                yield NodeExplanation(node.name, path, 0, 0, 0, 0, False, reasons, is_overridden=True)

    def _explained(self, plan: Plan, path: tuple[str, ...], reasons: Reasons) -> Iterator[NodeExplanation]:
        open_maps = self._open_maps(plan)
        for step in plan.steps:
            outer_path = (*path, *_enclosing_names(plan, step))
            if isinstance(step, NestedStep):
                yield from self._explained(step.inner, (*outer_path, step.node.name), reasons)
                continue
            tally = self._tallies[step]
            why = list(tally.reasons)
            if tally.runs and open_maps and (source := reasons.failed_before(plan, step, tally.first)) in open_maps:
                tally.unknown += tally.runs
                tally.runs = 0
                why.insert(0, f"computed from failed items of `{source}`: found again if they fail in the same way")
            if tally.runs or (tally.has_unknown_items and not why):
                why[:0] = reasons.of(plan, step, tally.first, bool(tally.hits))
            yield NodeExplanation(
                step.node.name,
                outer_path,
                tally.hits,
                tally.runs,
                tally.repeats,
                tally.unknown,
                tally.has_unknown_items,
                tuple(dict.fromkeys(why)),
                skipped=tally.skipped,
                seconds_per_run=reasons.seconds_of(plan, step) if tally.runs else None,
            )

    def _open_maps(self, plan: Plan) -> set[str]:
        """Return the names of the nested pipelines in a plan of which some nodes would run, or may have to."""
        names: set[str] = set()
        for step in plan.steps:
            if isinstance(step, NestedStep):
                tallies = [self._tallies[call] for inner in plans_in(step.inner) for call in _calls(inner)]
                if any(tally.runs or tally.repeats or tally.unknown for tally in tallies):
                    names.add(step.node.name)
        return names


def _maker(graph: Graph, output: str) -> tuple[tuple[str, ...], GraphNode]:
    """Return the node or mapped pipeline that makes an output, after the names of the pipelines it is nested in."""
    path: tuple[str, ...] = ()
    while True:
        node: Any = graph.nodes[graph.producers[output]]
        if isinstance(node, Node) or node.map_over:
            return path, node
        path = (*path, node.name)
        output, graph = node.inner_output(output), node.pipeline.graph


def _running(plan: Plan, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], GraphNode]]:
    """Return the nodes and mapped pipelines of a plan, after the names of the pipelines that each is nested in."""
    for step in plan.steps:
        outer_path = (*path, *_enclosing_names(plan, step))
        if isinstance(step, CallStep) or step.mapped:
            yield outer_path, step.node
        else:
            yield from _running(step.inner, (*outer_path, step.node.name))


def _calls(plan: Plan) -> Iterator[CallStep]:
    return (step for step in plan.steps if isinstance(step, CallStep))


def _all_calls(plan: Plan) -> Iterator[CallStep]:
    """Return the calls of a plan, and of the nested pipelines in it."""
    return (call for inner in plans_in(plan) for call in _calls(inner))


def _depends_on(names: Iterable[str]) -> str:
    listing = ", ".join(f"`{name}`" for name in dict.fromkeys(names))
    return f"depends on {listing}, which would run first"


def _item_count(step: NestedStep, values: Sequence[Any] | None, missing: set[int]) -> int | None:
    """Return how often a nested pipeline would run; None if unknown."""
    if not step.mapped:
        return 1
    slots = step.arguments[: len(step.mapped)]
    if values is None or not missing.isdisjoint(slots):
        return None
    columns = [values[slot] for slot in slots]
    if not all(isinstance(column, Sequence) for column in columns):
        return None
    return prod(map(len, columns)) if step.node.map_mode == "product" else len(columns[0])


def _values_inside(step: NestedStep, values: Sequence[Any]) -> list[Any]:
    """Return the value of every slot of a nested pipeline before it runs once."""
    inside = list(step.inner.template)
    for name, slot in step.shared:
        inside[step.inner.inputs[name]] = values[slot]
    return inside


def _enclosing_names(plan: Plan, step: Step) -> tuple[str, ...]:
    names: list[str] = []
    scope = plan.scopes[step.scope]
    while scope.parent >= 0:
        names.append(scope.node_name)
        scope = plan.scopes[scope.parent]
    return tuple(reversed(names))
