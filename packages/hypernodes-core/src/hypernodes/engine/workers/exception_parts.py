"""Exceptions taken apart, and made again without calling their `__init__`, which may want other arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_ATTRIBUTES = ("name", "path", "obj")  # of ImportError, NameError and AttributeError, outside of their `__dict__`
_HOW_IT_IS_PICKLED = {"__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__"}


class ExceptionParts(NamedTuple):
    """What an exception is made from again without calling its `__init__`.

    Attributes:
        kind: Its type.
        arguments: Its `args`; inside a group, exceptions as parts of their own.
        state: Its attributes.
    """

    kind: type[BaseException]
    arguments: tuple[Any, ...]
    state: dict[str, Any]

    def build(self) -> BaseException:
        """Return the exception."""
        arguments = self.arguments
        if issubclass(self.kind, BaseExceptionGroup):
            message, members = arguments
            arguments = (message, [build(member) for member in members])
        error = make_exception(self.kind, arguments)
        set_attributes(error, self.state)
        return error


def make_exception(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """Make an exception without calling the `__init__` of its class."""
    # The class of the interpreter's that decides on its layout sets what lies outside of `args` and `__dict__`.
    base: Any = kind
    while base.__module__ != "builtins":
        base = base.__base__
    error: BaseException = base.__new__(kind, *arguments)
    base.__init__(error, *arguments)
    return error


def set_attributes(error: BaseException, state: dict[str, Any]) -> None:
    """Set attributes of an exception, also if its class forbids that."""
    for name, value in state.items():
        object.__setattr__(error, name, value)


def reduce_exception(error: BaseException) -> Any:
    """Return how pickle makes an exception that is a value without calling `__init__`; None for what needs no help."""
    kind = type(error)
    if kind.__module__ == "builtins" or says_how_it_is_pickled(error):
        return None
    _, arguments, state = take_apart(error, lambda value: True)
    if isinstance(error, BaseExceptionGroup):
        arguments = (error.message, list(error.exceptions))
    return make_exception, (kind, arguments), state, None, None, set_attributes


def take_apart(error: BaseException, can_be_sent: Callable[[Any], bool]) -> ExceptionParts:
    """Return what an exception is made from again, without the attributes that cannot be sent."""
    state = dict(getattr(error, "__dict__", {}))
    for name in (*_ATTRIBUTES, *_slots_of(type(error))):
        if name not in state and (value := getattr(error, name, None)) is not None:
            state[name] = value
    state = {name: value for name, value in state.items() if can_be_sent(value)}
    if isinstance(error, BaseExceptionGroup):
        members = [take_apart(member, can_be_sent) for member in error.exceptions]
        return ExceptionParts(type(error), (error.message, members), state)
    arguments: tuple[Any, ...] = error.args
    if isinstance(error, OSError):
        arguments = OSError.__reduce__(error)[1]  # type: ignore[assignment]
    sent = tuple(value if can_be_sent(value) else _stand_in(value) for value in arguments)
    state["args"] = sent[: len(error.args)]
    return ExceptionParts(type(error), sent, state)


def _stand_in(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__qualname__}>"


def _slots_of(kind: type) -> list[str]:
    found: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        found += (slots,) if isinstance(slots, str) else slots
    return found


def says_how_it_is_pickled(error: BaseException) -> bool:
    """Whether its class defines how it is pickled, rather than one of the interpreter's that it derives from."""
    kind = next(kind for kind in type(error).__mro__ if _HOW_IT_IS_PICKLED & vars(kind).keys())
    return kind.__module__ != "builtins"


def build(loaded: Any) -> Any:
    """Return the exception that parts stand for, and anything else as it is."""
    return loaded.build() if isinstance(loaded, ExceptionParts) else loaded
