"""What code is made of: the rules by which functions, classes and modules are identified.

The user's own code is followed: a function is its normalised source (comments, formatting, docstring, name and
place do not matter), its defaults, its closure, its attributes and everything of the user's own that it refers to,
transitively. Installed code is identified by distribution and version (the standard library by Python's minor version),
module and qualified name, and by what the user's code put into it.
"""

from __future__ import annotations

import abc
import functools
import os
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from hypernodes import decimals
from hypernodes.nodes import Node
from hypernodes.signature.additions import added_attributes, additions_to, attributes_of
from hypernodes.signature.class_members import members_of
from hypernodes.signature.origin import INTERPRETER, PYTHON, origin_of_class, origin_of_function, origin_of_module
from hypernodes.signature.references import MissingModule, Unknowable, reached_by, references
from hypernodes.signature.source import canonical_bytecode, text_of
from hypernodes.signature.walk import Parts, UnhashableValueError

# Counts the changes of what digests are made of: results stored under an older one are not found.
IDENTITY_VERSION = 2
# What the import system puts into modules.
_OF_MODULES = frozenset(
    {"__annotations__", "__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__name__", "__package__"}
    | {"__path__", "__spec__", "__warningregistry__"}
)
_COMPILED = (".so", ".pyd")
_dump_of: Any = abc._get_dump  # type: ignore[attr-defined]  # the registry of an abstract class comes first  # noqa: SLF001
_PLAIN_METACLASSES = (type, abc.ABCMeta)


def function_parts(function: FunctionType) -> Parts:
    """A function written in Python."""
    children = function_children(function)
    origin = origin_of_function(function)
    if origin:
        name = f"{function.__globals__.get('__name__')}:{function.__code__.co_qualname}"
        return Parts(f"function:{origin}:{name}".encode() + _labels(children), children)
    return Parts(b"function:" + text_of(function.__code__, function.__globals__) + _labels(children), children)


def function_children(function: FunctionType) -> list[tuple[str, Any]]:
    """Return what a function refers to outside its own text, each with how one gets there."""
    code = function.__code__
    if origin_of_function(function):
        added = added_attributes(function) if function.__dict__ else []
        if "<locals>" not in code.co_qualname:
            return [*added, *reached_by(function)]
        if code.co_qualname == "singledispatch.<locals>.wrapper":
            return [*_registry(function), *added]
        # made by an installed function, for values that it got
        return [*_closure(function), *_defaults(function), *added]
    children = [*_defaults(function), *_closure(function), *references(function)]
    if function.__dict__:
        children += [(f".{name}", value) for name, value in attributes_of(function)]
    return children


def _registry(function: Any) -> list[tuple[str, Any]]:
    """Return what a function of `functools.singledispatch` calls, by class; the order of registration means nothing."""
    found = {f".registry[{kind.__module__}.{kind.__qualname__}]": (kind, to) for kind, to in function.registry.items()}
    return [(label, part) for label in sorted(found) for part in found[label]]


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
    """A class: the user's own with its bases, methods, annotations and constants."""
    children = class_children(kind)
    origin = origin_of_class(kind)
    if origin:
        name = f"{kind.__module__}:{kind.__qualname__}"
        return Parts(f"class:{origin}:{name}".encode() + (_labels(children) if children else b""), children)
    return Parts(f"class:{kind.__qualname__}".encode() + _labels(children), children)


def class_children(kind: type) -> list[tuple[str, Any]]:
    """Return what a class consists of, each with how one gets there; of an installed class, what was added to it."""
    if origin_of_class(kind):
        added = [(f".{name}", member) for name, member in additions_to(kind)]
        return [*added, *_registered_in(kind)] if isinstance(kind, abc.ABCMeta) else added
    children: list[tuple[str, Any]] = [(f" (base {base.__name__})", base) for base in kind.__bases__]
    if type(kind) not in _PLAIN_METACLASSES:
        children.append((" (metaclass)", type(kind)))
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if str(file).endswith(_COMPILED):
        children.append(("(compiled)", compiled_origin(kind.__module__)))
    if isinstance(kind, abc.ABCMeta):
        children += _registered_in(kind)
    return children + members_of(kind)


def _registered_in(kind: abc.ABCMeta) -> list[tuple[str, Any]]:
    """Return the classes that `register` made subclasses of an abstract one; of an installed one, the user's own."""
    found = [known for reference in _dump_of(kind)[0] if (known := reference()) is not None]
    if found and origin_of_class(kind):
        found = [known for known in found if not origin_of_class(known)]
    return [(".register()", known) for known in sorted(found, key=_full_name)]


def builtin_parts(function: BuiltinFunctionType) -> Parts:
    """A function written in C; a method of an object is identified with its object."""
    owner = function.__self__
    if owner is None or isinstance(owner, ModuleType) or type(owner).__name__ == "PyCapsule":
        module = function.__module__ or ""
        name = f"{module}:{function.__qualname__}".encode()
        return Parts(b"builtin:" + compiled_origin(module) + name, reached_by(function))
    return Parts(b"builtin method:" + function.__qualname__.encode(), [(".__self__", owner)])


def compiled_origin(module_name: str) -> bytes:
    """Return where compiled code comes from; an extension module that is not installed counts by its content."""
    origin = origin_of_module(module_name)
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
    origin = origin_of_module(module.__name__)
    name = f"{origin}:{module.__name__}" if origin else "own"  # code of the user's own may be moved
    return Parts(f"module:{name}".encode() + _labels(children), children)


def module_children(module: ModuleType) -> list[tuple[str, Any]]:
    """Return the contents of a module of the user's own."""
    if origin_of_module(module.__name__):
        return []
    # Functions that read the environment or import by name count where they are called.
    held = {name: value for name, value in module.__dict__.items() if name not in _OF_MODULES and not reached_by(value)}
    compiled = str(getattr(module, "__file__", "")).endswith(_COMPILED)
    own = [("(compiled)", compiled_origin(module.__name__))] if compiled else []
    return own + [(f".{name}", value) for name, value in sorted(held.items())]


def missing_parts(missing: MissingModule) -> Parts:
    """A module that is not there, or that is installed and has not been imported yet."""
    return Parts(f"module:{missing.origin or 'missing'}:{missing.name}:".encode())


def unknowable_parts(unknowable: Unknowable) -> Parts:
    """Something that code gets at in a way that cannot be followed."""
    raise UnhashableValueError(unknowable.reason, path="", culprit_type="look-up that cannot be followed")


def bytecode_parts(code: CodeType) -> Parts:
    """A code object as a value."""
    return Parts(f"bytecode:{PYTHON}:".encode() + canonical_bytecode(code))


def node_parts(node: Node[..., Any]) -> Parts:
    """A node: its function, and what its options add."""
    head = f"node {IDENTITY_VERSION}:{INTERPRETER}:{node.version!r}:{','.join(sorted(node.cache_ignore))}"
    if node.skip_failures:
        head += f":without failures in {','.join(sorted(node.skip_failures))}"
    if node.batching is not None:
        head += f":batched over {','.join(sorted(node.batching.over))}"
    return Parts(head.encode("utf-8", "surrogatepass"), [("", node.func), *process_settings()])


def process_settings() -> list[tuple[str, Any]]:
    """Return what is set for all code of this thread that computes with decimals, if it is not what Python begins with.

    Decimals come from anywhere, so it counts for every node.
    """
    settings = decimals.settings_here()
    return [] if settings is None else [(" (decimal context)", settings)]


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _labels(children: list[tuple[str, Any]]) -> bytes:
    return b":" + ",".join(label for label, _ in children).encode("utf-8", "surrogatepass")
