"""What is printed keeps its columns and its direction."""

import unicodedata

import pytest

from examples.hebrew_retrieval.corpus import Verse
from examples.hebrew_retrieval.evaluation import Evaluation, KnownItemTask
from examples.hebrew_retrieval.progress import Stage
from examples.hebrew_retrieval.report import answer_lines, evaluation_lines, isolated, shortened, summary_lines
from examples.hebrew_retrieval.retrieval import Answer, Hit, Query

ANSWER = Answer(Query("על נהרות בבל"), (Hit(7, 0.91), Hit(0, 0.2), Hit(5, 0.1), Hit(1, 0.05)))


def columns(line: str) -> int:
    """Places that a line takes: format characters and marks take none."""
    return sum(unicodedata.category(character) not in ("Cf", "Mn") for character in line)


@pytest.mark.parametrize("width", [60, 72, 120])
def test_no_line_is_wider_than_the_terminal(verses: list[Verse], width: int) -> None:
    assert all(columns(line) <= width for line in answer_lines(ANSWER, verses, width=width))


def test_the_hebrew_is_isolated_and_last_in_its_line(verses: list[Verse]) -> None:
    for line in answer_lines(ANSWER, verses, width=80):
        assert line.count("\u2068") == line.count("\u2069") == 1
        assert line.endswith("\u2069")
        assert not any("\u0590" <= character <= "\u05ff" for character in line.partition("\u2068")[0])


def test_verses_start_in_one_column_and_carry_no_marks(verses: list[Verse]) -> None:
    _, *hits = answer_lines(ANSWER, verses, width=80)
    assert len(hits) == 3
    assert len({line.index("\u2068") for line in hits}) == 1
    assert not any(unicodedata.combining(character) for line in hits for character in line)
    assert "Psalms 1:2" in hits[0]


def test_an_answer_without_hits_says_so(verses: list[Verse]) -> None:
    assert "nothing found" in "\n".join(answer_lines(Answer(Query("hello"), ()), verses, width=80))


def test_a_long_text_is_cut_between_words() -> None:
    assert shortened("על נהרות בבל", 9) == "על נהרות…"
    assert shortened("על נהרות בבל", 12) == "על נהרות בבל"
    assert isolated("א") == "\u2068א\u2069"


def test_the_report_names_its_figures() -> None:
    text = "\n".join(evaluation_lines(Evaluation(500, {1: 0.942, 10: 0.996}, 0.96), KnownItemTask(drop=0.6)))
    assert "500 verses" in text
    assert "60%" in text
    assert "recall@1 0.942   recall@10 0.996   mean reciprocal rank 0.960" in text


def test_the_summary_says_of_every_stage_what_became_of_it() -> None:
    stages = {
        "load": Stage("load", cached=1),
        "encode": Stage("encode", items=1100, computed=100, cached=1000),
        "search": Stage("search", items=500, computed=500),
    }
    assert list(summary_lines(["load", "encode", "index", "search"], stages)) == [
        "  Computed now     encode (100 of 1,100), search (500)",
        "  From the cache   load, encode (1,000 of 1,100)",
        "  Not needed       index: the cache holds what follows from them",
    ]


def test_the_summary_of_a_run_without_work_says_so() -> None:
    computed, *_ = summary_lines(["load"], {"load": Stage("load", cached=1)})
    assert computed == "  Computed now     nothing"
