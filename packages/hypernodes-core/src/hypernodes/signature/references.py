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
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from hypernodes.nodes import Node
from hypernodes.signature.access_paths import (
    COMPUTED,
    CONSTANT,
    DESCRIPTIONS,
    READERS,
    SOURCE,
    AccessPath,
    PathStep,
    access_paths,
    descriptions_read,
    evaluates_parameter,
    reads_files,
)
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
    {("runpy", "run_path"), ("inspect", "getmodule")}
    | {("importlib.metadata", what) for what in ("EntryPoint", "entry_points")}
    | {("code", what) for what in ("InteractiveConsole", "InteractiveInterpreter", "interact")}
    | {(name, "module_from_spec") for name in ("importlib._bootstrap", "_frozen_importlib")}
    | {
        (f"{name}_external", what)
        for name in ("importlib._bootstrap", "_frozen_importlib")
        for what in ("spec_from_file_location", "ExtensionFileLoader", "SourceFileLoader", "SourcelessFileLoader")
    }
)
_ENVIRONMENT = type(os.environ)
_LOOKERS_UP = _FINDERS | _RUN_FILES
_ENVIRONMENT_READERS: tuple[Any, ...] = tuple(getattr(os, name) for name in ("getenv", "getenvb") if hasattr(os, name))
# What is gone on from in modules of Python's own.
_LOOKED_INTO: tuple[Any, ...] = (os.environ, getattr(os, "environb", os.environ), *_ENVIRONMENT_READERS, sys.modules)
_LOOKED_INTO_MODULES = frozenset({"importlib.machinery", "importlib.metadata", "importlib.util", "os", "sys"})
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
                if type(target) is FunctionType and target.__name__ in READERS and origin_of_function(target):
                    described.update(READERS[target.__name__])  # under another name
                elif type(target) is FunctionType and not origin_of_function(target):
                    described |= descriptions_read(target.__code__)  # of what it is given
                    if evaluates_parameter(target.__code__) and reads_files(code):
                        found[f"{label}()"] = _unknowable_text()
                continue
        elif path.start == "local" and not isinstance(start.get(path.name), ModuleType):
            continue  # the value itself is a part of the function
        elif path.start == "described":
            described.add(path.name)
            continue
        elif path.start == "imported" and is_installed_module(path.name):
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
    if path.start in ("import", "imported"):
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
        if _is_evaluator(target):
            yield from _evaluated(target, steps, label, namespace, start)
            return
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
    is_whole = False
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
            if any(target is known for known in _ENVIRONMENT_READERS):
                yield from _go_on(os.environ, (("item", what),), label, namespace, start)
                return
            break
        if _is_evaluator(target):
            yield from _evaluated(target, rest, label, namespace, start)
            return
        if not isinstance(target, ModuleType):
            if kind == "attribute" and what == "__subclasses__" and isinstance(target, type):
                yield f"{label}.{what}", _own_subclasses([target])
            elif (
                kind == "attribute"
                and what in (*DESCRIPTIONS, "__module__")
                and isinstance(target, (FunctionType, type))
            ):
                yield f"{label}.{what}", getattr(target, what, None)
            elif kind == "attribute" and isinstance(target, type) and origin_of_class(target):
                held = next((base.__dict__[what] for base in target.__mro__ if what in base.__dict__), _ABSENT)
                if type(held) in PLAIN_TYPES:
                    yield f"{label}.{what}", held  # may have been set
            break
        if kind == "item" or what == "__dict__":
            is_whole = True
            break
        if origin_of_module(target.__name__):
            held = target.__dict__.get(what)
            if _is_looked_into(held):
                target = os.environ if type(held) is _ENVIRONMENT else held
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
        is_whole = True
        if isinstance(target, ModuleType) and origin_of_module(target.__name__):
            yield from _additions(target, (), label)
    yield label, _used_as_it_is(target, is_whole)


def _used_as_it_is(target: Any, is_whole: bool) -> Any:
    """Return what counts of something that is used under another name, passed on, or looked into by unknown names."""
    if _is_importer(target) or target is sys.modules or (target is sys and is_whole):
        return _unknowable_import()
    if target is os.environ or (target is os and is_whole):
        return environment()
    return target


def environment() -> dict[str, str]:
    """Return the environment variables, but for those that only say where a process runs."""
    return {name: os.environ[name] for name in sorted(os.environ) if name not in _OF_PROCESS}


def reached_by(function: Any) -> list[tuple[str, Any]]:
    """Return what one of Python's own functions gets at, when it is held as a value and nothing is known of its use."""
    if any(function is known for known in _ENVIRONMENT_READERS):
        return [(": environment", environment())]
    if _is_importer(function):
        return [("()", _unknowable_import())]
    return [("()", _unknowable_text())] if function is exec else []


def _is_looked_into(held: Any) -> bool:
    if isinstance(held, ModuleType):
        return held.__name__ in _LOOKED_INTO_MODULES
    return any(held is known for known in _LOOKED_INTO) or _is_evaluator(held) or _is_importer(held)


def _evaluated(
    evaluator: Any, steps: tuple[PathStep, ...], label: str, namespace: dict[str, Any], start: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Return what code may use that is evaluated as a text: what the text names, or all that its module holds."""
    kind, text = steps[0] if steps else ("", None)
    if text == CONSTANT:
        return  # it has been read
    if text == COMPUTED or (kind != "evaluate" and evaluator is not eval):
        yield f"{label} of a computed text", _unknowable_text()
        return
    if isinstance(text, AccessPath):
        code = _compiled(_value_at(text, namespace, start))
        for path, named in access_paths(code) if code is not None else ():
            if all(step != "evaluate" for step, _ in path.steps):
                yield from _follow(path, f"{label} of {text.name}{named}", namespace, start)
    yield from _follow(AccessPath("own module", ""), f"{label}: its module", namespace, start)


def _compiled(text: Any) -> CodeType | None:
    return text if isinstance(text, CodeType) else _compiled_text(text) if isinstance(text, str) else None


@functools.lru_cache(maxsize=256)
def _compiled_text(text: str) -> CodeType | None:
    try:
        return compile(text, "<string>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return None


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
        elif isinstance(item, ModuleType) and what == SOURCE and not origin_of_module(item.__name__):
            found.append(_source_of(item))
        elif isinstance(item, type) and what == "__subclasses__":
            found.append(_own_subclasses([item]))
        elif isinstance(item, (FunctionType, type)):
            is_class = isinstance(item, type)
            if origin_of_class(item) if is_class else origin_of_function(item):  # type: ignore[arg-type]
                continue
            found.append(_stated(item, what))
            if is_class and what != "__name__":
                waiting += [member for name, member in sorted(vars(item).items()) if isinstance(member, FunctionType)]
        elif type(item) in _WRAPPERS:
            waiting.append(getattr(item, _WRAPPERS[type(item)]))
    return found


def _stated(item: Any, what: str) -> Any:
    if what == SOURCE:
        return _source_of(item)
    code = getattr(item, "__code__", None)
    if what == "__code__":
        return _constants_of(code) if code is not None else None
    if what == "co_firstlineno":
        return getattr(code, what, None)
    said = getattr(item, what, None)
    if isinstance(said, dict):
        said = tuple([part for name, stated in said.items() for part in (name, annotation(stated))])
    return said


def _source_of(item: Any) -> tuple[str | None, str] | None:
    """Return a text as it stands in its file, with its comments."""
    import inspect

    try:
        return inspect.getcomments(item), inspect.getsource(item)
    except (OSError, TypeError, SyntaxError):
        return None


def _constants_of(code: CodeType) -> list[Any]:
    """Return what code objects hold besides instructions, such as docstrings and names."""
    found: list[Any] = [code.co_name]
    for constant in code.co_consts:
        found += _constants_of(constant) if isinstance(constant, CodeType) else [constant]
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


def _is_evaluator(target: Any) -> bool:
    return target is eval or target is exec or target is compile


def _is_importer(target: Any) -> bool:
    return any(target is known for known in _IMPORTERS) or _name_of(target) in _LOOKERS_UP


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
def _unknowable_text() -> Unknowable:
    return Unknowable(
        "it evaluates code (exec, eval, compile) that something returns when it runs, so a change in it would not be "
        "seen: import the code, or pass its text as an input"
    )


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
