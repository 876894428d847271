"""The demo as a user runs it: in processes of their own, on the real text, with the cache on disk between them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def demo(cache_dir: Path, *options: str) -> str:
    completed = subprocess.run(
        [sys.executable, "-m", "examples.hebrew_retrieval", "--cache-dir", str(cache_dir), *options],
        cwd=REPOSITORY,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""
    return completed.stdout


def counts(printed: str) -> dict[str, tuple[int, int]]:
    """For each stage, how many were computed and how many came from the cache."""
    rows = re.findall(r"^  (\w+) +([\d,]+) computed +([\d,]+) from the cache", printed, flags=re.MULTILINE)
    return {name: (int(computed.replace(",", "")), int(cached.replace(",", ""))) for name, computed, cached in rows}


def test_a_run_of_the_demo_computes_only_what_no_run_before_it_did(tmp_path: Path) -> None:
    def answers(printed: str) -> str:
        return printed.partition("Answers")[2].rpartition("Known-item")[0]

    first = demo(tmp_path, "--limit", "300")
    assert counts(first)["encode_all"] == (300, 0)
    assert "Genesis 1:1 " in first
    recall = dict(re.findall(r"recall@(\d+) ([\d.]+)", first))
    assert float(recall["1"]) > 0.8
    assert float(recall["10"]) > 0.95

    second = demo(tmp_path, "--limit", "300")
    assert answers(second) == answers(first)
    assert "Computed now     nothing" in second
    assert all(computed == 0 for computed, _ in counts(second).values())

    other_cutoffs = demo(tmp_path, "--limit", "300", "--recall-at", "1", "5")
    assert re.search("Computed now +aggregate$", other_cutoffs, flags=re.MULTILINE)
    assert "recall@5" in other_cutoffs

    larger = demo(tmp_path, "--limit", "400", "--question", "ויאמר אלוהים יהי אור")
    assert "Genesis 1:3 " in answers(larger)
    assert counts(larger)["encode_all"] == (100, 300)

    assert counts(demo(tmp_path, "--limit", "300", "--fresh"))["encode_all"] == (300, 0)


def test_the_demo_on_modal_is_one_call_with_the_same_answers_and_none_for_what_is_cached(tmp_path: Path) -> None:
    def answers(printed: str) -> str:
        return printed.partition("Answers")[2].rpartition("This run")[0]

    def calls(printed: str) -> list[str]:
        return re.findall(r"^  Remote calls +(\d+)$", printed, flags=re.MULTILINE)

    on_modal = ("--backend", "modal", "--limit")
    first = demo(tmp_path / "modal", *on_modal, "200")
    assert counts(first)["encode_all"] == (200, 0)
    assert calls(first) == ["1"]
    assert answers(first) == answers(demo(tmp_path / "local", "--limit", "200"))

    second = demo(tmp_path / "modal", *on_modal, "200")
    assert "Computed now     nothing" in second
    assert calls(second) == ["0"]
    assert answers(second) == answers(first)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--backend", "dask"),
        ("--backend", "modal", "--mode", "distributed"),
        ("--backend", "subprocess", "--mode", "distributed"),
    ],
    ids=lambda arguments: "-".join(arguments[1::2]),
)
def test_the_demo_divided_among_workers_gives_the_same_answers_and_computes_nothing_again(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    def answers(printed: str) -> str:
        return printed.partition("Answers")[2].rpartition("This run")[0]

    first = demo(tmp_path / "divided", "--limit", "200", *arguments)
    assert counts(first)["encode_all"] == (200, 0)
    assert answers(first) == answers(demo(tmp_path / "local", "--limit", "200"))
    second = demo(tmp_path / "divided", "--limit", "200", *arguments)
    assert "Computed now     nothing" in second
    assert answers(second) == answers(first)


def test_the_demo_in_a_subprocess_gives_the_same_answers_from_the_same_cache(tmp_path: Path) -> None:
    assert counts(demo(tmp_path, "--limit", "200", "--backend", "subprocess"))["encode_all"] == (200, 0)
    assert "Computed now     nothing" in demo(tmp_path, "--limit", "200")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--limit", "0"],
        ["--drop", "1"],
        ["--recall-at", "1", "20"],
        ["--backend", "nowhere"],
        ["--mode", "distributed"],
    ],
    ids=" ".join,
)
def test_wrong_options_of_the_demo_are_refused_before_anything_runs(wrong: list[str], tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "examples.hebrew_retrieval", "--cache-dir", str(tmp_path / "cache"), *wrong],
        cwd=REPOSITORY,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert completed.returncode == 2
    assert wrong[0] in completed.stderr
    assert not (tmp_path / "cache").exists()
