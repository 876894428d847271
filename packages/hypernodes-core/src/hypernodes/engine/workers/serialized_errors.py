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

from hypernodes.engine.workers.exception_parts import build, says_how_it_is_pickled, set_attributes, take_apart
from hypernodes.engine.workers.pickling import PROTOCOL
from hypernodes.errors import RemoteNodeError, add_note

_Pack = Callable[[Any], bytes]
_Unpack = Callable[[bytes], Any]
_FRAME = re.compile(r'(?P<indent>[ |+-]*)File "(?P<file>.+)", line (?P<line>\d+), in ')


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


def can_be_serialized(value: Any, dumps: _Pack = _dumps_by_value, loads: _Unpack = pickle.loads) -> bool:
    """Whether a value can be sent to another process, and made again there."""
    try:
        loads(dumps(value))
    except Exception:
        return False
    return True


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
        return can_be_serialized(value, dumps, loads)

    def forms() -> Iterator[Any]:
        is_own_affair = says_how_it_is_pickled(error)
        if is_own_affair:
            yield error
        parts = take_apart(error, can_be_sent)
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
        copy = build(loads(packed))
        is_same = type(copy) is type(error) and (not needs_text or _text_of(copy) == _text_of(error))
        return packed if is_same else b""
    except Exception:  # then another form, or a description, goes instead
        return b""


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as unprintable:
        return f"(its text cannot be shown: {unprintable!r})"


def restore(serialized: SerializedError, loads: _Unpack = pickle.loads) -> BaseException:
    """Return an exception that was sent: itself if it can be made again, else one that describes it."""
    serialized = serialized._replace(traceback_text=_with_source_of_cells(serialized.traceback_text))
    error: BaseException | None = None
    if serialized.packed:
        try:
            error = build(loads(serialized.packed))
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
