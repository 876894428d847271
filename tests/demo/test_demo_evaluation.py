"""Known-item search: the draw is fair and repeatable, the measures are the textbook's."""

import pytest

from examples.hebrew_retrieval.corpus import Verse
from examples.hebrew_retrieval.evaluation import KnownItemTask, aggregate, draw_known_items, make_queries
from examples.hebrew_retrieval.retrieval import Answer, Hit, Query
from examples.hebrew_retrieval.text import Words, normalise, strip_marks

UNIQUE_AND_LONG_ENOUGH = {0, 1, 4, 6, 7}


@pytest.fixture
def verse_words(verses: list[Verse]) -> list[Words]:
    return [normalise(strip_marks(verse)) for verse in verses]


def test_verses_that_stand_twice_or_are_too_short_are_not_drawn(verse_words: list[Words]) -> None:
    drawn = draw_known_items(verse_words, KnownItemTask(queries=100))
    assert {query.target for query in drawn} == UNIQUE_AND_LONG_ENOUGH
    assert len(drawn) == len(UNIQUE_AND_LONG_ENOUGH)
    assert 6 not in {query.target for query in draw_known_items(verse_words, KnownItemTask(min_words=7))}


def test_a_query_has_some_of_the_words_of_its_verse_in_their_order(verse_words: list[Words]) -> None:
    for query in draw_known_items(verse_words, KnownItemTask(drop=0.5)):
        assert query.target is not None
        words, kept = verse_words[query.target], query.text.split()
        assert len(kept) == max(1, round(len(words) * 0.5))
        rest = iter(words)
        assert all(word in rest for word in kept)


def test_the_same_seed_draws_the_same_and_another_seed_does_not(verse_words: list[Words]) -> None:
    task = KnownItemTask(queries=4, seed=7)
    assert draw_known_items(verse_words, task) == draw_known_items(verse_words, task)
    others = [draw_known_items(verse_words, KnownItemTask(queries=4, seed=seed)) for seed in range(5)]
    assert any(other != draw_known_items(verse_words, task) for other in others)


def test_dropping_nothing_keeps_every_word_and_dropping_nearly_all_keeps_one(verse_words: list[Words]) -> None:
    for query in draw_known_items(verse_words, KnownItemTask(drop=0)):
        assert query.target is not None
        assert tuple(query.text.split()) == verse_words[query.target]
    assert {len(query.text.split()) for query in draw_known_items(verse_words, KnownItemTask(drop=0.99))} == {1}


def answer(target: int, *found: int) -> Answer:
    return Answer(Query("שם", target), tuple(Hit(position, 1 / rank) for rank, position in enumerate(found, 1)))


def test_recall_and_reciprocal_rank_are_those_of_the_textbook() -> None:
    answers = [answer(5, 5, 1), answer(5, 1, 5), answer(5, 1, 2, 3, 5), answer(5, 1, 2), answer(5)]
    evaluation = aggregate(answers, cutoffs=(1, 2, 4))
    assert evaluation.queries == 5
    assert evaluation.recall == {1: 0.2, 2: 0.4, 4: 0.6}
    assert evaluation.mean_reciprocal_rank == pytest.approx((1 + 1 / 2 + 1 / 4) / 5)


def test_questions_come_first_and_do_not_count_in_the_evaluation(verse_words: list[Words]) -> None:
    queries = make_queries(("שמע ישראל",), verse_words, KnownItemTask(queries=2))
    assert [query.target is None for query in queries] == [True, False, False]
    assert aggregate([Answer(query, ()) for query in queries], cutoffs=(1,)).queries == 2


def test_no_queries_are_no_recall_and_no_error() -> None:
    assert aggregate([], cutoffs=(1,)).recall == {1: 0.0}
