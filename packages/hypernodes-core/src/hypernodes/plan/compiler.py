"""Compiles a pipeline to a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hypernodes.conditions import Condition
from hypernodes.errors import MissingInputError
from hypernodes.graph import Graph, GraphNode
from hypernodes.nodes import Node
from hypernodes.plan.assembly import assemble
from hypernodes.plan.branches import find_skippable
from hypernodes.plan.drafts import PlanDraft
from hypernodes.plan.output_paths import enter, shortest
from hypernodes.plan.plan import UNSET, NestedNode, Plan, PlannedPipeline, Record, Scope, Settings
from hypernodes.resources import Resource


def compile_plan(
    pipeline: PlannedPipeline,
    given: Collection[str],
    requested: tuple[str, ...] | None = None,
    outer: Scope | None = None,
    node_name: str | None = None,
    outside: Mapping[str, Sequence[str]] | None = None,
    resources: Collection[str] = (),
    skippable: Collection[str] = (),
    memo: dict[Any, Any] | None = None,
) -> Plan:
    """Compile a pipeline.

    Args:
        pipeline: The pipeline.
        given: Names for which values will be given: root inputs, and outputs that these values override.
        requested: Outputs to compute, also of nested pipelines by their path; None for all that the pipeline shows,
            except those given and those needed only to compute given ones.
        outer: The scope of the enclosing pipeline, whose settings this one inherits.
        node_name: Name of the pipeline as a node of the enclosing one.
        outside: For each requested output, the names of its readers in the enclosing pipeline; None for the caller.
        resources: Those of the given names whose values are resources, or lists of some.
        skippable: Those of the given names whose values may be `SKIPPED`.
        memo: What was compiled of this pipeline as this node before: a nested one may be compiled several times.

    Raises:
        MissingInputError: A root input that is needed has neither a value nor a default.
    """
    settings = pipeline.own_settings.or_else(outer.settings if outer else Settings())
    settings = settings.or_else(pipeline.inherited_settings)
    scope = Scope(pipeline.id, node_name or pipeline.id, -1, settings)
    draft = _Draft(pipeline, given, scope, resources, skippable)
    draft.memo = {} if memo is None else memo
    if outside is None:
        outside = dict.fromkeys(requested or (), ("the caller",))
    return draft.finish(requested, outside)


class _Conditions(NamedTuple):
    """What has to hold so that a step runs.

    Attributes:
        found: The conditions, with the slots of the values that they are on.
        missing: What conditions are on and has no value, with the names that the outermost pipeline has for it.
    """

    found: tuple[tuple[Condition, int], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def slots(self) -> tuple[int, ...]:
        """The slots of these values."""
        return tuple([slot for _, slot in self.found])


class _DraftStep(NamedTuple):
    node: Any
    scope: int
    arguments: dict[str, int]  # the node's own input names, with slots; also given outputs, see `_add`
    outputs: dict[str, int]  # the node's own output names, with slots
    read_as: dict[str, int]  # the same names, with the slots that are read: those of given values for some
    missing: dict[str, str]  # inputs without a value, with the names that the outermost pipeline has for them
    by_path: dict[str, int]  # outputs of a nested pipeline that are requested by their path in it, with slots
    conditions: _Conditions
    nested: tuple[Plan, tuple[int | None, ...]] | None = None  # of a nested pipeline: plan, and slots of its results

    @property
    def overridden(self) -> frozenset[str]:
        """The outputs that given values replace."""
        return frozenset(name for name, slot in self.outputs.items() if self.read_as[name] != slot)

    @property
    def slots(self) -> tuple[int, ...]:
        """The slots of all its results."""
        return (*self.outputs.values(), *self.by_path.values())

    @property
    def made(self) -> tuple[int | None, ...]:
        """Slot of each output; None for one that a given value replaces."""
        if self.nested is not None:
            return self.nested[1]
        return tuple([slot if self.read_as[name] == slot else None for name, slot in self.outputs.items()])

    @property
    def backend(self) -> Any:
        """The backend of its own of a nested pipeline."""
        is_call = isinstance(self.node, Node)
        return self.node.pipeline.backend if not is_call and self.node.pipeline.has_own_backend else None


class _Level(NamedTuple):
    """One nested pipeline that is being inlined."""

    nodes: Iterator[GraphNode]
    scope: int
    slots: dict[str, int]  # slots of its names so far
    root_names: dict[str, str]  # the outermost pipeline's names of its inputs
    overrides: dict[str, int]  # given values that replace outputs of its nodes
    made_into: dict[str, int]  # slots for outputs of its nodes that others make as well, on other conditions
    conditions: _Conditions
    node: Any = None  # the nested pipeline as a node of the level below; None for the outermost


class _Unused(Record):
    """What a plan does not compute by default, and does not need.

    Attributes:
        dropped: The slots of results that are not computed.
        outputs: The names of the outputs among them.
        inputs: The names of given values that no step which runs reads.
        untaken: The names of given values that no step reads, whether it runs or not, of those that count.
    """

    dropped: set[int]
    outputs: set[str]
    inputs: set[str]
    untaken: set[str]


class _Draft:
    """The plan of a whole pipeline, before unneeded steps are removed."""

    def __init__(
        self,
        pipeline: PlannedPipeline,
        given: Collection[str],
        scope: Scope,
        resources: Collection[str] = (),
        skippable: Collection[str] = (),
    ) -> None:
        self.pipeline = pipeline
        self.scopes = [scope]
        self.template: list[Any] = []
        self.steps: list[_DraftStep] = []
        self.inputs = {name: self._new_slot() for name in given}
        self.resources = {self.inputs[name] for name in resources}  # the slots that may hold resources
        self.skippable = {self.inputs[name] for name in skippable}  # the inputs that may be skipped
        self.may_be_skipped: Collection[int] = ()  # the slots that may hold `SKIPPED`
        self.memo: dict[Any, Any] = {}  # see `compile_plan`
        self.made_by: dict[tuple[int, Any], _Level | _DraftStep] = {}  # by scope and nested pipeline
        graph = pipeline.graph
        overrides = {name: slot for name, slot in self.inputs.items() if name in graph.producers}
        slots = {name: slot for name, slot in self.inputs.items() if name not in overrides}
        self._preset(pipeline, slots)
        self.top = _Level(iter(graph.nodes), 0, slots, {}, overrides, self._shared_slots(graph), _Conditions())
        levels = [self.top]
        while levels:  # a stack instead of recursion: nesting may be deep
            level = levels[-1]
            node = next(level.nodes, None)
            if node is None:
                levels.pop()
                if level.node is not None:
                    for name in level.node.outputs:
                        levels[-1].slots[name] = level.slots[level.node.inner_output(name)]
            elif self._is_inlined(node):
                levels.append(self._open(node, level))
            else:
                self._add(node, level)
        self.outputs = {name: slots[name] for name in graph.outputs}

    @staticmethod
    def _is_inlined(node: Any) -> bool:
        return not isinstance(node, Node) and not node.map_over and not node.pipeline.has_own_backend

    def _preset(self, pipeline: PlannedPipeline, slots: dict[str, int]) -> None:
        """Add the values that are preset for a pipeline's inputs, where there are no others."""
        for name, value in pipeline.preset.items():
            if name not in slots:
                slots[name] = self._new_slot(value)

    def _new_slot(self, value: Any = UNSET) -> int:
        self.template.append(value)
        slot = len(self.template) - 1
        if isinstance(value, Resource):
            self.resources.add(slot)
        return slot

    def _open(self, node: Any, outer: _Level) -> _Level:
        pipeline: PlannedPipeline = node.pipeline
        parent = self.scopes[outer.scope]
        settings = pipeline.own_settings.or_else(parent.settings).or_else(pipeline.inherited_settings)
        self.scopes.append(Scope(pipeline.id, node.name, outer.scope, settings))
        inner = {name: node.inner_input(name) for name in node.inputs}
        slots = {inner[name]: outer.slots[name] for name in node.inputs if name in outer.slots}
        self._preset(pipeline, slots)
        made_into = {node.inner_output(name): outer.made_into[name] for name in node.outputs if name in outer.made_into}
        level = _Level(
            nodes=iter(pipeline.graph.nodes),
            scope=len(self.scopes) - 1,
            slots=slots,
            root_names={inner[name]: outer.root_names.get(name, name) for name in node.inputs},
            overrides={
                node.inner_output(name): outer.overrides[name] for name in node.outputs if name in outer.overrides
            },
            made_into={**self._shared_slots(pipeline.graph, made_into), **made_into},
            conditions=self._conditions_of(node, outer),
            node=node,
        )
        self.made_by[outer.scope, node] = level
        return level

    def _shared_slots(self, graph: Graph, known: Collection[str] = ()) -> dict[str, int]:
        """Return a slot for each output that several nodes make, on conditions of which one holds."""
        return {name: self._new_slot() for name in graph.alternatives if name not in known}

    def _conditions_of(self, node: Any, level: _Level) -> _Conditions:
        """Return the conditions of a node of a level, after those of the level itself."""
        if not node.conditions:
            return level.conditions
        found = list(level.conditions.found)
        missing = list(level.conditions.missing)
        for condition in node.conditions:
            if condition.name in level.slots:
                found.append((condition, level.slots[condition.name]))
            elif condition.name in node.defaults:
                found.append((condition, self._new_slot(node.defaults[condition.name])))
            else:
                missing.append(level.root_names.get(condition.name, condition.name))
        return _Conditions(tuple(found), tuple(missing))

    def _add(self, node: Any, level: _Level) -> None:
        arguments: dict[str, int] = {}
        missing: dict[str, str] = {}
        is_call = isinstance(node, Node)
        for name in node.inputs:
            if name in level.slots:
                arguments[name] = level.slots[name]
            elif name not in node.defaults:
                missing[name] = level.root_names.get(name, name)
            elif is_call or name in node.map_over:  # else a nested pipeline applies its defaults itself
                arguments[name] = self._new_slot(node.defaults[name])
        made_into = level.made_into
        outputs = {name: made_into[name] if name in made_into else self._new_slot() for name in node.outputs}
        read_as = {name: level.overrides.get(name, slot) for name, slot in outputs.items()}
        if _runs_once(node):  # the given values replace outputs of nodes in it, as where it is inlined
            arguments |= {name: level.overrides[name] for name in outputs if name in level.overrides}
        conditions = self._conditions_of(node, level)
        step = _DraftStep(node, level.scope, arguments, outputs, read_as, missing, {}, conditions)
        self.steps.append(step)
        if not is_call:
            self.made_by[level.scope, node] = step
        level.slots.update(read_as)

    def _slot_of(self, path: str) -> int:
        """Return the slot of an output, also of one of a nested pipeline that it does not show."""
        graph, level = self.pipeline.graph, self.top
        path = shortest(graph, path)
        while path not in graph.producers:
            node, path = enter(graph, path)
            maker = self.made_by[level.scope, node]
            if isinstance(maker, _DraftStep):
                return maker.by_path.setdefault(path, self._new_slot())  # one that it shows has a name in this level
            graph, level = node.pipeline.graph, maker
        return level.slots[path]

    # --- removing unneeded steps ----------------------------------------------------------------------------------

    def finish(self, requested: tuple[str, ...] | None, outside: Mapping[str, Sequence[str]]) -> Plan:
        producer_of = {slot: i for i, step in enumerate(self.steps) for slot in step.outputs.values()}
        if requested is None:
            outputs = self._default_outputs(producer_of)
        else:
            outputs = {name: self._slot_of(name) for name in requested}
        needed_slots = set(outputs.values())
        reads: dict[int, list[str]] = {}
        for name, readers in outside.items():
            reads.setdefault(outputs[name], []).extend(readers)
        from_outside = {slot: tuple(names) for slot, names in reads.items()}
        needed_steps: list[_DraftStep] = []
        if not all(isinstance(step.node, Node) for step in self.steps):
            self.may_be_skipped = find_skippable(self.steps, self.skippable)
        for step in reversed(self.steps):  # consumers come after producers
            if not needed_slots.isdisjoint(step.slots):
                if not isinstance(step.node, Node):
                    step = self._compile_nested(step, needed_slots, reads)
                needed_steps.append(step)
                needed_slots.update(step.arguments.values())
                needed_slots.update(step.conditions.slots)
                for slot in step.arguments.values():
                    reads.setdefault(slot, []).append(step.node.name)
        needed_steps.reverse()
        self._check_missing(needed_steps)
        draft = PlanDraft(
            scopes=self.scopes,
            inputs=self.inputs,
            outputs=outputs,
            template=self.template,
            steps=needed_steps,
            outside=from_outside,
            resources=self.resources,
            skippable=self.skippable,
            is_requested=requested is not None,
        )
        return assemble(draft)

    def _compile_nested(self, step: _DraftStep, needed_slots: set[int], reads: Mapping[int, list[str]]) -> _DraftStep:
        """Compile a nested pipeline that is not inlined; removes the inputs that only unrequested outputs need."""
        node: NestedNode = step.node
        wanted = {node.inner_output(name): slot for name, slot in step.outputs.items() if slot in needed_slots}
        wanted |= step.by_path
        missing = self._missing_inside(step, tuple(wanted))
        given = {**step.arguments, **missing}
        mapped = tuple(node.map_over)  # their slots come first in the inner plan, so that items are quickly prepared
        names = (*mapped, *(name for name in given if name not in mapped))
        outside = {name: tuple(reads.get(slot, ())) for name, slot in wanted.items()}
        own = tuple([node.inner_name(name) for name in names])
        held = [node.inner_name(name) for name, slot in step.arguments.items() if slot in self.resources]
        unsure = [
            node.inner_name(name)
            for name, slot in step.arguments.items()
            if slot in self.may_be_skipped and name not in node.map_over
        ]
        inner = self._compile_inside(step, own, tuple(wanted), outside, held, unsure)
        used = {*inner.outputs.values(), *(slot for inner_step in inner.steps for slot in inner_step.arguments)}
        used |= inner.condition_slots
        kept = {*mapped, *step.overridden}  # a given output also means that it is not computed
        taken = [name for name in names if name in kept or inner.inputs[node.inner_name(name)] in used]
        if len(taken) < len(names):
            own = tuple([node.inner_name(name) for name in taken])
            held = [name for name in held if name in own]
            unsure = [name for name in unsure if name in own]
            inner = self._compile_inside(step, own, tuple(wanted), outside, held, unsure)
        return step._replace(
            arguments={name: step.arguments[name] for name in taken if name in step.arguments},
            missing={name: missing[name] for name in taken if name in missing},
            nested=(inner, tuple(wanted.values())),
        )

    def _compile_inside(
        self,
        step: _DraftStep,
        own: tuple[str, ...],
        wanted: tuple[str, ...],
        outside: Mapping[str, tuple[str, ...]] | None,
        held: Collection[str],
        unsure: Collection[str] = (),
    ) -> Plan:
        """Compile a nested pipeline that is not inlined; see `compile_plan`."""
        memo: dict[Any, Any] = self.memo.setdefault((step.node, step.scope), {})
        key = ("plan", own, wanted, None if outside is None else (*outside.items(),), (*held,), (*unsure,))
        if key not in memo:
            outer = self.scopes[step.scope]
            memo[key] = compile_plan(
                step.node.pipeline, own, wanted, outer, step.node.name, outside, held, unsure, memo
            )
        plan: Plan = memo[key]
        return plan

    def _missing_inside(self, step: _DraftStep, wanted: tuple[str, ...]) -> dict[str, str]:
        """Return the missing inputs that the wanted outputs need; nested pipelines may have defaults for the others."""
        if not step.missing:
            return step.missing
        node: NestedNode = step.node
        names = (*node.map_over, *(name for name in step.arguments if name not in node.map_over))
        needed: Mapping[str, Any] = {}
        try:
            own = tuple([node.inner_name(name) for name in names])
            self._compile_inside(step, own, wanted, None, [])
        except MissingInputError as error:
            needed = error.missing
        return {
            name: root_name
            for name, root_name in step.missing.items()
            if name in node.map_over or node.inner_input(name) in needed
        }

    def _default_outputs(self, producer_of: Mapping[int, int]) -> dict[str, int]:
        """Return all shown outputs except those given and those needed only to compute given ones."""
        shown = {name: self.outputs[name] for name in self.pipeline.outputs}
        if not any(step.overridden for step in self.steps):
            return shown
        dropped = self._find_unused(shown, {}).dropped
        return {name: slot for name, slot in shown.items() if slot in producer_of and slot not in dropped}

    def _find_unused(self, shown: Iterable[str], users: Mapping[str, bool]) -> _Unused:
        """Determine what is not computed by default: what is given, and what is needed only for what is given.

        Args:
            shown: The outputs that are computed by default.
            users: For outputs that the enclosing pipeline reads, whether a step that will run does.
        """
        concerned = {self.outputs[name] for name in (*shown, *users)}  # what is computed by default, or read for that
        is_used = [False] * len(self.template)  # by a step that will run
        has_users = [False] * len(self.template)
        for name, is_read in users.items():
            has_users[self.outputs[name]], is_used[self.outputs[name]] = True, is_read
        dropped: set[int] = set()
        for step in reversed(self.steps):
            if concerned.isdisjoint(step.read_as.values()):
                continue
            concerned.update(step.arguments.values())
            concerned.update(step.conditions.slots)
            read: Collection[str] = step.arguments
            taken: Collection[str] = step.arguments
            if _runs_once(step.node):
                node, scope = step.node, self.scopes[step.scope]
                inside = {node.inner_output(name): is_used[s] for name, s in step.outputs.items() if has_users[s]}
                own = {name: node.inner_name(name) for name in step.arguments}
                asked = [node.inner_output(name) for name, slot in step.read_as.items() if slot in concerned]
                unused = _Draft(node.pipeline, own.values(), scope)._find_unused(asked, inside)  # noqa: SLF001
                dead = {
                    slot
                    for name, slot in step.outputs.items()
                    if name in step.overridden or node.inner_output(name) in unused.outputs
                }
                read = [name for name in own if own[name] not in unused.inputs]
                taken = [name for name in own if own[name] not in unused.untaken]
            else:
                dead = {
                    slot
                    for name, slot in step.outputs.items()
                    if name in step.overridden or (not is_used[slot] and (step.overridden or has_users[slot]))
                }
                if len(dead) == len(step.outputs):
                    read = ()
            dropped |= dead
            for name in taken:
                slot = step.arguments[name]
                has_users[slot] = True
                is_used[slot] = is_used[slot] or name in read
            for slot in step.conditions.slots:
                has_users[slot] = True
                is_used[slot] = is_used[slot] or len(dead) < len(step.outputs)
        return _Unused(
            dropped=dropped,
            outputs={name for name, slot in self.outputs.items() if slot in dropped},
            inputs={name for name, slot in self.inputs.items() if not is_used[slot]},
            untaken={name for name, slot in self.inputs.items() if not has_users[slot]},
        )

    def _check_missing(self, needed_steps: list[_DraftStep]) -> None:
        missing: dict[str, list[str]] = {}
        for step in needed_steps:
            for name in (*step.missing.values(), *step.conditions.missing):
                users = missing.setdefault(name, [])
                if step.node.name not in users:
                    users.append(step.node.name)
        if not missing:
            return
        listing = ", ".join(
            f"{name!r} (for {'nodes' if len(users) > 1 else 'node'} {', '.join(map(repr, users))})"
            for name, users in missing.items()
        )
        given = ", ".join(map(repr, self.inputs)) or "nothing"
        from hypernodes.plan.meant_names import meant_by_missing

        meant = {name: found for name in missing if (found := meant_by_missing(self.pipeline.graph, name, self.inputs))}
        questions = "".join([f". {found.text}" for found in meant.values()])
        raise MissingInputError(
            f"pipeline {self.pipeline.id!r} needs a value for {listing}; inputs has {given}{questions}",
            missing={name: tuple(users) for name, users in missing.items()},
            meant={name: found.name for name, found in meant.items()},
        )


def _runs_once(node: Any) -> bool:
    """Whether a node is a nested pipeline that is not mapped; as a step it has a backend of its own."""
    return not isinstance(node, Node) and not node.map_over
