"""What values are made of: the rules by which inputs of a computation are identified by content."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import os
import struct
import types
import typing
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GenericAlias,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

from hypernodes.failure import Failure
from hypernodes.nodes import Node
from hypernodes.signature import code, hashers, plain
from hypernodes.signature.additions import added_attributes
from hypernodes.signature.exceptions import FailedWith, exception_parts, failed_with_parts, failure_parts
from hypernodes.signature.libraries import hasher_for
from hypernodes.signature.memo import Memo
from hypernodes.signature.object_state import StateReader, with_attributes
from hypernodes.signature.references import MissingModule, Unknowable, environment
from hypernodes.signature.sentinels import sentinel_name
from hypernodes.signature.walk import Parts, UnhashableValueError, combine, walk

Rule = Callable[[Any], Parts]


def digest(value: Any, memo: Memo | None = None) -> bytes:
    """Return the 32-byte digest of a value: equal content and types, equal digest, in any process.

    Args:
        value: Any object; a function or class is identified by its code and all that it refers to.
        memo: What is known of classes and functions from other calls; to be used as long as none of them changes,
            as a rule for one run.

    Raises:
        UnhashableValueError: The value, or something in it, cannot be identified by its content.

    Example:
        >>> from hypernodes.signature import digest
        >>> digest([1, {"a": None}]) == digest([1, {"a": None}]), digest(1) == digest(1.0), digest(1) == digest(True)
        (True, False, False)
    """
    known = plain.quick(value)
    if known is not None:
        return known
    memo = memo or new_memo()
    return _shortcut(value, memo) or walk(value, _Rules(memo), memo)


def new_memo() -> Memo:
    """Return an empty memo for one run, which knows what earlier runs learned as far as nothing has changed."""
    return Memo(_children, digest)


class _Rules:
    """The rules, with what is known of classes in one run."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo
        self._not_plain: Any = None  # an object that has just turned out to be more than its class and plain data

    def quick(self, obj: Any) -> bytes | None:
        if type(obj) is Node and obj.code_signature is not None:
            return obj.code_signature
        return plain.quick(obj)

    def shortcut(self, obj: Any, recall: Callable[[Any], bytes | None]) -> bytes | None:
        reader = self._memo.readers.get(type(obj))
        if reader is None:
            return None
        of_class = recall(type(obj))
        if of_class is None:
            return None
        tag = reader.plain_tag(obj)
        if tag is None:
            self._not_plain = obj
            return None
        return combine(tag, [of_class])

    def parts(self, obj: Any) -> Parts:
        kind = type(obj)
        if obj is self._not_plain and obj is not None:
            self._not_plain = None
            return self._memo.readers[kind].parts_apart(obj)  # type: ignore[no-any-return]
        rule = self._memo.rules.get(kind)
        if rule is None:
            rule = self._memo.rules[kind] = self._rule_for(kind)
        return rule(obj)

    def is_code(self, obj: Any) -> bool:
        return isinstance(obj, type) or type(obj) in _CODE

    def is_constant(self, obj: Any) -> bool:
        kind = type(obj)
        if kind is tuple:
            return all(map(self.is_constant, obj))
        return kind in _UNCHANGEABLE or (kind is type and not obj.__flags__ & _HEAP_TYPE)

    def _rule_for(self, kind: type) -> Rule:
        known = hashers.registered_hasher(kind) or _RULES.get(kind)
        if known is not None:
            return known
        if issubclass(kind, type):
            return code.class_parts
        if getattr(kind, "__cache_key__", None) is not None:
            return _keyed
        if issubclass(kind, enum.Enum):
            return _enum_member
        by_name = hasher_for(kind) or _by_base(kind) or hashers.installed_hasher(kind)
        if by_name is not None:
            return by_name
        if issubclass(kind, BaseException):
            return exception_parts
        reader = StateReader(kind)
        if reader.has_attributes_only:
            self._memo.readers[kind] = reader
        return reader.parts


def _shortcut(value: Any, memo: Memo) -> bytes | None:
    reader = memo.readers.get(type(value))
    known = memo.find(type(value)) if reader is not None else None
    if reader is None or known is None:
        return None
    tag = reader.plain_tag(value)
    return None if tag is None else combine(tag, [known])


def _children(obj: Any) -> Any:
    """Return what a piece of code refers to, as its rule would."""
    kind = type(obj)
    if kind is FunctionType:
        return code.function_children(obj)
    if isinstance(obj, type):
        return code.class_children(obj)
    if kind is ModuleType:
        return code.module_children(obj)
    return _RULES[kind](obj).children


# --- values with parts -------------------------------------------------------------------------------------------


def _sequence(tag: bytes) -> Rule:
    def parts(value: Any) -> Parts:
        return Parts(tag, list(enumerate(value)))

    return parts


def _mapping(value: Any) -> Parts:
    """A dict: its order counts, since code can see it."""
    children: list[tuple[Any, Any]] = []
    for key, item in value.items():
        children.append((" (key)", key))
        children.append(((key,), item))
    return Parts(b"dict", children)


def _view(value: Any) -> Parts:
    return Parts(type(value).__name__.encode(), [("", list(value))])


def _keyed(value: Any) -> Parts:
    """An object that says itself what it is; its class counts with its code."""
    return Parts(b"cache key", [(" (class)", type(value)), (".__cache_key__()", value.__cache_key__())])


def _enum_member(value: Any) -> Parts:
    return Parts(b"enum:" + str(value.name).encode(), [(" (class)", type(value)), (".value", value.value)])


def _memoryview(value: memoryview) -> Parts:
    head = f"memoryview:{value.format}:{value.shape}:".encode()
    return Parts(head + sha256(value if value.c_contiguous else value.tobytes()).digest())


def _path(value: Any) -> Parts:
    return Parts(b"path:" + type(value).__name__.encode() + b":" + os.fsencode(value))


def _logger(value: Any) -> Parts:
    return Parts(b"logger:" + value.name.encode("utf-8", "surrogatepass"))


def _zone(value: Any) -> Parts:
    try:
        value.__reduce__()
    except Exception:  # the key that it was given says nothing about what was in the file
        text = "it was read from a file, and what is in it is not known"
        raise UnhashableValueError(text, path="", culprit_type="zoneinfo.ZoneInfo") from None
    return Parts(b"zone:" + value.key.encode())


def _bare_object(value: Any) -> Parts:
    name = sentinel_name(value)
    if name is not None:
        return Parts(f"sentinel:{name.module}:{name.variable}".encode())
    raise UnhashableValueError("it has no content to identify it by", path="", culprit_type=type(value).__name__)


def _by_base(kind: type) -> Rule | None:
    """Return the rule for subclasses of what compiled code or the standard library knows how to take apart."""
    for base in kind.__mro__:
        rule = _BY_NAME.get((str(base.__module__).partition(".")[0], base.__name__))
        if rule is not None and base.__module__ in _STANDARD:
            return rule if kind.__module__ in _STANDARD else _of_subclass(rule)
        if base in _EXTENDED:
            return _of_subclass(_RULES[base])
    return None


def _of_subclass(rule: Rule) -> Rule:
    return lambda value: with_attributes(rule(value), value)


def _type_variable(value: Any) -> Parts:
    children = [(".__bound__", value.__bound__), (".__constraints__", value.__constraints__)]
    return Parts(b"type variable:" + value.__name__.encode(), children)


def _generic_alias(value: Any) -> Parts:
    metadata = getattr(value, "__metadata__", None)
    return Parts(
        b"alias:" + type(value).__name__.encode(),
        [(".__origin__", value.__origin__), (".__args__", value.__args__), ("", metadata)],
    )


def _union(value: Any) -> Parts:
    return Parts(b"union", [("", item) for item in value.__args__])


def _type_alias(value: Any) -> Parts:
    return Parts(b"type alias:" + value.__name__.encode(), [(".__value__", value.__value__)])


def _special_form(value: Any) -> Parts:
    return Parts(b"special form:" + str(value).encode())


_DICTS: tuple[type[dict[Any, Any]], ...] = (dict, OrderedDict)

_RULES: dict[type, Rule] = {
    list: _sequence(b"list"),
    tuple: _sequence(b"tuple"),
    dict: _mapping,
    MappingProxyType: lambda v: Parts(b"mapping proxy", [("", dict(v))]),
    **{type(view): _view for kind in _DICTS for view in (kind().keys(), kind().values(), kind().items())},
    set: lambda v: Parts(b"set", [("{...}", item) for item in v], is_ordered=False),
    frozenset: lambda v: Parts(b"frozenset", [("{...}", item) for item in v], is_ordered=False),
    bytearray: lambda v: Parts(b"bytearray:" + sha256(v).digest()),
    memoryview: _memoryview,
    complex: lambda v: Parts(b"complex", [(".real", v.real), (".imag", v.imag)]),
    range: lambda v: Parts(b"range", [("", v.start), ("", v.stop), ("", v.step)]),
    slice: lambda v: Parts(b"slice", [("", v.start), ("", v.stop), ("", v.step)]),
    datetime.date: lambda v: Parts(b"date:" + v.isoformat().encode()),
    datetime.timedelta: lambda v: Parts(b"timedelta:%d:%d:%d" % (v.days, v.seconds, v.microseconds)),
    datetime.datetime: lambda v: Parts(
        b"datetime:%d:" % v.fold + v.replace(tzinfo=None).isoformat().encode(), [(".tzinfo", v.tzinfo)]
    ),
    datetime.time: lambda v: Parts(
        b"time:%d:" % v.fold + v.replace(tzinfo=None).isoformat().encode(), [(".tzinfo", v.tzinfo)]
    ),
    decimal.Decimal: lambda v: Parts(b"decimal:" + str(v).encode()),
    type(os.environ): lambda v: Parts(b"environment", [("", environment())]),
    uuid.UUID: lambda v: Parts(b"uuid:" + v.bytes),
    object: _bare_object,
    FunctionType: code.function_parts,
    BuiltinFunctionType: code.builtin_parts,
    MethodType: lambda v: Parts(b"method", [(".__func__", v.__func__), (".__self__", v.__self__)]),
    CodeType: code.bytecode_parts,
    ModuleType: code.module_parts,
    MissingModule: code.missing_parts,
    Unknowable: code.unknowable_parts,
    Node: code.node_parts,
    Failure: failure_parts,
    FailedWith: failed_with_parts,
    GenericAlias: _generic_alias,
    types.UnionType: _union,
    typing.TypeVar: _type_variable,
    typing.ParamSpec: lambda v: Parts(b"parameters:" + v.__name__.encode()),
    typing.ForwardRef: lambda v: Parts(b"forward reference:" + v.__forward_arg__.encode()),
    typing.NewType: lambda v: Parts(b"new type:" + v.__name__.encode(), [("", v.__supertype__)]),
    functools.cached_property: lambda v: Parts(b"cached_property", [(".func", v.func)]),
    functools.partial: lambda v: Parts(
        b"partial", [(".func", v.func), (".args", v.args), (".keywords", v.keywords), ("", v.__dict__)]
    ),
    functools.singledispatchmethod: lambda v: Parts(b"singledispatchmethod", [("", v.dispatcher)]),
    type(functools.lru_cache(len)): lambda v: Parts(
        b"lru_cache:" + repr(v.cache_parameters()).encode(),
        [(".__wrapped__", v.__wrapped__), *added_attributes(v)],
    ),
    property: lambda v: Parts(b"property", [(".fget", v.fget), (".fset", v.fset), (".fdel", v.fdel)]),
    staticmethod: lambda v: Parts(b"staticmethod", [("", v.__func__)]),
    classmethod: lambda v: Parts(b"classmethod", [("", v.__func__)]),
    struct.Struct: lambda v: Parts(b"struct:" + v.format.encode()),
    weakref.KeyedRef: lambda v: Parts(b"weak reference", [("()", v()), (".key", v.key)]),
    weakref.ReferenceType: lambda v: Parts(b"weak reference", [("()", v())]),
}
# Those whose subclasses are known by the same parts, their class and their attributes.
_EXTENDED = frozenset({property, staticmethod, classmethod, functools.cached_property, struct.Struct})
_STANDARD = frozenset({"logging", "pathlib", "pathlib._local", "typing", "zoneinfo"})
_BY_NAME: dict[tuple[str, str], Rule] = {
    ("logging", "Logger"): _logger,
    ("pathlib", "PurePath"): _path,
    ("typing", "_BaseGenericAlias"): _generic_alias,
    ("typing", "_SpecialForm"): _special_form,
    ("typing", "TypeAliasType"): _type_alias,
    ("zoneinfo", "ZoneInfo"): _zone,
}

# What stays the same while what it refers to is the same objects.
_CODE = frozenset(
    {
        BuiltinFunctionType,
        FunctionType,
        MissingModule,
        ModuleType,
        Node,
        classmethod,
        functools.cached_property,
        functools.partial,
        functools.singledispatchmethod,
        property,
        staticmethod,
        type(functools.lru_cache(len)),
    }
)
_HEAP_TYPE = 1 << 9  # of `type.__flags__`: nothing can be put into other classes
_UNCHANGEABLE = frozenset({str, int, float, bool, bytes, type(None), complex})
