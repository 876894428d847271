"""What a pipeline and a nested pipeline show of their outputs, and what stays inside."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from hypernodes import (
    ConfigurationError,
    DuplicateOutputError,
    Failure,
    LocalBackend,
    MappingError,
    MemoryCache,
    MissingInputError,
    Node,
    Pipeline,
    UnknownInputError,
    UnknownOutputError,
    node,
)
from hypernodes.backend import SubprocessBackend
from tests.support import Recorder


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="vector")
def embed(clean: str, scale: int = 1) -> list[int]:
    return [ord(letter) * scale for letter in clean]


@node(output_name="length")
def measure(clean: str) -> int:
    if clean == "bad":
        raise ValueError(clean)
    return len(clean)


@node(output_name="best")
def search(vectors: list[list[int]], query_vector: list[int]) -> int:
    return vectors.index(query_vector)


encode = Pipeline([strip, embed, measure], name="encode")
DOCUMENTS = {"documents": [" a", "b "], "query": "b"}
PLACES = [
    pytest.param(None, id="inlined"),
    pytest.param(LocalBackend(), id="backend_of_its_own"),
    pytest.param(SubprocessBackend(), id="subprocess", marks=pytest.mark.slow),
]


def retrieval(inner: Pipeline = encode, **settings: Any) -> Pipeline:
    """Return a pipeline that encodes documents and a query with the same pipeline."""
    documents = inner.as_node(
        {"documents": "text"}, {"vector": "vectors"}, map_over="documents", outputs=[], name="documents"
    )
    query = inner.as_node({"query": "text"}, outputs="vector", prefix="query_")
    return Pipeline([documents, query, search], **settings)


# --- as_node ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", PLACES)
def test_one_pipeline_encodes_documents_and_queries_in_one_pipeline(backend: Any) -> None:
    pipeline = retrieval(encode.with_backend(backend))
    assert pipeline.outputs == ("vectors", "query_vector", "best")
    assert pipeline.run(DOCUMENTS) == {"vectors": [[97], [98]], "query_vector": [98], "best": 1}


@pytest.mark.parametrize("backend", PLACES)
def test_what_is_not_shown_is_computed_only_where_it_is_needed(backend: Any) -> None:
    recorder = Recorder()
    pipeline = retrieval(encode.with_backend(backend), callbacks=[recorder])
    pipeline.run(DOCUMENTS)
    assert sorted(recorder.computed) == ["embed"] * 3 + ["search"] + ["strip"] * 3


def test_what_a_mapping_names_is_shown_besides() -> None:
    shown = encode.as_node(output_mapping={"length": "size"}, outputs="vector")
    assert shown.outputs == ("vector", "size")
    assert Pipeline([shown]).run({"text": "a "}) == {"vector": [97], "size": 1}


def test_without_outputs_everything_is_shown() -> None:
    assert encode.as_node().outputs == ("clean", "vector", "length")
    assert encode.as_node(output_mapping={"length": "size"}).outputs == ("clean", "vector", "size")


def test_a_prefix_renames_all_outputs_that_no_mapping_renames() -> None:
    prefixed = encode.as_node(output_mapping={"length": "size"}, prefix="query_")
    assert prefixed.outputs == ("query_clean", "query_vector", "size")
    assert prefixed.name == "query_encode"
    assert encode.as_node(prefix="query_", name="queries").name == "queries"


def test_two_nested_pipelines_that_show_one_name_are_told_how_not_to() -> None:
    with pytest.raises(DuplicateOutputError, match=r"as_node\(outputs=\[...\]\), or rename them with as_node\(prefix"):
        Pipeline([encode, encode.as_node({"query": "text"}, name="query")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": ["vectr"]}, r"outputs of node 'encode' names 'vectr'.*did you mean 'vector'\?"),
        ({"outputs": ["vectors"], "output_mapping": {"vector": "vectors"}}, r"did you mean 'vector'\?"),
        ({"outputs": ["query_vector"], "prefix": "query_"}, r"did you mean 'vector'\?"),
        ({"outputs": []}, "outputs of node 'encode' is empty"),
        ({"output_mapping": {"clean": "q_vector"}, "prefix": "q_"}, "two outputs the name 'q_vector'"),
    ],
)
def test_outputs_that_do_not_exist_or_collide_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        encode.as_node(**arguments)


@pytest.mark.parametrize("arguments", [{"outputs": 3}, {"outputs": ["vector", 3]}, {"prefix": 3}, {"prefix": "a b"}])
def test_outputs_and_prefixes_of_other_kinds_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"outputs must be|prefix must be"):
        encode.as_node(**arguments)


def test_a_parameter_that_names_what_stays_inside_is_told_so() -> None:
    pipeline = Pipeline([encode.as_node(outputs="vector"), Node(lambda length: length, "y", name="last")])
    with pytest.raises(MissingInputError, match="'length' stays inside 'encode', which does not show it; add it to"):
        pipeline.run({"text": "a"})


def test_a_value_for_what_stays_inside_is_refused_and_told_so() -> None:
    pipeline = Pipeline([Pipeline([encode.as_node(outputs="vector")], name="middle")])
    with pytest.raises(UnknownInputError, match=r"no input 'length' \(it stays inside 'middle/encode', which does not"):
        pipeline.run({"text": "a", "length": 3})


# --- the outputs of a pipeline ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: Pipeline(encode.nodes, outputs=["vector"]), lambda: encode.with_outputs("vector")]
)
def test_a_pipeline_that_shows_some_outputs_computes_those(make: Any) -> None:
    recorder = Recorder()
    pipeline = make().with_callbacks([recorder])
    assert pipeline.outputs == ("vector",)
    assert pipeline.run({"text": "a"}) == {"vector": [97]}
    assert pipeline.map({"text": ["a"]}, map_over="text") == {"vector": [[97]]}
    assert list(pipeline.map_iter({"text": ["a"]}, map_over="text")) == [{"vector": [97]}]
    assert "measure" not in recorder.computed
    assert pipeline.run({"text": "a"}, "length") == {"length": 1}  # the others can be asked for
    assert Pipeline([pipeline]).outputs == ("vector",)
    assert pipeline.as_node(outputs="length").outputs == ("length",)
    assert pipeline.with_name("other").with_cache(MemoryCache()).outputs == ("vector",)
    assert pipeline.with_outputs(None).outputs == ("clean", "vector", "length")
    assert pickle.loads(pickle.dumps(pipeline.with_callbacks(None))).outputs == ("vector",)


def test_outputs_that_no_node_makes_are_refused() -> None:
    with pytest.raises(
        UnknownOutputError, match=r"output 'vectr' not found in pipeline '.*' \(did you mean 'vector', which"
    ):
        Pipeline(encode.nodes, outputs=["vectr"])
    with pytest.raises(ConfigurationError, match="is empty"):
        encode.with_outputs([])
    with pytest.raises(ConfigurationError, match="a path is for output_name"):
        Pipeline([encode.as_node(outputs="vector")], outputs=["encode/length"])


def test_a_value_for_an_output_that_is_not_shown_replaces_its_node() -> None:
    recorder = Recorder()
    pipeline = encode.with_outputs("vector").with_callbacks([recorder])
    assert pipeline.run({"clean": "b"}) == {"vector": [98]}
    assert recorder.computed == ["embed"]


# --- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", PLACES)
@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["uncached", "cached"])
def test_what_stays_inside_is_reached_by_its_path(backend: Any, cache: MemoryCache | None) -> None:
    pipeline = retrieval(encode.with_backend(backend), cache=cache)
    outer = Pipeline([pipeline], name="outer")
    for _ in range(2):
        assert pipeline.run(DOCUMENTS, "documents/clean") == {"documents/clean": ["a", "b"]}
        asked = ["query_encode/length", "query_encode/vector", "query_vector"]
        assert pipeline.run(DOCUMENTS, asked) == {asked[0]: 1, asked[1]: [98], asked[2]: [98]}
        inside = f"{pipeline.id}/documents/length"
        assert outer.run(DOCUMENTS, inside) == {inside: [1, 1]}
        over = pipeline.map({**DOCUMENTS, "query": ["a", "b"]}, map_over="query", output_name="documents/length")
        assert over == {"documents/length": [[1, 1], [1, 1]]}
    if cache is not None:
        assert pipeline.explain(DOCUMENTS, "documents/clean").is_fully_cached


@pytest.mark.parametrize("backend", [None, LocalBackend()], ids=["inlined", "backends_of_their_own"])
@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["uncached", "cached"])
def test_the_path_to_an_output_that_a_given_value_replaces_gives_that_value(
    backend: Any, cache: MemoryCache | None
) -> None:
    inner = Pipeline([strip, measure], name="inner", backend=backend)
    middle = Pipeline([inner.as_node(output_mapping={"length": "size"})], name="middle", backend=backend)
    outer = Pipeline([middle], cache=cache)
    paths = ["middle/inner/clean", "middle/inner/length", "middle/size"]
    for _ in range(2):
        assert outer.run({"text": " a ", "size": 7}, paths) == dict(zip(paths, ["a", 7, 7], strict=True))
        assert outer.run({"text": " a "}, paths) == dict(zip(paths, ["a", 1, 1], strict=True))


def test_failed_items_are_in_what_a_path_gives() -> None:
    collecting = encode.as_node(map_over="text", on_error="collect", outputs="vector")
    lengths = Pipeline([collecting]).run({"text": ["a", "bad"]}, "encode/length")["encode/length"]
    assert lengths[0] == 1
    assert isinstance(lengths[1], Failure)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "documents/claen",
            r"output 'claen' not found in pipeline 'documents' \(did you mean 'clean'\?\); it has: clean, ve",
        ),
        ("docments/clean", r"no nested pipeline is called 'docments' \(did you mean 'documents'\?\)"),
        ("search/best", "no nested pipeline is called 'search'"),
        ("documents/clean/x", "no nested pipeline of 'documents' is called 'clean'"),
        ("documents/", "output '' not found in pipeline 'documents'"),
        (
            "clean",
            r"output 'clean' not found in pipeline '.*' \(did you mean 'documents/clean', which is not shown\?\)",
        ),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, message: str) -> None:
    with pytest.raises(UnknownOutputError, match=message):
        retrieval().run(DOCUMENTS, path)


def test_a_path_that_two_nested_pipelines_have_is_refused() -> None:
    twice = [encode.as_node(output_mapping={"vector": f"v{i}"}, outputs=[]) for i in range(2)]
    with pytest.raises(UnknownOutputError, match=r"2 nested pipelines are called 'encode'; tell them apart"):
        Pipeline(twice).run({"text": "a"}, "encode/clean")
