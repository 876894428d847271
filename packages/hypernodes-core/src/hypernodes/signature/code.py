"""What code is made of: the rules by which functions, classes and modules are identified.

The user's own code is followed: a function is its normalised source (comments, formatting, docstring, name and
place do not matter), its defaults, its closure and everything of the module's globals that it refers to, transitively.
Installed code is identified by distribution and version, the standard library by Python's minor version.
"""

from __future__ import annotations

import ast
import dis
import enum
import functools
import inspect
import os
import sys
import sysconfig
import textwrap
import threading
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

from hypernodes.node import Node
from hypernodes.signature.walk import Parts

# In CPython 3.11 parsing in two threads at a time fails now and then ("AST constructor recursion depth mismatch").
_parsing = threading.Lock()

# Attributes of a class that say nothing about what it does.
_INCIDENTAL = frozenset(
    {
        "__abstractmethods__",
        "__annotations__",
        "__cache_ignore__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__qualname__",
        "__slotnames__",  # pickle leaves it on a class when it meets an instance
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    }
)
# What matters of a field of a dataclass; its type is an annotation.
_FIELD_TRAITS = ("name", "default", "default_factory", "init", "repr", "hash", "compare", "kw_only")
# A class that the dataclass decorator completes has these functions made for it; its fields say all they do.
_GENERATED_FILE_NAME = "<string>"


def function_parts(function: FunctionType) -> Parts:
    """A function written in Python."""
    origin = origin_of(function.__module__)
    children: list[tuple[str, Any]] = []
    if origin:
        if "<locals>" in function.__qualname__:  # made by an installed function, for values that it got
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            children = [(f" → closure {name!r}", cell.cell_contents) for name, cell in cells]
            children.append((".__defaults__", function.__defaults__))
        return Parts(f"function:{origin}:{function.__qualname__}".encode(), children)
    children = [(".__defaults__", function.__defaults__), (".__kwdefaults__", function.__kwdefaults__)]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            children.append((f" → closure {name!r}", cell.cell_contents))
        except ValueError:  # still empty: the function is being defined
            children.append((f" → closure {name!r}", None))
    children += _globals_used(function)
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        children.append((".__wrapped__", wrapped))
    return Parts(b"function:" + _normalised_source(function) + _labels(children), children)


def class_parts(kind: type) -> Parts:
    """A class: the user's own with its bases, methods and constants."""
    origin = origin_of(kind.__module__)
    if origin:
        return Parts(f"class:{origin}:{kind.__qualname__}".encode())
    children: list[tuple[str, Any]] = [(f" (base {base.__name__})", base) for base in kind.__bases__]
    members = kind.__dict__
    if issubclass(kind, enum.Enum):
        named = {name: member.value for name, member in kind.__members__.items()}
        own = {name: member for name, member in members.items() if not name.startswith("_") and name not in named}
        members = MappingProxyType({**named, **own})
    for name, member in sorted(members.items()):
        if name in _INCIDENTAL or _is_generated(member) or isinstance(member, _SLOT_DESCRIPTORS):
            continue
        if name == "__dataclass_fields__":
            member = [tuple(getattr(field, trait) for trait in _FIELD_TRAITS) for field in member.values()]
        children.append((f".{name}", member))
    return Parts(f"class:{kind.__qualname__}".encode() + _labels(children), children)


def builtin_parts(function: BuiltinFunctionType) -> Parts:
    """A function written in C; a method of an object is identified with its object."""
    owner = function.__self__
    if owner is None or isinstance(owner, (ModuleType, type)):
        return Parts(f"builtin:{origin_of(function.__module__ or '')}:{function.__qualname__}".encode())
    return Parts(f"builtin method:{function.__qualname__}".encode(), [(".__self__", owner)])


def module_parts(module: ModuleType) -> Parts:
    """A module as such; what is used of the user's own modules is followed by attribute instead."""
    return Parts(f"module:{origin_of(module.__name__) or module.__name__}".encode())


def bytecode_parts(code: CodeType) -> Parts:
    """Code without source."""
    constants = code.co_consts
    if constants and isinstance(constants[0], str) and code.co_flags & inspect.CO_OPTIMIZED:
        constants = (None, *constants[1:])  # perhaps the docstring; the names below keep the rest apart
    names = ",".join((*code.co_names, "|", *code.co_varnames, "|", *code.co_freevars))
    head = f"bytecode:{sys.version_info[:2]}:{code.co_argcount}:{code.co_kwonlyargcount}:{names}:".encode()
    return Parts(head + code.co_code, [(".co_consts", constants)])


def origin_of(module_name: str) -> str:
    """Return where installed code comes from, e.g. "numpy 2.1.0" or "python 3.12"; empty for the user's own code."""
    return _origin_of_package(module_name, id(sys.modules.get(module_name)))


@functools.lru_cache(maxsize=4096)
def _origin_of_package(module_name: str, module_id: int) -> str:
    package = module_name.partition(".")[0]
    if package == "__main__":
        return ""
    if package == "hypernodes":
        return "hypernodes"
    if package in sys.stdlib_module_names or package in sys.builtin_module_names:
        return "python {}.{}".format(*sys.version_info[:2])
    module = sys.modules.get(module_name) or sys.modules.get(package)
    file = getattr(module, "__file__", None)
    if file is None or not _is_installed(file):
        return ""
    return " ".join(_distribution_of(package))


@functools.lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({os.path.realpath(paths[key]) + os.sep for key in ("purelib", "platlib")})


def _is_installed(file: str) -> bool:
    path = os.path.realpath(file)
    return path.startswith(_installed_folders()) or f"{os.sep}site-packages{os.sep}" in path


def _distribution_of(package: str) -> tuple[str, str]:
    import importlib.metadata

    names = _packages_distributions().get(package)
    if not names:
        return package, "unknown version"
    return names[0], importlib.metadata.version(names[0])


@functools.lru_cache(maxsize=1)
def _packages_distributions() -> Any:
    import importlib.metadata

    return importlib.metadata.packages_distributions()


# --- the user's own functions ------------------------------------------------------------------------------------


def _normalised_source(function: FunctionType) -> bytes:
    try:
        with _parsing:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return _bytecode_text(function.__code__)
    definition = tree.body[0]
    if len(tree.body) != 1 or not isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return _bytecode_text(function.__code__)  # a lambda: the line it stands on may hold others
    definition.name = ""
    definition.decorator_list = []  # what a decorator does is seen in the object it made
    for part in ast.walk(definition):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            body = part.body
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                part.body = body[1:] or [ast.Pass()]
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            part.returns = None
        elif isinstance(part, ast.arg):
            part.annotation = None
    return ast.dump(definition).encode("utf-8", "surrogatepass")


def _bytecode_text(code: CodeType) -> bytes:
    """The bytecode with its nested code, as bytes; constants that are values count by their repr."""
    own = bytecode_parts(code)
    constants = b",".join(
        _bytecode_text(c)
        if isinstance(c, CodeType)
        else repr(sorted(c, key=repr) if isinstance(c, frozenset) else c).encode()
        for c in own.children[0][1]
    )
    return own.tag + b"(" + constants + b")"


def _globals_used(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function refers to outside itself: globals, and attributes of the user's own modules."""
    used: dict[str, Any] = {}
    for chain in _name_chains(function.__code__):
        if chain[0] not in function.__globals__:
            continue
        target = function.__globals__[chain[0]]
        label = f" → global {chain[0]!r}"
        for attribute in chain[1:]:
            if not isinstance(target, ModuleType) or origin_of(target.__name__) or not hasattr(target, attribute):
                break
            target = getattr(target, attribute)
            label += f".{attribute}"
        used[label] = target
    yield from sorted(used.items())


def _name_chains(code: CodeType) -> Iterator[tuple[str, ...]]:
    """Each global name that code loads, with the attributes taken from it right away: `a.b.c` is ("a", "b", "c")."""
    chain: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            if chain:
                yield chain
            chain = (instruction.argval,)
        elif chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain = (*chain, instruction.argval)
        elif chain:
            yield chain
            chain = ()
    if chain:
        yield chain
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _name_chains(constant)


_SLOT_DESCRIPTORS = (type(Node.__dict__.get("__dict__")), type(FunctionType.__dict__["__globals__"]))


def _is_generated(member: Any) -> bool:
    return isinstance(member, FunctionType) and member.__code__.co_filename == _GENERATED_FILE_NAME


def _labels(children: list[tuple[str, Any]]) -> bytes:
    return b":" + ",".join(label for label, _ in children).encode("utf-8", "surrogatepass")
