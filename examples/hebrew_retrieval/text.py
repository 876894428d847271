"""Hebrew text: without vowel points and cantillation, in one spelling, as words."""

import re
import unicodedata
from typing import Protocol, TypeAlias

from hypernodes import node

Words: TypeAlias = tuple[str, ...]

_WORD = re.compile("[א-ת]+")
_WITHOUT_FINAL_FORMS = str.maketrans("ךםןףץ", "כמנפצ")


class Passage(Protocol):
    """Whatever has a text: a verse or a query."""

    @property
    def text(self) -> str: ...


@node(output_name="bare_text")
def strip_marks(passage: Passage) -> str:
    """The text without vowel points and cantillation: `בְּרֵאשִׁ֖ית` becomes `בראשית`.

    Both are nonspacing marks in Unicode. Compatibility decomposition comes first, so that a letter written as one
    code point with its vowel loses it too.
    """
    decomposed = unicodedata.normalize("NFKD", passage.text)
    return "".join([character for character in decomposed if unicodedata.category(character) != "Mn"])


@node(output_name="words")
def normalise(bare_text: str) -> Words:
    """The words, with final letters folded into their ordinary form.

    Whatever is not a Hebrew letter separates words; so does the maqaf, which joins words in writing.
    """
    return tuple(_WORD.findall(bare_text.translate(_WITHOUT_FINAL_FORMS)))
