"""Copies of values in the memory of a process, by pickling.

What stands for something by being itself (a class, a module, a sentinel) is not copied but referred to. A function
is, unless it holds something that it does not share with the program: what its closure, its defaults and its attributes
hold is copied then, as the attributes of an object are.
"""

from __future__ import annotations

import gc
import io
import pickle
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from types import CellType, FunctionType, MappingProxyType, ModuleType
from typing import Any

from hypernodes.cache.base import CONSTANTS
from hypernodes.read_once import is_read_once, kind_of
from hypernodes.signature.sentinels import sentinel_name

_PROTOCOL = 5
_ANNOTATIONS = "__annotations__" if sys.version_info < (3, 14) else "__annotate__"
_OF_FUNCTIONS = (_ANNOTATIONS, "__doc__", "__module__", "__qualname__", "__type_params__")
_CANNOT_CHANGE = CONSTANTS | {type, ModuleType}
_NONE: dict[Any, Any] = {}
# What shows a mapping without being one that can be pickled, with what makes it.
_VIEWS: dict[type, Callable[[Any], Any]] = {
    MappingProxyType: MappingProxyType,
    type(_NONE.keys()): dict.keys,
    type(_NONE.values()): dict.values,
    type(_NONE.items()): dict.items,
    type(OrderedDict(_NONE).keys()): OrderedDict.keys,
    type(OrderedDict(_NONE).values()): OrderedDict.values,
    type(OrderedDict(_NONE).items()): OrderedDict.items,
}
_references = threading.local()


class ReadOnceError(TypeError):
    """A value cannot be copied, since it holds an iterator; the first reader would use it up."""


class Pickled:
    """A value as a pickle.

    Args:
        value: The value.
        limit_bytes: The largest size.

    Raises:
        OverflowError: It is larger.
        ReadOnceError: It holds an iterator that cannot be pickled.
        Exception: It holds something else that cannot be pickled, or is pickled as something else.
    """

    __slots__ = ("_buffers", "_data", "_references")

    def __init__(self, value: Any, limit_bytes: int) -> None:
        buffers: list[bytes] = []
        file = _LimitedFile(limit_bytes)

        def keep_buffer(buffer: pickle.PickleBuffer) -> None:
            with buffer.raw() as raw:
                file.note(raw.nbytes)
                buffers.append(bytes(raw))

        pickler = _Pickler(file, _PROTOCOL, buffer_callback=keep_buffer)
        try:
            pickler.dump(value)
        except OverflowError:
            raise
        except Exception as error:
            if is_read_once(pickler.latest) and not isinstance(pickler.latest, io.IOBase):  # files can be rewound
                raise ReadOnceError(f"it holds {kind_of(pickler.latest)}, which can be read only once") from error
            raise
        self._data = file.getvalue()
        self._references = pickler.references
        self._buffers = buffers
        _check_round_trip(value, self.load)

    def load(self) -> Any:
        """Return a copy of the value."""
        before = getattr(_references, "table", None)
        _references.table = self._references
        try:
            return pickle.loads(self._data, buffers=[bytearray(buffer) for buffer in self._buffers])
        finally:
            _references.table = before


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Refuse to copy what is too large.

    Raises:
        OverflowError: It is.
    """
    if size_bytes > limit_bytes:
        raise OverflowError("too large to be copied")


def has_own_state(function: FunctionType) -> bool:
    """Whether a function holds something that may change, and that is no global variable: in its closure, say."""
    held = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if not (function.__closure__ or function.__dict__ or not _CANNOT_CHANGE.issuperset(map(type, held))):
        return False
    return not _is_found_by_name(function)


class _LimitedFile(io.BytesIO):
    """A file in memory that takes no more than some number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._left = limit_bytes

    def write(self, data: Any) -> int:
        self.note(len(data))
        return super().write(data)

    def note(self, size_bytes: int) -> None:
        """Count bytes that are stored out of band."""
        self._left -= size_bytes
        check_size(-self._left, 0)


class _Pickler(pickle.Pickler):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.references: list[Any] = []
        self.latest: Any = None  # what was to be pickled last: the culprit, if it cannot be

    def reducer_override(self, obj: Any) -> Any:
        self.latest = obj
        kind = type(obj)
        if kind is FunctionType:
            if has_own_state(obj):
                return self._reduce_function(obj)
            is_itself = not _is_found_by_name(obj)
        elif kind in _VIEWS:
            return _VIEWS[kind], (gc.get_referents(obj)[0],)
        elif kind is CellType:
            return _reduce_cell(obj)
        elif isinstance(obj, (type, ModuleType)):
            is_itself = isinstance(obj, ModuleType) or not _is_found_by_name(obj)
        else:
            is_itself = sentinel_name(obj) is not None
        return self._refer_to(obj) if is_itself else NotImplemented

    def _refer_to(self, obj: Any) -> Any:
        self.references.append(obj)
        return _refer, (len(self.references) - 1,)

    def _reduce_function(self, function: FunctionType) -> Any:
        cells = function.__closure__ or ()
        pattern = _like(function, tuple(CellType() for _ in cells))
        self.references.append(pattern)
        state = (function.__defaults__, function.__kwdefaults__, function.__dict__)
        return _make_function, (len(self.references) - 1, cells), state, None, None, _fill_function


def _refer(position: int) -> Any:
    return _references.table[position]


def _reduce_cell(cell: CellType) -> Any:
    try:
        content = cell.cell_contents
    except ValueError:  # it is empty
        return CellType, ()
    return CellType, (), (None, {"cell_contents": content})  # filled at last: a function may refer to itself


def _like(function: FunctionType, cells: tuple[CellType, ...]) -> FunctionType:
    """Return a function of the same code without what it holds."""
    made = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    for name in _OF_FUNCTIONS:
        if hasattr(function, name):
            setattr(made, name, getattr(function, name))
    return made


def _make_function(position: int, cells: tuple[CellType, ...]) -> FunctionType:
    return _like(_refer(position), cells)


def _fill_function(function: FunctionType, state: tuple[Any, Any, dict[str, Any]]) -> None:
    function.__defaults__, function.__kwdefaults__, attributes = state
    function.__dict__.update(attributes)


def _is_found_by_name(obj: Any) -> bool:
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _check_round_trip(value: Any, load: Callable[[], Any]) -> None:
    """Refuse a class that is pickled as something else, e.g. a file that is pickled as its name."""
    if type(load()) is not type(value):
        raise TypeError(f"{type(value).__qualname__} is pickled as something else")
