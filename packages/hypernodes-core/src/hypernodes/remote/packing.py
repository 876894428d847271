"""Objects as bytes, for another machine: the user's own code is sent with them.

Code of installed distributions is sent by name, since the other side has it too, and so is that of extensions of this
library, also where they are run from a checkout. All other code - scripts, notebooks, a project in a folder - is sent
by value with cloudpickle, whole modules included where functions refer to them.
"""

from __future__ import annotations

import dis
import functools
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import resolve_name
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, Self

import cloudpickle

from hypernodes import plugins
from hypernodes.engine.failed_calls import FailedCall
from hypernodes.engine.workers.by_value import ByValuePickler
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.engine.workers.exception_parts import set_attributes
from hypernodes.engine.workers.pickling import PROTOCOL
from hypernodes.engine.workers.sent_sentinels import reduce_sent_sentinel
from hypernodes.engine.workers.serialized_errors import SerializedError, can_be_serialized, describe, restore
from hypernodes.errors import SerializationError
from hypernodes.failure import FAILED_CALL, Failure
from hypernodes.locks import reset_after_fork
from hypernodes.nodes import Node
from hypernodes.remote import wire
from hypernodes.remote.modules import (
    JobModules,
    Namespace,
    Shell,
    is_module_of_a_job,
    receiving,
    shell_of,
    state_of,
)
from hypernodes.resources import ResourceFactory
from hypernodes.signature import reduce_sentinel
from hypernodes.signature.nested_code import with_nested_code
from hypernodes.signature.origin import origin_of_module

Reference = Callable[[Any], Any]  # from an object to what stands for it, or None

_ON_BOTH_SIDES = frozenset(("hypernodes", "cloudpickle"))
_registering = reset_after_fork(threading.RLock())
_SCALARS = frozenset((bool, int, float, complex, str, bytes, type(None)))
_TEXTS = frozenset((str, bytes))
_NEVER_REFERRED_TO = _SCALARS | {tuple, list, dict, set}
_CONTAINERS = frozenset((dict, list, tuple))
_MAX_PLAIN = 16
_MAX_DEPTH = 8
_MAX_TEXT = 1000
_NOTHING_ELSE = 2 * pickle.dumps(None, PROTOCOL)  # no modules, and nothing to say of code


class PackedValue(NamedTuple):
    """A value as bytes.

    Attributes:
        data: The bytes.
        code: Functions and classes that were sent by value.
        modules: The user's modules that were sent by value.
    """

    data: bytes
    code: list[Any]
    modules: list[ModuleType]


def pack(
    value: Any,
    reference: Reference = lambda obj: None,
    left_out: Mapping[str, set[str]] | None = None,
    header: Mapping[str, Any] | None = None,
) -> PackedValue:
    """Return a value as bytes.

    Args:
        value: Anything.
        reference: For an object that must not be sent, what stands for it on the other side (see `unpack`); else None.
        left_out: By name of a module of the user's, names in it that are not sent.
        header: What the bytes begin with, sealed (see `wire`); None for the pickle alone.

    Raises:
        Exception: It cannot be packed, for whatever reason the pickler gives.
    """
    buffer = io.BytesIO()
    if header is not None:
        wire.begin(buffer, header)
    packer = Packer(reference, left_out)
    with packer.into(buffer):
        packer.add(value)
    if header is not None:
        wire.seal(buffer)
    return PackedValue(buffer.getvalue(), packer.code, packer.modules)


class Packer:
    """Packs values one after the other; what an earlier one holds is referred to in a later one, not sent again.

    Args:
        reference: See `pack`.
        left_out: See `pack`.
    """

    def __init__(self, reference: Reference, left_out: Mapping[str, set[str]] | None = None) -> None:
        self._target = _Target()
        self._pickler = _Pickler(self._target, reference, left_out or {})
        self._registry: _OwnModulesByValue | None = None
        self._sent_modules = 0
        self._described = 0

    @property
    def code(self) -> list[Any]:
        """Functions and classes that were sent by value."""
        return list(self._pickler.code.values())

    @property
    def modules(self) -> list[ModuleType]:
        """The user's modules that were sent by value."""
        return list(self._pickler.modules.values())

    @property
    def node_codes(self) -> set[bytes | None]:
        """The digests of the code of the nodes that were sent by value."""
        return self._pickler.node_codes

    @contextmanager
    def into(self, buffer: io.BytesIO) -> Iterator[None]:
        """Let what is added be written into a buffer.

        Raises:
            Exception: Something cannot be packed; nothing more can be added then.
        """
        self._target.buffer = buffer
        try:
            with _OwnModulesByValue() as self._registry:
                yield
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise _as_exception(error) from error

    def add(self, value: Any, describe_code: Callable[[list[Any]], Any] = lambda code: None) -> None:
        """Pack a value.

        Args:
            value: Anything.
            describe_code: Called at last with the functions and classes that are sent by value for the first time; its
                result is sent too.
        """
        assert self._registry is not None
        pickler = self._pickler
        pickler.dump(value)
        while self._sent_modules < len(pickler.imported):  # sending a module may show that others are needed
            batch = list(pickler.imported.values())[self._sent_modules :]
            self._sent_modules = len(pickler.imported)
            self._registry.refresh()  # some may have been imported just now, to be sent
            pickler.dump(batch)
        pickler.dump(None)
        new = self.code[self._described :]
        self._described += len(new)
        pickler.dump(describe_code(new))

    def mark(self) -> PackerMark:
        """Return what `go_back_to` takes to forget what is added from now on."""
        pickler = self._pickler
        memo = pickle.Pickler(self._target)
        memo.memo = pickler.memo
        sizes = [len(table) for table in pickler.tables]
        return PackerMark(memo, sizes, set(pickler.node_codes), self._sent_modules, self._described)

    def go_back_to(self, mark: PackerMark) -> None:
        """Forget what was added since a mark was made, since another reader will not get it."""
        pickler = self._pickler
        pickler.memo = mark.memo.memo
        for table, size in zip(pickler.tables, mark.sizes, strict=True):
            for key in list(table)[size:]:
                del table[key]
        pickler.node_codes = set(mark.node_codes)
        self._sent_modules, self._described = mark.sent_modules, mark.described


class _Target:
    """What a pickler writes into, which looks up how to write once and for all."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()

    def write(self, data: bytes) -> int:
        return self.buffer.write(data)


class PackerMark(NamedTuple):
    """What a packer knew at some time."""

    memo: pickle.Pickler  # which copies the memo of another one at once
    sizes: list[int]
    node_codes: set[bytes | None]
    sent_modules: int
    described: int


def unpack(
    data: bytes | memoryview,
    resolve: Callable[[Any], Any] | None = None,
    job: JobModules | None = None,
    is_from_caller: bool = True,
) -> Any:
    """Return what `pack` packed.

    Args:
        data: The bytes, or a view of them without the header.
        resolve: From what stands for an object to what it means here.
        job: The job that is executed here; None at the caller.
        is_from_caller: Whether it was packed by the caller of the job, whose modules imports are to find, rather than
            here.
    """
    return Unpacker(data, resolve, job, is_from_caller).next()[0]


class Unpacker:
    """Returns what a `Packer` packed; see `unpack`.

    Args:
        data: The bytes.
        resolve: See `unpack`.
        job: See `unpack`.
        is_from_caller: See `unpack`.
        is_in_pieces: Whether what comes before the bytes, or between them, is elsewhere; see `next`.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        resolve: Callable[[Any], Any] | None = None,
        job: JobModules | None = None,
        is_from_caller: bool = True,
        is_in_pieces: bool = False,
    ) -> None:
        self._job = job
        self._is_from_caller = is_from_caller and job is not None
        self._buffer = _buffer(data)
        self._reader = _Reader() if is_in_pieces else None
        self._unpickler = _Unpickler(self._reader or self._buffer, resolve, job if is_from_caller else None)

    def next(self, elsewhere: bytes | None = None) -> tuple[Any, Any]:
        """Return the next value, and what `describe_code` returned.

        Args:
            elsewhere: The bytes in which it is; None when it is in those that were given at first.

        Raises:
            Exception: It cannot be loaded here.
        """
        load = self._unpickler.load
        if self._reader is not None:
            self._reader.current = self._buffer if elsewhere is None else _buffer(elsewhere)
        try:
            with receiving(self._job, self._is_from_caller):
                value = load()
                while load() is not None:
                    pass
                return value, load()
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise _as_exception(error) from error


def _as_exception(error: BaseException) -> SerializationError:
    """Return what is raised when the code of a value raises e.g. SystemExit, which is not meant for this process."""
    return SerializationError(f"{type(error).__name__}: {error}", path="value")


def pack_plain(value: Any) -> bytes | None:
    """Return a value as `pack` would, but at once, if it is made of simple things only; else None."""
    return pack_ours(value) if _is_plain(value, _MAX_DEPTH) else None


def pack_ours(value: Any) -> bytes:
    """Return a value as `pack` would, but at once, if all that is in it is of this library or simple."""
    return pickle.dumps(value, PROTOCOL) + _NOTHING_ELSE


def compact(values: list[Any]) -> Any:
    """Return what is packed in place of a list, and arrives as that list: many small things are packed at once."""
    kinds = set(map(type, values))
    if len(values) <= _MAX_PLAIN or not kinds <= _SCALARS:
        return values
    if kinds & _TEXTS and any(type(value) in _TEXTS and len(value) > _MAX_TEXT for value in values):
        return values  # a long text may be somewhere else in the job too, and is sent once
    return _Compact(values)


class _Compact:
    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __reduce__(self) -> Any:
        return pickle.loads, (pickle.dumps(self._values, PROTOCOL),)


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    if depth == 0 or kind not in _CONTAINERS or len(value) > _MAX_PLAIN:  # it may also contain itself
        return False
    for entry in value:
        if not _is_plain(entry, depth - 1):
            return False
    return kind is not dict or _is_plain(list(value.values()), depth)


def _buffer(data: bytes | memoryview) -> Any:
    """Return what the data can be read from, without a copy of it."""
    if isinstance(data, memoryview) and isinstance(data.obj, bytes):
        buffer = io.BytesIO(data.obj)
        buffer.seek(len(data.obj) - len(data))
        return buffer
    return _ViewReader(data) if isinstance(data, memoryview) else io.BytesIO(data)


class _Reader:
    """A file that reads from whichever file it is told to."""

    def __init__(self) -> None:
        self.current: Any = io.BytesIO()

    def read(self, size: int = -1) -> Any:
        return self.current.read(size)

    def readinto(self, target: Any) -> Any:
        return self.current.readinto(target)

    def readline(self) -> Any:
        return self.current.readline()


class _ViewReader:
    """Reads from memory that is no `bytes` object, as a file."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        found = bytes(self._take(len(self._view) if size < 0 else size))
        self._at += len(found)
        return found

    def readinto(self, target: Any) -> int:
        found = self._take(len(target))
        target[: len(found)] = found
        self._at += len(found)
        return len(found)

    def readline(self) -> bytes:
        size = 64
        while b"\n" not in (found := bytes(self._take(size))) and self._at + size < len(self._view):
            size *= 2
        return self.read(found.find(b"\n") + 1 or len(found))

    def _take(self, size: int) -> memoryview:
        return self._view[self._at : self._at + size]


def is_own(module_name: str) -> bool:
    """Whether a module is the user's own, rather than of an installed distribution."""
    packages = _current_packages if _current_packages is not None else common_packages()
    return module_name.partition(".")[0] not in packages and not origin_of_module(module_name)


_current_packages: frozenset[str] | None = None  # looked up once for all that is packed together


def common_packages() -> frozenset[str]:
    """Return the packages that are there on both sides, however they came there."""
    owner = code_owner.get()
    if isinstance(owner, JobModules):  # copied to some folder, they may have no metadata here
        return owner.common_packages | _ON_BOTH_SIDES
    return plugins.extension_packages() | _ON_BOTH_SIDES


class _Pickler(ByValuePickler):
    def __init__(self, target: _Target, reference: Reference, left_out: Mapping[str, set[str]]) -> None:
        self.node_codes: set[bytes | None] = set()
        super().__init__(target, PROTOCOL)
        self._reference = reference
        self._left_out = left_out
        self._shells: dict[str, Shell] = {}
        self.code: dict[int, Any] = {}
        self.modules: dict[str, ModuleType] = {}
        self.imported: dict[str, ModuleType] = {}

    @property
    def tables(self) -> tuple[dict[Any, Any], ...]:
        """What grows as values are packed."""
        return self._shells, self.code, self.modules, self.imported, self.globals_ref

    def persistent_id(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in _NEVER_REFERRED_TO:
            return None
        return obj if kind is Shell else self._reference(obj)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Node):
            if type(obj) is Node and (is_own(obj.__module__ or "__main__") or not obj.is_importable):
                reduced = obj.reduce_by_value(carries_signature=True)
                self.node_codes.add(reduced[1][-1])
                return reduced
        elif type(obj) is ResourceFactory:
            if is_own(obj.__module__ or "__main__") or not obj.is_importable:
                return obj.reduce_by_value()
        elif isinstance(obj, ModuleType):
            if is_own(obj.__name__) and obj.__name__ != "__main__":
                self.modules[obj.__name__] = obj
                state = state_of(obj, self._left_out.get(obj.__name__, set()))
                return _as_it_is, (self._shell(obj),), state
        elif type(obj) is FailedCall:
            return obj.reduce_to_send(can_be_serialized)
        elif type(obj) is Failure:
            return restore_failure, (describe(obj.error), getattr(obj.error, FAILED_CALL, None), *obj[1:])
        elif isinstance(obj, (FunctionType, type)) and is_own(getattr(obj, "__module__", None) or "__main__"):
            self.code[id(obj)] = obj
            if isinstance(obj, FunctionType):
                self._keep_in_module(obj)
                for module in modules_imported_by(obj):
                    self.imported.setdefault(module.__name__, module)
        else:
            found = reduce_sent_sentinel(obj, is_own) or reduce_sentinel(obj)
            if found is not None:
                return found
        return super().reducer_override(obj)

    def _keep_in_module(self, function: FunctionType) -> None:
        """Let a function have the globals of its module on the other side too, rather than some of its own."""
        module = sys.modules.get(function.__globals__.get("__name__", ""))
        if module is None or vars(module) is not function.__globals__:
            return
        if module.__name__ != "__main__" and is_own(module.__name__):
            self.globals_ref.setdefault(id(function.__globals__), Namespace(self._shell(module)))

    def _shell(self, module: ModuleType) -> Shell:
        return self._shells.setdefault(module.__name__, shell_of(module))


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: Any, resolve: Callable[[Any], Any] | None, job: JobModules | None) -> None:
        super().__init__(buffer)
        self._resolve = resolve
        self._job = job
        self._modules: dict[Shell, ModuleType] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return load_torch_storage
        if self._job is not None and (own := self._job.modules.get(module)) is not None:
            return functools.reduce(getattr, name.split("."), own)
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if type(pid) is Shell:
            if self._job is not None:
                return self._job.restore(pid)
            if pid not in self._modules:
                self._modules[pid] = pid.make()
            return self._modules[pid]
        if self._resolve is None:
            raise pickle.UnpicklingError("it refers to something on the other side")
        return self._resolve(pid)


def _as_it_is(module: ModuleType) -> ModuleType:
    return module


def load_torch_storage(data: bytes) -> Any:
    """Return a storage of torch's: that of a GPU tensor in main memory, where there is no such GPU."""
    torch = import_module("torch")  # the data is torch's, so it is installed here, or this says that it is not
    device = None if torch.cuda.is_available() else "cpu"
    return torch.load(io.BytesIO(data), map_location=device, weights_only=False)


def restore_failure(raised: SerializedError, call: FailedCall | None, *facts: Any) -> Failure:
    """Return a failure whose exception may be a description of what was raised."""
    error = restore(raised)
    set_attributes(error, {FAILED_CALL: call})
    return Failure(error, *facts)


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
    for each in with_nested_code(code):
        constants: list[Any] = []
        for instruction in dis.get_instructions(each):
            if instruction.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
                constants = [*constants[-1:], instruction.argval]
            elif instruction.opname == "IMPORT_NAME":
                level, names = constants if len(constants) == 2 else (0, None)
                yield instruction.argval, level if isinstance(level, int) else 0, names


class _OwnModulesByValue:
    """Lets cloudpickle send all code of the user's own modules by value."""

    def __enter__(self) -> Self:
        global _current_packages
        _registering.acquire()
        _current_packages = common_packages()
        self._ours: list[ModuleType] = []
        self.refresh()
        return self

    def refresh(self) -> None:
        """Look for modules that were imported meanwhile."""
        registered = cloudpickle.list_registry_pickle_by_value()
        for module in _own_modules():
            if module.__name__ not in registered:
                cloudpickle.register_pickle_by_value(module)
                self._ours.append(module)

    def __exit__(self, *exc_info: object) -> None:
        try:
            registered = cloudpickle.list_registry_pickle_by_value()
            for module in self._ours:
                name = module.__name__
                if name in registered and not is_module_of_a_job(name):
                    cloudpickle.unregister_pickle_by_value(module)
        finally:
            _registering.release()


_known_modules: tuple[Any, list[ModuleType]] = (None, [])


def _own_modules() -> list[ModuleType]:
    global _known_modules
    modules = sys.modules.copy()
    state = (_current_packages, list(modules), list(map(id, modules.values())))
    if _known_modules[0] != state:
        found = [
            module
            for name, module in modules.items()
            if not is_module_of_a_job(name) and getattr(module, "__name__", None) == name != "__main__" and is_own(name)
        ]
        _known_modules = (state, found)  # which keeps them, so that their ids stay theirs
    return _known_modules[1]
