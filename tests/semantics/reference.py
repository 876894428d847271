"""What a pipeline must do, by the meaning of the words in the design; shares nothing with the engine.

It computes lazily and recursively over `Step`s. To *settle* a step is to find its result in the cache, or else to
settle what it needs and run it; to *identify* it is to run whatever uncached steps its signature depends on. It never
stops at a failure: whatever does not depend on the failure is still done, so `Expected` describes everything that may
happen before the run ends, in any order that `Expected.order` allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple, TypeAlias

from tests.semantics.specification import Execution, FunctionSpec, NestedSpec, PipelineSpec, PlannedError, Value

Key: TypeAlias = tuple[Any, ...] | None  # the identity of a value; None when only running can tell


class Event(NamedTuple):
    """One event of a run, without what it carries.

    Attributes:
        hook: Name of the callback's method.
        path: The pipelines around it as (name as a node, id), outermost first.
        items: Index of the item in every map around it.
        subject: The node, nested pipeline or item it is about.
    """

    hook: str
    path: tuple[tuple[str, str], ...]
    items: tuple[int, ...]
    subject: str = ""


@dataclass
class Expected:
    """What an execution must give.

    Attributes:
        outputs: The result; None when it fails.
        refusals: Errors, one of which must be raised before anything runs; by name of the type.
        failures: Errors, one of which must be raised at last: (type, message or "", node, items).
        events: Every event that may happen, and what it carries.
        order: Pairs of events of which the first must come before the second.
        calls: How often each function is called with which arguments.
        kept: The calls whose results are in a cache afterwards.
        not_kept: The calls whose results are not; one function may stand in two places.
        is_contested: Whether several places need one result that no cache held before: how many of them compute it
            depends on the timing.
    """

    outputs: dict[str, Value] | None = None
    refusals: set[str] = field(default_factory=set)
    failures: set[tuple[str, str, str, tuple[int, ...]]] = field(default_factory=set)
    events: dict[Event, Any] = field(default_factory=dict)
    order: list[tuple[Event, Event]] = field(default_factory=list)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: set[tuple[str, str]] = field(default_factory=set)
    not_kept: set[tuple[str, str]] = field(default_factory=set)
    is_contested: bool = False

    def merge(self, other: Expected) -> None:
        self.failures |= other.failures
        self.events |= other.events
        self.order += other.order
        self.calls += other.calls
        self.kept |= other.kept
        self.not_kept |= other.not_kept


class Span(NamedTuple):
    """What happens between two events, or during one."""

    first: Event
    last: Event


# --- values that exist, or will ------------------------------------------------------------------------------------


@dataclass(eq=False)
class Given:
    """A value from outside: an input, a default, or what a frame around computed."""

    value: Value
    key: Key


@dataclass(eq=False)
class Missing:
    """A root input without value and default."""


@dataclass(eq=False)
class Output:
    """One output of a step; its value exists when the step is settled."""

    step: Step
    name: str


Cell: TypeAlias = Given | Missing | Output


@dataclass(eq=False)
class Scope:
    """A pipeline in a frame."""

    path: tuple[tuple[str, str], ...]
    cache: str | None
    parent: Scope | None = None
    span: Span | None = None


@dataclass(eq=False)
class Step:
    """A node in a frame; `arguments` by the node's own names."""

    node: FunctionSpec | NestedSpec
    scope: Scope
    arguments: dict[str, Cell]
    overridden: frozenset[str]
    wanted: set[str] = field(default_factory=set)  # outputs that anything needs
    state: str = "waiting"  # or "hit", "ran", "failed"
    values: dict[str, Value] = field(default_factory=dict)
    elements: dict[str, list[Key]] = field(default_factory=dict)
    span: Span | None = None

    @property
    def is_mapped(self) -> bool:
        return isinstance(self.node, NestedSpec)


def value_key(value: Value) -> Key:
    """Return the identity of a value by content and types."""
    return ("value", repr(value))


# --- pipelines as cells --------------------------------------------------------------------------------------------


def instantiate(pipeline: PipelineSpec, scope: Scope, bound: Mapping[str, Cell]) -> tuple[dict[str, Cell], list[Step]]:
    """Wire a pipeline up: every name with its cell, and the steps in the order in which a sequential run takes them."""
    preset: dict[str, Cell] = {name: Given(value, value_key(value)) for name, value in pipeline.preset.items()}
    preset |= {
        name: Given(pipeline.preset[name], ("resource", repr(pipeline.preset[name]))) for name in pipeline.resources
    }
    cells: dict[str, Cell] = {**preset, **bound}
    steps: list[Step] = []
    for node in in_order(pipeline):
        overridden = frozenset(name for name in node.outputs if name in bound)
        if isinstance(node, FunctionSpec):
            arguments = {p.name: cells.get(p.name) or _default(p.default) for p in node.parameters}
            step = Step(node, scope, arguments, overridden)
            made: dict[str, Cell] = {name: Output(step, name) for name in node.outputs}
            steps.append(step)
        else:
            outer = {inner: node.outer_input(inner) for inner in node.pipeline.inputs}
            inside = {inner: cells[name] for inner, name in outer.items() if name in cells}
            if node.map_over:
                given = {
                    name: node.pipeline.preset[name] for name in mapped_inputs(node) if name in node.pipeline.preset
                }
                inside = {name: Given(value, value_key(value)) for name, value in given.items()} | inside
                step = Step(node, scope, inside, overridden)
                made = {name: Output(step, name) for name in node.outputs}
                shown = {
                    inner: cells.get(name, made[name]) for inner, name in zip(node.shown, node.outputs, strict=True)
                }
                by_path = {path: f"{node.name}/{path}" for path in node.pipeline.paths}
                made |= {
                    name: shown.get(node.pipeline.shortest(path), Output(step, name)) for path, name in by_path.items()
                }
                steps.append(step)
            else:
                names = {inner: node.outer_output(inner) for inner in node.shown}
                inside |= {inner: bound[name] for inner, name in names.items() if name in bound}
                inner_cells, inner_steps = instantiate(node.pipeline, inner_scope(node, scope), inside)
                made = {name: inner_cells[inner] for inner, name in names.items()}
                made |= {f"{node.name}/{path}": inner_cells[path] for path in node.pipeline.paths}
                steps += inner_steps
        cells = made | cells  # a given value stands for an output
    return cells, steps


def in_order(pipeline: PipelineSpec) -> list[FunctionSpec | NestedSpec]:
    """Return the nodes in topological order, as written where that leaves a choice."""
    waiting = list(pipeline.nodes)
    order: list[FunctionSpec | NestedSpec] = []
    while waiting:
        to_come = {name for node in waiting for name in node.outputs}
        node = next(node for node in waiting if to_come.isdisjoint(node.inputs))
        waiting.remove(node)
        order.append(node)
    return order


def inner_scope(node: NestedSpec, around: Scope) -> Scope:
    setting = node.pipeline.cache
    cache = around.cache if setting is None else setting or None
    return Scope((*around.path, (node.name, node.pipeline.name)), cache, around)


def _default(default: tuple[Value] | None) -> Cell:
    return Missing() if default is None else Given(default[0], value_key(default[0]))


def _steps_of(cells: Iterable[Cell]) -> list[Step]:
    return list(dict.fromkeys(cell.step for cell in cells if isinstance(cell, Output)))


# --- what is needed at all, before any cache is asked --------------------------------------------------------------


def want(cells: Iterable[Cell]) -> list[Step]:
    """Mark what the cells need, and return those steps."""
    needed: dict[Step, None] = {}
    stack = [cell for cell in cells if isinstance(cell, Output)]
    while stack:
        cell = stack.pop()
        if cell.name not in cell.step.wanted:
            cell.step.wanted.add(cell.name)
            needed[cell.step] = None
            stack += [source for source in arguments_of(cell.step) if isinstance(source, Output)]
    return list(needed)


def arguments_of(step: Step) -> list[Cell]:
    """Return what the wanted outputs of a step take."""
    if isinstance(step.node, FunctionSpec):
        return list(step.arguments.values())
    return [step.arguments[name] for name in _used_inputs(step, step.wanted) if name in step.arguments]


def _used_inputs(step: Step, wanted: Iterable[str]) -> list[str]:
    """The inputs of a mapped pipeline, by its own names, that its outputs depend on; those mapped over always count."""
    probe = _Probe(step, wanted)
    return [name for name in probe.pipeline.inputs if name in probe.used or name in probe.mapped]


class _Probe:
    """The inside of a mapped pipeline with each input standing for itself."""

    def __init__(self, step: Step, wanted: Iterable[str]) -> None:
        assert isinstance(step.node, NestedSpec)
        node = step.node
        self.pipeline = node.pipeline
        self.mapped = mapped_inputs(node)
        self.scope = inner_scope(node, step.scope)
        names = [n for n in node.pipeline.inputs if n in step.arguments or n in self.mapped]
        symbols = {name: Given(None, ("input", name)) for name in names}
        cells, _ = instantiate(node.pipeline, self.scope, symbols)
        paths = {node.path_inside(name) for name in wanted}
        self.outputs = {path: cells[path] for path in node.pipeline.paths if path in paths}
        self.steps = want(self.outputs.values())
        taken = [cell for inside in self.steps for cell in arguments_of(inside)]
        self.used = {name for name, symbol in symbols.items() if symbol in taken}
        self.is_missing = any(isinstance(cell, Missing) for cell in taken) or any(map(lacks_input, self.steps))


def mapped_inputs(node: NestedSpec) -> list[str]:
    """Return what a node maps over, by the names of its own pipeline."""
    return [node.input_mapping.get(name, name) for name in node.map_over]


def lacks_input(step: Step) -> bool:
    """Whether a step that is wanted cannot run for want of a root input."""
    if isinstance(step.node, FunctionSpec):
        return any(isinstance(cell, Missing) for cell in step.arguments.values())
    return any(name not in step.arguments for name in mapped_inputs(step.node)) or _Probe(step, step.wanted).is_missing


def default_outputs(
    pipeline: PipelineSpec,
    cells: Mapping[str, Cell],
    steps: list[Step],
    without_given: tuple[dict[str, Cell], list[Step]],
) -> list[str]:
    """All shown outputs, but neither those given nor those that only served to compute given ones.

    `without_given` is the same pipeline, wired up where no value is given for an output.
    """
    users: dict[tuple[Step, str], list[Step]] = {}
    all_cells, all_steps = without_given
    concerned = _makers([all_cells[name] for name in pipeline.outputs])
    steps = [step for step, alike in zip(steps, all_steps, strict=True) if alike in concerned]
    for step in steps:
        for cell in step.arguments.values():
            if isinstance(cell, Output):
                users.setdefault((cell.step, cell.name), []).append(step)
    runs: dict[Step, bool] = {}
    kept: set[tuple[Step, str]] = set()
    for step in reversed(steps):
        names = [name for name in step.node.outputs if name not in step.overridden]
        for name in names:
            consumers = users.get((step, name), [])
            if any(runs[consumer] for consumer in consumers) or not (consumers or step.overridden):
                kept.add((step, name))
        runs[step] = any((step, name) in kept for name in names)
    found = {name: cells[name] for name in pipeline.outputs}
    return [name for name, cell in found.items() if isinstance(cell, Output) and (cell.step, cell.name) in kept]


def _makers(cells: Iterable[Cell]) -> set[Step]:
    """Return the steps that cells need, also for inputs that a mapped pipeline does not use."""
    found: set[Step] = set()
    stack = _steps_of(cells)
    while stack:
        step = stack.pop()
        if step not in found:
            found.add(step)
            stack += _steps_of(step.arguments.values())
    return found


# --- the interpreter -----------------------------------------------------------------------------------------------


class Reference:
    """Interprets one pipeline; remembers from one execution to the next what the caches hold.

    Attributes:
        entries: What each cache holds: every value by its key.
        maps: For each cache the keys of the results of mapped pipelines, with those of their elements.
    """

    def __init__(self, pipeline: PipelineSpec) -> None:
        self.pipeline = pipeline
        self.entries: dict[str, dict[Key, Value]] = {}
        self.maps: dict[str, dict[Key, list[tuple[str, Key]]]] = {}
        self.fresh: set[tuple[str, Key]] = set()  # what the current execution added
        self.hides_fresh = False

    def without_fresh(self) -> Reference:
        """Return a copy for which no result of an execution is there before its end.

        It makes every call that items which run side by side may make, when none of them can take over what another one
        is about to compute.
        """
        copy = Reference(self.pipeline)
        copy.entries = {cache: dict(entries) for cache, entries in self.entries.items()}
        copy.maps = {cache: dict(maps) for cache, maps in self.maps.items()}
        copy.hides_fresh = True
        return copy

    def fetch(self, cache: str, key: Key) -> Value:
        """Return what a cache holds.

        Raises:
            KeyError: It does not, or not all of it.
        """
        if self.hides_fresh and (cache, key) in self.fresh:
            raise KeyError(key)
        if key in self.entries.setdefault(cache, {}):
            return self.entries[cache][key]
        elements = self.maps.setdefault(cache, {})[key]
        return [self.fetch(*element) for element in elements]

    def keep(self, cache: str, key: Key, value: Value) -> None:
        self.fresh.add((cache, key))
        self.entries.setdefault(cache, {})[key] = value

    def keep_map(self, cache: str, key: Key, elements: list[tuple[str, Key]]) -> None:
        if key not in self.maps.setdefault(cache, {}):
            self.fresh.add((cache, key))
        self.maps[cache][key] = elements

    def execute(self, execution: Execution) -> Expected:
        expected = Expected()
        self.fresh = set()
        given = {name: Given(value, value_key(value)) for name, value in execution.inputs.items()}
        root = self._root()
        cells, steps = instantiate(self.pipeline, root, given)
        names = _as_names(execution.output_name)
        if names is None:
            roots = {name: cell for name, cell in given.items() if name not in self.pipeline.made}
            names = default_outputs(self.pipeline, cells, steps, instantiate(self.pipeline, root, roots))
        needed = want(cells[name] for name in names)
        if any(map(lacks_input, needed)):
            expected.refusals.add("MissingInputError")
        columns = {name: execution.inputs[name] for name in execution.map_over}
        if columns:
            expected.refusals |= check_columns(columns, execution.map_mode)
        varying = [given[name] for name in columns]
        for step in needed:
            if isinstance(step.node, NestedSpec):
                cells_over = {name: step.arguments.get(name) for name in mapped_inputs(step.node)}
                known = {n: c.value for n, c in cells_over.items() if isinstance(c, Given) and c not in varying}
                expected.refusals |= check_columns(known, step.node.map_mode)
        if expected.refusals:
            return expected
        subject = self.pipeline.name
        if columns:
            shared = {name: cell for name, cell in given.items() if name not in columns}
            keys = {name: [value_key(value) for value in column] for name, column in columns.items()}
            work = _Map(self, expected, self.pipeline, root, shared, names)
            span, outputs = work.run(columns, keys, execution.map_mode, ())
        else:
            frame = Frame(self, expected, root, ())
            span = Span(Event("pipeline_start", root.path, (), subject), Event("pipeline_end", root.path, (), subject))
            root.span = span
            outputs = frame.compute({name: cells[name] for name in names})
            expected.events |= {span.first: dict(execution.inputs), span.last: outputs}
            expected.order.append(span)
        if not expected.failures:
            expected.outputs = outputs
        return expected

    def _root(self) -> Scope:
        return Scope(((self.pipeline.name, self.pipeline.name),), self.pipeline.cache or None)


class Frame:
    """One execution of the steps of a pipeline: a run, or an item of a map."""

    def __init__(self, reference: Reference, expected: Expected, root: Scope, items: tuple[int, ...]) -> None:
        self.reference = reference
        self.expected = expected
        self.root = root
        self.items = items
        self.has_work = False

    def compute(self, cells: Mapping[str, Cell]) -> dict[str, Value]:
        """Settle cells and return the values of those that could be."""
        for step in _steps_of(cells.values()):
            self.settle(step)
        return {name: self.value(cell) for name, cell in cells.items() if not self._is_blocked(cell)}

    def value(self, cell: Cell) -> Value:
        assert not isinstance(cell, Missing)
        return cell.value if isinstance(cell, Given) else cell.step.values[cell.name]

    def settle(self, step: Step) -> None:
        if step.state != "waiting":
            return
        if self.is_cacheable(step):
            self.identify(step)
            if self._keys(step) is None:
                step.state = "failed"
                return
            if self._look_up(step):
                step.state = "hit"
                return
        self.has_work = True
        for source in _steps_of(arguments_of(step)):
            self.settle(source)
        if any(map(self._is_blocked, arguments_of(step))):
            step.state = "failed"
        elif isinstance(step.node, FunctionSpec):
            self._call(step, step.node)
        else:
            self._map(step, step.node)

    def identify(self, step: Step) -> None:
        """Run what must have run before the signature of a step can be known."""
        for source in _steps_of(arguments_of(step)):
            if self.is_cacheable(source):
                self.identify(source)
            else:
                self.settle(source)

    # --- identities -----------------------------------------------------------------------------------------------

    def is_cacheable(self, step: Step) -> bool:
        """Whether a step is identified by what goes in, rather than by what comes out."""
        if isinstance(step.node, FunctionSpec):
            return step.node.cache and step.scope.cache is not None
        probe = _Probe(step, step.wanted)
        return probe.scope.cache is not None and None not in map(self.key, probe.outputs.values())

    def key(self, cell: Cell) -> Key:
        if isinstance(cell, Given):
            return cell.key
        assert isinstance(cell, Output)
        step = cell.step
        if not self.is_cacheable(step):
            return value_key(step.values[cell.name]) if cell.name in step.values else None
        if isinstance(step.node, FunctionSpec):
            sources = tuple(map(self.key, step.arguments.values()))
            defaults = tuple(repr(parameter.default) for parameter in step.node.parameters)
            position = step.node.outputs.index(cell.name)
            own: Key = ("call", step.node.behaviour, defaults, position, *sources)
        else:
            probe = _Probe(step, [cell.name])
            ((_, inside),) = probe.outputs.items()
            used = _used_inputs(step, [cell.name])
            sources = tuple(self.key(step.arguments[name]) for name in used)
            own = ("map", step.node.map_mode, *probe.mapped, *used, self.key(inside), *sources)
        return None if None in sources else own

    def _keys(self, step: Step) -> dict[str, Key] | None:
        """The keys under which the results of a step are kept, by output; None when they cannot be known."""
        names = step.wanted if step.is_mapped else set(step.node.outputs)
        keys = {name: self.key(Output(step, name)) for name in sorted(names - step.overridden)}
        return None if None in keys.values() else keys

    # --- the cache ------------------------------------------------------------------------------------------------

    def _look_up(self, step: Step) -> bool:
        keys = self._keys(step)
        scope = step.scope if isinstance(step.node, FunctionSpec) else inner_scope(step.node, step.scope)
        cache = scope.cache
        assert keys is not None
        assert cache is not None
        try:
            step.values = {name: self.reference.fetch(cache, key) for name, key in keys.items()}
        except KeyError:
            return False
        self.expected.is_contested |= any((cache, key) in self.reference.fresh for key in keys.values())
        if isinstance(step.node, FunctionSpec):
            event = self._event("node_cached", step.scope, step.node.name)
            self._add(Span(event, event), step.scope, None, None)
            return True
        maps = self.reference.maps[cache]
        step.elements = {name: [element for _, element in maps[key]] for name, key in keys.items()}
        total = len(next(iter(step.elements.values())))
        span = self._nested_span(step.scope, step.node)
        self._add(span, step.scope, step.scope.path[-1][1], step.scope.path[-1][1])
        mapped = Span(Event("map_start", scope.path, self.items), Event("map_end", scope.path, self.items))
        self._within(span, mapped, total, None)
        for index in range(total):
            event = Event("map_item_cached", scope.path, (*self.items, index), str(index))
            self._within(mapped, Span(event, event), None, None)
        return True

    # --- running --------------------------------------------------------------------------------------------------

    def _call(self, step: Step, node: FunctionSpec) -> None:
        arguments = {name: self.value(cell) for name, cell in step.arguments.items()}
        call = (node.name, repr(tuple(arguments.values())))
        self.expected.calls[call] += 1
        start = self._event("node_start", step.scope, node.name)
        try:
            result = node.behaviour(tuple(arguments.values()))
        except PlannedError as error:
            step.state = "failed"
            self.expected.failures.add(("PlannedError", str(error), node.name, self.items))
            end, carried = self._event("error", step.scope, node.name), type(error).__name__
        else:
            step.state = "ran"
            results = dict(zip(node.outputs, result if len(node.outputs) > 1 else [result], strict=True))
            step.values = {name: value for name, value in results.items() if name not in step.overridden}
            end, carried = self._event("node_end", step.scope, node.name), results  # type: ignore[assignment]
        step.span = Span(start, end)
        self._add(step.span, step.scope, arguments, carried)
        self._after_sources(step)
        if step.state == "ran" and self.is_cacheable(step):
            assert step.scope.cache is not None
            for name, key in (self._keys(step) or {}).items():
                self.reference.keep(step.scope.cache, key, step.values[name])
            self.expected.kept.add(call)
        else:
            self.expected.not_kept.add(call)

    def _map(self, step: Step, node: NestedSpec) -> None:
        span = step.span = self._nested_span(step.scope, node)
        self._add(span, step.scope, step.scope.path[-1][1], step.scope.path[-1][1])
        self._after_sources(step)
        columns = {name: self.value(step.arguments[name]) for name in mapped_inputs(node)}
        wrong = check_columns(columns, node.map_mode)
        if wrong:
            step.state = "failed"
            (kind,) = wrong
            self.expected.failures.add((kind, "", node.name, self.items))
            refusal = self._event("error", step.scope, node.name)
            self._add(Span(refusal, refusal), step.scope, kind, kind)
            self.expected.order.append((span.last, refusal))
            return
        keys = {name: self._element_keys(step.arguments[name]) for name in columns}
        shared = {
            name: Given(self.value(step.arguments[name]), self.key(step.arguments[name]))
            for name in _used_inputs(step, step.wanted)
            if name in step.arguments and name not in columns
        }
        outer_of = {node.path_inside(name): name for name in step.wanted}
        wanted = [path for path in node.pipeline.paths if path in outer_of]
        work = _Map(self.reference, self.expected, node.pipeline, inner_scope(node, step.scope), shared, wanted)
        known = {name: keys[name] or list(map(value_key, column)) for name, column in columns.items()}
        mapped, outputs = work.run(columns, known, node.map_mode, self.items)
        self.expected.order += [(span.first, mapped.first), (mapped.last, span.last)]
        if work.has_failed:
            step.state = "failed"
            return
        step.state = "ran"
        for inner, column in outputs.items():
            step.values[outer_of[inner]] = column
            if None not in [key for _, key in work.elements[inner]]:
                step.elements[outer_of[inner]] = [key for _, key in work.elements[inner]]
        if self.is_cacheable(step):
            cache = inner_scope(node, step.scope).cache
            assert cache is not None
            for name, key in (self._keys(step) or {}).items():
                self.reference.keep_map(cache, key, work.elements[node.path_inside(name)])

    def _element_keys(self, cell: Cell) -> Sequence[Key] | None:
        """The signatures of the elements of a list that a map in this frame made."""
        return cell.step.elements.get(cell.name) if isinstance(cell, Output) else None

    def _is_blocked(self, cell: Cell) -> bool:
        return isinstance(cell, Output) and cell.step.state == "failed"

    # --- events ---------------------------------------------------------------------------------------------------

    def _event(self, hook: str, scope: Scope, subject: str) -> Event:
        return Event(hook, scope.path, self.items, subject)

    def _nested_span(self, around: Scope, node: NestedSpec) -> Span:
        start, end = (f"nested_pipeline_{what}" for what in ("start", "end"))
        return Span(self._event(start, around, node.pipeline.name), self._event(end, around, node.pipeline.name))

    def _add(self, span: Span, scope: Scope, first: Any, last: Any) -> None:
        """Add a span, opening the nested pipelines around it."""
        if scope.span is None:
            assert scope.parent is not None
            around = scope.parent.path[-1][1]
            hooks = ("nested_pipeline_start", "nested_pipeline_end")
            scope.span = Span(*(self._event(hook, scope.parent, scope.path[-1][1]) for hook in hooks))
            self._add(scope.span, scope.parent, around, around)
        self._within(scope.span, span, first, last)

    def _within(self, around: Span, span: Span, first: Any, last: Any) -> None:
        self.expected.events |= {span.first: first, span.last: last}
        self.expected.order += [(around.first, span.first), (span.last, around.last)]
        if span.first != span.last:
            self.expected.order.append(span)

    def _after_sources(self, step: Step) -> None:
        assert step.span is not None
        for source in _steps_of(arguments_of(step)):
            if source.span is not None:
                is_streamed = isinstance(source.node, FunctionSpec) and source.node.is_streamed and step.is_mapped
                before = source.span.first if is_streamed else source.span.last
                self.expected.order.append((before, step.span.first))


class _Map:
    """One pipeline computed once per item."""

    def __init__(
        self,
        reference: Reference,
        expected: Expected,
        pipeline: PipelineSpec,
        scope: Scope,
        shared: Mapping[str, Cell],
        wanted: Sequence[str],
    ) -> None:
        self.reference = reference
        self.expected = expected
        self.pipeline = pipeline
        self.scope = scope
        self.shared = shared
        self.wanted = wanted
        self.has_failed = False
        self.elements: dict[str, list[tuple[str, Key]]] = {name: [] for name in wanted}

    def run(
        self,
        columns: Mapping[str, Sequence[Value]],
        keys: Mapping[str, Sequence[Key]],
        mode: str,
        items: tuple[int, ...],
    ) -> tuple[Span, dict[str, list[Value]]]:
        combine: Any = product if mode == "product" else zip
        rows = [
            {name: Given(value, key) for name, (value, key) in zip(columns, row, strict=True)}
            for row in combine(*(zip(columns[name], keys[name], strict=True) for name in columns))
        ]
        span = Span(Event("map_start", self.scope.path, items), Event("map_end", self.scope.path, items))
        self.expected.events |= {span.first: len(rows), span.last: None}
        self.expected.order.append(span)
        results: dict[str, list[Value]] = {name: [] for name in self.wanted}
        for index, row in enumerate(rows):
            outputs = self._item(row, (*items, index), span)
            if outputs.keys() < results.keys():
                self.has_failed = True
                continue
            for name, value in outputs.items():
                results[name].append(value)
        return span, results

    def _item(self, row: Mapping[str, Cell], items: tuple[int, ...], around: Span) -> dict[str, Value]:
        scope = Scope(self.scope.path, self.scope.cache)
        hooks = ("map_item_start", "map_item_end")
        span = scope.span = Span(*(Event(hook, scope.path, items, str(items[-1])) for hook in hooks))
        inside = Expected()
        frame = Frame(self.reference, inside, scope, items)
        cells, _ = instantiate(self.pipeline, scope, {**self.shared, **row})
        asked = {name: cells[name] for name in self.wanted}
        steps = want(asked.values())
        outputs = frame.compute(asked)
        if not frame.has_work and steps:
            event = Event("map_item_cached", scope.path, items, str(items[-1]))
            inside = Expected(is_contested=inside.is_contested)
            span = Span(event, event)
        self.expected.merge(inside)
        self.expected.is_contested |= inside.is_contested
        frame.expected = self.expected
        frame._within(around, span, None, None)
        if len(outputs) == len(asked):
            for name, cell in asked.items():
                cache = cell.step.scope.cache if isinstance(cell, Output) else None
                if isinstance(cell, Output) and isinstance(cell.step.node, NestedSpec):
                    cache = inner_scope(cell.step.node, cell.step.scope).cache
                self.elements[name].append((cache or "", frame.key(cell)))
        return outputs


def check_columns(columns: Mapping[str, Value], mode: str) -> set[str]:
    """Return the names of the errors that mapping over these values is."""
    if any(not isinstance(column, list) for column in columns.values()):
        return {"MapInputError"}
    if mode == "zip" and len({len(column) for column in columns.values()}) > 1:
        return {"MapLengthError"}
    return set()


def _as_names(names: str | tuple[str, ...] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else None if names is None else list(dict.fromkeys(names))
