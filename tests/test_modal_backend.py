"""`ModalBackend` step by step, from one node to a whole job; with `--live`, in Modal's cloud.

Without the option the control plane is one on this machine, and only the connection differs. See README_MODAL.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypernodes import DiskCache, MemoryCache, Pipeline, node
from hypernodes.backend import ModalBackend
from scripts.modal_connection import connected
from tests.support import Recorder


@dataclass(frozen=True)
class Document:
    text: str


@dataclass(frozen=True)
class Vector:
    numbers: tuple[float, ...]


class Encoder:
    """Counts letters."""

    def __init__(self, letters: str) -> None:
        self.letters = letters

    def encode(self, text: str) -> Vector:
        return Vector(tuple(float(text.count(letter)) for letter in self.letters))


@node(output_name="result")
def double(x: int) -> int:
    return 2 * x


@node(output_name="shifted")
def shift(result: int, by: int = 1) -> int:
    return result + by


@node(output_name=("smaller", "larger"))
def around(shifted: int) -> tuple[int, int]:
    return shifted - 1, shifted + 1


@node(output_name="total")
def add_up(results: list[int]) -> int:
    return sum(results)


@node(output_name="inverse")
def invert(x: int) -> float:
    return 1 / x


@node(output_name="documents")
def load_documents(count: int) -> list[Document]:
    return [Document("ab" * n) for n in range(count)]


@node(output_name="vector")
def encode(document: Document, encoder: Encoder) -> Vector:
    return encoder.encode(document.text)


@node(output_name="longest")
def find_longest(documents: list[Document], vectors: list[Vector]) -> Document:
    return max(zip(vectors, documents, strict=True), key=lambda pair: sum(pair[0].numbers))[1]


double_all = Pipeline([double], name="double_all").as_node(
    input_mapping={"xs": "x"}, output_mapping={"result": "results"}, map_over="xs"
)
encode_all = Pipeline([encode], name="encode_all").as_node(
    input_mapping={"documents": "document"}, output_mapping={"vector": "vectors"}, map_over="documents"
)


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[ModalBackend]:
    import modal

    is_live = request.config.getoption("--live")
    if not is_live:
        request.getfixturevalue("modal_loopback_session")  # is connected to from here on
    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install("cloudpickle")
    with (
        connected(is_live, has_own_plane=False),
        ModalBackend(image=image, map_execution="threaded", max_workers=8) as made,
    ):
        yield made


def test_01_one_node(backend):
    assert Pipeline(nodes=[double]).with_backend(backend).run(inputs={"x": 21}) == {"result": 42}


def test_02_nodes_that_depend_on_each_other(backend):
    outputs = Pipeline(nodes=[around, shift, double], backend=backend).run(inputs={"x": 1, "by": 10})
    assert outputs == {"result": 2, "shifted": 12, "smaller": 11, "larger": 13}


def test_03_only_what_is_asked_for(backend):
    assert Pipeline(nodes=[double, shift], backend=backend).run({"x": 1}, output_name="result") == {"result": 2}


def test_04_a_map(backend):
    found = Pipeline(nodes=[double], backend=backend).map(inputs={"x": [1, 2, 3]}, map_over="x")
    assert found == {"result": [2, 4, 6]}


def test_05_a_nested_and_a_mapped_pipeline(backend):
    assert Pipeline([double_all, add_up], backend=backend).run({"xs": [1, 2, 3]}) == {"results": [2, 4, 6], "total": 12}


def test_06_objects_of_the_callers_own_classes(backend):
    pipeline = Pipeline([encode], backend=backend)
    assert pipeline.run({"document": Document("abba"), "encoder": Encoder("ab")}) == {"vector": Vector((2.0, 2.0))}


def test_07_the_cache_and_the_callbacks_stay_here(backend):
    recorder = Recorder()
    pipeline = Pipeline([double_all, add_up], backend=backend, cache=MemoryCache(), callbacks=[recorder])
    pipeline.run({"xs": [1, 2]})
    assert recorder.computed.count("double") == 2
    recorder.clear()
    pipeline.run({"xs": [1, 2, 3]})
    assert recorder.computed.count("double") == 1
    recorder.clear()
    pipeline.run({"xs": [1, 2, 3]})
    assert recorder.computed == []


def test_08_an_error_in_a_node(backend):
    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline([invert], name="job", backend=backend).map({"x": [1, 0]}, map_over="x")
    assert "map item 1" in caught.value.__notes__[0]
    assert "modal" in caught.value.__notes__[0]


def test_09_a_larger_threaded_map(backend):
    numbers = list(range(2000))
    assert Pipeline([double], backend=backend).map({"x": numbers}, map_over="x")["result"] == [2 * x for x in numbers]


def test_10_a_whole_job(backend, tmp_path: Path):
    recorder = Recorder()
    pipeline = Pipeline(
        nodes=[load_documents, encode_all, find_longest],
        backend=backend,
        cache=DiskCache(path=tmp_path / "cache"),
        callbacks=[recorder],
        name="job",
    )
    first = pipeline.run(inputs={"count": 50, "encoder": Encoder("ab")}, output_name="longest")
    assert first == {"longest": Document("ab" * 49)}
    assert recorder.computed.count("encode") == 50
    recorder.clear()
    assert pipeline.run(inputs={"count": 50, "encoder": Encoder("ab")}, output_name="longest") == first
    assert recorder.computed == []
    pipeline.run(inputs={"count": 53, "encoder": Encoder("ab")})
    assert recorder.computed.count("encode") == 3
