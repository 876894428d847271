"""Nodes and nested pipelines that run on conditions: what is skipped, who gets `SKIPPED`, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from hypernodes import (
    SKIPPED,
    DuplicateOutputError,
    ExecutionError,
    Failure,
    InvalidNodeError,
    LocalBackend,
    MemoryCache,
    MissingInputError,
    Node,
    Pipeline,
    PipelineCallback,
    SkippedOutputError,
    SubprocessBackend,
    failures,
    ifelse,
    node,
    route,
)
from tests.semantics.modes import MODES, REMOTE_MODES, Modes, local_backend, subprocess_backend


@node(output_name="is_pdf")
def look(doc: str) -> bool:
    return doc.endswith("pdf")


@node(output_name="text", when="is_pdf")
def read_pdf(doc: str) -> str:
    return f"pdf {doc}"


@node(output_name="text", unless="is_pdf")
def read_page(doc: str) -> str:
    return f"page {doc}"


@node(output_name="size")
def measure(text: str) -> int:
    return len(text)


@node(output_name="pages", when="is_pdf")
def count_pages(doc: str) -> int:
    return 3


@node(output_name="per_page")
def divide(size: int, pages: int) -> float:
    return size / pages


@node(output_name="line", optional="pages")
def describe(text: str, pages: int) -> str:
    return text if pages is SKIPPED else f"{text}, {pages} pages"


PARSING = Pipeline([look, read_pdf, read_page, measure, count_pages, divide, describe], name="parsing")
PDF = {"is_pdf": True, "text": "pdf a.pdf", "size": 9, "pages": 3, "per_page": 3.0, "line": "pdf a.pdf, 3 pages"}
PAGE = {"is_pdf": False, "text": "page b", "size": 6, "pages": SKIPPED, "per_page": SKIPPED, "line": "page b"}


class Started(PipelineCallback):
    def __init__(self) -> None:
        self.nodes: list[str] = []

    def on_node_start(self, node_id: str, inputs: Any, ctx: Any) -> None:
        self.nodes.append(node_id)


# --- what runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_cached", [False, True])
def test_one_of_two_nodes_makes_it_and_what_needs_a_skipped_one_is_skipped(modes: Modes, is_cached: bool) -> None:
    pipeline = PARSING.with_backend(local_backend(modes)).with_cache(MemoryCache() if is_cached else None)
    for _ in range(2):
        assert pipeline.run({"doc": "a.pdf"}) == PDF
        assert pipeline.run({"doc": "b"}) == PAGE
        found = pipeline.map({"doc": ["a.pdf", "b", "a.pdf"]}, "doc")
        assert found == {name: [PDF[name], PAGE[name], PDF[name]] for name in PDF}


def test_skipped_nodes_are_neither_called_nor_reported() -> None:
    started = Started()
    PARSING.with_callbacks([started]).run({"doc": "b"})
    assert started.nodes == ["look", "read_page", "measure", "describe"]


def test_what_only_a_skipped_node_needs_does_not_run() -> None:
    called: list[str] = []

    @node(output_name="raw")
    def load(doc: str) -> str:
        called.append("load")
        return doc

    @node(output_name="parsed", when="is_pdf")
    def parse(raw: str) -> str:
        return raw

    pipeline = Pipeline([look, load, parse])
    assert pipeline.run({"doc": "b"}, "is_pdf") == {"is_pdf": False}
    pipeline = pipeline.with_outputs(["parsed"])
    assert pipeline.run({"doc": "b"}) == {"parsed": SKIPPED}
    assert not called
    assert pipeline.run({"doc": "b.pdf"}) == {"parsed": "b.pdf"}
    assert called == ["load"]


def test_a_condition_is_decided_before_anything_behind_it_runs() -> None:
    """The node has two inputs; the one that is expensive is not computed for a node that is skipped."""

    @node(output_name="expensive")
    def compute(doc: str) -> str:
        raise AssertionError("not needed")

    @node(output_name="both")
    def join(pages: int, expensive: str) -> str:
        return f"{pages} {expensive}"

    pipeline = Pipeline([look, count_pages, compute, join], outputs=["both"])
    for mode in ("sequential", "threaded"):
        assert pipeline.with_backend(LocalBackend(node_execution=mode)).run({"doc": "b"}) == {"both": SKIPPED}


@pytest.mark.parametrize(
    ("options", "runs_for"),
    [
        ({"when": "kind"}, ["pdf", "page", "other"]),
        ({"unless": "kind"}, [""]),
        ({"when": {"kind": "pdf"}}, ["pdf"]),
        ({"when": {"kind": ("pdf", "page")}}, ["pdf", "page"]),
        ({"when": {"kind": {"pdf"}}}, ["pdf"]),
        ({"unless": {"kind": ["pdf", ""]}}, ["page", "other"]),
        ({"when": "kind", "unless": {"kind": "other"}}, ["pdf", "page"]),
    ],
)
def test_conditions_are_on_the_truth_of_a_value_or_on_equality(options: dict[str, Any], runs_for: list[str]) -> None:
    made = Node(lambda: 1, "y", **options)
    kinds = ["pdf", "page", "other", ""]
    found = Pipeline([made]).map({"kind": kinds}, "kind")["y"]
    assert [kind for kind, value in zip(kinds, found, strict=True) if value == 1] == runs_for


def test_ifelse_and_route_give_nodes_and_pipelines_their_conditions() -> None:
    @node(output_name="n")
    def one() -> int:
        return 1

    @node(output_name="m")
    def many(x: int) -> int:
        return x

    @node(output_name="n")
    def double(m: int) -> int:
        return 2 * m

    inner = Pipeline([many, double], outputs="n", name="inner")
    pipeline = Pipeline(ifelse("is_big", inner, one))
    assert pipeline.map({"is_big": [0, 1], "x": [4, 5]}, ["is_big", "x"]) == {"n": [1, 10]}
    pipeline = Pipeline(route("kind", {"a": one, "b": [many, double]}))
    assert pipeline.map({"kind": ["a", "b", "c"], "x": 3}, "kind", output_name="n") == {"n": [1, 6, SKIPPED]}
    pipeline = Pipeline(route("kind", {"a": one}, otherwise=inner))
    assert pipeline.map({"kind": ["a", "b", "c"], "x": 3}, "kind") == {"n": [1, 6, 6]}


def test_a_nested_pipeline_with_a_condition_runs_or_is_skipped_as_a_whole() -> None:
    inner = Pipeline([measure], name="inner")
    for nested in (inner, inner.with_backend(LocalBackend())):
        pipeline = Pipeline([nested.as_node(when="wanted", prefix="text_")])
        assert pipeline.run({"text": "abc", "wanted": True}) == {"text_size": 3}
        assert pipeline.run({"text": "abc", "wanted": False}) == {"text_size": SKIPPED}
        mapped = Pipeline([nested.as_node({"texts": "text"}, map_over="texts", when="wanted")])
        assert mapped.run({"texts": ["a", "bc"], "wanted": 1}) == {"size": [1, 2]}
        assert mapped.run({"texts": ["a", "bc"], "wanted": 0}) == {"size": SKIPPED}


@pytest.mark.parametrize("modes", REMOTE_MODES)
def test_lists_of_mapped_pipelines_hold_skipped_in_the_place_of_an_item(modes: Modes) -> None:
    @node(output_name="total", skip_failures="sizes")
    def add(sizes: list[int]) -> int:
        return sum(sizes)

    parse = PARSING.as_node({"docs": "doc"}, {"pages": "page_counts", "per_page": "sizes"}, map_over="docs", outputs=[])
    shrink = Pipeline([Node(lambda pages: pages - 1, "fewer")]).as_node(
        {"page_counts": "pages"}, map_over="page_counts"
    )
    pipeline = Pipeline([parse, shrink, add], cache=MemoryCache()).with_backend(local_backend(modes))
    expected = {"page_counts": [3, SKIPPED], "sizes": [3.0, SKIPPED], "fewer": [2, SKIPPED], "total": 3.0}
    assert pipeline.run({"docs": ["a.pdf", "b"]}) == expected
    assert pipeline.run({"docs": ["a.pdf", "b"]}) == expected


def test_a_node_that_gets_a_list_with_skipped_items_unprepared_is_told_how_to_leave_them_out() -> None:
    @node(output_name="total")
    def add(pages: list[int]) -> int:
        return sum(pages)

    pipeline = Pipeline([PARSING.as_node({"docs": "doc"}, map_over="docs", outputs="pages"), add])
    with pytest.raises(TypeError) as caught:
        pipeline.run({"docs": ["a.pdf", "b"]})
    assert any("'pages' holds a skipped item" in note for note in caught.value.__notes__)


# --- the cache -----------------------------------------------------------------------------------------------------


def test_only_items_that_take_an_edited_branch_are_computed_again(load_module: Callable[[str], ModuleType]) -> None:
    source = """
        from hypernodes import node
        @node(output_name="is_pdf")
        def look(doc):
            return doc.endswith("pdf")
        @node(output_name="text", when="is_pdf")
        def read_pdf(doc):
            return "pdf " + doc
        @node(output_name="text", unless="is_pdf")
        def read_page(doc):
            return "page " + doc
        @node(output_name="size")
        def measure(text):
            return len(text)
    """
    cache, started = MemoryCache(), Started()

    def run(text: str) -> list[str]:
        module = load_module(text)
        nodes = [module.look, module.read_pdf, module.read_page, module.measure]
        inner = Pipeline(nodes, name="inner").as_node({"docs": "doc"}, map_over="docs")
        outer = Pipeline([inner], cache=cache, callbacks=[started])
        started.nodes.clear()
        outer.run({"docs": ["a.pdf", "b", "c"]}, "size")
        return sorted(started.nodes)

    assert len(run(source)) == 9
    assert run(source) == []
    assert run(source.replace('"pdf " +', '"PDF: " +')) == ["measure", "read_pdf"]


def test_a_condition_is_no_part_of_the_signature_of_a_node() -> None:
    def double(x: int) -> int:
        return 2 * x

    cache, started = MemoryCache(), Started()
    for options in ({}, {"when": "x"}, {"unless": {"x": 0}}):
        Pipeline([Node(double, "y", **options)], cache=cache, callbacks=[started]).run({"x": 4})
    assert started.nodes == ["double"]


def test_explain_tells_what_is_skipped_and_why() -> None:
    pipeline = PARSING.with_cache(MemoryCache())
    assert pipeline.explain({"doc": "b"})["read_pdf"].status == "unknown"
    pipeline.run({"doc": "b"})
    explanation = pipeline.explain({"doc": "b"})
    assert explanation.is_fully_cached
    assert explanation["read_pdf"].status == "skipped"
    assert explanation["read_pdf"].reasons == ("`is_pdf` is False (runs only when='is_pdf')",)
    assert explanation["divide"].reasons == ("`pages` was skipped",)
    assert "read_pdf     skipped" in repr(explanation)
    over_items = pipeline.explain({"doc": ["b", "b"]}, map_over="doc")
    assert (over_items["look"].hits, over_items["read_pdf"].skipped) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("modes", REMOTE_MODES)
def test_another_process_skips_the_same_nodes_and_is_not_asked_for_what_is_cached(modes: Modes) -> None:
    node_execution, map_execution = modes
    docs = ["a.pdf", "b", "a.pdf"]
    inner = PARSING.as_node({"docs": "doc"}, {"size": "sizes"}, map_over="docs")
    outer = Pipeline([inner], cache=MemoryCache())
    with SubprocessBackend(node_execution=node_execution, map_execution=map_execution) as backend:
        for pipeline in (PARSING, PARSING.with_cache(MemoryCache())):
            there = pipeline.with_backend(backend)
            for _ in range(2):
                assert there.run({"doc": "a.pdf"}) == PDF
                assert there.run({"doc": "b"}) == PAGE
                assert there.map({"doc": docs}, "doc")["per_page"] == [3.0, SKIPPED, 3.0]
            with pytest.raises(SkippedOutputError, match="pages"):
                there.run({"doc": "b"}, "pages")
        there = outer.with_backend(backend)
        assert there.run({"docs": docs})["pages"] == [3, SKIPPED, 3]
        assert not backend.preflight(there, {"docs": docs}).needs_call


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_run_that_asks_for_an_output_that_is_skipped_says_on_which_condition() -> None:
    with pytest.raises(SkippedOutputError) as caught:
        PARSING.run({"doc": "b"}, "per_page")
    assert caught.value.output_name == "per_page"
    assert "node 'count_pages' runs only when='is_pdf'" in str(caught.value)
    assert PARSING.map({"doc": ["b"]}, "doc", output_name="per_page") == {"per_page": [SKIPPED]}


def test_conditions_that_do_not_exclude_each_other_are_refused_where_that_can_be_seen() -> None:
    def make(**options: Any) -> Node[..., Any]:
        return Node(lambda x: x, "y", **options)

    for first, second in [
        ({"when": "a"}, {"when": "a"}),
        ({"when": "a"}, {"when": {"a": 1}}),
        ({"when": {"a": (1, 2)}}, {"when": {"a": (2, 3)}}),
        ({"unless": {"a": 1}}, {"unless": {"a": 2}}),
        ({"when": {"a": 1}}, {"unless": {"a": 2}}),
    ]:
        with pytest.raises(DuplicateOutputError, match="do not exclude each other"):
            Pipeline([make(**first), make(**second)])
    with pytest.raises(DuplicateOutputError, match="Only one of them has a condition"):
        Pipeline([make(when="a"), make()])
    for first, second in [
        ({"when": "a"}, {"unless": "a"}),
        ({"when": {"a": 1}}, {"when": {"a": 2}}),
        ({"when": {"a": 1}}, {"unless": {"a": (1, 2)}}),
        ({"when": "a"}, {"when": {"a": (0, None)}}),
        ({"when": "a"}, {"when": "b"}),
    ]:
        Pipeline([make(**first), make(**second)])


@pytest.mark.parametrize("modes", REMOTE_MODES)
def test_two_nodes_whose_conditions_hold_at_the_same_time_are_an_error_that_names_both(modes: Modes) -> None:
    first, second = Node(lambda: 1, "y", when="a", name="f"), Node(lambda: 2, "y", when="b", name="g")
    pipeline = Pipeline([first, second]).with_backend(local_backend(modes))
    assert pipeline.run({"a": True, "b": False}) == {"y": 1}
    assert pipeline.run({"a": False, "b": False}) == {"y": SKIPPED}
    with pytest.raises(ExecutionError, match=r"'f' \(when='a'\) and 'g' \(when='b'\)") as caught:
        pipeline.run({"a": True, "b": True})
    assert any("in node 'g'" in note for note in caught.value.__notes__)
    columns = {"a": [1, 0, 1], "b": [0, 1, 1]}
    found = pipeline.map(columns, ["a", "b"], on_error="collect")
    assert found["y"][:2] == [1, 2]
    assert [failure.item_index for failure in failures(found)] == [2]
    with pytest.raises(ExecutionError, match="hold at the same time"):
        pipeline.map(columns, ["a", "b"])


class Undecided:
    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


def test_a_value_without_a_truth_value_is_named_with_the_condition() -> None:
    made = Node(lambda: 1, "y", when="a", name="f")
    with pytest.raises(ExecutionError, match=r"when='a' of node 'f' cannot be checked: 'a' is .* is ambiguous"):
        Pipeline([made]).run({"a": Undecided()})
    found = Pipeline([made]).map({"a": [1, Undecided(), 0]}, "a", on_error="collect")["y"]
    assert (found[0], type(found[1]), found[2]) == (1, Failure, SKIPPED)


def test_what_a_condition_is_on_has_to_be_given() -> None:
    with pytest.raises(MissingInputError, match=r"'is_pdf' \(for node 'read_pdf'\)"):
        Pipeline([read_pdf]).run({"doc": "a"})
    assert Pipeline([read_pdf]).inputs == ("doc", "is_pdf")
    assert Pipeline([Node(lambda x, k=1: x, "y", when="k")]).run({"x": 5}) == {"y": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"when": 3}, "when of node 'f' must be the name of an input or output, or a dict"),
        ({"when": {}}, "when of node 'f' must be"),
        ({"when": "is pdf"}, "'is pdf' is not such a name"),
        ({"when": {1: 2}}, "1 is not such a name"),
        ({"when": {"a": ()}}, "when of node 'f' lists no value for 'a'"),
        ({"unless": {"a": 1, "b": 2}}, "names several values, 'a', 'b'"),
        ({"when": "a", "unless": "a"}, "node 'f' can never run: when='a' and unless='a' exclude each other"),
        ({"optional": "z"}, "optional of node 'f' names 'z', which is not a parameter"),
    ],
)
def test_options_that_mean_nothing_are_refused_when_the_node_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNodeError) as caught:
        Node(lambda x: x, "y", name="f", **options)
    assert message in str(caught.value)


def test_ifelse_and_route_refuse_what_is_no_node() -> None:
    for make in (
        lambda: ifelse("a", len),  # type: ignore[arg-type]
        lambda: ifelse("a b", look),
        lambda: route("a", {}),
        lambda: route("a", {1: 3}),  # type: ignore[dict-item]
    ):
        with pytest.raises(InvalidNodeError):
            make()


# --- SKIPPED -------------------------------------------------------------------------------------------------------


def test_skipped_is_one_object_also_after_copying_and_pickling() -> None:
    assert not SKIPPED
    assert repr(SKIPPED) == "SKIPPED"
    assert pickle.loads(pickle.dumps(SKIPPED)) is SKIPPED
    assert copy.deepcopy([SKIPPED]) == [SKIPPED]


def test_nodes_keep_their_conditions_when_they_are_pickled() -> None:
    made = Node(abs, "y", when={"k": (1, 2)}, optional="x", name="f").with_conditions(read_pdf.conditions)
    again = pickle.loads(pickle.dumps(made))
    assert (again.conditions, again.needs, again.optional) == (made.conditions, made.needs, made.optional)
    assert made.needs == ("x", "k", "is_pdf")


# --- lists with skipped items, and other backends ------------------------------------------------------------------


@pytest.mark.parametrize("map_mode", ["zip", "product"])
def test_an_item_that_was_skipped_stays_skipped_where_another_item_has_the_result(map_mode: Any) -> None:
    """The requested output does not depend on the mapped-over value, so that all items have one result."""

    @node(output_name="v", when="k")
    def make(k: int) -> int:
        return k

    @node(output_name="w")
    def pass_on(b: str) -> str:
        return b

    first = make.as_node({"ks": "k"}, {"v": "vs"}, map_over="ks")
    inner = Pipeline([pass_on, Node(lambda v: v, "u")], name="use", backend=LocalBackend())
    use = inner.as_node({"vs": "v"}, {"w": "ws"}, outputs=["w"], map_over="vs", map_mode=map_mode)
    pipeline = Pipeline([first, use], cache=MemoryCache())
    for _ in range(3):
        assert pipeline.run({"ks": [1, 0], "b": "B"}) == {"vs": [1, SKIPPED], "ws": ["B", SKIPPED]}


@pytest.mark.parametrize("is_cached", [False, True])
def test_whether_an_item_is_skipped_does_not_depend_on_what_is_asked_for(is_cached: bool) -> None:
    takes = Node(lambda v: ("o", v), "o", optional="v")
    needs = Node(lambda v: ("u", v), "u")
    use = Pipeline([takes, needs], name="use").as_node({"vs": "v"}, {"o": "os"}, map_over="vs", outputs=["o", "u"])
    pipeline = Pipeline([use], cache=MemoryCache() if is_cached else None)
    for output_name in (None, "os", None):
        assert pipeline.run({"vs": [1, SKIPPED]}, output_name)["os"] == [("o", 1), SKIPPED]


def test_explain_does_not_know_whether_a_nested_pipeline_elsewhere_skips_what_is_not_computed_yet() -> None:
    make = Node(lambda a: a, "v", unless={"k": 2}, name="make")
    inner = Pipeline([Node(lambda v: v, "w", name="use")], name="in", backend=LocalBackend())
    explanation = Pipeline([make, inner.as_node()], cache=MemoryCache()).explain({"a": 1, "k": 1})
    assert explanation["use"].status == "unknown"


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_values_that_cannot_be_compared_are_found_out_when_the_condition_is_checked() -> None:
    value = Incomparable()
    pipeline = Pipeline([Node(abs, "y", when={"c": value}), Node(abs, "y", unless={"c": value}, name="other")])
    with pytest.raises(ExecutionError, match="cannot be checked"):
        pipeline.run({"x": 1, "c": 3})


def test_a_set_of_values_is_the_same_condition_in_every_process() -> None:
    values = {"q", "r", "s", True, 5}
    assert Node(abs, "y", when={"c": values}).conditions == Node(abs, "y", when={"c": {*values}}).conditions
    assert Node(abs, "y", when={"c": values}).conditions[0].values == tuple(sorted(values, key=repr))


@pytest.mark.parametrize("modes", [("sequential", "sequential"), ("threaded", "parallel")])
def test_what_decides_an_item_is_sent_to_another_process_also_if_its_result_is_found_here(modes: Modes) -> None:
    pdf = Node(lambda kind: f"pdf of {kind}", "text", when={"kind": ("a", "b")}, name="pdf")
    page = Node(lambda kind: f"page of {kind}", "text", unless={"kind": ("a", "b")}, name="page")
    read = Pipeline([pdf, page], name="read").as_node({"kinds": "kind"}, {"text": "texts"}, map_over="kinds")
    pipeline = Pipeline([read], cache=MemoryCache())
    with subprocess_backend(modes) as backend:
        for kinds in (["a", "x"], ["a", "x", "b"], ["a", "x", "b", "y"]):
            texts = [f"{'pdf' if kind in 'ab' else 'page'} of {kind}" for kind in kinds]
            assert pipeline.with_backend(backend).run({"kinds": kinds}) == {"texts": texts}
