"""Small hashers for the types of well-known libraries, found by name: none of them is imported here.

Each takes an object and says what it is made of. Buffers are hashed where they are, or in pieces when they do not lie
in one piece, so that hashing takes no more than a few megabytes beside the object.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

from hypernodes.signature import columnar
from hypernodes.signature.walk import Parts, UnhashableValueError

_PIECE_BYTES = 1 << 20


def hasher_for(kind: type) -> Callable[[Any], Parts] | None:
    """Return the hasher of a class or of the nearest of its bases; None when there is none."""
    for base in kind.__mro__:
        package = _package(base)
        hasher = _BY_NAME.get((package, base.__name__))
        if hasher is _pandas_array and _package(kind) != package:
            return None  # others hold more than their values (units, coordinate systems), and say so
        if hasher is not None:
            return hasher if _package(kind) == package else _of_subclass(hasher)
    return None


def _package(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


def _of_subclass(hasher: Callable[[Any], Parts]) -> Callable[[Any], Parts]:
    """Return the hasher of a subclass that another package, or the user, has made: its code counts as well."""

    def parts(value: Any) -> Parts:
        known = hasher(value)
        return Parts(b"subclass:" + known.tag, [(" (class)", type(value)), *known.children], known.is_ordered)

    return parts


def _attributes(value: Any, internal: frozenset[str]) -> list[tuple[str, Any]]:
    """Return what somebody has attached to an object of a library, beside what the library itself stores in it."""
    attributes = getattr(value, "__dict__", None) or {}
    return [(f".{name}", attributes[name]) for name in sorted(attributes, key=str) if name not in internal]


def _refuse(value: Any, why: str) -> Parts:
    raise UnhashableValueError(why, path="", culprit_type=f"{type(value).__module__}.{type(value).__qualname__}")


# --- numpy -------------------------------------------------------------------------------------------------------


def array(value: Any) -> Parts:
    """A numpy array: by dtype, shape and content in C order, however it lies in memory."""
    kind = type(value)
    if kind.__name__ not in ("ndarray", "memmap"):  # a subclass holds more than the array
        numpy = sys.modules["numpy"]
        state = {name: item for name, item in value.__dict__.items() if name != "_basedict"}
        return Parts(b"array subclass", [(" (class)", kind), ("", value.view(numpy.ndarray)), ("", state)])
    dtype = value.dtype
    if dtype.metadata:
        plain = value.view(sys.modules["numpy"].dtype(dtype.descr if dtype.names else dtype.str))
        return Parts(b"array with metadata", [(".dtype.metadata", dict(dtype.metadata)), ("", plain)])
    head = f"ndarray:{dtype.str}:{dtype.descr if dtype.names else dtype.name}:{value.shape}".encode()
    if dtype.names:  # there may be padding between the fields
        return Parts(head, [(f"[{name!r}]", value[name]) for name in dtype.names])
    if dtype.hasobject or dtype.kind == "T":
        return Parts(head, [("[...]", value.tolist())])
    if value.size == 0 or dtype.itemsize == 0:
        return Parts(head)
    is_float = dtype.kind in "fc"
    if value.flags.c_contiguous and not is_float:
        return Parts(head + sha256(memoryview(value.reshape(-1).view("u1"))).digest())
    if value.flags.c_contiguous and value.nbytes <= _PIECE_BYTES:
        return Parts(head + sha256(memoryview(_without_arbitrary_bits(value.reshape(-1)).view("u1"))).digest())
    hashed = sha256()
    copy = sys.modules["numpy"].ascontiguousarray
    flat = value.reshape(-1) if value.flags.c_contiguous else value
    for piece in _pieces(flat, lambda part: part.nbytes):
        whole = copy(piece).reshape(-1)
        hashed.update(memoryview((_without_arbitrary_bits(whole) if is_float else whole).view("u1")))
    return Parts(head + hashed.digest())


def _without_arbitrary_bits(values: Any) -> Any:
    """Return floating-point numbers with one way to write nan, and nothing in the padding of long ones."""
    kind = values.dtype
    if kind.kind == "c":
        values = values.view(kind.str.replace("c", "f")[:2] + str(kind.itemsize // 2))
    if values.dtype.itemsize > 8:  # 80 bits in 16 bytes
        values = values.copy()
        values.view("u1").reshape(-1, values.dtype.itemsize)[:, 10:] = 0
    least = values.min()
    if least == least:  # it is nan if there is one
        return values
    values = values.copy()
    values[values != values] = float("nan")
    return values


def _pieces(value: Any, size_of: Callable[[Any], int]) -> Iterator[Any]:
    """Cut an array or a tensor along its first dimension, in order, so that a copy of one piece is small."""
    size = size_of(value)
    if size <= _PIECE_BYTES or not value.shape:
        yield value
        return
    row = size // value.shape[0]
    if row > _PIECE_BYTES:
        for index in range(value.shape[0]):
            yield from _pieces(value[index], size_of)
        return
    step = _PIECE_BYTES // row
    for start in range(0, value.shape[0], step):
        yield value[start : start + step]


def _random_state(value: Any) -> Parts:
    """A generator of random numbers: by its state, but not the global one, which every draw anywhere changes."""
    if value is getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None):
        return Parts(b"global random state of numpy")
    name, keys, *rest = value.get_state()
    attributes = _attributes(value, frozenset())
    return Parts(b"random state:" + str(name).encode(), [("", keys), ("", rest), *attributes])


def _numpy_scalar(value: Any) -> Parts:
    attributes = _attributes(value, frozenset())
    if attributes:
        bare = value.dtype.type(value)
        return Parts(b"numpy scalar with attributes", [("", bare), *attributes])
    if value.dtype.names or value.dtype.hasobject:
        return Parts(f"numpy scalar:{value.dtype.descr}".encode(), [("", value.item())])
    return Parts(f"numpy scalar:{value.dtype.str}:".encode() + value.tobytes())


# --- pandas ------------------------------------------------------------------------------------------------------


def _pandas_frame(value: Any) -> Parts:
    columns = [(f"[{name!r}]", value.iloc[:, i]._values) for i, name in enumerate(value.columns)]
    extra = [(" (class)", type(value)), (".columns", value.columns), (".index", value.index), (".attrs", value.attrs)]
    flags = str(value.flags.allows_duplicate_labels)
    return Parts(b"pandas frame:" + flags.encode(), [*extra, *columns, *_own_attributes(value)])


def _pandas_series(value: Any) -> Parts:
    extra = [(" (class)", type(value)), (".name", value.name), (".index", value.index), (".attrs", value.attrs)]
    flags = str(value.flags.allows_duplicate_labels)
    return Parts(b"pandas series:" + flags.encode(), [*extra, ("", value._values), *_own_attributes(value)])


_PANDAS_INTERNAL = frozenset(
    {
        *("_mgr", "_item_cache", "_attrs", "_flags", "_name", "_cacher", "_is_copy", "_typ"),
        *("_data", "_cache", "_id", "_range", "_references", "_levels", "_codes", "_names", "_freq", "sortorder"),
        *("_engine", "_reset_identity", "_no_setting_name", "_index_data"),
    }
)


def _own_attributes(value: Any) -> list[tuple[str, Any]]:
    """What a subclass, or somebody, keeps in a frame beside the data."""
    named = [
        (f".{name}", getattr(value, name, None)) for name in getattr(type(value), "_metadata", ()) if name != "name"
    ]
    return named + _attributes(value, _PANDAS_INTERNAL.union(getattr(type(value), "_metadata", ())))


def _pandas_index(value: Any) -> Parts:
    kind = type(value).__name__
    children: list[tuple[str, Any]] = [(".names", list(value.names)), *_own_attributes(value)]
    if kind == "RangeIndex":
        children.append(("", (value.start, value.stop, value.step)))
    elif kind == "MultiIndex":
        levels = [(f".levels[{i}]", level._values) for i, level in enumerate(value.levels)]
        codes = [(f".codes[{i}]", codes) for i, codes in enumerate(value.codes)]
        return Parts(f"pandas index:{kind}".encode(), [*children, *levels, *codes])
    else:
        children.append(("", value._values))
        children.append((".freq", str(getattr(value, "freq", None))))
    return Parts(f"pandas index:{kind}".encode(), children)


def _pandas_array(value: Any) -> Parts:
    """A pandas extension array."""
    kind = type(value).__name__
    head = f"pandas array:{kind}:{value.dtype}".encode("utf-8", "surrogatepass")
    if hasattr(value, "_mask") and hasattr(value, "_data"):  # what lies under the mask is arbitrary
        data = value._data
        if value._mask.any():
            data = data.copy()
            data[value._mask] = 0
        return Parts(head, [("", data), (".isna()", value._mask)])
    if kind == "Categorical":
        return Parts(head, [(".codes", value.codes), (".categories", value.categories), ("", bool(value.ordered))])
    if hasattr(value, "asi8"):
        return Parts(head, [("", value.asi8), (".freq", str(getattr(value, "freq", None)))])
    if kind == "IntervalArray":
        return Parts(head + value.closed.encode(), [(".left", value.left), (".right", value.right)])
    if hasattr(value, "_pa_array"):
        return Parts(head, [("", value._pa_array)])
    if hasattr(value, "_ndarray"):
        return Parts(head, [("", value._ndarray)])
    return Parts(head, [("[...]", list(value))])


# --- torch -------------------------------------------------------------------------------------------------------


def _tensor(value: Any) -> Parts:
    """A tensor: dtype, shape, kind of device, whether it needs gradients, and content; strides do not matter."""
    kind = type(value).__name__
    head = f"tensor:{kind}:{value.dtype}:{tuple(value.shape)}:{value.device.type}:{value.requires_grad}:"
    if value.device.type == "meta":
        return Parts(head.encode())
    if str(value.layout) == "torch.sparse_coo":
        whole = value.detach().coalesce()
        return Parts(head.encode() + b"sparse", [(".indices()", whole.indices()), (".values()", whole.values())])
    if str(value.layout) != "torch.strided" or value.is_quantized:
        return _refuse(value, "tensors of this layout have no hasher; pass value.to_dense(), or its parts")
    hashed = sha256()
    data = value.detach().resolve_conj().resolve_neg()
    is_one_piece = data.is_contiguous() and data.device.type == "cpu"
    for piece in [data] if is_one_piece else _pieces(data, _size_of_tensor):
        piece = piece.cpu().contiguous()
        size = _size_of_tensor(piece)
        if size:
            hashed.update(_memory_at(piece.data_ptr(), size))
    gradient = [(".grad", value.grad)] if value.is_leaf and value.grad is not None else []
    return Parts(head.encode() + hashed.digest(), [*gradient, *_attributes(value, frozenset())])


def _size_of_tensor(value: Any) -> int:
    return int(value.numel() * value.element_size())


def _memory_at(address: int, size_bytes: int) -> memoryview:
    import ctypes

    return memoryview((ctypes.c_char * size_bytes).from_address(address)).cast("B")


def _torch_generator(value: Any) -> Parts:
    return Parts(f"torch generator:{value.device}".encode(), [("", value.get_state())])


# --- pillow ------------------------------------------------------------------------------------------------------


def _image(value: Any) -> Parts:
    """A picture: mode, size, the pixels of every frame, palette and what came with it."""
    value.load()
    hashed = sha256()
    frames = getattr(value, "n_frames", 1)
    shown = value.tell() if frames > 1 else 0
    infos: list[Any] = []
    for frame in range(frames):
        if frames > 1:
            value.seek(frame)
            infos.append(dict(value.info))  # e.g. how long it is shown
        rows = max(1, _PIECE_BYTES // max(1, 4 * value.width))
        for top in range(0, value.height, rows):
            hashed.update(value.crop((0, top, value.width, min(top + rows, value.height))).tobytes())
    if frames > 1:
        value.seek(shown)
    head = f"image:{value.mode}:{value.size}:{value.format}:{frames}:{shown}:"
    palette = getattr(value.palette, "mode", None), value.getpalette(None)  # with its transparency
    children = [(".palette", palette), (".info", infos or dict(value.info)), (".getexif()", _exif(value))]
    if value.format is None:  # one that was not read from a file holds nothing else
        children += _attributes(value, frozenset(vars(sys.modules["PIL.Image"].new("1", (0, 0)))))
    return Parts(head.encode() + hashed.digest(), children)


def _exif(value: Any) -> Any:
    """Return the tags of a picture, which may have been set."""
    tags = value.getexif()
    try:
        return tags.tobytes()
    except Exception:  # not of the types that the standard allows
        return dict(tags)


# --- others ------------------------------------------------------------------------------------------------------


def _numba_function(value: Any) -> Parts:
    """A compiled function: by what it was compiled from, and how."""
    dispatcher = getattr(value, "_dispatcher", value)
    # Where types were given it is compiled for these only, and what it is called with is converted to them.
    types: Any = None
    if hasattr(value, "_frozen"):
        types = list(value.types) if value._frozen else None
    elif not getattr(dispatcher, "_can_compile", True):
        types = str(dispatcher.signatures)
    options = dict(dispatcher.targetoptions)
    return Parts(b"numba", [("", dispatcher.py_func), (".targetoptions", options), (".signatures", types)])


def _loguru_logger(value: Any) -> Parts:
    """A logger: like those of `logging`, it says where messages go and nothing about results."""
    return Parts(b"loguru")


def _persistent_map(value: Any) -> Parts:
    """A map without an order: what iterating gives depends on the hashes of its keys."""
    return Parts(b"persistent map", [("", pair) for pair in value.items()], is_ordered=False)


def _persistent_set(value: Any) -> Parts:
    return Parts(b"persistent set", [("", item) for item in value], is_ordered=False)


_BY_NAME: dict[tuple[str, str], Callable[[Any], Parts]] = {
    ("numpy", "ndarray"): array,
    ("numpy", "generic"): _numpy_scalar,
    ("numpy", "RandomState"): _random_state,
    ("pandas", "DataFrame"): _pandas_frame,
    ("pandas", "Series"): _pandas_series,
    ("pandas", "Index"): _pandas_index,
    ("pandas", "ExtensionArray"): _pandas_array,
    ("polars", "DataFrame"): columnar.polars_frame,
    ("polars", "Series"): columnar.polars_series,
    ("polars", "LazyFrame"): columnar.polars_lazy,
    ("polars", "Expr"): columnar.polars_expression,
    ("pyarrow", "Array"): columnar.arrow_array,
    ("pyarrow", "ChunkedArray"): columnar.arrow_array,
    ("pyarrow", "Table"): columnar.arrow_table,
    ("pyarrow", "RecordBatch"): columnar.arrow_table,
    ("torch", "Tensor"): _tensor,
    ("torch", "Generator"): _torch_generator,
    ("PIL", "Image"): _image,
    ("numba", "Dispatcher"): _numba_function,
    ("numba", "DUFunc"): _numba_function,
    ("loguru", "Logger"): _loguru_logger,
    ("pyrsistent", "PMap"): _persistent_map,
    ("pyrsistent", "PSet"): _persistent_set,
}
