"""Plans and values as bytes, for worker processes."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hypernodes.engine.workers.callers_main import names_callers_main
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.errors import SerializationError
from hypernodes.nodes import Node
from hypernodes.resources import ResourceFactory
from hypernodes.signature import reduce_sentinel

PROTOCOL = 5


def dumps(value: Any, what: str, is_by_value: bool) -> bytes:
    """Return `value` as bytes; see `Dumper`."""
    return Dumper(is_by_value).dump(value, what)[0]


def blame(error: SerializationError, value: Any, what: str, is_by_value: bool) -> SerializationError:
    """Return an error that names what in a value cannot be sent, and what to do; looking for it takes long.

    Args:
        error: Why the value cannot be sent.
        value: The value.
        what: What it is, for the message.
        is_by_value: See `Dumper`.
    """
    from hypernodes.engine.workers.culprits import find_culprit

    culprit = find_culprit(value, lambda part: dumps(part, "", is_by_value))
    if culprit is None or not is_by_value:
        return error
    path = " → ".join((what, *culprit.path))
    cause = culprit.error.__cause__
    return SerializationError(
        f"{path} cannot be sent to a worker process ({type(cause).__name__}: {cause}). {culprit.advice}", path=path
    )


def check_importable(node: Node[..., Any], what: str) -> None:
    """Refuse a node of a session or command that worker processes cannot import, where nodes are not sent by value.

    Raises:
        SerializationError: Its function is defined there.
    """
    main = sys.modules["__main__"]
    is_importable = getattr(main, "__spec__", None) is not None or hasattr(main, "__file__")
    is_importable = is_importable and not names_callers_main(main)
    if not is_importable and getattr(node.func, "__module__", None) == "__main__":
        raise SerializationError(
            f"{what} cannot be sent to a worker process, which cannot import what is defined in an interactive session "
            f"or by `python -c`; {_loky_advice()}",
            path=what,
        )


def _loky_advice() -> str:
    if code_owner.get() is not None:
        return "with loky installed there, in the image or environment of the remote side, every kind can be sent"
    return "pip install 'hypernodes-core[parallel]' sends functions of every kind"


class Dumper:
    """Serializes values one after the other; much cheaper for small ones than a pickler for each.

    Args:
        is_by_value: Whether functions that a worker cannot import (of `__main__`, lambdas, closures) are sent whole,
            which needs cloudpickle.
        out_of_band_bytes: Arrays of at least this size are returned beside the bytes; None for no limit.
    """

    def __init__(self, is_by_value: bool, out_of_band_bytes: int | None = None) -> None:
        self.is_by_value = is_by_value
        self._minimum = out_of_band_bytes
        self._stream = io.BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        self._pickler: Any = None

    def dump(self, value: Any, what: str) -> tuple[bytes, list[pickle.PickleBuffer]]:
        """Return `value` as bytes, and the memory of its large arrays.

        Args:
            value: What is to be sent.
            what: What it is, for the message.

        Raises:
            SerializationError: It cannot be sent.
        """
        pickler = self._pickler
        try:
            if pickler is None:
                make = _worker_pickler() if self.is_by_value else pickle.Pickler
                callback = None if self._minimum is None else self._is_in_band
                pickler = self._pickler = make(self._stream, PROTOCOL, buffer_callback=callback)
            pickler.dump(value)
        except Exception as error:
            self._pickler = None  # it may remember parts of the value
            self._stream = io.BytesIO()
            self._buffers = []
            hint = "" if self.is_by_value else f"; {_loky_advice()}"
            raise SerializationError(
                f"{what} cannot be sent to a worker process ({type(error).__name__}: {error}){hint}", path=what
            ) from error
        pickler.clear_memo()
        if self.is_by_value and pickler.globals_ref:  # of cloudpickle: namespaces by the id of dictionaries
            pickler.globals_ref.clear()
        head = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        buffers = self._buffers
        if buffers:
            self._buffers = []
        return head, buffers

    def _is_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        assert self._minimum is not None
        try:
            is_large = memoryview(buffer).nbytes >= self._minimum and bool(buffer.raw())
        except BufferError:  # not contiguous
            is_large = False
        if is_large:
            self._buffers.append(buffer)
        return not is_large


_pickler_class: Any = None


def _worker_pickler() -> Any:
    global _pickler_class
    if _pickler_class is None:
        from hypernodes.engine.workers.by_value import ByValuePickler  # needs cloudpickle
        from hypernodes.engine.workers.sent_sentinels import reduce_sent_sentinel

        class WorkerPickler(ByValuePickler):
            """Knows that the name of a decorated function stands for a node, or for the factory of a resource."""

            def reducer_override(self, obj: Any) -> Any:
                if type(obj) is Node or type(obj) is ResourceFactory:
                    owner = code_owner.get()
                    if owner is not None and owner.modules:
                        return _make_beside, (list(owner.modules.values()), *obj.reduce_by_value())
                    if obj.__module__ in ("__main__", "__mp_main__") or not obj.is_importable:
                        return obj.reduce_by_value()
                owner = code_owner.get()
                found = None if owner is not None and owner.modules else reduce_sentinel(obj)
                found = reduce_sent_sentinel(obj) if found is None else found
                return super().reducer_override(obj) if found is None else found

        _pickler_class = WorkerPickler
    return _pickler_class


def _make_beside(modules: list[ModuleType], make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Make something whose code may import these modules, which are here by now."""
    return make(*arguments)
