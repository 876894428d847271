"""Signatures: equal content and code, equal digest - in any process; anything else, another."""

from __future__ import annotations

import abc
import array
import collections
import contextlib
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import json
import logging
import pathlib
import random
import re
import shutil
import threading
import typing
import uuid
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypernodes import Node
from hypernodes.signature import DIGEST_SIZE, UnhashableValueError, digest, register
from tests.support import run_python

try:
    import numpy as np
except ModuleNotFoundError:  # core does without; its samples are left out then
    np = None  # type: ignore[assignment]


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    y: str = "y"


class Pair(typing.NamedTuple):
    left: int
    right: str = "r"


class Model:
    def __init__(self, dim: int, secret: int = 0) -> None:
        self.dim = dim
        self._secret = secret
        self.__very_secret = secret


class Hidden:
    __slots__ = ("__inner", "outer")

    def __init__(self, outer: int, inner: int) -> None:
        self.outer = outer
        self.__inner = inner


class Loadable(abc.ABC):
    @abc.abstractmethod
    def load(self) -> int: ...


class Loader(Loadable):
    def load(self) -> int:
        return 1


class Words(list[str]):
    pass


class Table(dict[str, int]):
    pass


def add(a: int, b: int = 1) -> int:
    return a + b


SAMPLES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "ellipsis": lambda: ...,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "1": lambda: 1,
    "-1": lambda: -1,
    "huge": lambda: 10**100,
    "1.0": lambda: 1.0,
    "0.0": lambda: 0.0,
    "-0.0": lambda: -0.0,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1j": lambda: 1j,
    "str 1": lambda: "1",
    "str empty": lambda: "",
    "str hebrew": lambda: "בְּרֵאשִׁית",
    "str surrogate": lambda: "\ud800",
    "bytes 1": lambda: b"1",
    "bytearray 1": lambda: bytearray(b"1"),
    "memoryview": lambda: memoryview(b"1"),
    "list empty": list,
    "tuple empty": tuple,
    "dict empty": dict,
    "set empty": set,
    "frozenset empty": frozenset,
    "list": lambda: [1, 2],
    "list nested": lambda: [[1], 2],
    "list nested differently": lambda: [[1, 2]],
    "tuple": lambda: (1, 2),
    "set": lambda: {1, "a", None, (2, 3)},
    "frozenset": lambda: frozenset({1, "a", None, (2, 3)}),
    "dict": lambda: {"a": 1, "b": [2]},
    "dict swapped": lambda: {"b": 1, "a": [2]},
    "dict of int": lambda: {1: 1},
    "dict of str": lambda: {"1": 1},
    "keys": lambda: {"a": 1, "c": 2}.keys(),
    "values": lambda: {"a": 1, "c": [2]}.values(),
    "items": lambda: {"a": 1, "c": [2]}.items(),
    "ordered items": lambda: collections.OrderedDict(a=1, c=[2]).items(),
    "mapping proxy": lambda: MappingProxyType({"a": 1, "c": [2]}),
    "range": lambda: range(3),
    "range step": lambda: range(0, 3, 2),
    "slice": lambda: slice(1, 2),
    "datetime": lambda: datetime.datetime(2020, 1, 2),
    "datetime aware": lambda: datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "date": lambda: datetime.date(2020, 1, 2),
    "timedelta": lambda: datetime.timedelta(seconds=1),
    "decimal": lambda: decimal.Decimal("1.0"),
    "decimal longer": lambda: decimal.Decimal("1.00"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "uuid": lambda: uuid.UUID(int=1),
    "pattern": lambda: re.compile("a+"),
    "pattern with flags": lambda: re.compile("a+", re.IGNORECASE),
    "enum": lambda: Colour.RED,
    "other enum": lambda: Colour.BLUE,
    "dataclass": lambda: Point(1.0),
    "dataclass, other": lambda: Point(1.0, 2.0),
    "dataclass with list": lambda: Point(1.0, tags=["a"]),
    "slots": lambda: Slotted(1),
    "slots, other": lambda: Slotted(1, "z"),
    "named tuple": lambda: Pair(1),
    "named tuple, other": lambda: Pair(1, "s"),
    "object": lambda: Model(1),
    "object, other private attribute": lambda: Model(1, 2),
    "private slot": lambda: Hidden(1, 1),
    "private slot, other": lambda: Hidden(1, 2),
    "implementation of an abstract class": Loader,
    "list subclass": lambda: Words(["a"]),
    "list subclass, other": lambda: Words(["b"]),
    "dict subclass": lambda: Table(a=1),
    "dict subclass, other": lambda: Table(a=2),
    "deque": lambda: collections.deque([1]),
    "counter": lambda: collections.Counter("aab"),
    "array": lambda: array.array("i", [1, 2]),
    "array of another type": lambda: array.array("h", [1, 2]),
    "namespace": lambda: SimpleNamespace(a=1),
    "class": lambda: Point,
    "other class": lambda: Model,
    "builtin class": lambda: int,
    "generic alias": lambda: list[int],
    "other generic alias": lambda: list[str],
    "function": lambda: add,
    "builtin": lambda: len,
    "other builtin": lambda: max,
    "lambda": lambda: lambda x: x.first,
    "other lambda": lambda: lambda x: x.second,
    "lambda with a text": lambda: lambda: "a",
    "lambda with another text": lambda: lambda: "b",
    "method of an object": lambda: Model(1).__init__,  # type: ignore[misc]
    "method of another object": lambda: Model(2).__init__,  # type: ignore[misc]
    "node": lambda: Node(add, "sum"),
    "numpy int": lambda: np.int64(1),
    "numpy smaller int": lambda: np.int32(1),
    "numpy float": lambda: np.float64(1),
    "numpy dtype": lambda: np.dtype("f4"),
    "numpy array": lambda: np.arange(6, dtype="i8"),
    "numpy array reshaped": lambda: np.arange(6, dtype="i8").reshape(2, 3),
    "numpy array transposed": lambda: np.arange(6, dtype="i8").reshape(2, 3).T,
    "numpy array of floats": lambda: np.arange(6, dtype="f8"),
    "numpy array of other bytes": lambda: np.arange(6, dtype=">i8"),
    "numpy array empty": lambda: np.array([], dtype="f8"),
    "numpy array without dimensions": lambda: np.array(1),
    "numpy array of strings": lambda: np.array(["a", "bb"]),
    "numpy array of objects": lambda: np.array(["a", None], dtype=object),
    "numpy array of records": lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
    "numpy array of renamed records": lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("c", "f4")]),
    "numpy dates": lambda: np.array(["2020-01-01"], dtype="M8[D]"),
    "numpy generator": lambda: np.random.default_rng(1),
    "numpy generator, other seed": lambda: np.random.default_rng(2),
    "numpy function": lambda: np.sum,
    "numpy universal function": lambda: np.add,
    "other numpy universal function": lambda: np.multiply,
}
if np is None:
    SAMPLES = {name: make for name, make in SAMPLES.items() if "numpy" not in name}


def test_all_samples_have_different_digests() -> None:
    by_digest: dict[bytes, list[str]] = {}
    for name, make in SAMPLES.items():
        by_digest.setdefault(digest(make()), []).append(name)
    assert [names for names in by_digest.values() if len(names) > 1] == []


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES.keys())
def test_equal_values_have_equal_digests(make: Callable[[], Any]) -> None:
    value = make()
    assert digest(value) == digest(make()) == digest(value)
    assert len(digest(value)) == DIGEST_SIZE


def digests_of_samples() -> dict[str, str]:
    return {name: digest(make()).hex() for name, make in SAMPLES.items()}


def test_digests_are_the_same_in_every_process() -> None:
    script = "import tests.signatures.test_value_signatures as t, json; print(json.dumps(t.digests_of_samples()))"
    outputs = {run_python("-c", script, hash_seed=seed) for seed in (1, 2, 3)}
    assert len(outputs) == 1
    assert json.loads(outputs.pop()) == digests_of_samples()


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(plain_values, plain_values)
def test_plain_values_share_a_digest_exactly_if_they_are_the_same(left: Any, right: Any) -> None:
    """`repr` of plain values tells apart what digests must tell apart: types, signs of zero, nesting."""
    assert (digest(left) == digest(right)) == (_canonical(left) == _canonical(right))
    assert digest(copy.deepcopy(left)) == digest(left)


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{','.join(f'{k!r}:{_canonical(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({','.join(map(_canonical, value))})"
    return repr(value)


# --- structure ---------------------------------------------------------------------------------------------------


def test_sharing_does_not_matter_only_content_does() -> None:
    shared = [1]
    assert digest([shared, shared]) == digest([[1], [1]])


def test_cycles_end_and_are_told_apart() -> None:
    def loop(value: int) -> list[Any]:
        made: list[Any] = [value]
        made.append(made)
        return made

    assert digest(loop(1)) == digest(loop(1)) != digest(loop(2))


def test_nesting_is_limited_by_memory_only() -> None:
    value: list[Any] = []
    for _ in range(20_000):
        value = [value]
    assert len(digest(value)) == DIGEST_SIZE


def test_strided_arrays_are_read_by_content() -> None:
    table = np.arange(12).reshape(3, 4)
    assert digest(table[:, ::2]) == digest(table[:, ::2].copy())
    assert digest(np.asfortranarray(table)) == digest(table)


def test_a_class_counts_with_its_objects() -> None:
    def make(factor: int) -> Any:
        class Scaler:
            def scale(self, x: int) -> int:
                return factor * x

        return Scaler()

    assert digest(make(1)) == digest(make(1)) != digest(make(2))


# --- what classes say themselves ---------------------------------------------------------------------------------


class Keyed:
    def __init__(self, key: Any, other: Any) -> None:
        self.key = key
        self.other = other

    def __cache_key__(self) -> Any:
        return self.key


class Forgetful:
    __cache_ignore__: str | tuple[str, ...] = ("handle",)

    def __init__(self, content: int, handle: Any) -> None:
        self.content = content
        self.handle = handle


class MoreForgetful(Forgetful):
    __cache_ignore__ = "more"

    def __init__(self, content: int, handle: Any, more: Any) -> None:
        super().__init__(content, handle)
        self.more = more


def test_cache_key_stands_for_the_whole_object() -> None:
    assert digest(Keyed(1, threading.Lock())) == digest(Keyed(1, "anything"))
    assert digest(Keyed(1, 0)) != digest(Keyed(2, 0))
    assert digest(Keyed(1, 0)) != digest(1)


def test_cache_ignore_leaves_attributes_out_also_those_of_base_classes() -> None:
    assert digest(Forgetful(1, threading.Lock())) == digest(Forgetful(1, None))
    assert digest(Forgetful(1, None)) != digest(Forgetful(2, None))
    assert digest(MoreForgetful(1, threading.Lock(), object())) == digest(MoreForgetful(1, None, None))


def test_a_registered_type_is_identified_as_it_was_told_also_in_subclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    from hypernodes.signature import hashers as module

    class Opaque:
        def __init__(self, name: str) -> None:
            self.name = name
            self.lock = threading.Lock()

    class Derived(Opaque):
        pass

    monkeypatch.setattr(module, "_registered", {})
    register(Opaque, lambda opaque: opaque.name)
    assert digest(Opaque("a")) == digest(Opaque("a")) != digest(Opaque("b"))
    assert digest(Derived("a")) == digest(Derived("a")) != digest(Opaque("a"))


# --- what cannot be identified -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "path", "culprit"),
    [
        (threading.Lock, "", "_thread.lock"),
        (lambda: [1, {"a": threading.Lock()}], "[1]['a']", "_thread.lock"),
        (lambda: Model(threading.Lock()), ".dim", "_thread.lock"),  # type: ignore[arg-type]
        (lambda: (i for i in range(3)), "", "generator"),
        (object, "", "object"),
    ],
    ids=["lock", "lock in a list", "lock in an object", "generator", "bare object"],
)
def test_what_has_no_content_is_refused_with_its_path(make: Callable[[], Any], path: str, culprit: str) -> None:
    with pytest.raises(UnhashableValueError) as caught:
        digest(make())
    assert caught.value.path == path
    assert culprit in caught.value.culprit_type
    assert culprit in str(caught.value)


# --- wrong hits waiting to happen --------------------------------------------------------------------------------


class Birthday(datetime.date):
    pass


class Measured(np.ndarray if np else object):  # type: ignore[misc]
    unit: str


def _measured(unit: str) -> Measured:
    values = np.arange(3).view(Measured)
    values.unit = unit
    return values


COLLIDING: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "partial": (lambda: functools.partial(add, 1), lambda: functools.partial(add, 2)),
    "partial of another function": (lambda: functools.partial(add, 1), lambda: functools.partial(max, 1)),
    "BytesIO": (lambda: io.BytesIO(b"a"), lambda: io.BytesIO(b"b")),
    "Random": (lambda: random.Random(1), lambda: random.Random(2)),
    "subclass of date": (lambda: Birthday(2020, 1, 1), lambda: Birthday(2021, 1, 1)),
    "exception": (lambda: ValueError("a"), lambda: ValueError("b")),
    "OrderedDict": (
        lambda: collections.OrderedDict(a=1, b=2),
        lambda: collections.OrderedDict(b=2, a=1),
    ),
    "defaultdict": (lambda: collections.defaultdict(int), lambda: collections.defaultdict(list)),
    "subclass of array and array": (
        lambda: np.arange(4).reshape(2, 2).view(np.recarray),
        lambda: np.arange(4).reshape(2, 2),
    ),
    "attributes of an array": (lambda: _measured("m"), lambda: _measured("s")),
    "masked array": (
        lambda: np.ma.array([1, 2], mask=[False, True]),
        lambda: np.ma.array([1, 2], mask=[True, False]),
    ),
    "universal function made from a function": (
        lambda: np.frompyfunc(lambda x: x + 1, 1, 1),
        lambda: np.frompyfunc(lambda x: x + 2, 1, 1),
    ),
    "closure made by an installed library": (
        lambda: shutil.ignore_patterns("*.pyc"),
        lambda: shutil.ignore_patterns("*.txt"),
    ),
}
if np is None:
    of_numpy = ("array", "universal function")
    COLLIDING = {name: pair for name, pair in COLLIDING.items() if not any(kind in name for kind in of_numpy)}


@pytest.mark.parametrize(("left", "right"), COLLIDING.values(), ids=COLLIDING.keys())
def test_different_values_of_types_with_hidden_state(left: Callable[[], Any], right: Callable[[], Any]) -> None:
    """Different digests, or none at all: a wrong hit is worse than a miss."""
    with contextlib.suppress(UnhashableValueError):
        assert digest(left()) != digest(right())


def test_the_digest_of_a_path_does_not_change_by_using_it() -> None:
    path = pathlib.PurePosixPath("/a/b")
    before = digest(path)
    assert (str(path), hash(path), path.parts, path.name) == (str(path), hash(path), ("/", "a", "b"), "b")
    assert digest(path) == before
    assert digest(pathlib.PurePosixPath("/a/c")) != before


def test_a_logger_can_be_identified() -> None:
    """Nodes use module-level loggers; that must neither stop caching nor depend on how logging is set up."""
    logger = logging.getLogger("tests.signature")
    before = digest(logger)
    handler = logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    try:
        assert digest(logger) == before
    finally:
        logger.removeHandler(handler)


def test_the_digest_of_a_flag_does_not_change_by_using_its_class() -> None:
    before = digest(Access.READ)
    assert (Access.READ | Access.WRITE).value == 3
    assert digest(Access.READ) == before


def test_the_digest_of_an_object_does_not_change_by_using_a_cached_property() -> None:
    class Lazy:
        def __init__(self, x: int) -> None:
            self.x = x

        @functools.cached_property
        def doubled(self) -> int:
            return 2 * self.x

    value = Lazy(1)
    before = digest(value)
    assert value.doubled == 2
    assert digest(value) == before


def test_a_cache_key_that_cannot_be_worked_out_means_uncached() -> None:
    class Broken:
        def __cache_key__(self) -> str:
            raise OSError("not connected")

    with pytest.raises(UnhashableValueError, match="not connected"):
        digest(Broken())
