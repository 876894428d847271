"""What code reaches: the globals, module attributes and imports that a function uses, read from its bytecode.

A road starts at a global name, a closure variable, a default or an import inside the function, and goes on through the
attributes taken from it, also by way of local variables and of `getattr` with a constant name. A module that goes
elsewhere - into a call, a container, a result - is used in ways that nobody can see here, and counts as a whole.
"""

from __future__ import annotations

import builtins
import dis
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from hypernodes.signature.origin import (
    is_installed_module,
    origin_of,
    origin_of_function,
    origin_of_missing_module,
)


class Road(NamedTuple):
    """One way out of a function.

    Attributes:
        start: "global", "local" or "import".
        name: Name of the variable, or of the module with a dot for each level of a relative import.
        attributes: What is taken from it, one after the other.
    """

    start: str
    name: str
    attributes: tuple[str, ...] = ()

    def to(self, attribute: str) -> Road:
        return Road(self.start, self.name, (*self.attributes, attribute))


_OWN_MODULE = Road("globals()", "")
_LOADED_MODULES = Road("global", "sys", ("modules",))
_TRANSPARENT = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "SWAP", "RESUME"})
_LOADS_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_LOADS_LOCAL = frozenset({"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_STORES_LOCAL = frozenset({"STORE_FAST", "STORE_DEREF", "STORE_NAME", "STORE_FAST_MAYBE_NULL"})
_LONGEST_ROAD = 12
_ABSENT = object()
_ENDS = frozenset({FunctionType, type, str, int, float, bool, tuple, list, dict})  # no road goes on from these
# Names that say where a module is, not what it does: code that is moved stays what it was.
_WHEREABOUTS = frozenset({"__name__", "__file__", "__package__", "__spec__", "__loader__", "__path__", "__cached__"})
_IMPORTERS = frozenset({"import_module", "__import__"})


def references(function: FunctionType) -> list[tuple[str, Any]]:
    """Return what a function refers to outside itself, each with how it gets there, in a fixed order."""
    start: dict[str, Any] = {}
    code = function.__code__
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
    for road, label in roads(code):
        if road.start == "global":
            target = namespace.get(road.name, _ABSENT)
            if type(target) in _ENDS and road.name not in _WHEREABOUTS and not road.attributes:
                found[label] = target
                continue
        found.update(_follow(road, label, namespace, start))
    return sorted(found.items())


class Missing:
    """Stands for a module that the function asks for and that is not there, or is installed and not imported yet."""

    def __init__(self, name: str, origin: str) -> None:
        self.name = name
        self.origin = origin


@functools.lru_cache(maxsize=65_536)
def _missing(name: str, origin: str) -> Missing:
    """Return the one stand-in for a module, so that it is the same object whenever it is asked for."""
    return Missing(name, origin)


def _follow(road: Road, label: str, namespace: dict[str, Any], start: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Go along a road as far as the user's own modules lead."""
    attributes = road.attributes
    if road.start == "import":
        target, attributes = _imported(road, namespace)
    elif road.start == "local":
        target = start.get(road.name)
        if not isinstance(target, ModuleType):
            return  # the value itself is a part of the function
    elif road == _OWN_MODULE:
        target = sys.modules.get(namespace.get("__name__", ""))
    elif road.name in _WHEREABOUTS:
        return
    elif road.name in namespace:
        target = namespace[road.name]
    else:
        target = getattr(builtins, road.name, None)
        if not isinstance(target, FunctionType) or origin_of_function(target):
            return  # Python's own; its version is a part of every signature
    for position, attribute in enumerate(attributes):
        if not isinstance(target, ModuleType):
            if isinstance(target, FunctionType) and attribute in target.__dict__:
                yield f"{label}.{attribute}", target.__dict__[attribute]
            break
        if origin_of(target.__name__):
            patched = _replaced(target, attributes[position:])
            if patched is not None:
                yield f"{label}.{'.'.join(attributes[position:])}", patched
            break
        try:
            target = getattr(target, attribute)
        except AttributeError:
            target = _submodule(target, attribute)
        label += f".{attribute}"
    yield label, target


def _replaced(module: ModuleType, attributes: tuple[str, ...]) -> FunctionType | None:
    """Return a function of the user's own that was put in the place of one that is installed."""
    target: Any = module
    for attribute in attributes:
        if not isinstance(target, ModuleType):
            break
        target = target.__dict__.get(attribute)
    return target if isinstance(target, FunctionType) and not origin_of_function(target) else None


def _imported(road: Road, namespace: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Import what the function would import itself; what is installed is not imported for its name only."""
    name = road.name
    if name.startswith("."):
        package = namespace.get("__package__") or str(namespace.get("__name__", "")).rpartition(".")[0]
        try:
            name = importlib.util.resolve_name(name, package)
        except ImportError:
            return _missing(name, ""), ()
    if name not in sys.modules and is_installed_module(name):
        return _missing(name, origin_of_missing_module(name)), ()
    try:
        return importlib.import_module(name), road.attributes
    except (Exception, SystemExit):  # the function may well be prepared for that
        return _missing(name, ""), ()


def _submodule(module: ModuleType, name: str) -> Any:
    try:
        return importlib.import_module(f"{module.__name__}.{name}") if hasattr(module, "__path__") else None
    except Exception:
        return None


# --- reading bytecode --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=65_536)
def _roads(key: _Identity) -> tuple[tuple[Road, str], ...]:
    reader = _Reader()
    reader.read(key.code)
    starts = {*key.code.co_freevars, *key.code.co_varnames[: key.code.co_argcount + key.code.co_kwonlyargcount]}
    found = sorted(road for road in reader.resolved() if road.start != "local" or road.name in starts)
    return tuple((road, f" → {road.start} {road.name!r}") for road in found)


class _Identity:
    """A code object compared by identity: code that is equal may still differ in what it is nested in."""

    __slots__ = ("code",)

    def __init__(self, code: CodeType) -> None:
        self.code = code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.code is other.code

    def __hash__(self) -> int:
        return id(self.code)


def roads(code: CodeType) -> tuple[tuple[Road, str], ...]:
    """Return every road out of some code and the code nested in it, with what its start is called in labels."""
    return _roads(_Identity(code))


class _Reader:
    """Goes through instructions with the road that leads to what is on top of the stack."""

    def __init__(self) -> None:
        self.used: set[Road] = set()
        self.aliases: dict[str, set[Road]] = {}

    def read(self, code: CodeType) -> None:
        names = set(code.co_names)
        current: Road | None = None
        previous: Road | None = None  # the one before, e.g. `getattr` of getattr(module, "name")
        module: Road | None = None  # the last import
        constants: list[Any] = []
        last = ""
        for instruction in dis.get_instructions(code):
            operation, value = instruction.opname, instruction.argval
            if operation in _TRANSPARENT:
                continue
            if operation in _LOADS_GLOBAL:
                previous, current = self._use(current), Road("global", value)
            elif operation in _LOADS_LOCAL:
                previous, current = self._use(current), Road("local", value)
            elif operation in ("LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST"):
                current = self._pair(operation, value, current)
            elif operation in ("LOAD_ATTR", "LOAD_METHOD"):
                current = current.to(value) if current is not None else None
            elif operation == "IMPORT_NAME":
                level, wanted = constants[-2:] if len(constants) > 1 else (0, None)
                dots = "." * (level if isinstance(level, int) else 0)
                self._use(current)
                # `import a.b` gives a, from which b is then taken; `from a.b import c` gives a.b
                whole = dots + value
                module = current = Road("import", whole if wanted or dots else value.partition(".")[0])
                if not wanted and "." in value:
                    self.used.add(Road("import", whole, ("__name__",)))
                    module = Road("import", value.partition(".")[0])
            elif operation == "IMPORT_FROM":
                current = module.to(value) if module is not None else None
            elif operation == "STORE_NAME" and value != "__module__":
                previous, current = self._use(current), None  # an attribute of a class
            elif operation in _STORES_LOCAL:
                self._store(value, current)
                if last != "COPY":
                    current = None
            elif operation == "COPY":
                pass
            elif operation == "LOAD_CONST":
                constants.append(value)
                if isinstance(value, CodeType):
                    self.read(value)
                elif isinstance(value, str) and current is not None:
                    if previous == Road("global", "getattr"):
                        current = current.to(value)
                    elif (current.attributes or (current.name,))[-1] in _IMPORTERS:
                        previous, current = self._use(current), Road("import", value)
                    elif current == _OWN_MODULE:
                        current = Road("global", value)
                    elif current == _LOADED_MODULES:
                        current = Road("import", value)
                    else:
                        previous, current = self._use(current), None
                elif current is not None and current.start != "import":
                    previous, current = self._use(current), None
            elif operation == "CALL" and current == Road("global", "globals"):
                current = _OWN_MODULE
            elif operation in ("CALL", "BINARY_SUBSCR") and last == "LOAD_CONST" and current is not None:
                pass  # getattr(module, "name"), globals()["name"], import_module("name"): the road goes on
            elif operation == "POP_TOP" and (current is None or current.start == "import"):
                if last != "IMPORT_FROM":
                    current = None  # an import for its effects
            else:
                previous, current = self._use(current), None
            last = operation
        self._use(current)
        if names & {"eval", "exec"}:
            self._read_strings(code)

    def resolved(self) -> set[Road]:
        """Return the roads in use, with local variables replaced by what they were assigned."""
        found: set[Road] = set()
        waiting = list(self.used)
        seen = set(waiting)
        while waiting:
            road = waiting.pop()
            if road.start == "local":
                found.add(road)
                for source in self.aliases.get(road.name, ()):
                    longer = Road(source.start, source.name, (*source.attributes, *road.attributes)[:_LONGEST_ROAD])
                    if longer not in seen:
                        seen.add(longer)
                        waiting.append(longer)
            else:
                found.add(road)
        return found

    def _use(self, road: Road | None) -> Road | None:
        if road is not None:
            self.used.add(road)
        return road

    def _store(self, name: str, road: Road | None) -> None:
        if road is not None:
            self.aliases.setdefault(name, set()).add(road)

    def _pair(self, operation: str, names: Any, current: Road | None) -> Road | None:
        """Two instructions in one, as Python 3.13 writes them."""
        first, second = names
        if operation == "LOAD_FAST_LOAD_FAST":
            self._use(current)
            self._use(Road("local", first))
            return Road("local", second)
        self._store(first, current)
        if operation == "STORE_FAST_LOAD_FAST":
            return Road("local", second)
        return None

    def _read_strings(self, code: CodeType) -> None:
        """Code in a string that is evaluated as it stands."""
        for constant in code.co_consts:
            if isinstance(constant, str) and constant.strip():
                try:
                    self.read(compile(constant, "<string>", "exec", dont_inherit=True))
                except (SyntaxError, ValueError, RecursionError):
                    continue
