"""`MemoryCache`: what a node or a caller does to a value that it got changes nothing for the next one."""

from __future__ import annotations

import enum
import threading
import warnings
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest

from hypernodes import MISS, CacheWarning, ConfigurationError, LocalBackend, MemoryCache, Pipeline, node
from hypernodes.cache import copies
from tests.support import Recorder

UNSET = object()
Point = namedtuple("Point", "x y")


@dataclass
class Model:
    weights: list[float] = field(default_factory=lambda: [1.0, 2.0])
    name: Any = UNSET


class Colour(enum.Enum):
    RED = [1]  # noqa: RUF012 - a member that holds a list


@node(output_name="numbers")
def draw(count: int) -> list[int]:
    return list(range(count, 0, -1))


@node(output_name="lowest")
def find_lowest(numbers: list[int], places: int = 1) -> list[int]:
    numbers.sort()
    del numbers[places:]
    return numbers


MODES = ["sequential", "threaded", "async"]


@pytest.mark.parametrize("mode", MODES)
def test_a_node_that_works_in_place_changes_nothing_for_later_runs(mode: Any) -> None:
    recorder = Recorder()
    engine = LocalBackend(node_execution=mode, map_execution=mode)
    pipeline = Pipeline([draw, find_lowest], cache=MemoryCache(), callbacks=[recorder], backend=engine)
    assert pipeline.run({"count": 4}) == {"numbers": [1], "lowest": [1]}  # the same object, in the run that made it
    assert pipeline.run({"count": 4, "places": 2}, "lowest") == {"lowest": [1, 2]}
    assert recorder.computed == ["draw", "find_lowest", "find_lowest"]
    assert pipeline.run({"count": 4}, "numbers") == {"numbers": [4, 3, 2, 1]}


@pytest.mark.parametrize("mode", MODES)
def test_items_that_get_one_result_do_not_see_what_others_do_to_it(mode: Any) -> None:
    lowest = Pipeline([find_lowest]).as_node(
        input_mapping={"numbers_of_all": "numbers", "all_places": "places"},
        output_mapping={"lowest": "found"},
        map_over=["numbers_of_all", "all_places"],
    )

    @node(output_name="numbers_of_all")
    def repeat(numbers: list[int]) -> list[list[int]]:
        return [numbers.copy() for _ in range(3)]

    cache = MemoryCache()
    engine = LocalBackend(node_execution=mode, map_execution=mode)
    items = Pipeline([draw], cache=cache, backend=engine)
    assert items.map({"count": [3, 3, 3]}, "count")["numbers"] == [[3, 2, 1]] * 3
    whole = Pipeline([draw, repeat, lowest], cache=cache, backend=engine)
    assert whole.run({"count": 3, "all_places": [1, 2, 3]})["found"] == [[1], [1, 2], [1, 2, 3]]
    whole_again = Pipeline([draw, find_lowest], cache=cache, backend=engine)
    found = whole_again.map({"count": [3, 3, 3], "places": [1, 2, 3]}, ["count", "places"], output_name="lowest")
    assert found == {"lowest": [[1], [1, 2], [1, 2, 3]]}


def test_a_caller_who_changes_a_result_changes_nothing_for_later_runs() -> None:
    pipeline = Pipeline([draw], cache=MemoryCache())
    for _ in range(3):
        result = pipeline.run({"count": 3})
        assert result == {"numbers": [3, 2, 1]}
        result["numbers"].append(0)


def append(value: Any) -> None:
    value.append(0)


def memorizing() -> Callable[..., list[Any]]:
    seen: list[Any] = []

    def memorize(*new: Any) -> list[Any]:
        seen.extend(new)
        return seen

    return memorize


def counting() -> list[Callable[[], int]]:
    count = 0

    def more() -> int:
        nonlocal count
        count += 1
        return count

    return [more, lambda: count]


def noting() -> Any:
    def note(text: str, texts: list[str] = []) -> None:  # noqa: B006 - it is what is tested
        texts.append(text)
        note.texts.append(text)  # type: ignore[attr-defined]

    note.texts = ["first"]  # type: ignore[attr-defined]
    return note


HIDDEN: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "closure": (memorizing, lambda value: value(1), lambda value: list(value())),
    "closure in a tuple": (lambda: (memorizing(),), lambda value: value[0](1), lambda value: list(value[0]())),
    "closure of a partial": (lambda: partial(memorizing(), 0), lambda value: value.func(1), lambda value: value()),
    "closures with one variable": (counting, lambda value: value[0](), lambda value: value[1]()),
    "default and attribute": (
        noting,
        lambda value: value("a"),
        lambda value: (value.__defaults__, value.texts, value.__name__),
    ),
    "bound method": (lambda: Model().weights.append, lambda value: value(3), lambda value: value.__self__),
    "method of an object": (lambda: Model().__eq__, lambda value: append(value.__self__.weights), repr),
    "keys": (lambda: {"a": [1]}.keys(), lambda value: append(value.mapping["a"]), lambda value: value.mapping["a"]),
    "values": (lambda: {"a": [1]}.values(), lambda value: append(next(iter(value))), list),
    "items": (lambda: OrderedDict(a=[1]).items(), lambda value: append(next(iter(value))[1]), list),
    "mapping proxy": (lambda: MappingProxyType({"a": [1]}), lambda value: append(value["a"]), dict),
    "iterator": (lambda: [iter([1, 2])], lambda value: next(value[0], None), lambda value: list(value[0])),
    "slice": (lambda: slice([1], 2), lambda value: append(value.start), repr),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_holds_something_that_changes_out_of_sight_is_copied_too(name: str) -> None:
    make, change, look = HIDDEN[name]
    expected = repr(look(make()))
    cache = MemoryCache(copy=True)
    value = make()
    cache.put("k", value)
    change(value)
    for _ in range(2):
        found = cache.get("k")
        assert type(found) is type(value)
        assert repr(look(found)) == expected
        change(found)


def test_a_function_that_refers_to_itself_is_copied_with_its_closure() -> None:
    def factorial(n: int) -> int:
        depths.append(n)
        return n * factorial(n - 1) if n else 1

    depths: list[int] = []
    cache = MemoryCache()
    cache.put("k", factorial)
    found = cache.get("k")
    assert found is not factorial
    assert found(4) == 24
    assert (depths, found.__qualname__) == ([], factorial.__qualname__)


def test_a_value_that_holds_a_generator_is_not_stored() -> None:
    @node(output_name="parts")
    def split(text: str) -> Any:
        return {"letters": (letter for letter in text), "length": len(text)}

    @node(output_name="letters")
    def join(parts: Any) -> list[str]:
        return list(parts["letters"])

    cache = MemoryCache()
    pipeline = Pipeline([split, join], cache=cache)
    with pytest.warns(CacheWarning, match="result of node 'split' is not cached: .* it holds a generator, which can"):
        assert pipeline.run({"text": "ab"}, "letters") == {"letters": ["a", "b"]}
    assert len(cache) == 1


CHANGES: list[tuple[Any, Callable[[Any], Any]]] = [
    ([1, 2], append),
    ([[1], [2]], lambda value: append(value[0])),
    (([1],), lambda value: append(value[0])),
    ({"a": 1}, lambda value: value.update(b=2)),
    ({"a": {"b": [1]}}, lambda value: append(value["a"]["b"])),
    ({1, 2}, lambda value: value.add(3)),
    (bytearray(b"ab"), lambda value: value.append(1)),
    (Point([1], 2), lambda value: append(value.x)),
    (OrderedDict(a=1, b=2), lambda value: value.move_to_end("a")),
    (defaultdict(list, a=[1]), lambda value: value["b"]),
    (Model(), lambda value: append(value.weights)),
    ([Model()], lambda value: setattr(value[0], "name", 2)),
    ({"f": [len, append, lambda x: x]}, lambda value: value["f"].clear()),
    (ExceptionGroup("several", [ValueError([1])]), lambda value: append(value.exceptions[0].args[0])),
]


@pytest.mark.parametrize(("value", "change"), CHANGES, ids=lambda value: type(value).__name__)
def test_every_reader_gets_a_value_of_its_own(value: Any, change: Callable[[Any], Any]) -> None:
    cache = MemoryCache()
    cache.put("k", value)
    text = repr(value)
    change(value)
    for _ in range(2):
        found = cache.get("k")
        assert (type(found), repr(found)) == (type(value), text)
        change(found)
        assert repr(found) != text


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "a",
        b"b",
        2.5,
        (1, ("a", None)),
        frozenset({1}),
        Point(1, "b"),
        Colour.RED,
        PurePosixPath("a"),
        len,
        append,
        lambda x, y=1: x + y,
        slice(1, None),
        Model,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_change_is_shared(value: Any) -> None:
    cache = MemoryCache()
    cache.put("k", value)
    assert cache.get("k") is value


def test_what_is_itself_stays_itself_inside_of_a_copy() -> None:
    def inner() -> None: ...

    cache = MemoryCache()
    cache.put("k", [Model(), Colour.RED, inner, Model, threading])
    model, colour, function, kind, module = cache.get("k")
    assert model.name is UNSET
    assert (colour, function, kind, module) == (Colour.RED, inner, Model, threading)


def test_arrays_are_copied() -> None:
    import numpy as np

    @node(output_name="vector")
    def embed(x: float) -> Any:
        return np.full(3, x)

    pipeline = Pipeline([embed], cache=MemoryCache())
    for _ in range(3):
        vector = pipeline.run({"x": 2.0})["vector"]
        assert vector.tolist() == [2.0, 2.0, 2.0]
        vector *= 10
    cache = MemoryCache()
    objects = np.array([[1], [2, 3]], dtype=object)
    cache.put("k", objects)
    cache.get("k")[0].append(5)
    objects[1].append(4)
    assert cache.get("k").tolist() == [[1], [2, 3]]
    columns = np.asfortranarray(np.arange(6).reshape(2, 3))
    cache.put("k", columns)
    assert cache.get("k").flags.f_contiguous


# --- what is shared although it may change ------------------------------------------------------------------------


class Connection:
    """Something that cannot be copied, and can be identified."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.log: list[str] = []

    def __cache_key__(self) -> Any:
        return self.log


@node(output_name="connection")
def connect(url: str) -> Connection:
    return Connection()


@node(output_name="length")
def write(connection: Connection, text: str) -> int:
    connection.log.append(text)
    return len(connection.log)


def test_a_shared_value_that_was_changed_is_computed_again_with_one_warning_that_names_the_node() -> None:
    recorder = Recorder()
    pipeline = Pipeline([connect, write], cache=MemoryCache(), callbacks=[recorder])
    assert pipeline.run({"url": "a", "text": "b"})["length"] == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert pipeline.run({"url": "a", "text": "c"}, "length")["length"] == 1
        assert pipeline.run({"url": "a", "text": "d"}, "length")["length"] == 1
    [warning] = caught
    assert warning.category is CacheWarning
    assert str(warning.message).startswith("the result of node 'connect' was changed after it was stored")
    assert recorder.computed == ["connect", "write"] * 3


def test_a_shared_value_that_was_not_changed_is_handed_out() -> None:
    cache = MemoryCache()
    connection = Connection()
    cache.put("k", connection)
    assert cache.get("k") is connection
    connection.log.append("a")
    with pytest.warns(CacheWarning, match="a value was changed after it was stored"):
        assert cache.get("k") is MISS
    assert "k" not in cache
    stats = cache.stats()
    assert (stats.entries, stats.hits, stats.misses) == (0, 1, 1)


def test_large_values_are_shared_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LARGE_BYTES", 10_000)
    cache = MemoryCache()
    for large in ([[1.5] * 10 for _ in range(1000)], {"a": [bytes(20_000)]}):
        cache.put("k", large)
        assert cache.get("k") is large
        large.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert cache.get("k") is MISS
    copying = MemoryCache(copy=True)
    copying.put("k", [[1.5] * 10 for _ in range(1000)])
    assert copying.get("k") is not copying.get("k")


def test_copies_can_be_demanded_and_forbidden() -> None:
    sharing, copying = MemoryCache(copy=False), MemoryCache(copy=True)
    value = [[1]]
    sharing.put("k", value)
    value[0].append(2)
    assert sharing.get("k") is value
    with pytest.raises(TypeError, match="cannot pickle"):
        copying.put("k", Connection())
    with pytest.warns(CacheWarning, match="the result of node 'connect' is not cached"):
        Pipeline([connect], cache=copying).run({"url": "a"})
    with pytest.raises(ConfigurationError, match="copy must be True, False or None; got 'yes'"):
        MemoryCache(copy="yes")  # type: ignore[arg-type]
