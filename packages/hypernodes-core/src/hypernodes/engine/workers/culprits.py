"""Finds what in an object cannot be sent, and the path to it."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from hypernodes.nodes import Node
from hypernodes.plan import CallStep, NestedStep, Plan
from hypernodes.read_once import is_read_once
from hypernodes.signature.nested_code import with_nested_code

Parts = Iterator[tuple[str, Any]]  # what an object is made of, each with a label for the path

_MAX_DEPTH = 40


class Culprit(NamedTuple):
    """What cannot be sent.

    Attributes:
        path: From the outside in, e.g. `("encode", "closure 'client'", "attribute '_lock'")`.
        error: Why.
        value: It.
        in_module: The module of the user's and the name in it through which the path leads, if it leads through one.
    """

    path: tuple[str, ...]
    error: Exception
    value: Any
    in_module: tuple[str, str] | None

    @property
    def advice(self) -> str:
        """What to do about it, as sentences."""
        if isinstance(self.value, io.IOBase):
            return "Open it inside the node, and pass its path."
        if is_read_once(self.value):
            return "Pass a list instead: list(...)."
        return "Make it where it is used, inside the node, or pass what it can be made from."

    @property
    def advice_for_results(self) -> str:
        """What to do about it where a node returned it, as a sentence."""
        return f"Return {'a list' if is_read_once(self.value) else 'what it can be made from'}."


def find_culprit(
    value: Any, pack: Callable[[Any], object], more_parts: Callable[[Any], Parts] = lambda value: iter(())
) -> Culprit | None:
    """Return the innermost thing in `value` that `pack` refuses; None when it takes everything.

    Args:
        value: What could not be sent.
        pack: Raises for what cannot be sent.
        more_parts: What else an object is made of where modules are sent as well.
    """
    error = _refusal(value, pack)
    if error is None:
        return None
    path: list[str] = []
    in_module = None
    seen = {id(value)}
    for _ in range(_MAX_DEPTH):
        for label, child in chain(_parts(value), more_parts(value)):
            if id(child) not in seen and (inner := _refusal(child, pack)) is not None:
                if isinstance(value, ModuleType):
                    in_module = (value.__name__, label.split("'")[1])
                path += [label] if label else []
                value, error = child, inner
                seen.add(id(child))
                break
        else:
            break
    return Culprit(tuple(path), error, value, in_module)


def _refusal(value: Any, pack: Callable[[Any], object]) -> Exception | None:
    try:
        pack(value)
    except Exception as error:
        return error
    return None


def _parts(value: Any) -> Parts:
    """What an object is made of, with a label for the path; an empty one for what need not be shown."""
    if isinstance(value, Plan):
        for step in value.steps:
            yield step.node.name, step
        for name, slot in value.inputs.items():
            yield f"default of {name!r}", value.template[slot]
    elif isinstance(value, CallStep):
        yield "", value.node
    elif isinstance(value, NestedStep):
        yield "", value.inner
        yield "", value.node
    elif isinstance(value, Node):
        yield "", value.func
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, ModuleType):
        return  # where modules are not sent, none is to blame
    elif isinstance(value, functools.partial):
        yield "partial", value.func
        for index, argument in enumerate(value.args):
            yield f"argument {index}", argument
        yield from ((f"argument {name!r}", argument) for name, argument in value.keywords.items())
    elif isinstance(value, MethodType):
        yield "object", value.__self__
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield f"[{key!r:.60}]", entry
    elif isinstance(value, (list, tuple, set, frozenset)):
        names = getattr(value, "_fields", None)
        for index, entry in enumerate(value):
            yield (f"{names[index]}" if names else f"[{index}]"), entry
    elif isinstance(value, type):
        yield from ((f"class attribute {name!r}", entry) for name, entry in vars(value).items())
    else:
        state = getattr(value, "__dict__", {})
        yield from ((f"attribute {name!r}", entry) for name, entry in state.items())
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield f"attribute {name!r}", getattr(value, name)


def _parts_of_function(value: FunctionType) -> Parts:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        yield f"closure {name!r}", cell.cell_contents
    for index, default in enumerate(value.__defaults__ or ()):
        yield f"default {index}", default
    for name, default in (value.__kwdefaults__ or {}).items():
        yield f"default {name!r}", default
    for name in sorted(_names_in(value.__code__) & value.__globals__.keys()):
        yield f"global {name!r}", value.__globals__[name]


def _names_in(code: CodeType) -> set[str]:
    return {name for each in with_nested_code(code) for name in each.co_names}
