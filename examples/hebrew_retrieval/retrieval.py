"""An inverted index over sparse vectors, and the search in it.

Vectors are compared by the cosine of their weights. A bucket's weight is `1 + ln(count)` times its inverse document
frequency, which makes rare n-grams count for more (Spärck Jones, "A statistical interpretation of term specificity",
Journal of Documentation 28, 1972). These weights depend on the whole corpus, so they are applied here and not when a
verse is encoded: a verse once encoded stays valid when the corpus grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypernodes import node

from .encoding import NGramEncoder, SparseVector


@dataclass(frozen=True, slots=True)
class Query:
    """What somebody looks for.

    Attributes:
        text: Words in Hebrew, with or without vowel points.
        target: The position in the corpus of the verse that should be found, where that is known.
    """

    text: str
    target: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A verse that was found: its position in the corpus, and the cosine similarity to the query (above 0, up to 1)."""

    position: int
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one query, the best first."""

    query: Query
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """For each bucket, the verses it occurs in and its weight there.

    Bucket `b` has the entries `starts[b]:starts[b + 1]` of `positions` and `weights`.
    """

    size: int  # verses
    starts: NDArray[np.int64]
    positions: NDArray[np.int32]
    weights: NDArray[np.float32]
    idf: NDArray[np.float32]


@node(output_name="index")
def build_index(verse_vectors: Sequence[SparseVector], encoder: NGramEncoder) -> Index:
    """Weigh the vectors, bring each to length 1, and list them by bucket."""
    size = len(verse_vectors)
    positions = np.repeat(np.arange(size, dtype=np.int32), [vector.buckets.size for vector in verse_vectors])
    buckets = np.concatenate([vector.buckets for vector in verse_vectors])
    counts = np.concatenate([vector.counts for vector in verse_vectors])

    occurrences = np.bincount(buckets, minlength=2**encoder.bits)
    # Half an occurrence is added so that a bucket of every verse still has some weight, and an unseen one is finite.
    idf = np.log((size + 1) / (occurrences + 0.5)).astype(np.float32)
    weights = _weights(counts, idf[buckets])
    lengths = np.sqrt(np.bincount(positions, weights * weights, minlength=size)).astype(np.float32)
    weights /= lengths[positions]

    by_bucket = np.argsort(buckets, kind="stable")
    starts = np.concatenate([[0], np.cumsum(occurrences)])
    return Index(size, starts, positions[by_bucket], weights[by_bucket], idf)


@node(output_name="answer")
def search(passage: Query, vector: SparseVector, index: Index, top_k: int) -> Answer:
    """The `top_k` most similar verses; of equally similar ones, the earlier first."""
    weights = _weights(vector.counts, index.idf[vector.buckets])
    length = float(np.linalg.norm(weights))
    scores = np.zeros(index.size, dtype=np.float32)
    for bucket, weight in zip(vector.buckets.tolist(), weights.tolist(), strict=True):
        entries = slice(index.starts[bucket], index.starts[bucket + 1])
        # No verse is listed twice under one bucket, so adding by position misses nothing.
        scores[index.positions[entries]] += weight / length * index.weights[entries]
    return Answer(passage, tuple(Hit(int(position), float(scores[position])) for position in _best(scores, top_k)))


def _weights(counts: NDArray[np.uint16], idf: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 + np.log(counts, dtype=np.float32)) * idf


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Positions of the `count` highest scores above 0, the best first, ties in order of position."""
    found = np.flatnonzero(scores > 0)
    if found.size > count:
        threshold = np.partition(scores[found], found.size - count)[found.size - count]
        found = found[scores[found] >= threshold]
    return found[np.argsort(-scores[found], kind="stable")][:count]
