"""Exceptions on their way to another process: as themselves if they survive the journey, else as a description."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from hypernodes.engine.workers.pickling import PROTOCOL
from hypernodes.errors import RemoteNodeError


class SerializedError(NamedTuple):
    """An exception on its way.

    Attributes:
        packed: The exception as bytes; empty when it cannot be sent.
        type_name: Name of its type.
        message: Its text.
        traceback_text: Where it was raised.
    """

    packed: bytes
    type_name: str
    message: str
    traceback_text: str


class RemoteTraceback(Exception):  # noqa: N818 - it is shown, not caught
    """Where an exception was raised in another process; the cause of that exception here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def _dumps_by_value(error: BaseException) -> bytes:
    import cloudpickle

    return cloudpickle.dumps(error, PROTOCOL)  # type: ignore[no-any-return, unused-ignore]


def _dumps(error: BaseException) -> bytes:
    return pickle.dumps(error, PROTOCOL)


def describe(
    error: BaseException,
    packers: tuple[Callable[[BaseException], bytes], ...] = (_dumps_by_value, _dumps),
    loads: Callable[[bytes], Any] = pickle.loads,
) -> SerializedError:
    """Return an exception in a form that can be sent.

    Args:
        error: The exception.
        packers: Ways to make bytes of it; the first that it survives is used.
        loads: The way back, to see whether it does.
    """
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    try:
        message = str(error)
    except Exception as unprintable:
        message = f"(its text cannot be shown: {unprintable!r})"
    packed = next(filter(None, (_survivor(error, dumps, loads) for dumps in packers)), b"")
    return SerializedError(packed, name, message, "".join(traceback.format_exception(error)))


def _survivor(error: BaseException, dumps: Callable[[BaseException], bytes], loads: Callable[[bytes], Any]) -> bytes:
    """The exception as bytes if it survives the journey; else none."""
    try:
        packed = dumps(error)
        copy = loads(packed)
        return packed if type(copy) is type(error) and str(copy) == str(error) else b""
    except Exception:  # then the description goes instead
        return b""


def restore(raised: SerializedError, loads: Callable[[bytes], Any] = pickle.loads) -> BaseException:
    """Return an exception that was sent: itself if it can be had, else one that tells of it."""
    error: BaseException | None = None
    if raised.packed:
        try:
            error = loads(raised.packed)
        except Exception:
            error = None
    if not isinstance(error, BaseException):
        error = RemoteNodeError(
            f"{raised.type_name}: {raised.message}",
            original_type=raised.type_name,
            original_message=raised.message,
            traceback_text=raised.traceback_text,
        )
    error.__cause__ = RemoteTraceback(raised.traceback_text)
    return error
