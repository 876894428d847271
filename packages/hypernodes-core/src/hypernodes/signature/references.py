"""What code refers to: the globals, module attributes and imports that a function uses, resolved to objects.

`access_paths` reads from bytecode by which names and attributes code gets at something outside itself. Here these paths
are followed through the user's own modules. A module that goes elsewhere - into a call, a container, a result - is used
in ways that cannot be seen, and counts as a whole. So does one in which names are looked up that are computed.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from hypernodes.signature.access_paths import AccessPath, PathStep, access_paths
from hypernodes.signature.additions import additions_to, is_users_own
from hypernodes.signature.class_members import annotation
from hypernodes.signature.origin import (
    is_installed_module,
    origin_of_class,
    origin_of_function,
    origin_of_missing_module,
    origin_of_module,
)

_ABSENT = object()
_ENDS = frozenset({FunctionType, type, str, int, float, bool, tuple, list, dict})  # a path does not go on from these
# Names that say where a module is, not what it does: code that is moved stays what it was.
_LOCATIONS = frozenset({"__name__", "__file__", "__package__", "__spec__", "__loader__", "__path__", "__cached__"})
# What code may read of a function or a class besides calling it; not a part of what they are otherwise.
_DESCRIPTIONS = frozenset({"__doc__", "__name__", "__qualname__", "__annotations__", "__module__"})
# Functions of Python's own that read them.
_READ_DESCRIPTIONS = frozenset({"get_type_hints", "get_annotations", "getdoc", "signature", "getfullargspec"})
_SCALARS = frozenset({int, float, str, bool, bytes, type(None)})
# Functions that look something up by a name, with the names that calls of them are recorded for (see `access_paths`).
_IMPORTERS: tuple[Any, ...] = (importlib.import_module, builtins.__import__)
# Packages whose classes others may add attributes to, and these classes.
_EXTENSIBLE = {
    "pandas": ("DataFrame", "Series", "Index"),
    "polars": ("DataFrame", "Series", "LazyFrame", "Expr"),
    "xarray": ("Dataset", "DataArray"),
}


class MissingModule:
    """Stands for a module that a function asks for and that is not there, or is installed and not imported yet."""

    def __init__(self, name: str, origin: str) -> None:
        self.name = name
        self.origin = origin


class Unknowable:
    """Stands for something that a function gets at in a way that cannot be followed.

    Attributes:
        reason: Why, and what to write instead.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason


def references(function: FunctionType) -> list[tuple[str, Any]]:
    """Return what a function refers to outside itself, each with how it gets there, in a fixed order."""
    code = function.__code__
    paths = access_paths(code)
    if not paths:
        return []
    start: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            start[name] = cell.cell_contents
        except ValueError:
            continue  # still empty: the function is being defined
    defaults = function.__defaults__ or ()
    start.update(zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True))
    start.update(function.__kwdefaults__ or {})
    found: dict[str, Any] = {}
    namespace = function.__globals__
    reads_descriptions = not _READ_DESCRIPTIONS.isdisjoint(code.co_names)
    for path, label in paths:
        if path.start == "global":
            target = namespace.get(path.name, _ABSENT)
            if reads_descriptions and isinstance(target, (FunctionType, type)):
                found[f"{label} described"] = _description(target)
            if type(target) in _ENDS and not path.steps and path.name not in _LOCATIONS and not _is_importer(target):
                found[label] = target
                continue
        elif path.start == "local" and not isinstance(start.get(path.name), ModuleType):
            continue  # the value itself is a part of the function
        found.update(_follow(path, label, namespace, start))
    return sorted(found.items())


@functools.lru_cache(maxsize=65_536)
def _missing(name: str, origin: str) -> MissingModule:
    """Return the one stand-in for a module, so that it is the same object whenever it is asked for."""
    return MissingModule(name, origin)


def _follow(
    path: AccessPath, label: str, namespace: dict[str, Any], start: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Go along a path as far as the user's own modules lead."""
    steps = path.steps
    if path.start == "import":
        target, steps = _imported(path, namespace)
    elif path.start == "local":
        target = start.get(path.name)
    elif path.start == "own module":
        target = sys.modules.get(namespace.get("__name__", ""))
        if getattr(target, "__dict__", None) is not namespace:
            yield label, dict(namespace)  # e.g. run by `runpy`, or made by `exec`
            return
    elif path.start == "unknowable":
        yield label, Unknowable(path.name)
        return
    elif path.name in _LOCATIONS:
        return
    elif path.name in namespace:
        target = namespace[path.name]
    else:
        target = getattr(builtins, path.name, None)
        if target is not builtins.__import__ and (not isinstance(target, FunctionType) or origin_of_function(target)):
            return  # Python's own; its version is a part of every signature
    yield from _go_on(target, steps, label, namespace, start)


def _go_on(
    target: Any, steps: tuple[PathStep, ...], label: str, namespace: dict[str, Any], start: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    for position, (kind, what) in enumerate(steps):
        rest = steps[position:]
        if target is os.environ:
            if kind == "item":
                yield f"{label}[{what!r}]", _variable(what)
            return
        if target is sys.modules:
            return
        if kind == "call":
            if _is_importer(target):
                yield from _import_by_name(what, rest[1:], label, namespace, start)
                return
            if target is os.getenv:
                if isinstance(what, str):
                    yield f"{label}({what!r})", _variable(what)
                return
            break
        if not isinstance(target, ModuleType):
            if kind == "attribute" and what in _DESCRIPTIONS and isinstance(target, (FunctionType, type)):
                yield f"{label}.{what}", getattr(target, what, None)
            elif kind == "attribute" and isinstance(target, type) and origin_of_class(target):
                held = next((base.__dict__[what] for base in target.__mro__ if what in base.__dict__), _ABSENT)
                if type(held) in _SCALARS:
                    yield f"{label}.{what}", held  # may have been set
            break
        if kind == "item" or what == "__dict__":
            break
        if origin_of_module(target.__name__):
            if what in ("environ", "getenv", "import_module") and what in target.__dict__:
                target = target.__dict__[what]
                label += f".{what}"
                continue
            yield from _additions(target, rest, label)
            break
        try:
            target = getattr(target, what)
        except AttributeError:
            target = _submodule(target, what)
        label += f".{what}"
    else:
        if isinstance(target, ModuleType) and origin_of_module(target.__name__):
            yield from _additions(target, (), label)
    if _is_importer(target):
        yield label, _unknowable_import()  # under another name, or passed on
    elif target is not os.environ and target is not sys.modules:  # of these counts what is read of them by name
        yield label, target


def _description(target: Any) -> Any:
    annotations = getattr(target, "__annotations__", None)
    stated = annotations.items() if isinstance(annotations, dict) else ()
    return target.__doc__, tuple([part for name, value in stated for part in (name, annotation(value))])


def _is_importer(target: Any) -> bool:
    return target is _IMPORTERS[0] or target is _IMPORTERS[1]


def _variable(name: str) -> str | None:
    """Return the value of an environment variable that code reads."""
    return os.environ.get(name)


def _additions(module: ModuleType, steps: tuple[PathStep, ...], label: str) -> Iterator[tuple[str, Any]]:
    """Return what was added to, or replaced in, what is used of an installed module."""
    target: Any = module
    held = module.__dict__
    for kind, what in steps:
        if kind != "attribute":
            break
        if isinstance(target, ModuleType):
            held = target.__dict__
            target = target.__dict__.get(what, _ABSENT)
        elif isinstance(target, type):
            target = next((base.__dict__[what] for base in target.__mro__ if what in base.__dict__), _ABSENT)
        else:
            break
        if type(target) is BuiltinFunctionType or (type(target) is FunctionType and target.__globals__ is held):
            return
        label += f".{what}"
        if is_users_own(target) or (type(target) in _SCALARS and module is not sys and not what.startswith("__")):
            yield label, target  # a constant may have been set
            return
        if isinstance(target, type) and additions_to(target):
            yield label, target
    for name in _EXTENSIBLE.get(module.__name__.partition(".")[0], ()):
        extensible = module.__dict__.get(name)
        if isinstance(extensible, type) and additions_to(extensible):
            yield f"{label} ({name})", extensible


def _import_by_name(
    name: Any, rest: tuple[PathStep, ...], label: str, namespace: dict[str, Any], start: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Follow an import by a function: its name may be a text, or be found along a path."""
    if isinstance(name, AccessPath):
        base = AccessPath(name.start, name.name)
        yield from _follow(base, f"{label} by {name.name}", namespace, start)
        name = _value_at(name, namespace, start)
    if not isinstance(name, str):
        yield label, _unknowable_import()
        return
    path = AccessPath("import", name, rest)
    yield from _follow(path, f"{label}({name!r})", namespace, start)


@functools.lru_cache(maxsize=1)
def _unknowable_import() -> Unknowable:
    return Unknowable(
        "it imports a module by a name that is only known when it runs, so a change in that module would not be seen: "
        "import it by its name, or pass what is needed of it as an input"
    )


def _value_at(path: AccessPath, namespace: dict[str, Any], start: dict[str, Any]) -> Any:
    target: Any = start.get(path.name) if path.start == "local" else namespace.get(path.name)
    for kind, what in path.steps:
        try:
            target = getattr(target, what) if kind == "attribute" else target[what] if kind == "item" else None
        except Exception:
            return None
    return target


def _imported(path: AccessPath, namespace: dict[str, Any]) -> tuple[Any, tuple[PathStep, ...]]:
    """Import what the function would import itself; what is installed is not imported for its name only."""
    name = path.name
    if name.startswith("."):
        package = namespace.get("__package__") or str(namespace.get("__name__", "")).rpartition(".")[0]
        try:
            name = importlib.util.resolve_name(name, package)
        except ImportError:
            return _missing(name, ""), ()
    if name not in sys.modules and is_installed_module(name):
        return _missing(name, origin_of_missing_module(name)), ()
    try:
        return importlib.import_module(name), path.steps
    except (Exception, SystemExit):  # the function may well be prepared for that
        return _missing(name, ""), ()


def _submodule(module: ModuleType, name: str) -> Any:
    try:
        return importlib.import_module(f"{module.__name__}.{name}") if hasattr(module, "__path__") else None
    except Exception:
        return None
