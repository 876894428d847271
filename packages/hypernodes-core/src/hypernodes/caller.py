"""Shows warnings at the line of the user's code that started what they are about, not at a line of this library."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType, FunctionType
from typing import Any, NamedTuple

# Modules whose code is not the user's, by the first part of their names.
_NOT_THE_USERS = frozenset({"hypernodes", "threading", "concurrent", "asyncio", "contextlib", "runpy"})
packages_of_extensions: Callable[[], frozenset[str]] = frozenset
"""Returns the packages of installed extensions, whose code is not the user's either; `plugins` sets it."""

_ENTRANCE = "hypernodes.pipeline"  # the module through which users start runs


class Line(NamedTuple):
    """A line of code.

    Attributes:
        file: The file.
        number: Number of the line.
        module: Name of the module.
        registry: The warnings that were shown for lines of that module.
    """

    file: str
    number: int
    module: str
    registry: dict[Any, Any]


# The line that awaits a run: the run itself is in another thread.
_awaiting: ContextVar[Line | None] = ContextVar("hypernodes_awaiting", default=None)


def remember_awaiting_line() -> None:
    """Remember the line that awaits a run, for warnings of the threads that execute it; called by the coroutine."""
    _awaiting.set(_line_outside(_NOT_THE_USERS, sys._getframe(1)))


def warn_caller(message: str, category: type[Warning]) -> None:
    """Show a warning at the innermost line of the user's code that is being executed.

    Args:
        message: The warning.
        category: Its class.
    """
    _show(message, category, _users_line(sys._getframe(1)) or _awaiting.get())


def warn_at_function(function: Any, message: str, category: type[Warning]) -> None:
    """Show a warning at the first line of a function, in whatever thread; of one in C, at the caller's line.

    Args:
        function: The function.
        message: The warning.
        category: Its class.
    """
    if not isinstance(function, FunctionType):
        warn_caller(message, category)
        return
    registry = function.__globals__.setdefault("__warningregistry__", {})
    code = function.__code__
    _show(message, category, Line(code.co_filename, code.co_firstlineno, function.__module__, registry))


def awaiting_line() -> Line | None:
    """Return the line that awaits the run which is about to start; None when nothing awaits it."""
    return _awaiting.get()


def warn_caller_of_run(message: str, category: type[Warning], started_in: int, awaited_at: Line | None) -> None:
    """Show a warning at the line of the user's code that started a run, also from another thread.

    Args:
        message: The warning.
        category: Its class.
        started_in: The thread that started the run.
        awaited_at: The line that awaits it.
    """
    frame = sys._getframe(1)
    line = _line_of_run(frame) or awaited_at
    if line is None and started_in != threading.get_ident():
        line = _line_of_run(sys._current_frames().get(started_in))  # noqa: SLF001
    _show(message, category, line or _users_line(frame))


def _show(message: str, category: type[Warning], line: Line | None) -> None:
    if line is None:
        warnings.warn(message, category, stacklevel=3)
    else:
        warnings.warn_explicit(message, category, line.file, line.number, line.module, line.registry)


def _line_of_run(frame: FrameType | None) -> Line | None:
    """Return the line of the user's code that started the innermost run on a stack.

    Between it and a warning there may be a third party's backend, which is not what the user looks for.
    """
    while frame is not None and frame.f_globals.get("__name__") != _ENTRANCE:
        frame = frame.f_back
    return _users_line(frame)


def _users_line(frame: FrameType | None) -> Line | None:
    """Return the innermost line of the user's code on a stack; where all is an extension's, the innermost of these."""
    return _line_outside(_NOT_THE_USERS | packages_of_extensions(), frame) or _line_outside(_NOT_THE_USERS, frame)


def _line_outside(packages: frozenset[str], frame: FrameType | None) -> Line | None:
    while frame is not None:
        module = str(frame.f_globals.get("__name__") or "")
        if module.partition(".")[0] not in packages and not frame.f_code.co_filename.startswith("<frozen "):
            registry = frame.f_globals.setdefault("__warningregistry__", {})
            return Line(frame.f_code.co_filename, frame.f_lineno, module, registry)
        frame = frame.f_back
    return None
