"""A small corpus, so that the demo's pieces are tested without the package that carries the real one."""

import pytest

from examples.hebrew_retrieval.corpus import Verse, VerseRef

_TEXTS = {
    "Genesis": (
        "בְּרֵאשִׁ֖ית בָּרָ֣א אֱלֹהִ֑ים אֵ֥ת הַשָּׁמַ֖יִם וְאֵ֥ת הָאָֽרֶץ׃",
        "וַיֹּ֥אמֶר אֱלֹהִ֖ים יְהִ֣י א֑וֹר וַֽיְהִי־אֽוֹר׃",
        "וַיְדַבֵּ֥ר יְהֹוָ֖ה אֶל־מֹשֶׁ֥ה לֵּאמֹֽר׃",
    ),
    "Leviticus": (
        "וַיְדַבֵּ֥ר יְהֹוָ֖ה אֶל־מֹשֶׁ֥ה לֵּאמֹֽר׃",
        "וְאָֽהַבְתָּ֥ לְרֵעֲךָ֖ כָּמ֑וֹךָ אֲנִ֖י יְהֹוָֽה׃",
        "—",
    ),
    "Psalms": (
        "מִזְמ֥וֹר לְדָוִ֑ד יְהֹוָ֥ה רֹ֝עִ֗י לֹ֣א אֶחְסָֽר׃",
        "עַ֥ל־נַהֲר֨וֹת ׀ בָּבֶ֗ל שָׁ֣ם יָ֭שַׁבְנוּ גַּם־בָּכִ֑ינוּ בְּ֝זׇכְרֵ֗נוּ אֶת־צִיּֽוֹן׃",
    ),
}


@pytest.fixture
def verses() -> list[Verse]:
    """Eight verses: two that read the same, and one that is left out of the edition."""
    return [
        Verse(VerseRef(book, 1, number), text) for book, texts in _TEXTS.items() for number, text in enumerate(texts, 1)
    ]
