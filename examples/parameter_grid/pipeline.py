"""Documents and queries, encoded by the same pipeline; search; and how well it works, for a grid of parameters.

documents ── split ── encode ×chunks ─┐
questions ─────────── encode ×questions ── search ── measure
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from hypernodes import Pipeline, node, resource

Vector = dict[str, float]


class Chunk(NamedTuple):
    """A piece of a document.

    Attributes:
        title: Title of the document.
        text: The piece.
    """

    title: str
    text: str


class Stemmer:
    """Reduces English words to their stems, very roughly; stands for a model that takes long to load."""

    def __init__(self, suffixes: Sequence[str]) -> None:
        self._ending = re.compile(f"(?<=...)({'|'.join(sorted(suffixes, key=len, reverse=True))})$")

    def stem(self, word: str) -> str:
        """Return the stem of a word in lower case."""
        return self._ending.sub("", word)


@resource
def stemmer(*suffixes: str) -> Iterator[Stemmer]:
    """A stemmer: made once in each process, wherever the pipeline runs."""
    yield Stemmer(suffixes)


# --- one text: a chunk of a document, or a question ---------------------------------------------------------------


@node(output_name="words")
def find_words(text: str, stemmer: Stemmer) -> list[str]:
    """The stems of the words in a text."""
    return [stemmer.stem(word) for word in re.findall(r"[a-z_]{2,}", text.lower())]


@node(output_name="vector")
def weigh(words: list[str]) -> Vector:
    """Each word with a weight that grows slowly with the number of times it occurs; of length 1."""
    weights = {word: 1 + math.log(count) for word, count in Counter(words).items()}
    length = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {word: weight / length for word, weight in weights.items()}


encode = Pipeline(nodes=[find_words, weigh], name="encode", outputs=["vector"])
"""One text: text, stemmer -> vector. The words stay inside."""


# --- all of them ---------------------------------------------------------------------------------------------------


@node(output_name=("titles", "chunks"))
def split(documents: Mapping[str, str], chunk_size: int) -> tuple[list[str], list[str]]:
    """Pieces of about `chunk_size` characters, none across two documents, each with the title of its document."""
    found = [Chunk(title, text) for title, whole in documents.items() for text in _pieces(whole, chunk_size)]
    return [chunk.title for chunk in found], [chunk.text for chunk in found]


@node(output_name="ranking")
def search(question_vector: Vector, chunk_vector: Sequence[Vector], titles: Sequence[str], rare: bool) -> list[str]:
    """The titles of the documents with the most similar chunks, the best first."""
    weights = dict(question_vector)
    if rare:  # a word counts for more, the fewer chunks have it
        counts = Counter(word for vector in chunk_vector for word in vector if word in weights)
        weights = {word: weight * math.log(1 + len(titles) / (1 + counts[word])) for word, weight in weights.items()}
    scores: dict[str, float] = {}
    for title, vector in zip(titles, chunk_vector, strict=True):
        score = sum(weight * vector[word] for word, weight in weights.items() if word in vector)
        scores[title] = max(score, scores.get(title, 0.0))
    return sorted(scores, key=lambda title: -scores[title])


@node(output_name="recall")
def measure(ranking: Sequence[list[str]], answers: Sequence[str], top: int) -> float:
    """The share of the questions whose document is among the first `top`."""
    return sum(answer in found[:top] for found, answer in zip(ranking, answers, strict=True)) / len(answers)


evaluation = Pipeline(
    nodes=[
        split,
        encode.as_node({"chunks": "text"}, map_over="chunks", prefix="chunk_"),
        encode.as_node({"questions": "text"}, map_over="questions", prefix="question_"),
        search.as_node(map_over="question_vector"),
        measure,
    ],
    name="evaluation",
    outputs=["recall"],
).with_inputs(stemmer=stemmer("ing", "ed", "es", "s", "ly"), top=1)
"""The whole job: documents, questions, answers, chunk_size, rare, and preset stemmer and top -> recall."""


def _pieces(text: str, size: int) -> Iterator[str]:
    piece = ""
    for paragraph in text.split("\n\n"):
        if piece and len(piece) + len(paragraph) > size:
            yield piece
            piece = ""
        piece += paragraph + "\n"
    yield piece
