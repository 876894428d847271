"""Exceptions on their way to another process: with their own type whenever that can be sent, else as a description.

An exception is taken apart and made again without calling its `__init__`, which may want other arguments than it passes
on. What it holds that cannot be sent is left out; everything else arrives.
"""

from __future__ import annotations

import io
import linecache
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hypernodes.engine.workers.pickling import PROTOCOL
from hypernodes.errors import RemoteNodeError, add_note

_Pack = Callable[[Any], bytes]
_Unpack = Callable[[bytes], Any]
_FRAME = re.compile(r'(?P<indent>[ |+-]*)File "(?P<file>.+)", line (?P<line>\d+), in ')
_ATTRIBUTES = ("name", "path", "obj")  # of ImportError, NameError and AttributeError, outside of their `__dict__`
_HOW_IT_IS_PICKLED = {"__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__"}


class SerializedError(NamedTuple):
    """An exception on its way.

    Attributes:
        packed: The exception as bytes; empty when it cannot be sent.
        type_name: Name of its type.
        message: Its text.
        traceback_text: Where it was raised.
        notes: What was added to it with `add_note`.
    """

    packed: bytes
    type_name: str
    message: str
    traceback_text: str
    notes: tuple[str, ...] = ()


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
            arguments = (message, [_build(member) for member in members])
        error = make_exception(self.kind, arguments)
        set_attributes(error, self.state)
        return error


def make_exception(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """Make an exception without calling the `__init__` of its class."""
    # The class of the interpreter's that it derives from sets what lies outside of `args` and `__dict__`.
    base: Any = next(known for known in kind.__mro__ if known.__module__ == "builtins")
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
    if kind.__module__ == "builtins" or _says_how_it_is_pickled(error):
        return None
    _, arguments, state = _take_apart(error, lambda value: True)
    if isinstance(error, BaseExceptionGroup):
        arguments = (error.message, list(error.exceptions))
    return make_exception, (kind, arguments), state, None, None, set_attributes


class RemoteTraceback(Exception):  # noqa: N818 - it is shown, not caught
    """Where an exception was raised in another process; the cause of that exception here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def _dumps_by_value(value: Any) -> bytes:
    from hypernodes.engine.workers.by_value import ByValuePickler

    buffer = io.BytesIO()
    ByValuePickler(buffer, PROTOCOL).dump(value)
    return buffer.getvalue()


def _dumps(value: Any) -> bytes:
    return pickle.dumps(value, PROTOCOL)


def describe(
    error: BaseException, packers: tuple[_Pack, ...] = (_dumps_by_value, _dumps), loads: _Unpack = pickle.loads
) -> SerializedError:
    """Return an exception in a form that can be sent.

    Args:
        error: The exception.
        packers: Ways to make bytes of it; the first that works is used.
        loads: The way back, to see whether it does.
    """
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
    packed = next(filter(None, (_pack(error, dumps, loads) for dumps in packers)), b"")
    if not packed:  # its text is made from something that cannot be sent
        packed = next(filter(None, (_pack(error, dumps, loads, needs_text=False) for dumps in packers)), b"")
        notes += [f"its text, where it was raised: {_text_of(error)}"] if packed else []
    return SerializedError(packed, name, _text_of(error), "".join(traceback.format_exception(error)), tuple(notes))


def _pack(error: BaseException, dumps: _Pack, loads: _Unpack, needs_text: bool = True) -> bytes:
    """The exception as bytes if it can be made from them again, perhaps with another text; else none."""

    def can_be_sent(value: Any) -> bool:
        try:
            loads(dumps(value))
        except Exception:
            return False
        return True

    def forms() -> Iterator[Any]:
        is_own_affair = _says_how_it_is_pickled(error)
        if is_own_affair:
            yield error
        parts = _take_apart(error, can_be_sent)
        yield parts
        if not isinstance(error, BaseExceptionGroup):  # whose text may be made from something that cannot be sent
            text = (_text_of(error),)
            yield parts._replace(arguments=text, state={**parts.state, "args": text})
        if not is_own_affair:
            yield error

    return next(filter(None, (_survivor(form, error, dumps, loads, needs_text) for form in forms())), b"")


def _survivor(form: Any, error: BaseException, dumps: _Pack, loads: _Unpack, needs_text: bool) -> bytes:
    """What stands for an exception as bytes, if the exception that comes of them has its type and text; else none."""
    try:
        packed = dumps(form)
        copy = _build(loads(packed))
        is_same = type(copy) is type(error) and (not needs_text or _text_of(copy) == _text_of(error))
        return packed if is_same else b""
    except Exception:  # then another form, or a description, goes instead
        return b""


def _take_apart(error: BaseException, can_be_sent: Callable[[Any], bool]) -> ExceptionParts:
    state = dict(getattr(error, "__dict__", {}))
    for name in (*_ATTRIBUTES, *_slots_of(type(error))):
        if name not in state and (value := getattr(error, name, None)) is not None:
            state[name] = value
    state = {name: value for name, value in state.items() if can_be_sent(value)}
    if isinstance(error, BaseExceptionGroup):
        members = [_take_apart(member, can_be_sent) for member in error.exceptions]
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


def _says_how_it_is_pickled(error: BaseException) -> bool:
    """Whether its class defines how it is pickled, rather than one of the interpreter's that it derives from."""
    kind = next(kind for kind in type(error).__mro__ if _HOW_IT_IS_PICKLED & vars(kind).keys())
    return kind.__module__ != "builtins"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as unprintable:
        return f"(its text cannot be shown: {unprintable!r})"


def _build(loaded: Any) -> Any:
    return loaded.build() if isinstance(loaded, ExceptionParts) else loaded


def restore(serialized: SerializedError, loads: _Unpack = pickle.loads) -> BaseException:
    """Return an exception that was sent: itself if it can be made again, else one that describes it."""
    serialized = serialized._replace(traceback_text=_with_source_of_cells(serialized.traceback_text))
    error: BaseException | None = None
    if serialized.packed:
        try:
            error = _build(loads(serialized.packed))
        except Exception:
            error = None
    if not isinstance(error, BaseException):
        error = RemoteNodeError(
            f"{serialized.type_name}: {serialized.message}",
            original_type=serialized.type_name,
            original_message=serialized.message,
            traceback_text=serialized.traceback_text,
        )
    present = getattr(error, "__notes__", [])
    for note in serialized.notes:
        if note not in present:
            add_note(error, note)
    set_attributes(error, {"__cause__": RemoteTraceback(serialized.traceback_text)})
    return error


def _with_source_of_cells(text: str) -> str:
    """Add to a traceback the lines of notebook cells, which only this process knows."""
    lines = text.splitlines(keepends=True)
    shown: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        shown.append(line)
        frame = _FRAME.match(line)
        if frame and not following.startswith(frame["indent"] + "  "):
            known: Any = linecache.cache.get(frame["file"], ())
            number = int(frame["line"])
            if len(known) == 4 and known[1] is None and number <= len(known[2]):  # that of a file has a time
                shown.append(f"{frame['indent']}  {known[2][number - 1].strip()}\n")
    return "".join(shown)
