"""Which names of the user's modules the functions of a plan use, as far as their code says."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Iterable, Mapping
from importlib.util import resolve_name
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from hypernodes.nodes import Node
from hypernodes.plan import CallStep, Plan
from hypernodes.remote.packing import is_own

_MAX_ENTRIES = 100  # of a container that is looked into
_UNKNOWN = object()


def names_used(roots: Iterable[Any]) -> set[tuple[str, str]]:
    """Return the names that code uses, as pairs of the module and the name in it.

    What is looked up at run time, by `getattr` with a name that was put together, is not seen.

    Args:
        roots: Plans, functions and whatever else code is reached from.
    """
    search = _Search()
    search.waiting += roots
    while search.waiting:
        search.visit(search.waiting.pop())
    return search.found


def packages_used(root: Any) -> set[str]:
    """Return the names of the packages, installed or not, that code uses as far as it says."""
    search = _Search()
    search.waiting.append(root)
    while search.waiting:
        search.visit(search.waiting.pop())
    return search.packages


class _Search:
    def __init__(self) -> None:
        self.packages: set[str] = set()
        self.found: set[tuple[str, str]] = set()
        self.waiting: list[Any] = []
        self._seen: dict[int, Any] = {}

    def visit(self, obj: Any) -> None:
        if id(obj) in self._seen:
            return
        self._seen[id(obj)] = obj
        if isinstance(obj, Plan):
            self.waiting += [step.node if isinstance(step, CallStep) else step.inner for step in obj.steps]
        elif isinstance(obj, Node):
            self.waiting += [obj.func, *obj.defaults.values()]
        elif isinstance(obj, FunctionType):
            self._visit_function(obj)
        elif isinstance(obj, functools.partial):
            self.waiting += [obj.func, *obj.args, *obj.keywords.values()]
        elif isinstance(obj, MethodType):
            self.waiting += [obj.__func__, obj.__self__]
        elif isinstance(obj, (classmethod, staticmethod)):
            self.waiting.append(obj.__func__)
        elif isinstance(obj, property):
            self.waiting += [obj.fget, obj.fset, obj.fdel]
        elif isinstance(obj, type):
            if is_own(obj.__module__ or "__main__"):
                self.waiting += [*vars(obj).values(), *obj.__bases__]
        elif isinstance(obj, Mapping):
            self.waiting += list(obj.values())[:_MAX_ENTRIES]
        elif isinstance(obj, (list, tuple, set, frozenset)):
            self.waiting += list(obj)[:_MAX_ENTRIES]
        elif not isinstance(obj, ModuleType):
            self.waiting += [type(obj), getattr(obj, "__wrapped__", None), getattr(obj, "func", None)]
            self.waiting += list(getattr(obj, "__dict__", {}).values())[:_MAX_ENTRIES]

    def _visit_function(self, function: FunctionType) -> None:
        self.waiting += [function.__defaults__ or (), function.__kwdefaults__ or {}]
        self.waiting.append(getattr(function, "__wrapped__", None))
        known: dict[str, Any] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                known[name] = cell.cell_contents
            except ValueError:  # it is empty
                continue
            self.waiting.append(known[name])
        if is_own(function.__globals__.get("__name__") or "__main__"):
            self._visit_code(function.__code__, function.__globals__, known)

    def _visit_code(self, code: CodeType, namespace: dict[str, Any], known: dict[str, Any]) -> None:
        """Follow the instructions as far as they load modules and what is in them."""
        current: Any = _UNKNOWN
        imported: Any = _UNKNOWN
        constants: list[Any] = []
        for instruction in dis.get_instructions(code):
            name, value = instruction.opname, instruction.argval
            if name in ("LOAD_CONST", "LOAD_SMALL_INT"):
                constants = [*constants[-1:], value]
                current = _UNKNOWN
            elif name in ("LOAD_GLOBAL", "LOAD_NAME"):
                current = self._use(namespace.get("__name__") or "__main__", namespace, value)
            elif name in ("LOAD_ATTR", "LOAD_METHOD"):
                current = self._use_of_module(current, value)
            elif name == "IMPORT_NAME":
                imported = current = _imported(namespace, value, constants)
                self.packages.add(value.partition(".")[0])
            elif name == "IMPORT_FROM":
                current = self._use_of_module(imported, value)
            elif name.startswith("STORE_FAST_LOAD_FAST"):
                known[value[0]] = current
                current = known.get(value[1], _UNKNOWN)
            elif name.startswith("LOAD_FAST_LOAD_FAST"):
                current = known.get(value[1], _UNKNOWN)
            elif name.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")):
                current = known.get(value, _UNKNOWN) if isinstance(value, str) else _UNKNOWN
            elif name in ("STORE_FAST", "STORE_DEREF", "STORE_NAME"):
                known[value] = current
            elif name not in ("PUSH_NULL", "SWAP", "POP_TOP", "COPY", "CACHE", "RESUME", "PRECALL"):
                current = _UNKNOWN
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._visit_code(constant, namespace, dict(known))

    def _use_of_module(self, module: Any, name: str) -> Any:
        if not isinstance(module, ModuleType):
            return _UNKNOWN
        inner = sys.modules.get(f"{module.__name__}.{name}")
        if name not in vars(module) and inner is not None:
            return inner
        return self._use(module.__name__, vars(module), name)

    def _use(self, module: str, namespace: Mapping[str, Any], name: str) -> Any:
        value = namespace.get(name)
        origin = value.__name__ if isinstance(value, ModuleType) else getattr(type(value), "__module__", "")
        for module_name in (origin, getattr(value, "__module__", "")):
            if isinstance(module_name, str):
                self.packages.add(module_name.partition(".")[0])
        if name not in namespace or not is_own(module):
            return namespace.get(name, _UNKNOWN)
        self.found.add((module, name))
        self.waiting.append(namespace[name])
        return namespace[name]


def _imported(namespace: dict[str, Any], name: str, constants: list[Any]) -> Any:
    """What an import statement gives: the module, or for `import a.b` the package `a`."""
    level, names = constants if len(constants) == 2 else (0, None)
    try:
        full = resolve_name("." * level + name, namespace.get("__package__") or "") if level else name
    except (ImportError, TypeError):
        return _UNKNOWN
    return sys.modules.get(full if names or level else full.partition(".")[0], _UNKNOWN)
