"""What exceptions are made of, and failures: what a node that gets one can see of it, but for places in files.

Files and lines, in tracebacks and in the note that this library adds, do not count, as they do not for code: a failed
item is the same failure when a line was added above its function, in a notebook that was started again and in another
mode of execution.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from hypernodes import plugins
from hypernodes.failure import FAILED_CALL, REPLAY_NOTE, Failure
from hypernodes.signature.object_state import StateReader
from hypernodes.signature.walk import Parts

_FIELDS = ("name", "path", "obj")  # of ImportError, NameError and AttributeError, which they do not pickle as a rule
_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]{6,}\b")
_FRAME = re.compile(r'^(?P<margin>[ |]*)File "(?P<file>.*)", line \d+, in (?P<function>.*)$')
_OWN_NOTE = re.compile(r"^(in node '.* of pipeline .*; its inputs: .*; backend: .*|" + re.escape(REPLAY_NOTE) + ")$")
_CHAINING = re.compile(
    r'^(|"""|\(most recent call last\):|Traceback \(most recent call last\):|.*\.RemoteTraceback:'
    r"|The above exception was the direct cause of the following exception:)$"
)


class FailedWith:
    """The error of a failure, or a cause of it.

    Attributes:
        error: The error.
        effects: The errors that it led to.
    """

    __slots__ = ("effects", "error")

    def __init__(self, error: BaseException, effects: tuple[BaseException, ...] = ()) -> None:
        self.error = error
        self.effects = effects


def exception_parts(error: BaseException) -> Parts:
    """An exception: its class, arguments and attributes, and the exceptions that led to it; not its traceback."""
    parts = StateReader(type(error)).parts(error)
    children = [(label, value) for label, value in parts.children if label != f".{FAILED_CALL}"]
    stated = {label for label, _ in children}
    fields = [(f".{name}", getattr(error, name, None)) for name in _FIELDS if f".{name}" not in stated]
    children += [(label, value) for label, value in fields if value is not None]
    children += [(label, cause) for label, cause in _causes(error)]
    return _labelled(b"exception:" + parts.tag, children)


def failure_parts(failure: Failure) -> Parts:
    """A failed item: its error, its index and its node."""
    return Parts(
        b"failure",
        [
            (".error", FailedWith(failure.error)),
            (".traceback_text", tuple(_without_places(failure.traceback_text))),
            (".item_index", failure.item_index),
            (".node_path", failure.node_path),
        ],
    )


def failed_with_parts(failed: FailedWith) -> Parts:
    """The error of a failure, without places and addresses."""
    error = failed.error
    parts = StateReader(type(error)).parts(error)
    children: list[tuple[Any, Any]] = []
    for label, value in parts.children:
        if label == f".{FAILED_CALL}":
            continue
        if label == ".__notes__":
            value = [note for note in value if not (isinstance(note, str) and _OWN_NOTE.match(note))]
            if not value:
                continue
        children.append((label, _ADDRESS.sub("at 0x", value) if type(value) is str else value))
    effects = (*failed.effects, error)
    for label, cause in _causes(error):
        is_new = all(cause is not effect for effect in effects)
        if is_new and type(cause).__name__ != "RemoteTraceback":  # whose text is in the traceback
            children.append((label, FailedWith(cause, effects)))
    return _labelled(b"failed with", children)


def _causes(error: BaseException) -> list[tuple[str, BaseException]]:
    if error.__cause__ is not None:
        return [(".__cause__", error.__cause__)]
    if error.__context__ is not None and not error.__suppress_context__:
        return [(".__context__", error.__context__)]
    return []


def _labelled(tag: bytes, children: list[tuple[Any, Any]]) -> Parts:
    labels = ",".join(str(label) for label, _ in children)
    return Parts(b"%b:%b" % (tag, labels.encode("utf-8", "surrogatepass")), children)


def _without_places(text: str) -> dict[str, None]:
    """Return the lines of a traceback, each once: of frames only the functions, and nothing of the engine."""
    lines: dict[str, None] = {}
    of_the_engine = _files_of_the_engine(plugins.plugin_packages() - {"hypernodes"})
    below: str | None = None  # what the lines of code that belong to a frame begin with
    for line in text.splitlines():
        frame = _FRAME.match(line)
        if frame is not None:
            below = frame["margin"] + "  "
            if not of_the_engine.search(frame["file"]):
                lines[f"in {frame['function']}"] = None
        elif below is None or not line.startswith(below):
            below = None
            bare = line.strip(" |+-")
            if not _CHAINING.match(bare) and not _OWN_NOTE.match(bare):
                lines[_ADDRESS.sub("at 0x", bare)] = None
    return lines


@cache
def _files_of_the_engine(extensions: frozenset[str]) -> re.Pattern[str]:
    """Return a pattern for the files of what executes nodes, here or elsewhere."""
    packages = "|".join(["hypernodes[/\\\\](engine|remote|backend)", *map(re.escape, sorted(extensions))])
    return re.compile(rf"[/\\]({packages})[/\\]")
