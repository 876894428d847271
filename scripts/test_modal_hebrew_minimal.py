"""The retrieval pattern at its smallest, on Modal: `python scripts/test_modal_hebrew_minimal.py [--live]`.

Documents are encoded one by one in a mapped pipeline, put into an index, and searched; encoder and index are mocks.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import modal
from modal_connection import connected, parse_live

from hypernodes import CallbackContext, MemoryCache, Pipeline, PipelineCallback, node
from hypernodes.backend import ModalBackend

VERSES = (
    "בראשית ברא אלהים את השמים ואת הארץ",
    "ויאמר אלהים יהי אור ויהי אור",
    "שמע ישראל יהוה אלהינו יהוה אחד",
    "הבל הבלים אמר קהלת הכל הבל",
    "על נהרות בבל שם ישבנו גם בכינו",
)
QUERIES = ("יהי אור", "נהרות בבל", "הבל הבלים")


@dataclass(frozen=True)
class Document:
    number: int
    text: str


@dataclass(frozen=True)
class Encoded:
    document: Document
    words: Mapping[str, int]


@dataclass(frozen=True)
class Prediction:
    query: str
    number: int
    score: int


class MockEncoder:
    """Encodes a text as its words."""

    def encode(self, text: str) -> Mapping[str, int]:
        return Counter(text.split())


class MockIndex:
    """Compares a query with every document."""

    def __init__(self, documents: list[Encoded]) -> None:
        self.documents = documents

    def search(self, words: Mapping[str, int]) -> tuple[Encoded, int]:
        scored = [(sum((Counter(each.words) & Counter(words)).values()), each) for each in self.documents]
        score, best = max(scored, key=lambda entry: entry[0])
        return best, score


@node(output_name="documents")
def load_documents(texts: tuple[str, ...]) -> list[Document]:
    return [Document(number, text) for number, text in enumerate(texts)]


@node(output_name="encoded")
def encode(document: Document, encoder: MockEncoder) -> Encoded:
    return Encoded(document, encoder.encode(document.text))


@node(output_name="index")
def build_index(all_encoded: list[Encoded]) -> MockIndex:
    return MockIndex(all_encoded)


@node(output_name="prediction")
def search(query: str, index: MockIndex, encoder: MockEncoder) -> Prediction:
    best, score = index.search(encoder.encode(query))
    return Prediction(query, best.document.number, score)


encode_all = Pipeline([encode], name="encode_one").as_node(
    name="encode_all",
    input_mapping={"documents": "document"},
    output_mapping={"encoded": "all_encoded"},
    map_over="documents",
)
search_all = Pipeline([search], name="search_one").as_node(
    name="search_all",
    input_mapping={"queries": "query"},
    output_mapping={"prediction": "predictions"},
    map_over="queries",
)


class Progress(PipelineCallback):
    """Prints what is computed, as it happens in the container."""

    def on_map_item_end(self, item_index: int, duration: float, ctx: CallbackContext) -> None:
        print(f"  {ctx.node_path[-1]}: item {item_index}")

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        if ctx.depth == 0:
            print(f"  {node_id}")


def main() -> int:
    """Run the job twice and print what it found; returns the exit status."""
    is_live = parse_live("The retrieval pattern at its smallest, on Modal.")
    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install("cloudpickle")
    with connected(is_live), ModalBackend(image=image, map_execution="threaded", max_workers=4) as backend:
        pipeline = Pipeline(
            nodes=[load_documents, encode_all, build_index, search_all],
            backend=backend,
            cache=MemoryCache(),
            callbacks=[Progress()],
            name="retrieval",
        )
        inputs = {"texts": VERSES, "queries": QUERIES, "encoder": MockEncoder()}
        print("The first run computes:")
        predictions = pipeline.run(inputs, output_name="predictions")["predictions"]
        print("The second run computes:")
        again = pipeline.run(inputs, output_name="predictions")["predictions"]
        print("  nothing")
    for prediction in predictions:
        print(f"Verse {prediction.number}, {prediction.score} words in common: \u2068{prediction.query}\u2069")
    assert [prediction.number for prediction in predictions] == [1, 4, 3]
    assert again == predictions
    return 0


if __name__ == "__main__":
    sys.exit(main())
