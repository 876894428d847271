"""What the other side imports: functions, classes and modules that are sent as their names."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import cloudpickle

from hypernodes.engine.workers.names_in_main import SPAWNED_MAIN
from hypernodes.global_names import member

MAIN = ("__main__", SPAWNED_MAIN)


def is_imported_by_name(obj: Any) -> bool:
    """Whether a function or class is sent as the name from which the other side imports it."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "__main__")
    return module is not None and is_module_imported_by_name(module) and find_by_name(module, obj) is obj


def is_module_imported_by_name(module: ModuleType) -> bool:
    """Whether the other side imports a module, rather than being sent what is in it."""
    if module.__name__ in MAIN:
        return False
    by_value = cloudpickle.list_registry_pickle_by_value()
    package = module.__name__
    while package:
        if package in by_value:
            return False
        package = package.rpartition(".")[0]
    return True


def find_by_name(module: ModuleType, obj: Any) -> Any:
    """Return what a module has under the name of a function or class."""
    name: str = getattr(obj, "__qualname__", "") or getattr(obj, "__name__", "<unknown>")  # an alias has no other
    return member(module, name)
