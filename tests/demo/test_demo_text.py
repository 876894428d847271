"""Vowel points and cantillation go, words stay."""

import unicodedata

import pytest

from examples.hebrew_retrieval.corpus import Verse
from examples.hebrew_retrieval.retrieval import Query
from examples.hebrew_retrieval.text import normalise, strip_marks


def test_letters_and_punctuation_stay_when_the_marks_go() -> None:
    pointed = "וַֽיְהִי־אֽוֹר׃"
    assert strip_marks(Query(pointed)) == "ויהי־אור׃"


def test_no_mark_survives_in_any_verse(verses: list[Verse]) -> None:
    left = {character for verse in verses for character in strip_marks(verse) if unicodedata.combining(character)}
    assert left == set()


@pytest.mark.parametrize(
    ("one_code_point", "bare"),
    [("\ufb2a", "ש"), ("\ufb2c", "ש"), ("\ufb4b", "ו"), ("\ufb4f", "אל"), ("\ufb28", "ת")],
    ids=["shin with dot", "shin with dagesh and dot", "vav with holam", "alef-lamed ligature", "wide tav"],
)
def test_a_letter_that_carries_its_mark_in_one_code_point_is_bare_too(one_code_point: str, bare: str) -> None:
    assert strip_marks(Query(one_code_point)) == bare


def test_the_grapheme_joiner_goes_too() -> None:
    assert strip_marks(Query("יִשְׂרָאֵ֑\u034fֽל")) == "ישראל"


def test_a_maqaf_separates_words() -> None:
    assert normalise("ויהי־אור") == ("ויהי", "אור")


def test_punctuation_and_other_scripts_are_no_words() -> None:
    assert normalise("נהרות ׀ בבל׃ ׆ Babylon 137, (שם)") == ("נהרות", "בבל", "שמ")


def test_final_letters_are_folded() -> None:
    assert normalise("ארץ מלך שם בן סוף") == ("ארצ", "מלכ", "שמ", "בנ", "סופ")


@pytest.mark.parametrize("nothing", ["", "—", "׃ ׀"])
def test_no_words_in_a_text_without_letters(nothing: str) -> None:
    assert normalise(nothing) == ()


def test_what_is_normalised_stays_as_it_is(verses: list[Verse]) -> None:
    for verse in verses:
        words = normalise(strip_marks(verse))
        assert normalise(" ".join(words)) == words
