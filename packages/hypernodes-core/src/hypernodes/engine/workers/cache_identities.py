"""Says which caches of functions with `functools.cache` are kept where they are sent; see `kept_caches`.

Results are kept only where those of an earlier run cannot be told from those of this one: of functions whose code, with
all it refers to, is the same, and refers to no object that could be changed.
"""

from __future__ import annotations

import dis
import enum
import functools
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from hypernodes import signature
from hypernodes.engine.workers.by_name import is_imported_by_name, is_module_imported_by_name
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.engine.workers.kept_caches import CACHED, PLAIN, CacheIdentity, ClearArrived
from hypernodes.locks import reset_after_fork
from hypernodes.signature.origin import origin_of_module
from hypernodes.signature.references import MissingModule, references

_IMMUTABLE = PLAIN | {re.Pattern, range, type(...), type(NotImplemented)}
_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
_table = reset_after_fork(threading.RLock())


def _new_token() -> str:
    return os.urandom(16).hex()


_sender = _new_token()
_tokens: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def identify(function: Any) -> CacheIdentity | None:
    """Return which cache a function with `functools.cache` has that is sent by value; None if it begins empty."""
    clear = vars(function).get("cache_clear")
    if type(clear) is ClearArrived:
        return clear.identity
    if code_owner.get() is not None:
        return None  # made by code that came without its source
    walk = _Walk()
    try:
        walk.visit_cached(function)
        digest = signature.digest(function, signature.new_memo())
    except Exception:  # whatever the user's objects raise; then nothing is kept
        return None
    name = _name_of(function)
    with _table:
        token = _tokens.get(function)
        if token is None:
            token = _tokens[function] = _new_token()
            function.cache_clear = _ClearCache(function)
        living = frozenset(other for each, other in _tokens.items() if _name_of(each) == name)
    return CacheIdentity(_sender, name, token, living, digest, tuple(walk.classes))


def _name_of(function: Any) -> tuple[str, str]:
    return str(function.__module__), str(function.__qualname__)


class _ClearCache:
    """Clears the cache of a function here, and in other processes when the function arrives there again."""

    def __init__(self, function: Any) -> None:
        self._function = weakref.ref(function)

    def __call__(self) -> None:
        function = self._function()
        if function is not None:
            with _table:
                _tokens[function] = _new_token()
            CACHED.cache_clear(function)


class _NotKeptError(Exception):
    """A function refers to something that may differ from run to run, or be changed."""


class _Walk:
    """Goes through what a function refers to; raises `_NotKeptError` if its results cannot be kept.

    Attributes:
        classes: The classes that travel by value.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._open: list[Any] = []  # the cached functions that are being gone through
        self.classes: list[type] = []

    def visit_cached(self, function: Any) -> None:
        if any(function is each for each in self._open):
            raise _NotKeptError("it calls itself")  # and would reach the limit of recursion sooner
        self._open.append(function)
        self._visit_attributes(function)
        self._open.pop()

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if kind in _IMMUTABLE or isinstance(value, MissingModule):
            if isinstance(value, MissingModule) and not value.origin and find_spec(value.name.partition(".")[0]):
                raise _NotKeptError(f"it imports {value.name}, which is not imported yet")
        elif kind is tuple or kind is frozenset:
            for each in value:
                self._visit(each)
        elif isinstance(value, enum.Enum):
            self._visit(kind)
        elif kind is ModuleType:
            if not is_module_imported_by_name(value):
                raise _NotKeptError(f"it refers to module {value.__name__} as a whole")
        elif kind is FunctionType or kind is CACHED or isinstance(value, type):
            if id(value) not in self._seen and not is_imported_by_name(value):
                self._visit_code(value)
        elif not (_is_constant(value) or (hasattr(value, "__qualname__") and is_imported_by_name(value))):
            raise _NotKeptError(f"it refers to an object of class {kind.__qualname__}")

    def _visit_code(self, value: Any) -> None:
        if type(value) is CACHED:
            self.visit_cached(value)
            return
        self._seen.add(id(value))
        if isinstance(value, type):
            self._visit_class(value)
        else:
            self._visit_function(value)

    def _visit_function(self, function: FunctionType) -> None:
        held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # it is still empty
                held.append(cell.cell_contents)
        if origin_of_module(str(function.__globals__.get("__name__"))):  # what a decorator of a library has made
            held = [value for value in held if isinstance(value, (FunctionType, type)) or type(value) is CACHED]
        else:
            if _assigns_outside(function.__code__):
                raise _NotKeptError("it assigns a variable outside itself")
            held += [value for _, value in references(function)]
        for value in held:
            self._visit(value)
        self._visit_attributes(function)

    def _visit_attributes(self, function: Any) -> None:
        for name, value in vars(function).items():
            if name == "__wrapped__" or not (name.startswith("__") or name == "cache_clear"):
                self._visit(value)

    def _visit_class(self, kind: type) -> None:
        self._visit(type(kind))
        for base in kind.__bases__:
            self._visit(base)
        for name, value in _members_of_class(kind):
            for part in _parts_of_member(value):
                if isinstance(part, (FunctionType, type)) or not name.startswith("_"):
                    self._visit(part)
        self.classes.append(kind)


def _is_constant(value: Any) -> bool:
    """Whether an object is one that nobody changes: a path, a logger, or a constant of a module that is imported."""
    kind = type(value)
    module = sys.modules.get(kind.__module__)
    if module is None or not is_imported_by_name(kind):
        return False
    if module.__name__.partition(".")[0] in ("logging", "pathlib"):
        return True
    return kind.__name__.startswith("_") and any(value is each for each in vars(module).values())


def _members_of_class(kind: type) -> Iterable[tuple[str, Any]]:
    """Return what is in a class; of members of an enum, their values."""
    for name, value in vars(kind).items():
        yield name, value.value if isinstance(value, enum.Enum) and type(value) is kind else value


def _parts_of_member(value: Any) -> Iterable[Any]:
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    if isinstance(value, functools.cached_property):
        return (value.func,)
    return () if isinstance(value, _DESCRIPTORS) else (value,)


def _assigns_outside(code: CodeType) -> bool:
    for instruction in dis.get_instructions(code):
        operation = instruction.opname
        if operation in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            return True
        if operation in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in code.co_freevars:
            return True
    return any(_assigns_outside(constant) for constant in code.co_consts if isinstance(constant, CodeType))
