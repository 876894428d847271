"""Shows what containers and the building of images print, and nothing else of what Modal's client would show."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import modal
from modal_proto import api_pb2

from hypernodes.extension import reset_after_fork, show_output

try:
    from modal._output.manager import DisabledOutputManager, OutputManager
except ImportError:  # Modal has no interface for this, so that another version of it may not have these
    DisabledOutputManager = OutputManager = None  # type: ignore[assignment,misc]

_lock = reset_after_fork(threading.Lock())
_opening = 0  # how many apps are being opened with the output of their containers
_before: Any = None  # what Modal's client showed before


@contextmanager
def containers_print_here() -> Iterator[None]:
    """Show what the containers of an app that is opened inside print, and the building of its image.

    The client shows progress, spinners and addresses besides if the user has called `modal.enable_output`.
    """
    global _opening, _before
    if OutputManager is None:
        with modal.enable_output():
            yield
        return
    with _lock:
        if not _opening and not OutputManager.get().is_enabled:
            _before = OutputManager.get()
            OutputManager._set(_ContainerLogs())
        _opening += 1
    try:
        yield  # the client takes the object that shows output as it opens an app, and keeps it
    finally:
        with _lock:
            _opening -= 1
            if not _opening and _before is not None:
                OutputManager._set(_before)
                _before = None


if DisabledOutputManager is not None:

    class _ContainerLogs(DisabledOutputManager):
        """Writes what they print to the same streams here."""

        @property
        def is_enabled(self) -> bool:
            return True

        async def put_streaming_log(self, log: api_pb2.TaskLogs, prefix: str = "") -> None:
            if log.file_descriptor == api_pb2.FILE_DESCRIPTOR_STDERR:
                show_output(log.data, "stderr")
            elif log.file_descriptor == api_pb2.FILE_DESCRIPTOR_STDOUT:
                show_output(log.data, "stdout")
