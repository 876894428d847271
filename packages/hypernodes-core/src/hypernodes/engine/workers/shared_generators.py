"""Warns of random number generators that several calls in worker processes share, since each gets a copy."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from hypernodes.engine.state import RunState
from hypernodes.errors import HyperNodesWarning
from hypernodes.plan import CallStep, Plan
from hypernodes.signature.origin import is_installed_module

_SPAWN = "map over rng.spawn(n), with rng = numpy.random.default_rng(seed)"
_ADVICE = {
    ("numpy.random._generator", "Generator"): _SPAWN,
    ("numpy.random.mtrand", "RandomState"): _SPAWN,
    ("random", "Random"): "map over [random.Random(seed) for seed in seeds]",
    ("torch._C", "Generator"): "map over [torch.Generator().manual_seed(seed) for seed in seeds]",
}
_MAX_ENTRIES = 100  # of a value that is looked into
_MAX_FUNCTIONS = 1000  # that are followed from the nodes of a plan


class _UsedGenerator(NamedTuple):
    """A generator that the code of a node refers to.

    Attributes:
        generator: The generator.
        name: The name that the code has for it, or for what holds it.
        node_name: The node.
    """

    generator: Any
    name: str
    node_name: str


def warn_of_generators(
    run: RunState, plan: Plan, slots: Iterable[int], values: Mapping[int, Any] | Sequence[Any], who: str
) -> None:
    """Warn if a value is a random number generator, or holds one.

    Args:
        run: The run.
        plan: The plan that the values are for.
        slots: The slots of values that several calls receive.
        values: The values, by slot.
        who: The calls.
    """
    for slot in slots:
        generator = _generator_in(values[slot])
        if generator is None:
            continue
        step = next(step for step in plan.steps if slot in step.arguments)
        name = f"{step.node.inputs[step.arguments.index(slot)]!r} of node {step.node.name!r}"
        _warn(run, generator, f"is input {name}" if generator is values[slot] else f"is in input {name}", who, "")


def warn_of_generators_in_code(run: RunState, plan: Plan, who: str, uses: int = 1) -> None:
    """Warn of the random number generators that the functions of nodes refer to: globals, and variables around them.

    Args:
        run: The run.
        plan: The plan whose nodes several calls execute.
        who: The calls.
        uses: How many nodes must refer to a generator.
    """
    used = list(_used_by(plan))
    counts = Counter(id(each.generator) for each in used)
    warned: set[int] = set()
    for generator, name, node_name in used:
        if counts[id(generator)] >= uses and id(generator) not in warned:
            warned.add(id(generator))
            _warn(run, generator, f"node {node_name!r} uses as {name!r}", who, "make it an input of the node, and ")


def inputs_of_several_steps(plan: Plan) -> list[int]:
    """Return the slots of inputs that more than one step receives."""
    steps = Counter(slot for step in plan.steps for slot in set(step.arguments) if plan.producers[slot] < 0)
    return [slot for slot, count in steps.items() if count > 1]


def _warn(run: RunState, generator: Any, where: str, who: str, first: str) -> None:
    module = type(generator).__module__.partition(".")[0]
    run.warn(
        where,
        "random generator",
        f"the {module} generator that {where} is shared by {who}, which run in worker processes: each "
        f"process gets a copy of it, so that the same random numbers come again. "
        f"Give each its own: {first}{_advice(generator)}",
        HyperNodesWarning,
    )


def _advice(value: Any) -> str | None:
    kinds = ((kind.__module__, kind.__qualname__) for kind in type(value).__mro__)
    return next((_ADVICE[kind] for kind in kinds if kind in _ADVICE), None)


def _generator_in(value: Any) -> Any:
    """Return the first generator in a value: in containers, and in attributes of objects of the user's own classes."""
    waiting = deque([value])
    for _ in range(_MAX_ENTRIES):
        if not waiting:
            return None
        current = waiting.popleft()
        if _advice(current) is not None:
            return current
        room = _MAX_ENTRIES - len(waiting)
        if isinstance(current, Mapping):
            waiting += [entry for entry, _ in zip(current.values(), range(room), strict=False)]
        elif isinstance(current, (list, tuple)):
            waiting += current[:room]
        elif _is_own_object(current):
            waiting += list(vars(current).values())[:room]
    return None


def _is_own_object(value: Any) -> bool:
    if isinstance(value, (type, ModuleType, FunctionType, MethodType)) or not hasattr(value, "__dict__"):
        return False
    return not is_installed_module(type(value).__module__)


def _used_by(plan: Plan) -> Iterator[_UsedGenerator]:
    for step in plan.steps:
        if isinstance(step, CallStep):
            for name, generator in _referred_to(step.node.func):
                yield _UsedGenerator(generator, name, step.node.name)


def _referred_to(func: Any) -> Iterator[tuple[str, Any]]:
    """Return the generators that a function and those of the user's own that it refers to have, with their names."""
    waiting = deque([func])
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _MAX_FUNCTIONS:
        current = waiting.popleft()
        if isinstance(current, MethodType):
            generator = _generator_in(current.__self__)
            if generator is not None:
                yield "self", generator
            current = current.__func__
        if id(current) in seen:
            continue
        seen[id(current)] = current
        if not isinstance(current, FunctionType) or is_installed_module(current.__module__ or ""):
            continue
        for name, value in _names_in(current):
            generator = None if isinstance(value, FunctionType) else _generator_in(value)
            if generator is not None:
                yield name, generator
            elif isinstance(value, (FunctionType, MethodType)):
                waiting.append(value)


def _names_in(func: FunctionType) -> Iterator[tuple[str, Any]]:
    """Return the globals that a function reads, and the variables around it, with their names."""
    codes = [func.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        yield from ((name, func.__globals__[name]) for name in code.co_names if name in func.__globals__)
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it has no value yet
            continue
