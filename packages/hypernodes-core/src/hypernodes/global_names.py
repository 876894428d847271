"""Functions, classes and other objects that are known by a module and their qualified name in it, as in pickle."""

from __future__ import annotations

import sys
from typing import Any


def member(obj: Any, qualname: str) -> Any:
    """Return what an object has under a qualified name (`Outer.inner`); None when there is nothing."""
    for part in qualname.split("."):
        obj = getattr(obj, part, None)
    return obj


def find_global(module: Any, qualname: str) -> Any:
    """Return what a module that has been imported has under a qualified name; None when there is nothing."""
    return member(sys.modules.get(module), qualname)


def import_global(module: str, qualname: str) -> Any:
    """Import a module, and return what it has under a qualified name.

    Raises:
        ImportError: The module cannot be imported.
        AttributeError: There is nothing under that name.
    """
    import importlib

    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found
