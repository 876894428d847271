"""Modules of the user's that travel: rebuilt on the other side under their own names, so that imports find them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_restored: dict[str, ModuleType] = {}
_LEFT_OUT = "__hypernodes_left_out__"
_INCIDENTAL = frozenset(
    {"__annotations__", "__builtins__", "__cached__", "__file__", "__loader__", "__name__", "__package__", "__path__"}
    | {"__spec__", "__warningregistry__"}
)


def state_of(module: ModuleType, left_out: set[str]) -> dict[str, Any]:
    """Return what is in a module, but for the names that are left out, which are listed."""
    found = {name: value for name, value in vars(module).items() if name not in _INCIDENTAL and name not in left_out}
    return {**found, _LEFT_OUT: sorted(left_out)}


def restore_module(name: str, is_package: bool, file: str | None) -> ModuleType:
    """Make an empty module, to be filled by the unpickler, and let imports find it."""
    module = _RestoredModule(name)
    module.__file__ = file
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = []
    known = sys.modules.get(name)
    if known is None or known is _restored.get(name):  # one that was imported here stays
        sys.modules[name] = _restored[name] = module
    return module


class _RestoredModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get(_LEFT_OUT, ()):
            raise AttributeError(f"{self.__name__}.{name} stayed with the caller, because it cannot be sent")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
