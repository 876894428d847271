"""Assembles a plan from its steps: what each of them needs, who reads its results, and how long these stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from types import FunctionType
from typing import Any

from hypernodes.callbacks import PipelineCallback
from hypernodes.nodes import Node
from hypernodes.plan.batched_steps import batched_nodes_of, maps_batched_maps, what_follows
from hypernodes.plan.branches import Branches
from hypernodes.plan.drafts import DraftStep, PlanDraft
from hypernodes.plan.lifetimes import lifetimes_of, with_releases
from hypernodes.plan.plan import CallStep, Guard, NestedNode, NestedStep, Plan, Scope, Step
from hypernodes.plan.readers import readers_of
from hypernodes.plan.streams import has_streams, streams_of
from hypernodes.resources import Resource

LOOKED_AT = 4
"""Added to the number of arguments of a function in `Plan.program` whose results are looked at."""


def assemble(draft: PlanDraft) -> Plan:
    """Return the plan that consists of some steps."""
    drafts, outputs = draft.steps, draft.outputs
    readers = readers_of(drafts, draft.outside)
    slots_of = [step.slots for step in drafts]
    read_often = readers.several(chain.from_iterable(slots_of), is_input=False)
    producers = [-1] * len(draft.template)
    branches = Branches(drafts, draft.skippable)
    steps: list[Step] = []
    consumers: list[list[int]] = []
    for index, each in enumerate(drafts):
        needs = branches.needs(each)
        for source in needs:
            consumers[source].append(index)
        consumers.append([])
        for slot in slots_of[index]:
            producers[slot] = index
        guard = branches.add(index, each)
        if isinstance(each.node, Node):
            steps.append(_call_step(index, each, needs, guard, draft.resources, read_often))
        else:
            steps.append(_nested_step(index, each, needs, guard))
    here = [step for step in steps if step.index not in draft.places]
    calls = tuple([step for step in here if isinstance(step, CallStep)])
    nested = [step for step in steps if isinstance(step, NestedStep)]
    nested_here = [step for step in nested if step.index not in draft.places]
    is_cached = any(_is_cached(step, draft.scopes) for step in steps)
    callbacks = {id(own): own for own in _callbacks(draft.scopes, nested)}
    needs_only_calls = not draft.places and all(map(_needs_only_calls, steps))
    has_branches = bool(branches.guarded) or any(step.inner.has_branches for step in nested)
    batched_calls = tuple([step for step in calls if step.node.batching is not None])
    callers: list[Step] = [*batched_calls, *nested_here]
    batched_nodes = frozenset[Node[..., Any]]().union(*map(batched_nodes_of, callers))
    lifetimes = lifetimes_of(drafts, slots_of, outputs.values())
    program = tuple(map(_instruction, steps))
    streams = {} if draft.places else streams_of(steps, nested, producers)
    may_stream = bool(streams) or any(map(has_streams, nested_here))
    has_own_order = has_branches or bool(batched_nodes) or may_stream
    return Plan(
        scopes=tuple(draft.scopes),
        inputs=draft.inputs,
        outputs=draft.outputs,
        template=tuple(draft.template),
        rest=tuple(draft.template[len(draft.inputs) :]),
        steps=tuple(steps),
        calls=calls,
        batched_calls=batched_calls,
        batched_nodes=batched_nodes,
        leads_to=what_follows(steps, consumers, draft.places) if batched_nodes else (),
        streams=streams,
        has_streams=may_stream,
        is_limited=any(map(_is_limited, steps)),
        gathers_across_maps=any(map(maps_batched_maps, nested_here)),
        maps=tuple([step for step in nested if step.mapped]),
        producers=tuple(producers),
        alternatives=branches.alternatives,
        guarded=branches.guarded,
        skippable=frozenset(branches.skippable),
        condition_slots=frozenset(branches.condition_slots),
        deciders=branches.deciders(),
        runs_on_demand=is_cached or bool(branches.guarded),
        has_branches=has_branches,
        is_requested=draft.is_requested,
        consumers=tuple(map(tuple, consumers)),
        is_cached=is_cached,
        callbacks=tuple(callbacks.values()),
        is_local=not draft.places and all(map(_is_local, nested)),
        needs_only_calls=needs_only_calls,
        is_silent=needs_only_calls and not (is_cached or callbacks or has_own_order),
        is_chain=all(step.index == 0 or step.index - 1 in step.needs for step in steps),
        readers=readers,
        inputs_read_often=readers.several(draft.inputs.values(), is_input=True),
        program=program,
        released=lifetimes.released,
        releasing_program=tuple(with_releases(steps, program, lifetimes.released)) if lifetimes.released else program,
        reads=lifetimes.reads,
        unread=lifetimes.unread,
        outside=draft.outside,
        places=draft.places,
        has_places=bool(draft.places) or any(step.inner.has_places for step in nested if not step.is_delegated),
        parts={},
        open_scopes=draft.open_scopes,
        resources=tuple(_resources(draft.template, nested)),
        pick=itemgetter(*outputs.values()) if outputs else _nothing,
    )


def _call_step(
    index: int,
    draft: DraftStep,
    needs: tuple[int, ...],
    guard: Guard | None,
    held: Collection[int],
    often: Mapping[int, tuple[str, ...]],
) -> Step:
    node: Node[..., Any] = draft.node
    named = tuple([(name, draft.arguments[name]) for name in node.inputs])
    arguments = tuple([slot for _, slot in named])
    positional: tuple[int, ...] = arguments
    by_keyword: tuple[tuple[str, int], ...] = ()
    if node.keyword_only:
        positional = tuple([slot for name, slot in named if name not in node.keyword_only])
        by_keyword = tuple([(name, slot) for name, slot in named if name in node.keyword_only])
    resources: frozenset[str] = frozenset()
    if held:
        resources = frozenset([name for name, slot in named if slot in held])
    read_often: tuple[tuple[int, tuple[str, ...]], ...] = ()
    if often:
        made = enumerate(draft.made)
        read_often = tuple([(position, often[slot]) for position, slot in made if slot is not None and slot in often])
    batching = node.batching
    return CallStep(
        index=index,
        scope=draft.scope,
        node=node,
        arguments=arguments,
        named=named,
        outputs=draft.made,
        needs=needs,
        positional=positional,
        by_keyword=by_keyword,
        resources=resources,
        shared_by_batch=tuple([slot for name, slot in named if name not in batching.over]) if batching else (),
        batch_kind=(node, tuple(map(arguments.index, arguments)), resources, read_often) if batching else None,
        is_prepared=bool(node.keyword_only or node.skip_failures or resources or batching),
        is_special=bool(node.is_async or node.wraps_async or node.retries or node.timeout is not None or node.limiting),
        read_often=read_often,
        guard=guard,
    )


def _nested_step(index: int, draft: DraftStep, needs: tuple[int, ...], guard: Guard | None) -> Step:
    node: NestedNode = draft.node
    assert draft.nested is not None
    inner, outputs = draft.nested
    mapped = len(node.map_over)
    names = tuple(draft.arguments)
    inner_inputs = tuple([node.inner_name(name) for name in names])
    slots = tuple(draft.arguments.values())
    return NestedStep(
        index=index,
        scope=draft.scope,
        node=node,
        inner=inner,
        names=names,
        arguments=slots,
        inner_inputs=inner_inputs,
        mapped=inner_inputs[:mapped],
        shared=tuple(zip(inner_inputs[mapped:], slots[mapped:], strict=True)),
        outputs=outputs,
        needs=needs,
        guard=guard,
        backend=draft.backend,
    )


def _needs_only_calls(step: Step) -> bool:
    if isinstance(step, NestedStep):
        return _is_local(step) and step.inner.needs_only_calls
    return not step.is_special


def _is_local(step: NestedStep) -> bool:
    return not step.is_delegated and step.inner.is_local


def _is_limited(step: Step) -> bool:
    if isinstance(step, NestedStep):
        return step.inner.is_limited
    return step.node.limiting is not None


def _callbacks(scopes: Sequence[Scope], nested: list[NestedStep]) -> Iterator[PipelineCallback]:
    for scope in scopes:
        yield from scope.callbacks
    for step in nested:
        yield from step.inner.callbacks


def _resources(template: Iterable[Any], nested: Iterable[NestedStep]) -> Iterator[Resource[Any]]:
    yield from (value for value in template if isinstance(value, Resource))
    for step in nested:
        yield from step.inner.resources


def _is_cached(step: Step, scopes: Sequence[Scope]) -> bool:
    if isinstance(step, NestedStep):
        return step.inner.is_cached
    return step.node.cache and scopes[step.scope].cache is not None


def _nothing(values: Sequence[Any]) -> tuple[()]:
    return ()


def _instruction(step: Step) -> tuple[Any, ...]:
    """Return the form of a step that the silent loop reads: number of arguments, function, their slots, result slot.

    `LOOKED_AT` is added to the number where the result may have to be awaited. It is -1 for a step that the loop
    handles as an object: one with keyword-only parameters, several outputs, a result that is read more than once and
    may be an iterator, retries and the like, a generator function, or a nested pipeline.
    """
    if isinstance(step, NestedStep) or step.is_special or step.node.is_generator:
        return (-1, step, 0, 0, 0, 0)
    function = step.node.func
    is_looked_at = not _only_computes(function)
    if step.is_prepared or len(step.outputs) > 1 or len(step.positional) > 3 or (step.read_often and is_looked_at):
        return (-1, step, 0, 0, 0, 0)
    first, second, third = (*step.positional, 0, 0, 0)[:3]
    count = len(step.positional) + (LOOKED_AT if is_looked_at else 0)
    return (count, function, first, second, third, step.outputs[0])


def _only_computes(function: Any) -> bool:
    """Whether a function only computes with its arguments, so that it makes neither a coroutine nor an iterator."""
    return isinstance(function, FunctionType) and _computing().issuperset(function.__code__.co_code[::2])


@cache
def _computing() -> frozenset[int]:
    """Return instructions that call nothing and read no attribute: those of a function that has most of them."""

    def compute(a: Any, b: Any, k: Any) -> Any:
        values = (a, [b, a], {a: b}, {a}, a + b, a[k], -a, not a, a < b, a is b, a in b, "x", f"{a}{b!r}")
        first, second = a, b
        if (a and b) or k:
            return first if second is None else values
        return LOOKED_AT

    return frozenset(compute.__code__.co_code[::2])
