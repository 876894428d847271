"""Says which functions with `functools.cache` keep their caches where they are sent; see `kept_caches`.

They are those whose results cannot be told from those of another run: functions that refer to no object that could be
changed, assign nothing outside themselves, and do not call themselves. All that they refer to is compared with what it
was when they were last sent.
"""

from __future__ import annotations

import dis
import enum
import functools
import re
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
)
from typing import Any, NamedTuple

from hypernodes.engine.workers.by_name import is_imported_by_name, is_module_imported_by_name
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.engine.workers.kept_caches import (
    CACHED,
    PLAIN,
    CacheIdentity,
    ClearArrived,
    clear_all_with,
    clear_of,
    new_token,
)
from hypernodes.locks import reset_after_fork
from hypernodes.signature.nested_code import with_nested_code
from hypernodes.signature.origin import origin_of_module
from hypernodes.signature.per_code import remembered_per_code
from hypernodes.signature.references import MissingModule, references

_IMMUTABLE = PLAIN | {re.Pattern, range, type(...), type(NotImplemented)}
_BUILT_IN = frozenset({BuiltinFunctionType, MethodDescriptorType})
_STORES_GLOBALS = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_STORES_CELLS = frozenset({"STORE_DEREF", "DELETE_DEREF"})
_WITH_CODE = (FunctionType, CACHED)
_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
_OF_CLASS = frozenset({"_abc_impl", "_field_defaults"})  # which abstract classes and named tuples have
_SET_BY_PYTHON = frozenset(
    f"__{name}__"
    for name in (
        *("annotations", "annotations_cache", "annotate", "annotate_func", "dataclass_fields", "dataclass_params"),
        *("abstractmethods", "dict", "doc", "firstlineno", "match_args", "module", "name", "orig_bases", "parameters"),
        *("qualname", "slots", "static_attributes", "type_params", "weakref", "hash", "protocol_attrs"),
        "is_protocol",
    )
)
_MOST_PARTS = 20_000  # of what a function refers to
_MOST_ENDED = 64
_table = reset_after_fork(threading.RLock())


class _Reach(NamedTuple):
    """What a function refers to.

    Attributes:
        parts: Everything, in a fixed order: functions and classes as weak references.
        code: The functions and classes that travel by value.
    """

    parts: list[Any]
    code: list[Any]


class _Known:
    """A function that was sent.

    Attributes:
        token: See `CacheIdentity`.
        parts: What it refers to.
        uses: How often it has been called here since its cache was cleared.
    """

    def __init__(self, token: str, parts: list[Any], uses: int) -> None:
        self.token = token
        self.parts = parts
        self.uses = uses


_known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()
_cleared_unseen: weakref.WeakSet[Any] = weakref.WeakSet()  # functions whose own `cache_clear` something else holds
_ended: dict[tuple[str, str], deque[str]] = {}  # by module and qualified name


class CacheIdentities:
    """The caches of functions that are sent together."""

    def __init__(self) -> None:
        self._references: dict[int, tuple[FunctionType, list[Any]]] = {}
        self._found: dict[int, tuple[Any, _Reach | None]] = {}
        self._neighbours: dict[int, tuple[Any, list[Any]]] = {}

    def of(self, function: Any) -> CacheIdentity | None:
        """Return which cache a function has that is sent by value; None if it begins empty in each run."""
        clear = vars(function).get("cache_clear")
        if type(clear) is ClearArrived:
            return clear.identity
        if code_owner.get() is not None:
            return None  # made by code that came without its source
        reach = None if _may_be_cleared_unseen(function) else self.reach(function, ())
        if reach is None:
            others = [other for other in self._others_of(function) if self.reach(other, ()) is not None]
            return CacheIdentity(None, (), tuple(others)) if others else None
        name = (str(function.__module__), str(function.__qualname__))
        info = function.cache_info()
        uses = info.hits + info.misses
        with _table:
            known = _known.get(function)
            if known is None:
                known = _known[function] = _Known(new_token(), reach.parts, uses)
                weakref.finalize(function, _end, name, known).atexit = False
                function.cache_clear = _ClearCache(function)
            elif uses < known.uses or not _are_same(known.parts, reach.parts):
                _begin_again(name, known)
            known.parts, known.uses = reach.parts, uses
            return CacheIdentity(known.token, tuple(_ended.get(name, ())), tuple(reach.code))

    def note_other_way_to_clear(self, function: Any) -> None:
        """Note that something that is sent clears the cache of a function in a way that is not seen here."""
        with _table:
            _cleared_unseen.add(function)

    def attributes_to_send(self, function: Any) -> dict[str, Any]:
        """Return the attributes of a function with a cache that the other side does not give it anyway."""
        ours = ("__wrapped__",) if type(vars(function).get("cache_clear")) not in _CLEARING else _GIVEN
        return {name: value for name, value in vars(function).items() if name not in ours}

    def reach(self, function: Any, around: tuple[Any, ...]) -> _Reach | None:
        """Return all that a function with a cache refers to; None if its results are not kept.

        Args:
            function: The function.
            around: The functions with caches that refer to it.
        """
        if id(function) not in self._found:
            found: _Reach | None = None
            with suppress(Exception):  # `_NotKeptError`, or what the classes of the user's raise
                found = _Walk(self, (*around, function)).go_through(function)
            self._found[id(function)] = function, found
        return self._found[id(function)][1]

    def _others_of(self, function: Any) -> list[Any]:
        """Return the functions with caches, sent by value too, that one refers to, also by way of others."""
        found: dict[int, Any] = {}
        waiting = [function]
        while waiting:
            for other in self._next_to(waiting.pop()):
                if id(other) not in found:
                    found[id(other)] = other
                    waiting.append(other)
        return list(found.values())

    def _next_to(self, function: Any) -> list[Any]:
        """Return the functions with caches that one refers to itself."""
        if id(function) not in self._neighbours:
            found: list[Any] = []
            seen: set[int] = set()
            waiting: list[Any] = [function.__wrapped__]
            while waiting and len(seen) < _MOST_PARTS:
                each = waiting.pop()
                if id(each) in seen or each is function or is_imported_by_name(each):
                    continue
                seen.add(id(each))
                if type(each) is CACHED:
                    found.append(each)
                elif type(each) is FunctionType:
                    with suppress(Exception):
                        _check_imports(each)
                        held = [*_closure_of(each), *self.references(each)]
                        waiting += [part for part in held if type(part) in _WITH_CODE]
            self._neighbours[id(function)] = function, found
        return self._neighbours[id(function)][1]

    def references(self, function: FunctionType) -> list[Any]:
        """Return what a function refers to by name."""
        if id(function) not in self._references:
            self._references[id(function)] = function, [value for _, value in references(function)]
        return self._references[id(function)][1]


def _may_be_cleared_unseen(function: Any) -> bool:
    clear = vars(function).get("cache_clear")
    return function in _cleared_unseen or not (clear is None or type(clear) is _ClearCache)


def _end(name: tuple[str, str], known: _Known) -> None:
    with _table:
        _ended.setdefault(name, deque(maxlen=_MOST_ENDED)).append(known.token)


def _begin_again(name: tuple[str, str], known: _Known) -> None:
    _end(name, known)
    known.token = new_token()


def _are_same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(_is_same, before, now))


def _is_same(before: Any, now: Any) -> bool:
    if before is now:
        return True
    if type(before) is weakref.ref:
        return type(now) is weakref.ref and before() is not None and before() is now()
    return type(before) is type(now) and type(before) in _IMMUTABLE and bool(before == now)


class _ClearCache:
    """Clears the cache of a function here, and in other processes when the function arrives there again."""

    def __init__(self, function: Any) -> None:
        self._function = weakref.ref(function)

    def __call__(self) -> None:
        function = self._function()
        if function is not None:
            with _table:
                if function in _known:
                    _begin_again((str(function.__module__), str(function.__qualname__)), _known[function])
        clear_all_with(self, function)

    def __reduce__(self) -> Any:
        return clear_of, (self._function(),)


_CLEARING = (_ClearCache, ClearArrived)
_GIVEN = ("__wrapped__", "cache_clear")


class _NotKeptError(Exception):
    """A function refers to something that may differ from run to run, or be changed."""


class _Walk:
    """Goes through what a function refers to; raises `_NotKeptError` if its results are not kept.

    Args:
        identities: What is known of functions that are sent together.
        around: The functions with caches that are gone through, the innermost last.
    """

    def __init__(self, identities: CacheIdentities, around: tuple[Any, ...]) -> None:
        self._identities = identities
        self._around = around
        self._seen: set[int] = set()
        self._parts: list[Any] = []
        self._code: list[Any] = []

    def go_through(self, function: Any) -> _Reach:
        """Return what a function with a cache refers to."""
        self._visit_attributes(function)
        return _Reach(self._parts, self._code)

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if len(self._parts) > _MOST_PARTS:
            raise _NotKeptError("it refers to too much")
        if kind in _IMMUTABLE:
            self._parts.append(value)
        elif kind is tuple or kind is frozenset:
            self._parts.append(len(value))
            for each in value:
                self._visit(each)
        elif kind is ModuleType:
            if not is_module_imported_by_name(value):
                raise _NotKeptError(f"it refers to module {value.__name__} as a whole")
            self._parts.append(value)
        elif kind is FunctionType or kind is CACHED or issubclass(kind, type):
            self._visit_code(value)
        elif issubclass(kind, enum.Enum):
            self._parts.append(value)
            self._visit_code(kind)
        elif kind is not MissingModule:  # which `_check_imports` has looked at
            if not (_is_constant(value) or (kind in _BUILT_IN and is_imported_by_name(value))):
                raise _NotKeptError(f"it refers to an object of class {kind.__qualname__}")
            self._parts.append(value)

    def _visit_code(self, value: Any) -> None:
        self._parts.append(weakref.ref(value))
        if id(value) in self._seen or is_imported_by_name(value):
            return
        self._seen.add(id(value))
        if type(value) is CACHED:
            self._visit_cached(value)
            return
        self._code.append(value)
        if issubclass(type(value), type):
            self._visit_class(value)
        else:
            self._visit_function(value)

    def _visit_cached(self, function: Any) -> None:
        if any(function is each for each in self._around):
            raise _NotKeptError("it calls itself")  # and would reach the limit of recursion sooner
        inner = self._identities.reach(function, self._around)
        if inner is None or _may_be_cleared_unseen(function):
            raise _NotKeptError("it refers to a function whose cache is not kept")
        self._parts += inner.parts
        self._code.append(function)
        self._code += [each for each in inner.code if id(each) not in self._seen]
        self._seen.update(map(id, inner.code))

    def _visit_function(self, function: FunctionType) -> None:
        self._parts.append(function.__code__)
        held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *_closure_of(function)]
        if origin_of_module(str(function.__globals__.get("__name__"))):  # what a decorator of a library has made
            held = [value for value in held if type(value) in (FunctionType, CACHED) or issubclass(type(value), type)]
        else:
            _check_assignments(function)
            _check_imports(function)
            held += self._identities.references(function)
        for value in held:
            self._visit(value)
        self._visit_attributes(function)

    def _visit_attributes(self, function: Any) -> None:
        for name, value in vars(function).items():
            is_of_cache = type(function) is CACHED and (name == "cache_parameters" or type(value) is _ClearCache)
            if not (is_of_cache or (name != "__wrapped__" and _is_of_python(name, value))):
                self._parts.append(name)
                self._visit(value)

    def _visit_class(self, kind: type) -> None:
        self._visit(type(kind))
        for base in kind.__bases__:
            self._visit(base)
        for name, value in vars(kind).items():
            if name in _OF_CLASS or (_is_of_enum(name) and issubclass(type(kind), enum.EnumMeta)):
                continue
            for part in _parts_of_member(kind, value):
                if not _is_of_python(name, part):
                    self._parts.append(name)
                    self._visit(part)


def _closure_of(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # it is still empty
            yield cell.cell_contents


def _is_constant(value: Any) -> bool:
    """Whether an object is one that nobody changes: a path, a logger, or a constant of a module that is imported."""
    kind = type(value)
    module = sys.modules.get(kind.__module__)
    if module is None or not is_imported_by_name(kind):
        return False
    if module.__name__.partition(".")[0] in ("logging", "pathlib"):
        return True
    return kind.__name__.startswith("_") and any(value is each for each in vars(module).values())


def _is_of_python(name: str, value: Any) -> bool:
    """Whether an attribute of a class or function is one that Python sets, or a constant with a name like theirs."""
    return name in _SET_BY_PYTHON or (name.startswith("__") and name.endswith("__") and type(value) in _IMMUTABLE)


def _is_of_enum(name: str) -> bool:
    """Whether a name in an enum, or a member of one, is of those that the `enum` module puts there."""
    return name.startswith("_") and name.endswith("_")


def _parts_of_member(owner: type, value: Any) -> Iterable[Any]:
    kind = type(value)
    if kind is staticmethod or kind is classmethod:
        return (value.__func__,)
    if kind is property:
        return value.fget, value.fset, value.fdel
    if kind is functools.cached_property:
        return (value.func,)
    if kind is owner and issubclass(kind, enum.Enum):
        return value.value, *(each for name, each in vars(value).items() if not _is_of_enum(name))
    return () if kind in _DESCRIPTORS else (value,)


def _check_assignments(function: FunctionType) -> None:
    """Refuse a function that assigns variables outside itself."""
    if _effects_of(function.__code__).assigns_outside:
        raise _NotKeptError("it assigns a variable outside itself")


def _check_imports(function: FunctionType) -> None:
    """Refuse a function that imports modules of the user's that are not loaded yet: looking at it would load them."""
    for name in _effects_of(function.__code__).imported:
        if not _is_loaded_or_installed(name, function.__globals__):
            raise _NotKeptError(f"it imports {name}, which is not loaded yet")


class _Effects(NamedTuple):
    """What code does besides what it computes.

    Attributes:
        assigns_outside: Whether it assigns global variables, or those of a function around it.
        imported: Names of the modules that it imports.
    """

    assigns_outside: bool
    imported: tuple[str, ...]


@remembered_per_code
def _effects_of(code: CodeType) -> _Effects:
    assigns_outside = False
    imported: list[str] = []
    for each in with_nested_code(code):
        for instruction in dis.get_instructions(each):
            operation, argument = instruction.opname, instruction.argval
            if operation == "IMPORT_NAME":
                imported.append(argument)
            elif operation in _STORES_GLOBALS or (operation in _STORES_CELLS and argument in code.co_freevars):
                assigns_outside = True
    return _Effects(assigns_outside, tuple(imported))


def _is_loaded_or_installed(name: str, namespace: dict[str, Any]) -> bool:
    """Whether looking at what an import gives loads no module of the user's."""
    if name in sys.modules or not name:
        return True
    top = name.partition(".")[0]
    if f"{namespace.get('__package__')}.{name}" in sys.modules:
        return True
    return bool(origin_of_module(top)) or (top not in sys.modules and find_spec(top) is None)
