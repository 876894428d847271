"""Failed items: what depends on them is known by the values that it really got, and is found again."""

from __future__ import annotations

import copyreg
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from hypernodes import CacheWarning, Failure, LocalBackend, MemoryCache, Pipeline, node
from hypernodes.backend import Backend, SubprocessBackend
from hypernodes.signature import digest
from tests.remote.transports import InProcess
from tests.support import Recorder

LoadModule = Callable[..., ModuleType]


class ParseError(Exception):
    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


@node(output_name="page")
def parse(document: str) -> list[str]:
    if document.startswith("bad"):
        raise ParseError(document)
    return document.split()


@node(output_name="words")
def flatten(pages: list[Any]) -> list[str]:
    return [word for page in pages if not isinstance(page, Failure) for word in page]


@node(output_name="index")
def build_index(words: list[str], case: str = "lower") -> dict[str, int]:
    return {getattr(word, case)(): place for place, word in enumerate(words)}


@node(output_name="score")
def evaluate(index: dict[str, int], k: int) -> int:
    return len(index) * k


def parse_all(parser: Any = parse) -> Any:
    return Pipeline([parser], name="parsing").as_node(
        input_mapping={"documents": "document"},
        output_mapping={"page": "pages"},
        map_over="documents",
        on_error="collect",
        name="parse_all",
    )


def evaluate_all() -> Any:
    return Pipeline([evaluate], name="evaluating").as_node(
        input_mapping={"ks": "k"}, output_mapping={"score": "scores"}, map_over="ks", name="evaluate_all"
    )


GRID = ["build_index", "evaluate", "evaluate", "flatten"]
INPUTS = {"documents": ["to be", "or not", "bad", "to be"], "ks": [1, 2]}


def studied(cache: MemoryCache, *nodes: Any) -> tuple[Recorder, Pipeline]:
    recorder = Recorder()
    nodes = nodes or (parse_all(), flatten, build_index, evaluate_all())
    return recorder, Pipeline(nodes, name="study", cache=cache, callbacks=[recorder])


@pytest.fixture(scope="module")
def processes() -> Iterator[LocalBackend]:
    with LocalBackend(node_execution="parallel", map_execution="parallel", max_workers=1) as backend:
        yield backend


@pytest.fixture(scope="module")
def next_door() -> Iterator[SubprocessBackend]:
    with SubprocessBackend() as backend:
        yield backend


LOCAL = [
    LocalBackend(),
    LocalBackend(node_execution="threaded", map_execution="threaded"),
    LocalBackend(node_execution="async", map_execution="async"),
]


@pytest.mark.parametrize("place", [*LOCAL, InProcess()], ids=["sequential", "threaded", "async", "remote"])
def test_the_same_run_again_tries_the_failed_item_and_finds_all_else(place: Backend) -> None:
    check_that_all_else_is_found(place)


def test_worker_processes_find_what_depends_on_a_failed_item(processes: LocalBackend) -> None:
    check_that_all_else_is_found(processes)


def test_a_process_next_door_finds_what_depends_on_a_failed_item(next_door: SubprocessBackend) -> None:
    check_that_all_else_is_found(next_door)


def check_that_all_else_is_found(place: Backend) -> None:
    recorder, pipeline = studied(MemoryCache())
    first = pipeline.with_backend(place).run(INPUTS)
    assert sorted(recorder.computed) == sorted([*GRID, "parse", "parse", "parse"])
    recorder.clear()
    again = pipeline.with_backend(place).run(INPUTS)
    assert recorder.computed == ["parse"]
    assert again["scores"] == first["scores"]


def test_what_a_failed_item_led_to_is_found_in_another_mode(
    processes: LocalBackend, next_door: SubprocessBackend
) -> None:
    recorder, pipeline = studied(MemoryCache())
    pipeline.run(INPUTS)
    for place in (*LOCAL, InProcess(), processes, next_door):
        recorder.clear()
        pipeline.with_backend(place).run(INPUTS)
        assert recorder.computed == ["parse"], place


def test_the_backend_of_a_nested_pipeline_makes_no_difference_to_failed_items() -> None:
    cache = MemoryCache()
    studied(cache)[1].run(INPUTS)
    there = Pipeline([parse], name="parsing", backend=InProcess()).as_node(
        input_mapping={"documents": "document"},
        output_mapping={"page": "pages"},
        map_over="documents",
        on_error="collect",
        name="parse_all",
    )
    for mapped in (there, parse_all()):
        recorder, pipeline = studied(cache, mapped, flatten, build_index, evaluate_all())
        pipeline.run(INPUTS)
        assert recorder.computed == ["parse"]


def test_an_item_that_succeeds_at_last_changes_what_depends_on_it() -> None:
    is_down = threading.Event()
    is_down.set()

    @node(output_name="page", cache_ignore=("network",))
    def parse_online(document: str, network: threading.Event) -> list[str]:
        if document == "bad" and network.is_set():
            raise ParseError("the network is down")
        return document.split()

    recorder, pipeline = studied(MemoryCache(), parse_all(parse_online), flatten, build_index, evaluate_all())
    before = pipeline.run({**INPUTS, "network": is_down})
    is_down.clear()
    recorder.clear()
    after = pipeline.run({**INPUTS, "network": is_down})
    assert recorder.computed == ["parse_online", "flatten", "build_index", "evaluate", "evaluate"]
    assert after["scores"] == [5, 10] != before["scores"]


def test_an_item_that_fails_in_another_way_changes_what_depends_on_it() -> None:
    recorder, pipeline = studied(MemoryCache())
    pipeline.run(INPUTS)
    for document in ("bad again", "worse"):
        recorder.clear()
        pipeline.run({**INPUTS, "documents": ["to be", "or not", document, "to be"]})
        assert sorted(recorder.computed) == sorted([*GRID, "parse"])


def test_results_of_other_items_stay_what_they_are_when_one_is_mended() -> None:
    @node(output_name="length")
    def measure(page: list[str]) -> int:
        return len(page)

    measure_all = Pipeline([measure], name="measuring").as_node(
        input_mapping={"pages": "page"},
        output_mapping={"length": "lengths"},
        map_over="pages",
        on_error="collect",
        name="measure_all",
    )
    recorder, pipeline = studied(MemoryCache(), parse_all(), measure_all)
    pipeline.run({"documents": INPUTS["documents"]})
    recorder.clear()
    pipeline.run({"documents": INPUTS["documents"]})
    assert recorder.computed == ["parse"]
    recorder.clear()
    assert pipeline.run({"documents": ["to be", "or not", "good", "to be"]})["lengths"] == [2, 2, 1, 2]
    assert recorder.computed == ["parse", "measure"]


def test_a_failed_item_of_a_map_inside_a_map_leaves_what_depends_on_it_findable() -> None:
    @node(output_name="total")
    def count(shelves: list[Any]) -> int:
        return sum(isinstance(page, Failure) for pages in shelves for page in pages)

    books = Pipeline([parse_all()], name="books").as_node(
        input_mapping={"library": "documents"}, output_mapping={"pages": "shelves"}, map_over="library", name="read_all"
    )
    recorder, pipeline = studied(MemoryCache(), books, count)
    library = [["a", "bad"], ["b", "c"]]
    assert pipeline.run({"library": library})["total"] == 1
    recorder.clear()
    assert pipeline.run({"library": library})["total"] == 1
    assert recorder.computed == ["parse"]


def test_results_without_signatures_beside_a_failed_item_count_by_their_values() -> None:
    numbers = iter([1, 2, 1, 2, 1, 3])

    @node(output_name="page", cache=False)
    def draw(document: str) -> int:
        if document == "bad":
            raise ParseError(document)
        return next(numbers)

    recorder, pipeline = studied(MemoryCache(), parse_all(draw), Pipeline([add_up]).as_node())
    inputs = {"documents": ["a", "bad", "b"]}
    assert pipeline.run(inputs)["total"] == 3
    recorder.clear()
    assert pipeline.run(inputs)["total"] == 3
    assert recorder.computed == ["draw"] * 3
    assert pipeline.run(inputs)["total"] == 4


@node(output_name="total")
def add_up(pages: list[Any]) -> int:
    return sum(page for page in pages if isinstance(page, int))


def test_a_list_from_a_pipeline_without_a_cache_counts_by_its_values() -> None:
    @node(output_name="page")
    def measure(document: str) -> int:
        return len(document) if document != "bad" else int(document)

    @node(output_name="double")
    def twice(page: int) -> int:
        return 2 * page

    uncached = Pipeline([measure], cache=False).as_node(
        input_mapping={"documents": "document"},
        output_mapping={"page": "pages"},
        map_over="documents",
        on_error="collect",
        name="measure_all",
    )
    double = Pipeline([twice]).as_node(
        input_mapping={"pages": "page"}, output_mapping={"double": "doubles"}, map_over="pages", on_error="collect"
    )
    recorder, pipeline = studied(MemoryCache(), uncached, add_up, double)
    for other in ("bad", "good"):
        assert pipeline.run({"documents": ["a", other, "b"]})["doubles"][::2] == [2, 2]
        assert pipeline.run({"documents": ["aaa", other, "b"]})["total"] == (4 if other == "bad" else 8)
        recorder.clear()
        pipeline.run({"documents": ["aaa", other, "b"]})
        assert recorder.computed == ["measure"] * 3


# --- what of a failure counts ------------------------------------------------------------------------------------


def failure(error: BaseException | None = None, **changed: Any) -> Failure:
    error = error if error is not None else ParseError("bad")
    return Failure(error, "ParseError: bad", 1, ("study", "parse"))._replace(**changed)


def caused_by(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


def noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return error


def test_every_part_of_a_failure_counts() -> None:
    different = [
        failure(),
        failure(ParseError("worse")),
        failure(ParseError("bad", line=3)),
        failure(ValueError("bad")),
        failure(noted(ParseError("bad"), "in chapter 3")),
        failure(caused_by(ParseError("bad"), KeyError("a"))),
        failure(caused_by(ParseError("bad"), KeyError("b"))),
        failure(traceback_text="ParseError: bad, and this"),
        failure(item_index=2),
        failure(node_path=("study", "read")),
        failure(ExceptionGroup("several", [ParseError("a")])),
        failure(ExceptionGroup("several", [ParseError("b")])),
    ]
    assert len({digest(one) for one in different}) == len(different)
    assert digest(failure()) == digest(failure())


def test_errors_that_led_to_each_other_in_a_circle_are_identified() -> None:
    first, second = ValueError("a"), KeyError("b")
    first.__context__, second.__context__ = second, first
    assert digest(failure(first)) != digest(failure(ValueError("a")))
    assert digest(first) != digest(ValueError("a"))


def test_an_exception_counts_with_what_led_to_it_and_what_only_c_shows() -> None:
    def chained(cause: BaseException | None) -> BaseException:
        return caused_by(ValueError("bad"), cause)

    different = [
        chained(None),
        chained(KeyError("a")),
        chained(KeyError("b")),
        AttributeError("bad", name="a"),
        AttributeError("bad", name="b"),
        ImportError("bad", name="a", path="x"),
        ImportError("bad", name="a", path="y"),
        OSError(2, "gone", "a"),
        OSError(2, "gone", "b"),
    ]
    assert len({digest(one) for one in different}) == len(different)


FAILING = """
def deeper(document):
    raise ValueError(f"{document} in {object()!r}")

def parse(document):
    return deeper(document)
"""


def test_places_in_files_and_addresses_do_not_count(load_module: LoadModule) -> None:
    def failed(source: str, note: str) -> Failure:
        try:
            load_module(source).parse("bad")
        except ValueError as error:
            error.add_note(f"in node 'parse' ({note}) of pipeline study; its inputs: document; backend: {note}")
            return Failure(error, "".join(traceback.format_exception(error)), 1, ("study", "parse"))
        raise AssertionError

    first = failed(FAILING, "one.py:3")
    moved = failed("\n\n# moved" + FAILING, "two.py:6")
    assert first.traceback_text != moved.traceback_text
    assert digest(first) == digest(moved)
    elsewhere = failed(FAILING.replace("deeper", "elsewhere"), "one.py:3")
    assert digest(first) != digest(elsewhere)


# --- what cannot be identified ------------------------------------------------------------------------------------


class HoldsALock(Exception):  # noqa: N818
    def __init__(self) -> None:
        super().__init__("bad")
        self.lock = threading.Lock()


def test_an_error_that_cannot_be_identified_is_said_once_and_explained() -> None:
    @node(output_name="page", name="parse")
    def hold(document: str) -> list[str]:
        if document == "bad":
            raise HoldsALock
        return document.split()

    recorder, pipeline = studied(MemoryCache(), parse_all(hold), flatten, build_index, evaluate_all())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline.run(INPUTS)
    [warning] = caught
    assert warning.category is CacheWarning
    assert str(warning.message).startswith("'flatten': runs uncached, because pages[2], a failed item")
    assert ".error.lock is a _thread.lock" in str(warning.message)
    recorder.clear()
    with pytest.warns(CacheWarning):
        pipeline.run(INPUTS)
    assert recorder.computed == ["parse", "flatten"]  # what flatten made is known by its value
    uncached = "runs uncached after failed items of `parse_all`, since their errors cannot be identified"
    assert pipeline.explain(INPUTS)["flatten"].reasons == (uncached,)


# --- explain -----------------------------------------------------------------------------------------------------


def test_explain_says_that_results_are_found_if_an_item_fails_again() -> None:
    _, pipeline = studied(MemoryCache())
    pipeline.run(INPUTS)
    explanation = pipeline.explain(INPUTS)
    assert (explanation["parse"].hits, explanation["parse"].runs) == (3, 1)
    found_again = "computed from failed items of `parse_all`: found again if they fail in the same way"
    for name in ("flatten", "build_index"):
        assert (explanation[name].status, explanation[name].reasons) == ("unknown", (found_again,))
    assert explanation["evaluate"].status == "unknown"


@pytest.mark.parametrize(
    "changed",
    [{"documents": ["to be", "or not", "better", "to be"]}, {"case": "upper"}],
    ids=["the item is mended", "another input changes"],
)
def test_explain_says_what_runs_for_certain_after_a_failed_item(changed: dict[str, Any]) -> None:
    _, pipeline = studied(MemoryCache())
    pipeline.run(INPUTS)
    mended = {**INPUTS, **changed}
    if "documents" in changed:
        Pipeline([parse], cache=pipeline.cache).map({"document": changed["documents"]}, "document")
    assert pipeline.explain(mended)["build_index"].status == "run"


def test_a_list_depends_on_all_that_may_fail_beside_it() -> None:
    """A failed item has a `Failure` in the place of every output, also of one that was found before."""

    @node(output_name="v")
    def make(x: int) -> int:
        return x

    @node(output_name="checked")
    def check(x: int, is_strict: bool) -> int:
        if is_strict and x == 1:
            raise ValueError("no")
        return x

    @node(output_name="number")
    def count(vs: list[object]) -> int:
        return sum(isinstance(v, int) for v in vs)

    mapped = Pipeline([make, check], name="m").as_node({"xs": "x"}, {"v": "vs"}, map_over="xs", on_error="collect")
    pipeline = Pipeline([mapped, count], cache=MemoryCache())
    for _ in range(2):
        assert pipeline.run({"xs": [1, 2], "is_strict": False})["number"] == 2
        assert pipeline.run({"xs": [1, 2], "is_strict": True})["number"] == 1


def test_a_library_that_pickles_exceptions_with_their_tracebacks_does_not_change_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`distributed` brings tblib, which registers reducers for all classes of exceptions when it is imported."""

    def fail() -> Failure:
        try:
            raise LookupError("nothing there")
        except LookupError as error:
            return Failure.of(error, 0, ("outer", "fetch"))

    def reduce(error: BaseException) -> Any:
        return type(error), error.args, {"traceback": error.__traceback__}

    before = digest(fail())
    reduce.__module__ = "tblib.pickling_support"
    monkeypatch.setitem(copyreg.dispatch_table, LookupError, reduce)
    assert digest(fail()) == before
