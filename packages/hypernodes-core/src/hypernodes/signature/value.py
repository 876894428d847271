"""What values are made of: the rules by which inputs of a computation are identified by content."""

from __future__ import annotations

import collections
import copyreg
import enum
import functools
import os
import struct
import sys
from collections.abc import Callable
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

from hypernodes.node import Node
from hypernodes.signature import code
from hypernodes.signature.walk import Memo, Parts, UnhashableValueError, atom, walk

_NEW_OBJECT: Any = copyreg.__newobj__  # type: ignore[attr-defined]  # pickle's "a new empty object of the class"

_registered: dict[type, Callable[[Any], Any]] = {}


def register(value_type: type, function: Callable[[Any], Any]) -> None:
    """Say how objects of a type are identified.

    Args:
        value_type: The class; its subclasses are covered too.
        function: Takes an object and returns something that stands for its whole content: any value that can itself be
            identified (a string, bytes, a tuple of its parts).
    """
    _registered[value_type] = function


def digest(value: Any, memo: Memo | None = None) -> bytes:
    """Return the 32-byte digest of a value: equal content and types, equal digest, in any process.

    Args:
        value: Any object; a function or class is identified by its code and all that it refers to.
        memo: Digests of classes and functions known from other calls, to be used as long as none of them changes.

    Raises:
        UnhashableValueError: The value, or something in it, cannot be identified by its content.

    Example:
        >>> from hypernodes.signature import digest
        >>> digest([1, {"a": None}]) == digest([1, {"a": None}]), digest(1) == digest(1.0), digest(1) == digest(True)
        (True, False, False)
    """
    return walk(value, _parts, _quick, memo, _is_code)


# --- values without parts ----------------------------------------------------------------------------------------


def _quick(value: Any) -> bytes | None:
    kind = type(value)
    if kind is str:
        return atom(b"str:" + value.encode("utf-8", "surrogatepass"))
    if kind is int:
        return atom(b"int:%x" % value)
    if kind is float:
        return atom(b"float:" + (struct.pack(">d", value) if value == value else b"nan"))
    if value is None or value is ... or value is NotImplemented or kind is bool:
        return atom(repr(value).encode())
    if kind is bytes:
        return atom(b"bytes:" + value)
    return None


def _is_code(value: Any) -> bool:
    return isinstance(value, (type, FunctionType))


# --- values with parts -------------------------------------------------------------------------------------------


def _parts(value: Any) -> Parts:
    kind = type(value)
    if _registered:
        for base in kind.__mro__:
            if base in _registered:
                return Parts(b"registered:" + _class_name(kind), [("", _registered[base](value))])
    rule = _RULES.get(kind)
    if rule is not None:
        return rule(value)
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        return _array(value)  # subclasses hold more than the array
    if isinstance(value, type):
        return code.class_parts(value)
    own_key = getattr(kind, "__cache_key__", None)
    if own_key is not None:
        return Parts(b"cache key:" + _class_name(kind), [(".__cache_key__()", own_key(value))])
    if isinstance(value, enum.Enum):
        return Parts(b"enum:" + str(value.name).encode(), [(" (class)", kind), (".value", value.value)])
    for base in kind.__mro__:
        by_name = _RULES_BY_NAME.get((base.__module__.partition(".")[0], base.__name__))
        if by_name is not None:
            return by_name(value)
    return _object(value)


def _sequence(tag: bytes) -> Callable[[Any], Parts]:
    def parts(value: Any) -> Parts:
        return Parts(tag, [(f"[{i}]", item) for i, item in enumerate(value)])

    return parts


def _mapping(value: Any) -> Parts:
    entries = [
        (f"[{key!r:.80}]" if type(key) in (str, int) else "[key]", _Entry(key, item)) for key, item in value.items()
    ]
    return Parts(b"dict", entries, is_ordered=False)


class _Entry:
    """One key with its value."""

    __slots__ = ("key", "value")

    def __init__(self, key: Any, value: Any) -> None:
        self.key = key
        self.value = value


def _array(value: Any) -> Parts:
    """A numpy array: by dtype, shape and buffer; of Python objects, by these."""
    head = f"ndarray:{value.dtype.str}:{value.dtype.descr if value.dtype.names else ''}:{value.shape}".encode()
    if value.dtype.hasobject:
        return Parts(head, [("[...]", value.tolist())])
    from hashlib import sha256

    buffer = value if value.flags.c_contiguous else value.copy(order="C")
    return Parts(head + sha256(memoryview(buffer.reshape(-1).view("u1")) if value.size else b"").digest())


def _numpy_scalar(value: Any) -> Parts:
    return Parts(f"numpy scalar:{value.dtype.str}:".encode() + value.tobytes())


def _object(value: Any) -> Parts:
    """Any other object: its class (with its code, when it is the user's own) and its whole state."""
    kind = type(value)
    ignored = frozenset(_ignored_attributes(kind))
    children: list[tuple[str, Any]] = [(" (class)", kind)]
    state: dict[str, Any] | None = getattr(value, "__dict__", None)
    attributes = state or {}
    slots = [name for base in kind.__mro__ for name in _slot_names(base)]
    is_plain = (state is not None or slots) and kind not in copyreg.dispatch_table
    if not is_plain or isinstance(value, _CONTENT_TYPES) or _has_hidden_state(kind):
        children += _reduced(value)
    ignored |= {n for n in attributes if isinstance(getattr(kind, str(n), None), functools.cached_property)}
    children += [(f".{n}", attributes[n]) for n in sorted(attributes, key=str) if n not in ignored]
    children += [(f".{n}", getattr(value, n)) for n in slots if n not in ignored and hasattr(value, n)]
    labels = ",".join(label for label, _ in children)
    return Parts(b"object:" + labels.encode("utf-8", "surrogatepass"), children)


_CONTENT_TYPES: tuple[Any, ...] = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    str,
    bytes,
    int,
    float,
)  # subclasses hold more than attributes


def _has_hidden_state(kind: type) -> bool:
    """Whether a class that is not the user's own says how its objects are pickled: they hold more than attributes."""
    return any(_says_how_to_pickle(base) and code.origin_of(base.__module__) for base in kind.__mro__[:-1])


def _says_how_to_pickle(kind: type) -> bool:
    return not _PICKLING.isdisjoint(kind.__dict__)


_PICKLING = frozenset({"__reduce__", "__reduce_ex__", "__getstate__"})


def _reduced(value: Any) -> list[tuple[str, Any]]:
    """What pickle would keep of an object that has no attributes of its own to look at."""
    if isinstance(value, (set, frozenset)):
        return [("", set(value))]
    if not _says_how_to_pickle(type(value)):
        for content in _CONTENT_TYPES:
            if isinstance(value, content):
                return [("", content(value))]
    try:
        reducer = copyreg.dispatch_table.get(type(value))  # pickle asks it first: it knows e.g. re.Pattern
        reduced = reducer(value) if reducer else value.__reduce_ex__(4)
    except Exception as error:
        raise UnhashableValueError(str(error), path="", culprit_type=_class_name(type(value)).decode()) from None
    if isinstance(reduced, str):  # the name of something global
        from pickle import whichmodule  # type: ignore[attr-defined]  # the very search that pickle makes

        if getattr(sys.modules.get(whichmodule(value, reduced)), reduced, None) is not value:
            raise UnhashableValueError("it has no name of its own", path="", culprit_type=type(value).__name__)
        return [("", reduced)]
    maker, arguments, state, items, entries = (*reduced, None, None, None)[:5]
    children: list[tuple[str, Any]] = [("", maker) if maker is not _NEW_OBJECT else ("", "new")]
    children += [("", argument) for argument in arguments if argument is not type(value)]
    children += [] if items is None else [("", list(items))]
    if entries is not None:
        children.append(("", list(entries) if isinstance(value, collections.OrderedDict) else dict(entries)))
    if state is not None and state is not getattr(value, "__dict__", None):
        children.append(("", state))
    return children


def _slot_names(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    mangled = (f"_{kind.__name__.lstrip('_')}{n}" if n.startswith("__") and not n.endswith("__") else n for n in names)
    return tuple(n for n in mangled if n not in ("__dict__", "__weakref__"))


def _ignored_attributes(kind: type) -> list[str]:
    ignored: list[str] = []
    for base in kind.__mro__:
        names = base.__dict__.get("__cache_ignore__", ())
        ignored += [names] if isinstance(names, str) else names
    return ignored


def _class_name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__}".encode("utf-8", "surrogatepass")


def _refuse(value: Any) -> Parts:
    raise UnhashableValueError("it has no content to identify it by", path="", culprit_type=type(value).__name__)


_RULES: dict[type, Callable[[Any], Parts]] = {
    list: _sequence(b"list"),
    tuple: _sequence(b"tuple"),
    dict: _mapping,
    MappingProxyType: _mapping,
    set: lambda v: Parts(b"set", [("{...}", item) for item in v], is_ordered=False),
    frozenset: lambda v: Parts(b"frozenset", [("{...}", item) for item in v], is_ordered=False),
    bytearray: lambda v: Parts(b"bytearray:" + v),
    memoryview: lambda v: Parts(f"memoryview:{v.format}:{v.shape}:".encode() + v.tobytes()),
    complex: lambda v: Parts(b"complex:" + struct.pack(">dd", v.real, v.imag)),
    range: lambda v: Parts(b"range", [("", v.start), ("", v.stop), ("", v.step)]),
    slice: lambda v: Parts(b"slice", [("", v.start), ("", v.stop), ("", v.step)]),
    object: _refuse,
    _Entry: lambda v: Parts(b"entry", [(" (key)", v.key), ("", v.value)]),
    FunctionType: code.function_parts,
    BuiltinFunctionType: code.builtin_parts,
    MethodType: lambda v: Parts(b"method", [(".__func__", v.__func__), (".__self__", v.__self__)]),
    CodeType: code.bytecode_parts,
    ModuleType: code.module_parts,
    Node: lambda v: Parts(b"node", [("", v.func)]),
    GenericAlias: lambda v: Parts(b"alias", [(".__origin__", v.__origin__), (".__args__", v.__args__)]),
    functools.cached_property: lambda v: Parts(b"cached_property", [(".func", v.func)]),
    type(functools.lru_cache(len)): lambda v: Parts(b"lru_cache", [(".__wrapped__", v.__wrapped__)]),
    property: lambda v: Parts(b"property", [(".fget", v.fget), (".fset", v.fset), (".fdel", v.fdel)]),
    staticmethod: lambda v: Parts(b"staticmethod", [("", v.__func__)]),
    classmethod: lambda v: Parts(b"classmethod", [("", v.__func__)]),
}

_RULES_BY_NAME: dict[tuple[str, str], Callable[[Any], Parts]] = {
    ("logging", "Logger"): lambda v: Parts(b"logger:" + v.name.encode()),
    ("pathlib", "PurePath"): lambda v: Parts(b"path:" + _class_name(type(v)) + b":" + os.fsencode(v)),
    ("numpy", "generic"): _numpy_scalar,
}
