"""Random pipelines with conditions, as plain data, and what they must compute, evaluated without the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from zlib import crc32

from hypothesis import strategies as st

from hypernodes import SKIPPED, Backend, Cache, Node, Pipeline, PipelineNode

Call: TypeAlias = tuple[str, str]  # a function, and the text of its arguments
Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class When:
    """A condition; `values` is None for the truth of the value."""

    name: str
    values: tuple[int, ...] | None
    is_negated: bool

    def holds(self, value: Any) -> bool:
        found = bool(value) if self.values is None else value in self.values
        return value is not SKIPPED and found is not self.is_negated

    @property
    def option(self) -> dict[str, Any]:
        meaning = self.name if self.values is None else {self.name: self.values}
        return {"unless" if self.is_negated else "when": meaning}


@dataclass(frozen=True)
class Function:
    """A node: its value is a small number, or a list of such numbers.

    It takes many items at once if `batch_over` names any of its inputs, and yields the elements of its list if it is
    streamed; none of this changes results.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    is_list: bool = False
    optional: frozenset[str] = frozenset()
    condition: When | None = None
    is_cached: bool = True
    batch_over: tuple[str, ...] = ()
    batch_size: int | None = None
    max_concurrency: int | None = None
    is_streamed: bool = False

    @property
    def options(self) -> dict[str, Any]:
        batching = {"batch_over": self.batch_over, "batch_size": self.batch_size} if self.batch_over else {}
        return {"max_concurrency": self.max_concurrency, "each": self.is_streamed, **batching}

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        digest = crc32(repr((self.name, arguments)).encode()) // 7
        return [digest // 3**i % 3 for i in range(digest % 3 + 1)] if self.is_list else digest % 3


@dataclass(frozen=True)
class Nested:
    """A pipeline as a node: once, or once per element of `mapped`."""

    name: str
    inside: Spec
    mapped: str = ""
    condition: When | None = None


@dataclass(frozen=True)
class Spec:
    """A pipeline; names are unique among all pipelines in it, and inner ones see those around them as their inputs."""

    nodes: tuple[Function | Nested, ...]
    shown: tuple[str, ...]
    item: str = ""  # what the elements are called that it is mapped over


@dataclass
class Evaluation:
    """What an evaluation of a pipeline calls.

    Attributes:
        calls: All calls that may be made to get what was asked for; none of a function that has to be skipped.
    """

    calls: dict[Call, None] = field(default_factory=dict)


class Scope:
    """The names of one pipeline, evaluated when they are asked for."""

    def __init__(self, spec: Spec, around: Mapping[str, Lazy], evaluation: Evaluation) -> None:
        self.names: dict[str, Lazy] = dict(around)
        for node in spec.nodes:
            made = made_by(node, self.names, evaluation)
            for name, lazy in made.items():
                known = self.names.get(name)
                self.names[name] = Merged([known, lazy]) if known is not None else lazy


class Lazy:
    """A value that is computed when it is asked for."""

    def value(self) -> Any:
        raise NotImplementedError

    def is_made(self) -> bool:
        """Whether it is not skipped."""
        return self.value() is not SKIPPED


class Given(Lazy):
    def __init__(self, value: Any) -> None:
        self._value = value

    def value(self) -> Any:
        return self._value


class Merged(Lazy):
    def __init__(self, alternatives: list[Lazy]) -> None:
        self._alternatives = alternatives

    def is_made(self) -> bool:
        return sum(lazy.is_made() for lazy in self._alternatives) > 0  # all conditions are looked at

    def value(self) -> Any:
        made = [lazy for lazy in self._alternatives if lazy.is_made()]
        return made[0].value() if made else SKIPPED


class Guarded(Lazy):
    """What a nested pipeline shows, which has a condition."""

    def __init__(self, condition: When | None, names: Mapping[str, Lazy], inside: Lazy) -> None:
        self._condition, self._names, self._inside = condition, names, inside

    def is_made(self) -> bool:
        if self._condition is not None and not self._condition.holds(self._names[self._condition.name].value()):
            return False
        return self._inside.is_made()

    def value(self) -> Any:
        return self._inside.value() if self.is_made() else SKIPPED


class Made(Lazy):
    """The result of a function, or the lists of a mapped pipeline."""

    def __init__(
        self,
        condition: When | None,
        needed: list[Lazy],
        names: Mapping[str, Lazy],
        compute: Callable[[], Any],
    ) -> None:
        self._condition, self._needed, self._names, self._compute = condition, needed, names, compute
        self._made: bool | None = None
        self._known: list[Any] = []

    def is_made(self) -> bool:
        if self._made is None:
            condition = self._condition
            self._made = condition is None or condition.holds(self._names[condition.name].value())
            self._made = self._made and sum(not lazy.is_made() for lazy in self._needed) == 0
        return self._made

    def value(self) -> Any:
        if not self.is_made():
            return SKIPPED
        if not self._known:
            self._known.append(self._compute())
        return self._known[0]


def made_by(node: Function | Nested, names: Mapping[str, Lazy], evaluation: Evaluation) -> dict[str, Lazy]:
    names = dict(names)  # those of nodes before it
    if isinstance(node, Function):

        def call() -> Any:
            arguments = tuple(names[name].value() for name in node.inputs)
            evaluation.calls[node.name, repr(arguments)] = None
            return node(arguments)

        needed = [names[name] for name in node.inputs if name not in node.optional]
        return {node.output: Made(node.condition, needed, names, call)}
    inside = node.inside
    if not node.mapped:
        inner = Scope(inside, names, evaluation)
        return {name: Guarded(node.condition, names, inner.names[name]) for name in inside.shown}

    def compute() -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in inside.shown}
        for item in names[node.mapped].value():
            if item is SKIPPED:
                found = dict.fromkeys(inside.shown, SKIPPED)
            else:
                inner = Scope(inside, {**names, inside.item: Given(item)}, evaluation)
                found = {name: inner.names[name].value() for name in inside.shown}
            for name, value in found.items():
                columns[name].append(value)
        return columns

    whole = Made(node.condition, [names[node.mapped]], names, compute)
    return {name: Column(whole, name) for name in inside.shown}


class Column(Lazy):
    def __init__(self, whole: Made, name: str) -> None:
        self._whole, self._name = whole, name

    def is_made(self) -> bool:
        return self._whole.is_made()

    def value(self) -> Any:
        columns = self._whole.value()
        return columns if columns is SKIPPED else columns[self._name]


def free_names(spec: Spec) -> list[str]:
    """Return what a pipeline takes from around it."""
    made = set[str]()
    found: dict[str, None] = {}
    for node in spec.nodes:
        names = list(node.inputs) if isinstance(node, Function) else [n for n in (node.mapped,) if n]
        if isinstance(node, Nested):
            names += [name for name in free_names(node.inside) if name != node.inside.item]
        if node.condition is not None:
            names.append(node.condition.name)
        found.update({name: None for name in names if name not in made})
        made.update([node.output] if isinstance(node, Function) else node.inside.shown)
    return list(found)


def evaluate(spec: Spec, inputs: Mapping[str, Any], asked: tuple[str, ...]) -> tuple[dict[str, Any], Evaluation]:
    """Return the values of some outputs, and the calls that they need."""
    evaluation = Evaluation()
    scope = Scope(spec, {name: Given(value) for name, value in inputs.items()}, evaluation)
    return {name: scope.names[name].value() for name in asked}, evaluation


# --- drawing -------------------------------------------------------------------------------------------------------


@st.composite
def branching_pipelines(draw: Draw, *, may_be_uncached: bool = True) -> Spec:
    """Draw a pipeline with the inputs "a", "b" and "xs"."""
    return _Drawing(draw, may_be_uncached).pipeline(["a", "b"], ["xs"], depth=2)


class _Drawing:
    def __init__(self, draw: Draw, may_be_uncached: bool) -> None:
        self.draw = draw
        self.may_be_uncached = may_be_uncached
        self.count = 0

    def chance(self, percent: int) -> bool:
        return bool(self.draw(st.integers(0, 99)) >= 100 - percent)

    def pick(self, values: list[Any]) -> Any:
        return self.draw(st.sampled_from(values))

    def number(self) -> int:
        self.count += 1
        return self.count

    def pipeline(self, singles: list[str], lists: list[str], depth: int, item: str = "") -> Spec:
        singles, lists = list(singles), list(lists)
        nodes: list[Function | Nested] = []
        shown: list[str] = []
        for _ in range(self.draw(st.integers(1, 4))):
            number = self.number()
            kind = self.pick(["function", "function", "branch", "branch", "list", "nested", "mapped"])
            if (kind in ("nested", "mapped") and not depth) or (kind == "mapped" and not lists):
                kind = "branch"
            if kind == "branch":
                made = [f"o{number}"]
                nodes += self.branch(number, singles, lists, depth)
                singles += made
            elif kind == "nested":
                inside = self.pipeline(singles, lists, depth - 1)
                condition = self.condition(singles, lists) if self.chance(60) else None
                nodes.append(Nested(f"n{number}", inside, condition=condition))
                made = list(inside.shown)
                own = {name for name in made if self.is_list(inside, name)}
                singles += [name for name in made if name not in own]
                lists += [name for name in made if name in own]
            elif kind == "mapped":
                mapped = self.pick(lists)
                others = [name for name in lists if name != mapped]
                inside = self.pipeline([*singles, f"x{number}"], others, depth - 1, f"x{number}")
                if inside.item not in free_names(inside):
                    extra = Function(f"f{number}x", (inside.item,), f"o{number}x")
                    inside = replace(inside, nodes=(*inside.nodes, extra), shown=(*inside.shown, extra.output))
                condition = self.condition(singles, lists) if self.chance(30) else None
                nodes.append(Nested(f"n{number}", inside, mapped, condition))
                made = list(inside.shown)
                lists += [name for name in made if not self.is_list(inside, name)]
            else:
                function = self.function(number, singles, lists, is_list=kind == "list")
                if self.chance(25):
                    function = replace(function, condition=self.condition(singles, lists))
                nodes.append(function)
                made = [function.output]
                (lists if kind == "list" else singles).append(function.output)
            shown += made
        return Spec(tuple(nodes), tuple(shown), item)

    def is_list(self, spec: Spec, name: str) -> bool:
        for node in spec.nodes:
            if isinstance(node, Function) and node.output == name:
                return node.is_list
            if isinstance(node, Nested) and name in node.inside.shown:
                return bool(node.mapped) or self.is_list(node.inside, name)
        raise AssertionError(name)

    def condition(self, singles: list[str], lists: list[str]) -> When:
        name = self.pick([*singles, *singles, *lists])
        values = None if name in lists or self.chance(50) else tuple(self.pick([[0], [1], [0, 2], [1, 2]]))
        return When(name, values, self.chance(50))

    def function(self, number: int, singles: list[str], lists: list[str], is_list: bool = False) -> Function:
        names = [self.pick([*singles, *singles[-2:], *singles[-2:], *lists]) for _ in range(self.pick([1, 2, 1, 3, 0]))]
        inputs = tuple(dict.fromkeys(names))
        optional = frozenset(name for name in inputs if self.chance(25))
        is_cached = not (self.may_be_uncached and self.chance(12))
        function = Function(f"f{number}", inputs, f"o{number}", is_list, optional, is_cached=is_cached)
        if inputs and self.chance(25):
            batch_over = tuple(dict.fromkeys(self.pick(list(inputs)) for _ in range(2)))
            return replace(function, batch_over=batch_over, batch_size=self.pick([64, 2, 3]))
        if is_list and self.chance(40):
            return replace(function, is_streamed=True)
        return replace(function, max_concurrency=1) if self.chance(10) else function

    def branch(self, number: int, singles: list[str], lists: list[str], depth: int) -> list[Function | Nested]:
        """Draw nodes that make one output, on conditions that exclude each other."""
        if self.chance(60):
            then = self.condition(singles, lists)
            conditions = [then, replace(then, is_negated=not then.is_negated)]
        else:
            name = self.pick(singles)
            conditions = [When(name, (0,), False), When(name, (1,), False)]
            if self.chance(50):
                conditions.append(When(name, (0, 1), True))
        made: list[Function | Nested] = []
        for condition in conditions:
            function = replace(self.function(self.number(), singles, lists), output=f"o{number}")
            if depth and self.chance(20):
                inside = Spec((function,), (function.output,))
                if self.chance(50):
                    first = self.function(self.number(), singles, lists)
                    inner = [*singles, first.output]
                    last = replace(self.function(self.number(), inner, lists), output=function.output)
                    inside = Spec((first, last), (last.output,))
                made.append(Nested(f"n{self.number()}", inside, condition=condition))
            else:
                made.append(replace(function, condition=condition))
        return made


# --- building ------------------------------------------------------------------------------------------------------


def build(
    spec: Spec, add: Callable[[str, str], object], *, cache: Cache | None = None, inner_backend: Backend | None = None
) -> Pipeline:
    """Return the real pipeline.

    Args:
        spec: What to build.
        add: Called with the name of a function and the text of its arguments, for each call.
        cache: Its cache.
        inner_backend: The backend of the pipelines nested in it.
    """
    nodes: list[Node[..., Any] | PipelineNode] = []
    for node in spec.nodes:
        options = node.condition.option if node.condition is not None else {}
        if isinstance(node, Function):
            function = make_function(node, add)
            options |= {"cache": node.is_cached, "optional": tuple(sorted(node.optional)), **node.options}
            nodes.append(Node(function, node.output, **options))
            continue
        inside = build(node.inside, add, inner_backend=inner_backend)
        if inner_backend is not None:
            inside = inside.with_backend(inner_backend)
        mapping = {node.mapped: node.inside.item} if node.mapped else None
        over = node.mapped or None
        nodes.append(inside.as_node(mapping, map_over=over, name=node.name, outputs=node.inside.shown, **options))
    return Pipeline(nodes, name="p", cache=cache)


def make_function(node: Function, add: Callable[[str, str], object]) -> Callable[..., Any]:
    arguments = "".join(f"{name}, " for name in node.inputs)
    source = (
        f"def make(call):\n"
        f"    def {node.name}({arguments}):\n"
        f"        {'yield from' if node.is_streamed else 'return'} call(({arguments}))\n"
        f"    return {node.name}\n"
    )
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, "<generated>", "exec"), namespace)

    def call(arguments: tuple[Any, ...]) -> Any:
        add(node.name, repr(arguments))
        return node(arguments)

    def call_batch(arguments: tuple[Any, ...]) -> list[Any]:
        is_batched = [name in node.batch_over for name in node.inputs]
        count = len(arguments[is_batched.index(True)])
        return [
            call(tuple([value[index] if own else value for value, own in zip(arguments, is_batched, strict=True)]))
            for index in range(count)
        ]

    function: Callable[..., Any] = namespace["make"](call_batch if node.batch_over else call)
    return function
