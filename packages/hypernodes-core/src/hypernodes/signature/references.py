"""What code refers to: the globals, module attributes and imports that a function uses, resolved to objects.

`access_paths` reads from bytecode by which names and attributes code gets at something outside itself. Here these paths
are followed through the user's own modules. A module that goes elsewhere - into a call, a container, a result - is used
in ways that cannot be seen, and counts as a whole. So does one in which names are looked up that are computed.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from hypernodes.nodes import Node
from hypernodes.signature.access_paths import DESCRIPTIONS, AccessPath, PathStep, access_paths, descriptions_read
from hypernodes.signature.additions import PLAIN_TYPES, added_to_function, additions_to, is_users_own
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
_MOST_DESCRIBED = 10_000
# Functions that look something up by a name, with the names that calls of them are recorded for (see `access_paths`).
_IMPORTERS: tuple[Any, ...] = (importlib.import_module, builtins.__import__, importlib.__import__)
# ... with the modules that define them: these take a name, and those a file.
_FINDERS = frozenset({("pkgutil", "resolve_name"), ("pydoc", "locate"), ("runpy", "run_module")})
_RUN_FILES = frozenset(
    {("runpy", "run_path")}
    | {
        (f"{name}_external", what)
        for name in ("importlib._bootstrap", "_frozen_importlib")
        for what in ("spec_from_file_location", "SourceFileLoader")
    }
)
# What is gone on from in modules of Python's own.
_LOOKED_INTO: tuple[Any, ...] = (os.environ, os.environb, os.getenv, sys.modules, importlib.machinery, importlib.util)
# Variables that say where a process runs, and nothing to the code in it.
_OF_PROCESS = frozenset({"_", "OLDPWD", "PWD", "PYTEST_CURRENT_TEST", "PYTHONHASHSEED", "SHLVL"})
# The attributes by which what stands for a function holds it.
_WRAPPERS: dict[Any, str] = {
    Node: "func",
    functools.partial: "func",
    MethodType: "__func__",
    staticmethod: "__func__",
    classmethod: "__func__",
    type(functools.lru_cache(len)): "__wrapped__",
}
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
    described: set[str] = set()
    namespace = function.__globals__
    for path, label in paths:
        if path.start == "global":
            target = namespace.get(path.name, _ABSENT)
            if (
                type(target) in _ENDS
                and not path.steps
                and path.name not in _LOCATIONS
                and not _is_importer(target)
                and target is not sys.modules
            ):
                found[label] = target
                if type(target) is FunctionType and not origin_of_function(target):
                    described |= descriptions_read(target.__code__)  # of what it is given
                continue
        elif path.start == "local" and not isinstance(start.get(path.name), ModuleType):
            continue  # the value itself is a part of the function
        elif path.start == "described":
            described.add(path.name)
            continue
        found.update(_follow(path, label, namespace, start))
    if described:
        held = [*found.items(), *((f" → {name!r}", value) for name, value in start.items())]
        for what in described:
            for label, target in held:
                if said := _said_of(target, what):
                    found[f"{label}: {what}"] = said
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
    elif path.start == "subclasses":
        kinds = [value for value in namespace.values() if isinstance(value, type)]
        yield label, _own_subclasses(kinds)
        return
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
        if target is globals:  # under another name, or passed on
            yield from _follow(AccessPath("own module", ""), label, namespace, start)
            return
        is_plain = type(target) in PLAIN_TYPES and not path.name.startswith("__")
        if target is not builtins.__import__ and not is_plain and not is_users_own(target):
            return  # Python's own; its version is a part of every signature
    yield from _go_on(target, steps, label, namespace, start)


def _go_on(
    target: Any, steps: tuple[PathStep, ...], label: str, namespace: dict[str, Any], start: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    for position, (kind, what) in enumerate(steps):
        rest = steps[position:]
        if target is os.environ or target is sys.modules:
            name = _value_at(what, namespace, start) if isinstance(what, AccessPath) else what
            if kind != "item" or not isinstance(name, str):
                break
            label += f"[{name!r}]"
            if target is os.environ:
                yield label, os.environ.get(name)
            else:
                yield from _follow(AccessPath("import", name, rest[1:]), label, namespace, start)
            return
        if kind == "call":
            if _is_importer(target):
                yield from _import_by_name(target, what, rest[1:], label, namespace, start)
                return
            if target is os.getenv:
                yield from _go_on(os.environ, (("item", what),), label, namespace, start)
                return
            break
        if not isinstance(target, ModuleType):
            if (
                kind == "attribute"
                and what in (*DESCRIPTIONS, "__module__")
                and isinstance(target, (FunctionType, type))
            ):
                yield f"{label}.{what}", getattr(target, what, None)
            elif kind == "attribute" and what == "__subclasses__" and isinstance(target, type):
                yield f"{label}.{what}", _own_subclasses([target])
            elif kind == "attribute" and isinstance(target, type) and origin_of_class(target):
                held = next((base.__dict__[what] for base in target.__mro__ if what in base.__dict__), _ABSENT)
                if type(held) in PLAIN_TYPES:
                    yield f"{label}.{what}", held  # may have been set
            break
        if kind == "item" or what == "__dict__":
            break
        if origin_of_module(target.__name__):
            held = target.__dict__.get(what)
            if any(held is known for known in _LOOKED_INTO) or _is_importer(held):
                target = os.environ if held is os.environb else held
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
    if _is_importer(target) or target is sys.modules:
        yield label, _unknowable_import()  # under another name, or passed on
    elif target is os.environ:  # by a name that is not known, or as a whole
        yield label, {name: os.environ[name] for name in sorted(os.environ) if name not in _OF_PROCESS}
    else:
        yield label, target


def _said_of(value: Any, what: str) -> list[Any]:
    """Return what is said of the functions and classes in a value: their docstrings, names or annotations."""
    found: list[Any] = []
    waiting, seen = [value], set[int]()
    while waiting and len(seen) < _MOST_DESCRIBED:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (set, frozenset)):
            waiting += sorted(item, key=lambda one: str(getattr(one, "__qualname__", "")))
        elif isinstance(item, (FunctionType, type)):
            is_class = isinstance(item, type)
            if origin_of_class(item) if is_class else origin_of_function(item):  # type: ignore[arg-type]
                continue
            said = getattr(item, what, None)
            if isinstance(said, dict):
                said = tuple([part for name, stated in said.items() for part in (name, annotation(stated))])
            found.append(said)
            if is_class and what != "__name__":
                waiting += [member for name, member in sorted(vars(item).items()) if isinstance(member, FunctionType)]
        elif type(item) in _WRAPPERS:
            waiting.append(getattr(item, _WRAPPERS[type(item)]))
    return found


def _own_subclasses(kinds: list[type]) -> list[type]:
    """Return the classes of the user's own below some classes, in a fixed order."""
    found: dict[type, None] = {}
    waiting = [kind for kind in kinds if kind is not object]
    while waiting:
        below: list[type] = type.__subclasses__(waiting.pop())
        for kind in below:
            if kind not in found and not origin_of_class(kind):
                found[kind] = None
                waiting.append(kind)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def _is_importer(target: Any) -> bool:
    return any(target is known for known in _IMPORTERS) or _name_of(target) in _FINDERS | _RUN_FILES


def _name_of(target: Any) -> tuple[Any, Any] | None:
    if isinstance(target, (FunctionType, type)):
        return target.__module__, target.__qualname__
    return None


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
        if type(target) is FunctionType and target.__dict__:
            yield from ((f"{label}.{what}{name}", value) for name, value in added_to_function(target))
        if type(target) is BuiltinFunctionType or (type(target) is FunctionType and target.__globals__ is held):
            return
        label += f".{what}"
        if is_users_own(target) or (type(target) in PLAIN_TYPES and module is not sys and not what.startswith("__")):
            yield label, target  # a constant may have been set
            return
        if isinstance(target, type) and additions_to(target):
            yield label, target
    for name in _EXTENSIBLE.get(module.__name__.partition(".")[0], ()):
        extensible = module.__dict__.get(name)
        if isinstance(extensible, type) and additions_to(extensible):
            yield f"{label} ({name})", extensible


def _import_by_name(
    finder: Any, name: Any, rest: tuple[PathStep, ...], label: str, namespace: dict[str, Any], start: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Follow an import by a function: its name may be a text, or be found along a path."""
    if isinstance(name, AccessPath):
        base = AccessPath(name.start, name.name)
        yield from _follow(base, f"{label} by {name.name}", namespace, start)
        name = _value_at(name, namespace, start)
    if not isinstance(name, str) or _name_of(finder) in _RUN_FILES:
        yield label, _unknowable_import()
        return
    if _name_of(finder) in _FINDERS:  # "package.module:function.attribute", or with dots only
        name, *attributes = name.replace(":", ".").split(".")
        rest = tuple([("attribute", attribute) for attribute in attributes])
    path = AccessPath("import", name, rest)
    yield from _follow(path, f"{label}({name!r})", namespace, start)


@functools.lru_cache(maxsize=1)
def _unknowable_import() -> Unknowable:
    return Unknowable(
        "it gets at a module by a name or file that is only known when it runs, so a change in it would not be seen: "
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
