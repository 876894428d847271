"""Plans and values as bytes, for worker processes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.errors import SerializationError
from hypernodes.nodes import Node
from hypernodes.signature import reduce_sentinel

PROTOCOL = 5


def dumps(
    value: Any, what: str, is_by_value: bool, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
) -> bytes:
    """Return `value` as bytes.

    Args:
        value: What is to be sent.
        what: What it is, for the message.
        is_by_value: Whether functions that a worker cannot import (of `__main__`, lambdas, closures) are sent whole,
            which needs cloudpickle.
        buffer_callback: Called with the memory of each array; keeps it out of the bytes by returning something false.

    Raises:
        SerializationError: It cannot be sent.
    """
    try:
        if not is_by_value:
            return pickle.dumps(value, PROTOCOL, buffer_callback=buffer_callback)
        buffer = io.BytesIO()
        _worker_pickler()(buffer, PROTOCOL, buffer_callback).dump(value)
        return buffer.getvalue()
    except Exception as error:
        hint = "" if is_by_value else "; pip install hypernodes-core[parallel] sends functions of every kind"
        raise SerializationError(
            f"{what} cannot be sent to a worker process ({type(error).__name__}: {error}){hint}", path=what
        ) from error


_pickler: Any = None


def _worker_pickler() -> Any:
    global _pickler
    if _pickler is None:
        from hypernodes.engine.workers.by_value import ByValuePickler  # needs cloudpickle
        from hypernodes.engine.workers.main_sentinels import reduce_sentinel_of_main

        class WorkerPickler(ByValuePickler):
            """Knows that the name of a decorated function stands for a node."""

            def reducer_override(self, obj: Any) -> Any:
                if type(obj) is Node:
                    owner = code_owner.get()
                    if owner is not None and owner.modules:
                        return _make_beside, (list(owner.modules.values()), *obj.reduce_by_value())
                    if obj.__module__ in ("__main__", "__mp_main__") or not obj.is_importable:
                        return obj.reduce_by_value()
                owner = code_owner.get()
                found = None if owner is not None and owner.modules else reduce_sentinel(obj)
                found = reduce_sentinel_of_main(obj) if found is None else found
                return super().reducer_override(obj) if found is None else found

        _pickler = WorkerPickler
    return _pickler


def _make_beside(modules: list[ModuleType], make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Make something whose code may import these modules, which are here by now."""
    return make(*arguments)
