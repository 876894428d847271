"""What workers take over from the caller: levels of loggers, and filters of warnings.

Workers are the processes of a pool, and those that execute remote jobs and nothing else.

What nodes log and warn of in a worker is handled by the caller, as if they ran there: its handlers get the records, and
its filters decide how often a warning is shown.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from hypernodes.engine.workers.pickling import PROTOCOL, dumps
from hypernodes.engine.workers.process_link import report
from hypernodes.errors import SerializationError
from hypernodes.global_names import find_global

_last: tuple[object, bytes] = (None, b"")
_taken_over: dict[str, int] = {}  # in a worker: the level of each logger before
_ROOT = ""


# --- in the caller ------------------------------------------------------------------------------------------------


def settings_of_caller(is_by_value: bool) -> bytes:
    """Return the settings of this process, for `take_over`.

    Args:
        is_by_value: See `pickling.dumps`.
    """
    global _last
    manager = logging.root.manager
    loggers = list(manager.loggerDict.items())
    levels = {name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger) and logger.level}
    levels[_ROOT] = logging.root.level
    filters = tuple(warnings.filters)
    settings = (is_by_value, levels, manager.disable, filters)
    if _last[0] != settings:
        packed = [_packed_filter(entry, is_by_value) for entry in filters]
        _last = (settings, pickle.dumps((levels, manager.disable, packed), PROTOCOL))
    return _last[1]


def _packed_filter(entry: Any, is_by_value: bool) -> bytes:
    try:
        return dumps(entry, "a filter of warnings", is_by_value)
    except SerializationError:  # its category is a class that no worker can have
        return b""


def show_record(attributes: dict[str, Any], is_for_root: bool) -> None:
    """Give a record of a worker to the handlers that are here, or pass it on where this process has a caller."""
    if _remote_report is not None and _remote_report(show_record, attributes, is_for_root):
        return
    record = logging.makeLogRecord(attributes)
    logger = logging.root if is_for_root else logging.getLogger(record.name)
    logger.handle(record)


def show_warning(packed: bytes, text: str, category: tuple[str, str], filename: str, lineno: int) -> None:
    """Warn of what a worker warned of, or pass it on where this process has a caller."""
    arguments = (packed, text, category, filename, lineno)
    if _remote_report is not None and _remote_report(show_warning, *arguments):
        return
    try:
        message = pickle.loads(packed)
    except Exception:
        message = _of_class_here(text, *category)
    module = next((name for name, m in list(sys.modules.items()) if getattr(m, "__file__", None) == filename), None)
    registry = vars(sys.modules[module]).setdefault("__warningregistry__", {}) if module else _registry
    warnings.warn_explicit(message, type(message), filename, lineno, module, registry)


def _of_class_here(text: str, module: str, name: str) -> Warning:
    """Return a warning of a class that a worker had by value, and that cannot be unpickled therefore."""
    found = find_global(module, name)
    if not (isinstance(found, type) and issubclass(found, Warning)):
        return UserWarning(f"{name}: {text}")
    warning = found.__new__(found, text)
    warning.args = (text,)
    return warning


def take_report(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Show what a worker reported; a handler of the user's that fails ends nothing."""
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()


_registry: dict[Any, Any] = {}
_Report: TypeAlias = Callable[..., bool]  # has the caller call a function; returns whether it will
_remote_report: _Report | None = None  # in a process that executes a remote job
_is_code_of_job: Callable[[], bool] | None = None


# --- in a worker --------------------------------------------------------------------------------------------------


def take_over(packed: bytes) -> bytes:
    """Take over the settings of the caller."""
    levels, disabled, filters = pickle.loads(packed)
    for name, level in _taken_over.items():
        if name not in levels:
            logging.getLogger(name).setLevel(level)
            levels[name] = level
    for name, level in levels.items():
        logger = logging.getLogger(name)
        _taken_over.setdefault(name, logger.level)
        logger.setLevel(level)
    logging.disable(disabled)
    if not logging.root.handlers:  # else code of the user's has decided, when it was imported, where records go
        logging.root.addHandler(_ToCaller())
    warnings.resetwarnings()
    for entry in filters:
        with contextlib.suppress(Exception):  # its category cannot be made here
            warnings.filters.append(pickle.loads(entry))  # type: ignore[attr-defined]
    warnings.showwarning = _show_at_caller
    return b""


@contextmanager
def settings_taken_over(
    packed: bytes, filters: Sequence[Any], remote_report: _Report, is_code_of_job: Callable[[], bool]
) -> Iterator[None]:
    """Take over the caller's settings for a remote job; the process executes no other meanwhile.

    Args:
        packed: The settings.
        filters: The filters of warnings, if they are not to be taken from there.
        remote_report: Has the caller call a function; returns whether it will.
        is_code_of_job: Whether the code that is executed in this thread is the job's. What the transport logs, to send
            messages, must not cause further ones.
    """
    global _remote_report, _is_code_of_job
    take_over(packed)
    if filters:
        warnings.filters[:] = filters  # type: ignore[index]
    _remote_report, _is_code_of_job = remote_report, is_code_of_job
    try:
        yield
    finally:
        _remote_report = None


def _report(function: Callable[..., object], *arguments: Any) -> bool:
    if _remote_report is None:
        return report(function, *arguments)
    return _is_node() and _remote_report(function, *arguments)


def _is_node() -> bool:
    return _is_code_of_job is None or _is_code_of_job()


class _ToCaller(logging.Handler):
    """Sends records to the caller."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            attributes = {**vars(record), "msg": record.getMessage(), "args": None, "exc_info": None}
            if record.exc_info and not record.exc_text:
                attributes["exc_text"] = logging.Formatter().formatException(record.exc_info)
            attributes = {name: value for name, value in attributes.items() if _can_be_pickled(value)}
            is_for_root = _has_own_handlers(logging.getLogger(record.name))
            if _report(show_record, attributes, is_for_root) or is_for_root:
                return
            if _remote_report is not None and _is_node():  # nothing can be sent while the job runs
                print(f"{record.levelname}:{record.name}:{self.format(record)}", file=sys.stderr)
            elif logging.lastResort and record.levelno >= logging.lastResort.level:  # in a fork that a node made
                logging.lastResort.handle(record)
        except Exception:
            self.handleError(record)


def _has_own_handlers(logger: logging.Logger) -> bool:
    """Whether handlers below the root have handled the records of a logger here; the caller's must not do it again."""
    current: logging.Logger | None = logger
    while current is not None and current is not logging.root:
        if any(not isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent
    return False


def _can_be_pickled(value: Any) -> bool:
    try:
        pickle.dumps(value, PROTOCOL)
    except Exception:
        return False
    return True


def _show_at_caller(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    warning = message if isinstance(message, Warning) else category(message)
    try:
        packed = pickle.dumps(warning, PROTOCOL)
    except Exception:
        packed = b""
    if not _report(show_warning, packed, str(warning), (category.__module__, category.__qualname__), filename, lineno):
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)
