"""A pipeline compiled for a set of given inputs and requested outputs: steps in topological order over numbered slots.

Nested pipelines are inlined: their nodes become steps of the same plan, and a scope records the pipeline that a step
belongs to. A mapped node, and a nested pipeline with a backend of its own, remain one step each. A plan is immutable,
holds no values of a run and is reused by later runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol, TypeAlias

from hypernodes.cache.base import Cache
from hypernodes.callbacks import PipelineCallback
from hypernodes.conditions import Condition
from hypernodes.graph import Graph, GraphNode
from hypernodes.nodes import Node
from hypernodes.plan.readers import Readers
from hypernodes.resources import Resource

if TYPE_CHECKING:
    from hypernodes.batching import Batching

MapMode: TypeAlias = Literal["zip", "product"]
OnError: TypeAlias = Literal["raise", "collect"]


class Settings(NamedTuple):
    """The settings that nested pipelines inherit; None means "not set".

    Attributes:
        cache: The cache that stores results; False for none.
        callbacks: The callbacks that observe the events.
    """

    cache: Cache | Literal[False] | None = None
    callbacks: tuple[PipelineCallback, ...] | None = None

    def or_else(self, outer: Settings) -> Settings:
        """Return these settings, completed from those of the enclosing pipeline."""
        return Settings(
            outer.cache if self.cache is None else self.cache,
            outer.callbacks if self.callbacks is None else self.callbacks,
        )


class PlannedPipeline(Protocol):
    """The part of a pipeline that the compiler needs."""

    @property
    def id(self) -> str: ...

    @property
    def graph(self) -> Graph: ...

    @property
    def own_settings(self) -> Settings: ...

    @property
    def inherited_settings(self) -> Settings: ...

    @property
    def has_own_backend(self) -> bool: ...

    @property
    def backend(self) -> Any: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def preset(self) -> Mapping[str, Any]: ...


class NestedNode(GraphNode, Protocol):
    """The part of a pipeline used as a node that the compiler needs."""

    @property
    def pipeline(self) -> PlannedPipeline: ...

    @property
    def map_over(self) -> tuple[str, ...]: ...

    @property
    def map_mode(self) -> MapMode: ...

    @property
    def on_error(self) -> OnError: ...

    def inner_input(self, outer: str) -> str:
        """Return the name that the pipeline itself uses for an input of the node."""

    def inner_output(self, outer: str) -> str:
        """Return the name that the pipeline itself uses for an output of the node."""

    def inner_name(self, outer: str) -> str:
        """Return the name that the pipeline itself uses for an input or an output of the node."""


class Scope(NamedTuple):
    """A pipeline within a plan.

    Attributes:
        pipeline_id: Its id.
        node_name: Its name as a node of the enclosing pipeline; its id when there is none.
        parent: Position of the enclosing scope; -1 for the outermost scope of the plan.
        settings: Its own settings and those that it inherits.
    """

    pipeline_id: str
    node_name: str
    parent: int
    settings: Settings

    @property
    def cache(self) -> Cache | None:
        """The cache that stores the results of its nodes."""
        return self.settings.cache if isinstance(self.settings.cache, Cache) else None

    @property
    def callbacks(self) -> tuple[PipelineCallback, ...]:
        """The callbacks that observe the events of its nodes."""
        return self.settings.callbacks or ()


class Record:
    """An immutable object with named fields, compared by identity.

    Implemented here because importing `dataclasses` takes longer than importing this whole library.
    """

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed")


class Guard(NamedTuple):
    """What decides whether a step runs, or is skipped.

    Attributes:
        conditions: All of them have to hold: those of its node, and of the nested pipelines that contain it. Each with
            the slot of the value that it is on.
        required: For each argument that may be skipped and that the step needs: its slot, and the positions of the
            steps that may make it.
    """

    conditions: tuple[tuple[Condition, int], ...]
    required: tuple[tuple[int, tuple[int, ...]], ...]


class CallStep(Record):
    """Call a node's function.

    Attributes:
        index: Position in the plan.
        scope: Position of the scope it belongs to.
        node: The node.
        arguments: Slot of each parameter, in the order of the node's inputs.
        named: Name and slot of each parameter.
        outputs: Slot of each output; None for one that a given value replaces.
        positional: Slots of the arguments that are passed by position, which is all but the keyword-only ones.
        by_keyword: Name and slot of the others.
        resources: Names of the parameters that may get resources.
        shared_by_batch: Slots of the arguments that all items of a batch have to share.
        batch_kind: What calls have to share that are made together, besides these values; None if it is not batched.
        is_prepared: Whether the arguments are not simply the values in the slots of `positional`.
        is_special: Whether a call has retries, a time limit or other limits, or is awaited.
        read_often: Position of each output that is read more than once, with the names of its readers.
        needs: Positions of the steps whose results it reads.
        guard: What decides whether it runs; None if it always does.
    """

    index: int
    scope: int
    node: Node[..., Any]
    arguments: tuple[int, ...]
    named: tuple[tuple[str, int], ...]
    outputs: tuple[int | None, ...]
    needs: tuple[int, ...]
    positional: tuple[int, ...]
    by_keyword: tuple[tuple[str, int], ...]
    resources: frozenset[str]
    shared_by_batch: tuple[int, ...]
    batch_kind: tuple[Any, ...] | None
    is_prepared: bool
    is_special: bool
    read_often: tuple[tuple[int, tuple[str, ...]], ...]
    guard: Guard | None

    def is_default(self, slot: int, value: Any) -> bool:
        """Whether a value is the very default of the parameter that takes what is in a slot."""
        return any(
            taken == slot and name in self.node.defaults and self.node.defaults[name] is value
            for name, taken in self.named
        )

    def default_of(self, slot: int) -> Any:
        """Return the default of the parameter that takes what is in a slot."""
        return self.node.defaults[self.node.inputs[self.arguments.index(slot)]]


class NestedStep(Record):
    """Run a nested pipeline that is not inlined: once per item, or with a backend of its own, or both.

    Attributes:
        index: Position in the plan.
        scope: Position of the scope it belongs to, which is the enclosing pipeline.
        node: The nested pipeline with its mappings.
        inner: The plan of the nested pipeline for the outputs that are needed.
        names: The enclosing pipeline's name of each input.
        arguments: Slot of each input.
        inner_inputs: The nested pipeline's own name of each input.
        mapped: The nested pipeline's own names of the inputs that vary from item to item, which come first among the
            arguments; empty when not mapped.
        shared: The nested pipeline's own name and the slot of each other input.
        outputs: Slot of each output of `inner`; None for one that no step may read.
        needs: Positions of the steps whose results it reads.
        guard: What decides whether it runs; None if it always does.
        backend: The backend that runs it; None if it runs where the plan does.
    """

    index: int
    scope: int
    node: NestedNode
    inner: Plan
    names: tuple[str, ...]
    arguments: tuple[int, ...]
    inner_inputs: tuple[str, ...]
    mapped: tuple[str, ...]
    shared: tuple[tuple[str, int], ...]
    outputs: tuple[int | None, ...]
    needs: tuple[int, ...]
    guard: Guard | None
    backend: Any

    @property
    def is_delegated(self) -> bool:
        """Whether another backend runs it than the one that runs the plan."""
        return self.backend is not None


Step: TypeAlias = CallStep | NestedStep


class Release:
    """Values that no later step of a plan reads, and that nobody asked for.

    Args:
        slots: Their slots.

    Attributes:
        slots: The same.
    """

    __slots__ = ("slots",)

    def __init__(self, slots: tuple[int, ...]) -> None:
        self.slots = slots


class Plan(Record):
    """A compiled pipeline.

    Attributes:
        scopes: The pipelines in it; the outermost first.
        inputs: Slot of each given input; these are the first slots, in the order given.
        outputs: Slot of each requested output.
        template: Initial value of every slot: the default where there is one, else `UNSET`.
        rest: The part of `template` after the inputs.
        steps: The steps, in topological order.
        calls: Those of them that are calls.
        batched_calls: Those of the calls that are of batched nodes.
        batched_nodes: The batched nodes of these, and of the mapped pipelines in it.
        leads_to: For each step, the batched nodes that may be called after it; empty if there are none at all.
        streams: For each step whose elements can be taken one by one, the mapped pipelines that do so, by position.
        has_streams: Whether there are any such steps, also in mapped pipelines that run here.
        is_limited: Whether calls in it, also those of nested pipelines, have limits.
        gathers_across_maps: Whether a mapped pipeline has items that contain further maps with batched nodes, so that
            batches are formed of items of several maps.
        maps: The steps that are mapped pipelines.
        producers: Position of the step that fills a slot; -1 for inputs and defaults. If several steps may, of which
            one runs, it is the last of them.
        alternatives: The slots that several steps may fill, with the positions of all of them.
        guarded: Positions of the steps that may be skipped.
        skippable: The slots whose values may be `SKIPPED`, because no step fills them.
        condition_slots: The slots of the values that conditions are on.
        deciders: Positions of the steps whose results decide whether others run.
        runs_on_demand: Whether it is not known beforehand which steps run: results may be cached, or steps skipped.
        has_branches: Whether any step may be skipped, also in nested pipelines.
        is_requested: Whether its outputs were asked for by name.
        consumers: For each step, positions of the steps that read one of its results.
        is_cached: Whether any step may take its result from a cache.
        callbacks: All callbacks of its scopes, and of the mapped pipelines in it, each once.
        is_local: Whether no step in it, also of nested pipelines, runs on another backend.
        needs_only_calls: Whether all steps, also those of mapped pipelines, are calls of ordinary functions in this
            process, without retries and limits.
        is_silent: Whether it needs only calls, of nodes that are not batched, and there is neither a cache nor a
            callback.
        is_chain: Whether each step reads a result of the previous one, so that no two can run at a time.
        readers: Who reads the values in its slots.
        inputs_read_often: The inputs that are read more than once in one execution, by slot, with their readers.
        program: The steps in the form that the silent loop reads.
        released: What can be released after a step that is executed in order, by its position.
        releasing_program: The program, with what can be released between its steps.
        reads: For each value of a step that is read and that nobody asked for, how many steps read it, by slot.
        unread: The slots of a step's values that nobody reads or asked for, by its position.
        outside: For the slots of outputs, the names of their readers outside the plan.
        places: The backends that run steps together with their neighbours, by the position of the step; none for the
            steps that run where the plan does, and for nested pipelines that are delegated by themselves.
        has_places: Whether there are any, also in mapped pipelines that run where the plan does.
        parts: Parts of it that were executed elsewhere (`PlanPart`), kept for further executions.
        open_scopes: Of a part of a plan: the scopes whose start and end the rest of that plan reports, which also
            reports the items; None if it is a plan of its own.
        resources: The resources in it that are preset or defaults, also in nested pipelines.
        pick: Returns the requested outputs from the slots: a single value, else a tuple.
    """

    scopes: tuple[Scope, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    template: tuple[Any, ...]
    rest: tuple[Any, ...]
    steps: tuple[Step, ...]
    calls: tuple[CallStep, ...]
    batched_calls: tuple[CallStep, ...]
    batched_nodes: frozenset[Node[..., Any]]
    leads_to: tuple[frozenset[Node[..., Any]], ...]
    streams: Mapping[int, tuple[int, ...]]
    has_streams: bool
    is_limited: bool
    gathers_across_maps: bool
    maps: tuple[NestedStep, ...]
    producers: tuple[int, ...]
    alternatives: Mapping[int, tuple[int, ...]]
    guarded: tuple[int, ...]
    skippable: frozenset[int]
    condition_slots: frozenset[int]
    deciders: frozenset[int]
    runs_on_demand: bool
    has_branches: bool
    is_requested: bool
    consumers: tuple[tuple[int, ...], ...]
    is_cached: bool
    callbacks: tuple[PipelineCallback, ...]
    is_local: bool
    needs_only_calls: bool
    is_silent: bool
    is_chain: bool
    readers: Readers
    inputs_read_often: Mapping[int, tuple[str, ...]]
    program: tuple[tuple[Any, ...], ...]
    released: Mapping[int, Release]
    releasing_program: tuple[tuple[Any, ...], ...]
    reads: Mapping[int, int]
    unread: Mapping[int, tuple[int, ...]]
    outside: Mapping[int, Sequence[str]]
    places: Mapping[int, Any]
    has_places: bool
    parts: dict[Any, Any]
    open_scopes: frozenset[int] | None
    resources: tuple[Resource[Any], ...]
    pick: Callable[[Sequence[Any]], Any]

    @property
    def batches_alike(self) -> bool:
        """Whether all batches of calls in it have the same number of items."""
        kinds = {(batching.size, batching.weight) for batching in self.batchings}
        return len(kinds) < 2 and all(weight is None for _, weight in kinds)

    @property
    def batchings(self) -> list[Batching]:
        """How the items of each of its batched calls are gathered."""
        return [step.node.batching for step in self.batched_calls if step.node.batching is not None]

    @property
    def has_batched_maps(self) -> bool:
        """Whether a mapped pipeline in it, executed here, has batched nodes."""
        here = [step for step in self.maps if not step.is_delegated and step.index not in self.places]
        return any(step.inner.batched_nodes for step in here)

    def makers(self, slot: int) -> tuple[int, ...]:
        """Return the positions of the steps that may fill a slot."""
        found = self.alternatives.get(slot)
        if found is None:
            producer = self.producers[slot]
            found = () if producer < 0 else (producer,)
        return found


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"

    def __reduce__(self) -> str:
        return "UNSET"


UNSET = _Unset()
