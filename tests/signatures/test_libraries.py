"""Values of well-known libraries: by content, however they were made and lie in memory."""

from __future__ import annotations

import datetime
import fractions
import zoneinfo
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pandas as pd
import polars as pl
import pydantic
import pytest
from PIL import Image

from hypernodes.signature import UnhashableValueError, digest


@attrs.define
class Attrs:
    k: int
    _private: int = 0


@attrs.frozen(slots=False)
class Frozen:
    items: tuple[int, ...]


class Model(pydantic.BaseModel):
    k: int
    names: list[str] = []
    _secret: int = pydantic.PrivateAttr(default=0)


def model(k: int, secret: int) -> Model:
    made = Model(k=k)
    made._secret = secret
    return made


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns or {"a": [1, 2, 3], "b": ["x", None, "z"]})


def animated(*values: int) -> Image.Image:
    import io

    target = io.BytesIO()
    pictures = [Image.new("L", (4, 4), value) for value in values]
    pictures[0].save(target, format="GIF", save_all=True, append_images=pictures[1:])
    return Image.open(target)


def aligned(padding: int) -> Any:
    """One record with a gap of three bytes in it, whose content means nothing."""
    dtype = np.dtype([("a", "u1"), ("b", "i4")], align=True)
    return np.frombuffer(bytes([1, padding, padding, padding, 2, 0, 0, 0]), dtype=dtype)


EQUAL: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "array in Fortran order": (
        lambda: np.arange(6).reshape(2, 3),
        lambda: np.asfortranarray(np.arange(6).reshape(2, 3)),
    ),
    "array read backwards": (lambda: np.arange(5), lambda: np.arange(5)[::-1].copy()[::-1]),
    "large strided array": (lambda: np.arange(2_000_000)[::2], lambda: np.arange(0, 2_000_000, 2)),
    "transposed array": (lambda: np.arange(12.0).reshape(3, 4).T, lambda: np.arange(12.0).reshape(3, 4).T.copy()),
    "broadcast array": (lambda: np.broadcast_to(np.int64(7), (3, 2)), lambda: np.full((3, 2), 7)),
    "read-only array": (lambda: np.frombuffer(b"abcd", "u1"), lambda: np.array(list(b"abcd"), "u1")),
    "padding between fields": (lambda: aligned(0), lambda: aligned(255)),
    "array of dates": (lambda: np.array(["2020", "2021"], "M8[Y]")[::-1], lambda: np.array(["2021", "2020"], "M8[Y]")),
    "array of strings": (lambda: np.array(["a", "bb"])[::-1], lambda: np.array(["bb", "a"])),
    "array of long strings": (lambda: np.array(["a" * 40]), lambda: np.array(["a" * 40])),
    "frame in one block or in two": (
        lambda: pd.concat([frame(a=[1]), frame(b=[2])], axis=1),
        lambda: frame(a=[1], b=[2]),
    ),
    "slice of a frame": (lambda: frame().iloc[:2], lambda: frame().head(2).copy()),
    "integers that may be missing": (
        lambda: pd.array([1, None], dtype="Int64"),
        lambda: pd.array([1, 9], dtype="Int64")._from_sequence([1, None], dtype="Int64"),
    ),
    "categories": (lambda: pd.Series(["a", "b"], dtype="category"), lambda: pd.Series(["a", "b"], dtype="category")),
    "times with a zone": (
        lambda: pd.date_range("2020", periods=3, tz="UTC"),
        lambda: pd.date_range("2020", periods=3, tz="UTC"),
    ),
    "index of several levels": (
        lambda: pd.MultiIndex.from_product([[1, 2], ["a"]]),
        lambda: pd.MultiIndex.from_arrays([[1, 2], ["a", "a"]]),
    ),
    "polars frame in chunks": (
        lambda: pl.concat([pl.DataFrame({"a": ["x"]}), pl.DataFrame({"a": ["y"]})], rechunk=False),
        lambda: pl.DataFrame({"a": ["x", "y"]}),
    ),
    "polars slice": (
        lambda: pl.DataFrame({"a": [None, 1, 2, None], "b": ["q", "a long enough text", "c", "d"]}).slice(1, 2),
        lambda: pl.DataFrame({"a": [1, 2], "b": ["a long enough text", "c"]}),
    ),
    "polars categories": (
        lambda: pl.Series(["b", "a"], dtype=pl.Categorical),
        lambda: pl.Series(["a", "b", "a"], dtype=pl.Categorical).slice(1),
    ),
    "polars lists": (lambda: pl.Series([[1, 2], None, []]), lambda: pl.Series([[0], [1, 2], None, []]).slice(1)),
    "polars truth values": (lambda: pl.Series([True, False]), lambda: pl.Series([False] * 9 + [True, False]).slice(9)),
    "polars structs": (
        lambda: pl.Series([{"a": 1}, {"a": None}]),
        lambda: pl.Series([{"a": 9}, {"a": 1}, {"a": None}]).slice(1),
    ),
    "attrs": (lambda: Attrs(1), lambda: Attrs(1)),
    "pydantic": (lambda: Model(k=1, names=["a"]), lambda: Model(k=1, names=["a"])),
    "picture": (lambda: Image.new("RGB", (3, 2), "red"), lambda: Image.new("RGB", (3, 2), (255, 0, 0))),
    "zone": (lambda: zoneinfo.ZoneInfo("UTC"), lambda: zoneinfo.ZoneInfo.no_cache("UTC")),
}

DIFFERENT: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "unit of dates": (lambda: np.array(["2020"], "M8[Y]"), lambda: np.array(["2020-01"], "M8[M]")),
    "array without dimensions": (lambda: np.array(1), lambda: np.array([1])),
    "scalar and array": (lambda: np.int64(1), lambda: np.array(1)),
    "objects in an array": (lambda: np.array([1, [2]], dtype=object), lambda: np.array([1, [3]], dtype=object)),
    "mask": (lambda: np.ma.array([1, 2], mask=[0, 1]), lambda: np.ma.array([1, 2], mask=[0, 0])),
    "records and array": (lambda: np.zeros(1, "i4,f4").view(np.recarray), lambda: np.zeros(1, "i4,f4")),
    "frame: value": (lambda: frame(a=[1, 2]), lambda: frame(a=[1, 3])),
    "frame: dtype": (lambda: frame(a=[1, 2]), lambda: frame(a=[1.0, 2.0])),
    "frame: column order": (lambda: frame(a=[1], b=[2]), lambda: frame(b=[2], a=[1])),
    "frame: index": (lambda: frame(a=[1]), lambda: pd.DataFrame({"a": [1]}, index=[1])),
    "frame: name of the index": (lambda: frame(a=[1]), lambda: frame(a=[1]).rename_axis("i")),
    "frame and series": (lambda: frame(a=[1]), lambda: frame(a=[1])["a"]),
    "series: name": (lambda: pd.Series([1], name="a"), lambda: pd.Series([1], name="b")),
    "missing integer and zero": (lambda: pd.array([0], dtype="Int64"), lambda: pd.array([None], dtype="Int64")),
    "categories: order": (
        lambda: pd.Categorical(["a"], categories=["a", "b"]),
        lambda: pd.Categorical(["a"], categories=["b", "a"]),
    ),
    "time zone": (lambda: pd.date_range("2020", periods=1, tz="UTC"), lambda: pd.date_range("2020", periods=1)),
    "intervals": (
        lambda: pd.arrays.IntervalArray.from_breaks([0, 1]),
        lambda: pd.arrays.IntervalArray.from_breaks([0, 1], closed="left"),
    ),
    "timestamp": (lambda: pd.Timestamp("2020"), lambda: pd.Timestamp("2021")),
    "sparse": (lambda: pd.arrays.SparseArray([0, 1]), lambda: pd.arrays.SparseArray([1, 1])),
    "polars: value": (lambda: pl.DataFrame({"a": [1]}), lambda: pl.DataFrame({"a": [2]})),
    "polars: dtype": (lambda: pl.Series([1], dtype=pl.Int8), lambda: pl.Series([1], dtype=pl.Int16)),
    "polars: lengths of lists": (lambda: pl.Series([[1], [2]]), lambda: pl.Series([[1, 2], []])),
    "polars: null and empty list": (lambda: pl.Series([[1], None]), lambda: pl.Series([[1], []])),
    "polars: name": (lambda: pl.Series("a", [1]), lambda: pl.Series("b", [1])),
    "polars: null and value": (lambda: pl.Series([None, 1]), lambda: pl.Series([0, 1])),
    "polars: categories": (
        lambda: pl.Series(["a"], dtype=pl.Categorical),
        lambda: pl.Series(["b"], dtype=pl.Categorical),
    ),
    "attrs: private": (lambda: Attrs(1, 1), lambda: Attrs(1, 2)),
    "attrs: frozen": (lambda: Frozen((1,)), lambda: Frozen((2,))),
    "pydantic: private": (lambda: model(1, 1), lambda: model(1, 2)),
    "pydantic: list": (lambda: Model(k=1, names=["a"]), lambda: Model(k=1, names=["b"])),
    "picture: mode": (lambda: Image.new("L", (1, 1)), lambda: Image.new("1", (1, 1))),
    "picture: later frame": (lambda: animated(0, 100), lambda: animated(0, 200)),
    "fraction": (lambda: fractions.Fraction(1, 3), lambda: fractions.Fraction(2, 3)),
    "zone": (lambda: zoneinfo.ZoneInfo("UTC"), lambda: zoneinfo.ZoneInfo("Europe/Paris")),
    "zone of a time": (
        lambda: datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        lambda: datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    ),
}


@pytest.mark.parametrize(("left", "right"), EQUAL.values(), ids=EQUAL.keys())
def test_equal_content_has_one_digest(left: Callable[[], Any], right: Callable[[], Any]) -> None:
    assert digest(left()) == digest(right()) == digest([left()][0])


@pytest.mark.parametrize(("left", "right"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different_content_has_different_digests(left: Callable[[], Any], right: Callable[[], Any]) -> None:
    assert digest(left()) == digest(left())
    assert digest(left()) != digest(right())


def test_a_lazy_frame_is_refused_because_the_files_behind_it_may_change() -> None:
    with pytest.raises(UnhashableValueError, match="collect"):
        digest(pl.LazyFrame({"a": [1]}))


def test_arrow_columns_are_known_by_content_however_they_are_chunked() -> None:
    pa = pytest.importorskip("pyarrow")
    whole = pa.chunked_array([["a"], [None, "c"]])
    assert digest(whole) == digest(pa.chunked_array([["z", "a", None, "c"]]).slice(1))
    assert digest(pa.table({"a": [True, None]})) == digest(pa.table({"a": [False, True, None]}).slice(1))
    assert digest(pa.array([1, None])) != digest(pa.array([2, None]))
    assert digest(pa.array([[1], [2]])) != digest(pa.array([[1, 2], []]))


def test_tensors_are_known_by_content_dtype_shape_and_whether_they_need_gradients() -> None:
    torch = pytest.importorskip("torch")
    whole = torch.arange(6.0).reshape(2, 3)
    assert digest(whole.T) == digest(whole.T.contiguous()) != digest(whole)
    assert digest(whole) != digest(whole.double())
    assert digest(whole) != digest(whole.clone().requires_grad_())
    assert digest(whole.bfloat16()) == digest(whole.bfloat16().clone())
    big = torch.zeros(1000, 4000)
    assert digest(big[:, ::2]) == digest(torch.zeros(1000, 2000))
    assert digest(torch.eye(3).to_sparse()) != digest((2 * torch.eye(3)).to_sparse())
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    assert digest(layers[0]) == digest(layers[1])
    with torch.no_grad():
        layers[1].weight[0, 0] += 1
    assert digest(layers[0]) != digest(layers[1])


def test_a_frame_is_not_changed_by_being_identified() -> None:
    picture = animated(0, 100)
    picture.seek(1)
    before = frame(a=pd.array([1, None], dtype="Int64"))
    digest(before), digest(picture)
    assert before.equals(frame(a=pd.array([1, None], dtype="Int64")))
    assert picture.tell() == 1


def test_a_large_array_takes_little_more_memory_than_itself() -> None:
    import tracemalloc

    whole = np.zeros((64, 1024, 256))  # 128 MB
    for view in (whole, whole.T, whole[:, ::2]):
        tracemalloc.start()
        digest(view)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 16 * 2**20
