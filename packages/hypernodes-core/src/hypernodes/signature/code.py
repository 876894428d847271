"""What code is made of: the rules by which functions, classes and modules are identified.

The user's own code is followed: a function is its normalised source (comments, formatting, docstring, name and
place do not matter), its defaults, its closure and everything of the user's own that it refers to, transitively.
Installed code is identified by distribution and version, the standard library by Python's minor version.
"""

from __future__ import annotations

import enum
import functools
import os
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from hypernodes.node import Node
from hypernodes.signature.origin import PYTHON, origin_of, origin_of_class, origin_of_function
from hypernodes.signature.reach import Missing, references
from hypernodes.signature.source import canonical_bytecode, text_of
from hypernodes.signature.walk import Parts

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
# What matters of a field of a dataclass; its type is an annotation.
_FIELD_TRAITS = ("name", "default", "default_factory", "init", "repr", "hash", "compare", "kw_only")
# The dataclass decorator makes functions inside one of this name; the fields say all they do.
_MADE_BY_DATACLASS = "__create_fn__.<locals>."
_SLOT_DESCRIPTORS = (type(Node.__dict__.get("__dict__")), type(FunctionType.__dict__["__globals__"]))
_PLAIN_METACLASSES = frozenset({"type", "ABCMeta"})


def function_parts(function: FunctionType) -> Parts:
    """A function written in Python."""
    children = function_children(function)
    origin = origin_of_function(function)
    if origin:
        return Parts(f"function:{origin}:{function.__code__.co_qualname}".encode() + _labels(children), children)
    return Parts(b"function:" + text_of(function.__code__, function.__globals__) + _labels(children), children)


def function_children(function: FunctionType) -> list[tuple[str, Any]]:
    """Return what a function refers to outside its own text, each with how one gets there."""
    code = function.__code__
    if origin_of_function(function):
        if "<locals>" not in code.co_qualname:
            return []
        if code.co_qualname == "singledispatch.<locals>.wrapper":
            return [(".registry", dict(function.registry))]  # type: ignore[attr-defined]
        # made by an installed function, for values that it got
        return [*_closure(function), *_defaults(function)]
    children = [*_defaults(function), *_closure(function), *references(function)]
    wrapped = function.__dict__.get("__wrapped__")
    if wrapped is not None:
        children.append((".__wrapped__", wrapped))
    return children


def _defaults(function: FunctionType) -> list[tuple[str, Any]]:
    return [(".__defaults__", function.__defaults__), (".__kwdefaults__", function.__kwdefaults__)]


def _closure(function: FunctionType) -> list[tuple[str, Any]]:
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # still empty: the function is being defined
            value = None
        if not isinstance(value, ModuleType):  # of a module counts what is used of it
            found.append((f" → closure {name!r}", value))
    return found


def class_parts(kind: type) -> Parts:
    """A class: the user's own with its bases, methods and constants."""
    children = class_children(kind)
    origin = origin_of_class(kind)
    if origin:
        return Parts(f"class:{origin}:{kind.__qualname__}".encode())
    return Parts(f"class:{kind.__qualname__}".encode() + _labels(children), children)


def class_children(kind: type) -> list[tuple[str, Any]]:
    """Return what a class consists of, each with how one gets there; nothing for an installed class."""
    if origin_of_class(kind):
        return []
    children: list[tuple[str, Any]] = [(f" (base {base.__name__})", base) for base in kind.__bases__]
    if type(kind).__name__ not in _PLAIN_METACLASSES:
        children.append((" (metaclass)", type(kind)))
    members: dict[str, Any] = dict(kind.__dict__)
    if issubclass(kind, enum.Enum):
        members = _enum_members(kind, members)
    if "__pydantic_fields__" in members:
        members = _pydantic_members(members)
    ignored = members.get("__cache_ignore__", ())
    for name, member in sorted(members.items()):
        if name in _INCIDENTAL or name in ignored or isinstance(member, _SLOT_DESCRIPTORS):
            continue
        if _is_made_by_dataclass(member) or _is_made_by_dataclass(getattr(member, "__wrapped__", None)):
            continue
        if name == "__dataclass_fields__":
            member = [tuple(getattr(field, trait) for trait in _FIELD_TRAITS) for field in member.values()]
        children.append((f".{name}", member))
    return children


def _is_made_by_dataclass(member: Any) -> bool:
    return isinstance(member, FunctionType) and member.__code__.co_qualname.startswith(_MADE_BY_DATACLASS)


def _enum_members(kind: type[enum.Enum], members: dict[str, Any]) -> dict[str, Any]:
    found = {name: member.value for name, member in kind.__members__.items()}
    for name, member in members.items():
        if name in found or isinstance(member, kind):
            continue
        function = getattr(member, "__func__", getattr(member, "fget", member))
        is_own = isinstance(function, FunctionType) and not origin_of_function(function)
        if is_own or not name.startswith("_"):
            found[name] = member
    return found


def _pydantic_members(members: dict[str, Any]) -> dict[str, Any]:
    """A model of pydantic: its fields and functions, not the machinery that is compiled from them."""
    fields = members["__pydantic_fields__"]
    found = {name: member for name, member in members.items() if not name.startswith("__pydantic_")}
    found["__pydantic_fields__"] = {name: _pydantic_field(field) for name, field in fields.items()}
    return found


def _pydantic_field(field: Any) -> tuple[Any, ...]:
    names = ("annotation", "default", "default_factory", "alias", "validation_alias", "frozen", "exclude", "metadata")
    settings = tuple((name, getattr(field, name, None)) for name in names)
    return tuple((name, _undefined_as_name(value)) for name, value in settings)


def _undefined_as_name(value: Any) -> Any:
    return "undefined" if type(value).__name__ == "PydanticUndefinedType" else value


def builtin_parts(function: BuiltinFunctionType) -> Parts:
    """A function written in C; a method of an object is identified with its object."""
    owner = function.__self__
    if owner is None or isinstance(owner, (ModuleType, type)):
        return Parts(b"builtin:" + compiled_origin(function.__module__ or "") + function.__qualname__.encode())
    return Parts(b"builtin method:" + function.__qualname__.encode(), [(".__self__", owner)])


def compiled_origin(module_name: str) -> bytes:
    """Return where compiled code comes from; an extension module that is not installed counts by its content."""
    origin = origin_of(module_name)
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if origin or not isinstance(file, str) or not os.path.exists(file):
        return f"{origin or module_name}:".encode()
    status = os.stat(file)
    return b"extension:" + _digest_of_file(file, status.st_mtime_ns, status.st_size) + b":"


@functools.lru_cache(maxsize=65_536)
def _digest_of_file(path: str, modified_ns: int, size_bytes: int) -> bytes:
    from hashlib import file_digest

    with open(path, "rb") as file:
        return file_digest(file, "sha256").digest()


def module_parts(module: ModuleType) -> Parts:
    """A module that is used as a value: all that it holds, when it is the user's own."""
    children = module_children(module)
    return Parts(f"module:{origin_of(module.__name__) or 'own'}".encode() + _labels(children), children)


def module_children(module: ModuleType) -> list[tuple[str, Any]]:
    """Return the contents of a module of the user's own."""
    if origin_of(module.__name__):
        return []
    held = {name: value for name, value in module.__dict__.items() if not name.startswith("__")}
    compiled = str(getattr(module, "__file__", "")).endswith((".so", ".pyd"))
    own = [("(compiled)", compiled_origin(module.__name__))] if compiled else []
    return own + [(f".{name}", value) for name, value in sorted(held.items())]


def missing_parts(missing: Missing) -> Parts:
    """A module that is not there, or that is installed and has not been imported yet."""
    return Parts(f"module:{missing.origin or 'missing ' + missing.name}:".encode())


def bytecode_parts(code: CodeType) -> Parts:
    """A code object as a value."""
    return Parts(f"bytecode:{PYTHON}:".encode() + canonical_bytecode(code))


def node_parts(node: Node[..., Any]) -> Parts:
    """A node: its function, and what its options add."""
    head = f"node:{PYTHON}:{node.version!r}:{','.join(sorted(node.cache_ignore))}"
    return Parts(head.encode("utf-8", "surrogatepass"), [("", node.func)])


def _labels(children: list[tuple[str, Any]]) -> bytes:
    return b":" + ",".join(label for label, _ in children).encode("utf-8", "surrogatepass")
