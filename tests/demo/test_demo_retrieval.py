"""The inverted index finds what comparing every pair of vectors would find."""

import numpy as np
import pytest

from examples.hebrew_retrieval.corpus import Verse
from examples.hebrew_retrieval.encoding import NGramEncoder, SparseVector
from examples.hebrew_retrieval.retrieval import Answer, Index, Query, build_index, search
from examples.hebrew_retrieval.text import normalise, strip_marks

ENCODER = NGramEncoder()


def encoded(text: str) -> SparseVector:
    return ENCODER.encode(normalise(strip_marks(Query(text))))


def ask(text: str, index: Index, top_k: int = 10) -> Answer:
    return search(Query(text), encoded(text), index, top_k)


@pytest.fixture
def index(verses: list[Verse]) -> Index:
    return build_index([encoded(verse.text) for verse in verses], ENCODER)


def test_scores_are_the_cosines_of_weighted_vectors(verses: list[Verse], index: Index) -> None:
    def dense(vector: SparseVector) -> np.ndarray:
        row = np.zeros(2**ENCODER.bits)
        row[vector.buckets] = 1 + np.log(vector.counts.astype(float))
        return row

    rows = np.array([dense(encoded(verse.text)) for verse in verses])
    weights = rows * np.log((len(verses) + 1) / ((rows > 0).sum(axis=0) + 0.5))
    text = "אלהים אמר יהי אור על הארץ ועל השמים"
    query = dense(encoded(text)) * np.log((len(verses) + 1) / ((rows > 0).sum(axis=0) + 0.5))
    lengths = np.linalg.norm(weights, axis=1) * np.linalg.norm(query)
    cosines = np.divide(weights @ query, lengths, out=np.zeros(len(verses)), where=lengths > 0)

    hits = ask(text, index).hits
    assert len(hits) == (cosines > 0).sum() > 1
    assert {hit.position: hit.score for hit in hits} == pytest.approx(
        {position: cosine for position, cosine in enumerate(cosines) if cosine > 0}, abs=1e-6
    )


def test_every_verse_finds_itself_first(verses: list[Verse], index: Index) -> None:
    for position, verse in enumerate(verses):
        if normalise(strip_marks(verse)):
            best = ask(verse.text, index).hits[0]
            assert best.score == pytest.approx(1, abs=1e-6)
            assert verses[best.position].text == verse.text
            assert best.position <= position


def test_of_two_equal_verses_the_earlier_comes_first(index: Index) -> None:
    hits = ask("וידבר יהוה אל משה לאמר", index, top_k=2).hits
    assert [hit.position for hit in hits] == [2, 3]
    assert hits[0].score == hits[1].score
    assert [hit.position for hit in ask("וידבר יהוה אל משה לאמר", index, top_k=1).hits] == [2]


def test_at_most_top_k_hits_come_in_falling_order(index: Index) -> None:
    everything = ask("יהוה אל משה אני אור", index).hits
    assert len(everything) > 2
    assert [hit.score for hit in everything] == sorted((hit.score for hit in everything), reverse=True)
    assert ask("יהוה אל משה אני אור", index, top_k=2).hits == everything[:2]


@pytest.mark.parametrize("text", ["", "—", "hello", "צקצק"])
def test_a_query_that_shares_nothing_with_the_corpus_finds_nothing(text: str, index: Index) -> None:
    assert ask(text, index).hits == ()


def test_a_corpus_of_one_verse_can_be_searched(verses: list[Verse]) -> None:
    index = build_index([encoded(verses[0].text)], ENCODER)
    assert [hit.position for hit in ask("בראשית", index).hits] == [0]
