"""Hashers for columns of Arrow and polars: by content, however they are chunked or sliced."""

from __future__ import annotations

import importlib
import sys
from hashlib import sha256
from typing import Any

from hypernodes.signature.walk import Parts, UnhashableValueError

_PIECE_ROWS = 1 << 16
_PYTHON_FUNCTION = (b"PLPYFN", b"PLPYUDF")


class _HashingFile:
    """A file to write to that keeps only the digest of what was written."""

    closed = False

    def __init__(self) -> None:
        self._hashed = sha256()
        self._length = 0

    def write(self, data: Any) -> int:
        self._hashed.update(data)
        size = memoryview(data).nbytes
        self._length += size
        return size

    def tell(self) -> int:
        return self._length

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def digest(self) -> bytes:
        return self._hashed.digest()


def arrow_table(value: Any) -> Parts:
    children = [(f"[{name!r}]", value.column(i)) for i, name in enumerate(value.schema.names)]
    return Parts(f"arrow table:{value.num_rows}".encode(), [(".schema", _arrow_schema(value.schema)), *children])


def _arrow_schema(schema: Any) -> bytes:
    """Return names, types and metadata; as text, long ones would be cut off."""
    return bytes(schema.serialize())


def arrow_array(value: Any) -> Parts:
    """A column: by its content, so that it does not matter how it is chunked."""
    pyarrow: Any = sys.modules["pyarrow"]
    types = pyarrow.types
    kind = value.type
    head = b"arrow:%d:" % len(value) + _arrow_schema(pyarrow.schema([pyarrow.field("", kind)]))
    if isinstance(kind, pyarrow.BaseExtensionType):
        storage = [chunk.storage for chunk in getattr(value, "chunks", [value])]
        # What a type of the user's own writes of itself need not be all that it holds.
        own = [(".type", kind)] if isinstance(kind, pyarrow.ExtensionType) else []
        return Parts(head, [*own, (".storage", pyarrow.chunked_array(storage, kind.storage_type))])
    if not (types.is_nested(kind) or types.is_dictionary(kind) or types.is_run_end_encoded(kind)):
        return Parts(head + _arrow_content(value))
    if hasattr(value, "chunks"):
        value = value.unify_dictionaries().combine_chunks() if len(value) else pyarrow.array([], kind)
        if hasattr(value, "chunks"):
            value = value.chunk(0)
    return Parts(head, _arrow_children(value, pyarrow))


def _arrow_children(value: Any, pyarrow: Any) -> list[tuple[str, Any]]:
    """Return what a column is made of that holds other columns."""
    types, kind = pyarrow.types, value.type
    if types.is_dictionary(kind):  # categories that no row uses can be seen as well
        return [(".indices", value.indices), (".dictionary", value.dictionary)]
    if types.is_run_end_encoded(kind):
        return [("[...]", importlib.import_module("pyarrow.compute").run_end_decode(value))]
    if types.is_union(kind):
        fields = [(f".field({i})", value.field(i)) for i in range(kind.num_fields)]
        return [
            (".type_codes", value.type_codes),
            *([(".offsets", value.offsets)] if kind.mode == "dense" else []),
            *fields,
        ]
    missing = [(".is_null()", value.is_null())]
    if types.is_struct(kind):
        return missing + [(f".{field.name}", part) for field, part in zip(kind, value.flatten(), strict=True)]
    if types.is_map(kind):
        valid = value.filter(value.is_valid())
        offsets = valid.offsets
        start, end = offsets[0].as_py(), offsets[-1].as_py()
        lengths = importlib.import_module("pyarrow.compute").subtract(offsets[1:], offsets[:-1])
        pairs = [(".keys", valid.keys.slice(start, end - start)), (".items", valid.items.slice(start, end - start))]
        return [*missing, (".lengths", lengths), *pairs]
    lengths = importlib.import_module("pyarrow.compute").list_value_length(value)
    return [*missing, (".lengths", lengths), ("[...]", value.flatten())]


def _arrow_content(value: Any) -> bytes:
    """Return a digest of a column of simple values, in blocks of a fixed number of rows."""
    pyarrow: Any = sys.modules["pyarrow"]
    ipc: Any = importlib.import_module("pyarrow.ipc")
    target = _HashingFile()
    for start in range(0, len(value), _PIECE_ROWS):
        block = value.slice(start, _PIECE_ROWS)
        parts = [block] if block.null_count == 0 else [block.is_null(), block.drop_null()]  # beneath a null is anything
        for part in parts:
            # Two arrays are copied into one: a slice as it is may be written with what lies behind it.
            pieces = getattr(part, "chunks", [part])
            whole = pyarrow.concat_arrays([*pieces, pyarrow.array([], part.type)])
            if pyarrow.types.is_floating(whole.type):
                whole = _with_one_nan(whole)
            elif pyarrow.types.is_boolean(whole.type):
                whole = whole.cast("uint8")  # the last byte of a bitmap may hold anything beyond its end
            table = pyarrow.table({"": whole})
            with ipc.new_stream(pyarrow.PythonFile(target, mode="w"), table.schema) as stream:
                stream.write_table(table)
    return target.digest()


def _with_one_nan(values: Any) -> Any:
    """Return floating-point numbers with one way to write nan: which it is depends on the machine."""
    compute: Any = importlib.import_module("pyarrow.compute")
    is_nan = compute.is_nan(values)
    nan = sys.modules["pyarrow"].scalar(float("nan"), values.type)
    return compute.if_else(is_nan, nan, values) if compute.any(is_nan).as_py() else values


def polars_frame(value: Any) -> Parts:
    children = [(f"[{name!r}]", value.get_column(name)) for name in value.columns]
    attributes = getattr(value, "__dict__", {})
    attached = [(f".{name}", attributes[name]) for name in sorted(attributes, key=str) if name != "_df"]
    return Parts(f"polars frame:{value.shape}".encode(), [*children, *attached])


def polars_series(value: Any) -> Parts:
    """A polars column, with what somebody has attached to it."""
    parts = _polars_content(value)
    attributes = getattr(value, "__dict__", {})
    attached = [(f".{name}", attributes[name]) for name in sorted(attributes, key=str) if name != "_s"]
    return Parts(parts.tag, [*parts.children, *attached]) if attached else parts


def _polars_content(value: Any) -> Parts:
    """A column as Arrow data in blocks, which polars writes itself."""
    polars: Any = sys.modules["polars"]
    head = f"polars series:{value.dtype}:{len(value)}:".encode("utf-8", "surrogatepass")
    name = (".name", value.name)
    text = str(value.dtype)
    if "Object" in text:
        return Parts(head, [name, ("[...]", value.to_list())])
    if text.startswith(("Categorical", "Enum")):
        value = value.cast(polars.String)  # the codes depend on what was read before
    elif text.startswith(("List", "Array")):  # a slice keeps the items of the whole
        lengths = value.list.len() if text.startswith("List") else value.is_not_null().cast(polars.UInt32)
        items = value.filter((lengths > 0).fill_null(False)).explode()
        return Parts(head, [name, (".list.len()", lengths.alias("")), ("[...]", items.alias(""))])
    elif text.startswith("Struct"):
        fields = [(f".{field.name}", field) for field in value.struct.unnest().get_columns()]
        return Parts(head, [name, (".is_null()", value.is_null().alias("")), *fields])
    target = _HashingFile()
    for start in range(0, len(value), _PIECE_ROWS):
        block = value.slice(start, _PIECE_ROWS).alias("")
        parts = [block] if block.null_count() == 0 else [block.is_null(), block.drop_nulls()]  # beneath is anything
        for part in parts:
            if part.dtype == polars.Boolean:
                part = part.cast(polars.UInt8)  # the last byte of a bitmap may hold anything beyond its end
            elif part.dtype.is_float():
                part = part.fill_nan(float("nan"))  # which nan it is depends on the machine
            frame = part.to_frame().rechunk()
            frame.write_ipc_stream(target, compression="uncompressed", compat_level=polars.CompatLevel.oldest())
    return Parts(head + target.digest(), [name])


def polars_expression(value: Any) -> Parts:
    """An expression as polars writes it; of a Python function it may write only where to find it."""
    written = value.__getstate__()
    if any(mark in written for mark in _PYTHON_FUNCTION):
        text = "it calls a Python function, in which a change would not be seen; build the expression inside the node"
        raise UnhashableValueError(text, path="", culprit_type=f"{type(value).__module__}.{type(value).__qualname__}")
    return Parts(b"polars expression:" + written)


def polars_lazy(value: Any) -> Parts:
    """A plan, whose result may depend on files."""
    text = "it is a plan that may read files whose content is not known; pass frame.collect()"
    raise UnhashableValueError(text, path="", culprit_type=f"{type(value).__module__}.{type(value).__qualname__}")
