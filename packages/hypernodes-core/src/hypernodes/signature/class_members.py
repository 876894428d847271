"""What the user's own classes consist of: what they hold, in a form that is the same in every process.

Classes of some libraries hold machinery that is made from what was declared (a validator, an address, a reference back
to the class): of these the declarations count.
"""

from __future__ import annotations

import enum
import operator
import re
import sys
import weakref
from collections.abc import Iterable, Iterator
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, UnionType
from typing import Any, ForwardRef, NamedTuple

from hypernodes.signature.origin import origin_of_function

# Attributes of a class that say nothing about what it does.
_INCIDENTAL = frozenset(
    {
        "__abstractmethods__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__cache_ignore__",
        "__classdictcell__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__parameters__",
        "__qualname__",
        "__signature__",
        "__slotnames__",
        "__static_attributes__",
        "__type_params__",
        "__weakref__",
        "_abc_impl",
    }
)
_SLOT_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
# What matters of a field of a dataclass; its type is an annotation.
_FIELD_TRAITS = ("name", "default", "default_factory", "init", "repr", "hash", "compare", "kw_only", "metadata")
# The dataclass decorator makes functions inside one of this name; the fields say all they do.
_MADE_BY_DATACLASS = "__create_fn__.<locals>."
_MADE_BY_SYMPY = frozenset({"_prop_handler", "default_assumptions"})
_ENUM_BOOKKEEPING = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"})
_ADDRESS = " at 0x"
_IDENTIFIER = re.compile(r"[^\W\d]\w*")


class _Snapshot(NamedTuple):
    """What a class held when it was looked at, and what was made of it then."""

    held: tuple[Any, ...]
    members: list[tuple[str, Any]]
    names: tuple[str, ...]  # in annotations that are texts


# A class is looked at in every run, and hardly ever changed in between.
_seen: weakref.WeakKeyDictionary[type, _Snapshot] = weakref.WeakKeyDictionary()


def members_of(kind: type) -> list[tuple[str, Any]]:
    """Return what a class of the user's own holds, each with how one gets there, in the order of the names."""
    held = dict(kind.__dict__)
    annotations, fields = held.get("__annotations__"), held.get("__dataclass_fields__")
    snapshot = tuple(held.values())
    for declared in (annotations, fields):
        if isinstance(declared, dict):
            snapshot += (*declared, *declared.values())
    known = _seen.get(kind)
    if known is None or len(known.held) != len(snapshot) or not all(map(operator.is_, known.held, snapshot)):
        known = _Snapshot(snapshot, _members(kind, held), _names_in(annotations))
        if not issubclass(kind, enum.Enum) and "__pydantic_fields__" not in held:  # these are changed in deeper places
            _seen[kind] = known
    if not known.names:
        return known.members
    # Libraries look up what annotations name, e.g. to make an object of the class of a field.
    namespace = getattr(sys.modules.get(kind.__module__), "__dict__", {})
    named = [(f".__annotations__ → {name!r}", namespace.get(name)) for name in known.names]
    return known.members + [(label, value) for label, value in named if isinstance(value, type)]


def _members(kind: type, members: dict[str, Any]) -> list[tuple[str, Any]]:
    annotations = members.get("__annotations__")
    if issubclass(kind, enum.Enum):
        members = _of_enum(kind, members)
    if "__pydantic_fields__" in members:
        members = _of_pydantic_model(members)
    if "_explicit_class_assumptions" in members:  # of sympy, which makes these of it, in the order of a set
        members = {name: member for name, member in members.items() if name not in _MADE_BY_SYMPY}
    ignored = members.get("__cache_ignore__", ())
    found: list[tuple[str, Any]] = []
    if isinstance(annotations, dict) and annotations:  # libraries read them (dataclasses, parsers of settings)
        stated = tuple([part for name, value in annotations.items() for part in (name, annotation(value))])
        found.append((".__annotations__", stated))
    for name, member in sorted(members.items()):
        if name in _INCIDENTAL or name in ignored or isinstance(member, _SLOT_DESCRIPTORS):
            continue
        if _is_made_by_dataclass(member) or _is_made_by_dataclass(getattr(member, "__wrapped__", None)):
            continue
        if name == "__hash__" and "__attrs_attrs__" in members and isinstance(member, FunctionType):
            # Its text holds a number that is another one in each process; the attributes say all that it does.
            if member.__code__.co_filename.startswith("<attrs generated"):
                member = "generated"
        elif name == "__dataclass_fields__":
            member = tuple([_trait(field, trait) for field in member.values() for trait in _FIELD_TRAITS])
        elif name == "__dataclass_params__":
            member = tuple([(trait, getattr(member, trait)) for trait in type(member).__slots__])
        found.append((f".{name}", member))
    return found


def _names_in(annotations: Any) -> tuple[str, ...]:
    """Return the names in those annotations that are texts."""
    values = annotations.values() if isinstance(annotations, dict) else ()
    return tuple(sorted({name for text in _texts_in(values) for name in _IDENTIFIER.findall(text)}))


def _texts_in(annotations: Iterable[Any]) -> Iterator[str]:
    for value in annotations:
        if isinstance(value, str):
            yield value
        elif isinstance(value, ForwardRef):
            yield value.__forward_arg__
        elif not isinstance(value, type):
            yield from _texts_in(getattr(value, "__args__", ()))


def _trait(field: Any, name: str) -> Any:
    value = getattr(field, name)
    if name == "metadata":
        return dict(value) or None
    return "missing" if type(value).__name__ == "_MISSING_TYPE" else value


def annotation(value: Any) -> Any:
    """Return something that stands for an annotation: the classes in it, and other things by their text."""
    if value is None or isinstance(value, (type, str)):
        return value
    if type(value).__name__ == "TypeAliasType":
        return ("alias", value.__name__, annotation(value.__value__))
    origin = getattr(value, "__origin__", None)
    if origin is not None or isinstance(value, UnionType):
        parts = tuple(annotation(item) for item in getattr(value, "__args__", ()))
        return ("alias", annotation(origin), parts, getattr(value, "__metadata__", None))
    if isinstance(value, (list, tuple)):  # the parameters of a Callable
        return tuple(annotation(item) for item in value)
    text = repr(value)
    return ("annotation", text[: text.find(_ADDRESS)] if _ADDRESS in text else text)


def _is_made_by_dataclass(member: Any) -> bool:
    return isinstance(member, FunctionType) and member.__code__.co_qualname.startswith(_MADE_BY_DATACLASS)


def _of_enum(kind: type[enum.Enum], members: dict[str, Any]) -> dict[str, Any]:
    """An enum: its members in their order, with what `__new__` or `__init__` made of each."""
    names = kind.__members__
    found: dict[str, Any] = {
        "__members__": [
            (name, member.value, {k: v for k, v in sorted(vars(member).items()) if k not in _ENUM_BOOKKEEPING})
            for name, member in names.items()
        ]
    }
    boundary = members.get("_boundary_")
    if boundary is not None:
        found["_boundary_"] = str(boundary)
    for name, member in members.items():
        if name in names or isinstance(member, kind):
            continue
        function = getattr(member, "__func__", getattr(member, "fget", member))
        is_own = isinstance(function, FunctionType) and not origin_of_function(function)
        if is_own or not name.startswith("_"):
            found[name] = member
    return found


# --- pydantic ----------------------------------------------------------------------------------------------------


def _of_pydantic_model(members: dict[str, Any]) -> dict[str, Any]:
    """A model of pydantic: its fields, validators and functions, not the machinery that is compiled from them."""
    fields = members["__pydantic_fields__"]
    found = {name: member for name, member in members.items() if not name.startswith("__pydantic_")}
    found["__pydantic_fields__"] = {name: _of_pydantic_field(field) for name, field in fields.items()}
    found["__pydantic_decorators__"] = _of_pydantic_decorators(members.get("__pydantic_decorators__"))
    found["description"] = members.get("__doc__")  # a part of the schema, which people give to language models
    return found


def _of_pydantic_field(field: Any) -> list[tuple[str, Any]]:
    names = [name for name in type(field).__slots__ if not name.startswith("_")]
    settings = [(name, getattr(field, name, None)) for name in names]
    return [
        (name, annotation(value) if name == "annotation" else _undefined_as_name(value)) for name, value in settings
    ]


def _of_pydantic_decorators(decorators: Any) -> list[tuple[str, str, Any]]:
    """Validators and the like: for which fields each is, and when it is called."""
    return [
        (kind, name, _settings_of(decorator.info))
        for kind in getattr(type(decorators), "__dataclass_fields__", ())
        if isinstance(by_name := getattr(decorators, kind), dict)
        for name, decorator in by_name.items()
    ]


def _settings_of(info: Any) -> list[tuple[str, Any]]:
    names = getattr(type(info), "__dataclass_fields__", {})
    values = [(name, getattr(info, name, None)) for name in names]
    return [
        (name, annotation(value) if name == "return_type" else _undefined_as_name(value))
        for name, value in values
        if name != "wrapped_property"  # found among the members
    ]


def _undefined_as_name(value: Any) -> Any:
    return "undefined" if type(value).__name__ == "PydanticUndefinedType" else value
