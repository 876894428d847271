"""Objects as bytes, for another machine: the user's own code travels with them.

Code of installed distributions is sent by name, since the other side has it too. All other code - scripts, notebooks, a
project in a folder - is sent by value with cloudpickle, whole modules included where functions refer to them.
"""

from __future__ import annotations

import dis
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import resolve_name
from types import CodeType, FunctionType, ModuleType
from typing import Any

from hypernodes.engine.packing import PROTOCOL
from hypernodes.engine.raised import Raised, describe, restore
from hypernodes.errors import ConfigurationError
from hypernodes.failures import Failure
from hypernodes.node import Node
from hypernodes.remote.modules import restore_module, state_of
from hypernodes.signature.origin import origin_of

try:
    import cloudpickle
except ImportError as error:
    raise ConfigurationError(
        "a remote backend sends pipelines with cloudpickle, which is not installed: pip install hypernodes-core[remote]"
    ) from error

Reference = Callable[[Any], Any]  # from an object to what stands for it, or None

# Installed on both sides, also when they are run from a checkout.
_OURS = ("hypernodes", "hypernodes_cache", "hypernodes_modal")
_registering = threading.RLock()


class Packed:
    """What was packed.

    Attributes:
        data: The bytes.
        code: Functions and classes that were sent by value.
        modules: The user's modules that were sent by value.
    """

    def __init__(self, data: bytes, code: list[Any], modules: list[ModuleType]) -> None:
        self.data = data
        self.code = code
        self.modules = modules


def pack(
    value: Any,
    reference: Reference = lambda obj: None,
    left_out: Mapping[str, set[str]] | None = None,
    describe_code: Callable[[list[Any]], Any] = lambda code: None,
) -> Packed:
    """Return a value as bytes.

    Args:
        value: Anything.
        reference: For an object that must not travel, what stands for it on the other side (see `unpack`); else None.
        left_out: By name of a module of the user's, names in it that are not sent.
        describe_code: Called at last with the functions and classes that were sent by value; its result is sent too.

    Raises:
        Exception: It cannot be packed, for whatever reason the pickler gives.
    """
    with _own_modules_by_value():
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, reference, left_out or {})
        pickler.dump(value)
        sent = 0
        modules: list[ModuleType] = []
        while sent < len(pickler.imported):  # sending a module may show that others are needed
            batch = list(pickler.imported.values())[sent:]
            sent = len(pickler.imported)
            pickler.dump(batch)
            modules += batch
        pickler.dump(None)
        pickler.dump(describe_code(list(pickler.code.values())))
        return Packed(buffer.getvalue(), list(pickler.code.values()), list(pickler.modules.values()))


def unpack(data: bytes | memoryview, resolve: Callable[[Any], Any] | None = None) -> tuple[Any, Any]:
    """Return what `pack` packed, and what its `describe_code` returned.

    Args:
        data: The bytes.
        resolve: From what stands for an object to what it means here.
    """
    unpickler = _Unpickler(io.BytesIO(data), resolve)
    value = unpickler.load()
    while unpickler.load() is not None:
        pass
    return value, unpickler.load()


def is_own(module_name: str) -> bool:
    """Whether a module is the user's own, rather than of an installed distribution."""
    return module_name.partition(".")[0] not in _OURS and not origin_of(module_name)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    def __init__(self, buffer: io.BytesIO, reference: Reference, left_out: Mapping[str, set[str]]) -> None:
        super().__init__(buffer, PROTOCOL)
        self._reference = reference
        self._left_out = left_out
        self.code: dict[int, Any] = {}
        self.modules: dict[str, ModuleType] = {}
        self.imported: dict[str, ModuleType] = {}

    def persistent_id(self, obj: Any) -> Any:
        return self._reference(obj)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Node):
            if type(obj) is Node and (is_own(obj.__module__) or not obj.is_importable):
                return obj.reduce_by_value(carries_signature=True)
        elif isinstance(obj, ModuleType):
            if is_own(obj.__name__) and obj.__name__ != "__main__":
                self.modules[obj.__name__] = obj
                is_package = hasattr(obj, "__path__")
                state = state_of(obj, self._left_out.get(obj.__name__, set()))
                return restore_module, (obj.__name__, is_package, getattr(obj, "__file__", None)), state
        elif type(obj) is Failure:
            return restore_failure, (describe(obj.error), *obj[1:])
        elif isinstance(obj, CodeType):
            return restore_code, (*cloudpickle.Pickler.dispatch_table[CodeType](obj), obj.co_filename)
        elif isinstance(obj, (FunctionType, type)) and is_own(getattr(obj, "__module__", None) or "__main__"):
            self.code[id(obj)] = obj
            if isinstance(obj, FunctionType):
                for module in modules_imported_by(obj):
                    self.imported.setdefault(module.__name__, module)
        return super().reducer_override(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, resolve: Callable[[Any], Any] | None) -> None:
        super().__init__(buffer)
        self._resolve = resolve

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return load_torch_storage
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if self._resolve is None:
            raise pickle.UnpicklingError("it refers to something on the other side")
        return self._resolve(pid)


def load_torch_storage(data: bytes) -> Any:
    """Return a storage of torch's: that of a GPU tensor in main memory, where there is no such GPU."""
    torch = import_module("torch")  # the data is torch's, so it is installed here, or this says that it is not
    place = None if torch.cuda.is_available() else "cpu"
    return torch.load(io.BytesIO(data), map_location=place, weights_only=False)


def restore_code(maker: Callable[..., CodeType], arguments: tuple[Any, ...], file_name: str) -> CodeType:
    """Return a code object that says where it was written, which cloudpickle leaves out."""
    return maker(*arguments).replace(co_filename=file_name)


def restore_failure(raised: Raised, *facts: Any) -> Failure:
    """Return a failure whose exception may be a description of what was raised."""
    return Failure(restore(raised), *facts)


def modules_imported_by(function: FunctionType) -> Iterator[ModuleType]:
    """Return the user's own modules that a function imports when it is called."""
    package = function.__globals__.get("__package__") or ""
    for name, level, names in _imports(function.__code__):
        try:
            full = resolve_name("." * level + name, package) if level else name
        except ImportError:
            continue
        candidates = [full, *(f"{full}.{entry}" for entry in names or ())]
        while "." in full:
            full = full.rpartition(".")[0]
            candidates.append(full)
        for candidate in candidates:
            module = _own_module(candidate)
            if module is not None:
                yield module


def _own_module(name: str) -> ModuleType | None:
    if not name or not is_own(name):
        return None
    if name not in sys.modules:
        try:
            import_module(name)
        except Exception:  # the import may stand in a branch that is never taken
            return None
    return sys.modules.get(name) if is_own(name) else None


def _imports(code: CodeType) -> Iterator[tuple[str, int, tuple[str, ...] | None]]:
    """The import statements in code: module, level (number of leading dots), and names taken from it."""
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
            constants = [*constants[-1:], instruction.argval]
        elif instruction.opname == "IMPORT_NAME":
            level, names = constants if len(constants) == 2 else (0, None)
            yield instruction.argval, level if isinstance(level, int) else 0, names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports(constant)


@contextmanager
def _own_modules_by_value() -> Iterator[None]:
    """Let cloudpickle send all code of the user's own modules by value."""
    with _registering:
        registered = cloudpickle.list_registry_pickle_by_value()
        ours = [module for module in _own_modules() if module.__name__ not in registered]
        for module in ours:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in ours:
                if module.__name__ in cloudpickle.list_registry_pickle_by_value():
                    cloudpickle.unregister_pickle_by_value(module)


_known_modules: tuple[tuple[int, str], list[ModuleType]] = ((0, ""), [])


def _own_modules() -> list[ModuleType]:
    global _known_modules
    state = (len(sys.modules), next(reversed(sys.modules)))
    if _known_modules[0] != state:
        found = [
            module
            for name, module in list(sys.modules.items())
            if getattr(module, "__name__", None) == name != "__main__" and is_own(name)
        ]
        _known_modules = (state, found)
    return [module for module in _known_modules[1] if sys.modules.get(module.__name__) is not None]
