"""The example that evaluates a retrieval pipeline over a grid of parameters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.parameter_grid.pipeline import encode, evaluation
from hypernodes import LocalBackend, MemoryCache
from hypernodes.backend import SubprocessBackend
from tests.support import Recorder

TEXTS = {
    "whales": "Whales swim in the sea.\n\nThey sing to other whales.",
    "birds": "Birds are flying in the air.\n\nThey sing in the morning.",
    "stones": "Stones lie on the ground and are silent.",
}
GIVEN = {
    "documents": TEXTS,
    "questions": ["singing whale", "who flies in the air", "silent stone"],
    "answers": ["whales", "birds", "stones"],
}
GRID = {"chunk_size": [20, 1000], "rare": [False, True]}


def test_the_example_runs_as_a_program() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "examples.parameter_grid", "12"]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120).stdout
    lines = printed.splitlines()
    assert lines[0].startswith("first: 6 evaluations")
    assert lines[2].startswith("chunk_size 500  rare False  recall 0.")
    assert lines[8].startswith("the first chunk of ")


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(LocalBackend(), id="sequential"),
        pytest.param(LocalBackend("threaded", "threaded"), id="threaded"),
        pytest.param(LocalBackend(map_execution="parallel", max_workers=2), id="parallel", marks=pytest.mark.slow),
        pytest.param(SubprocessBackend(), id="subprocess", marks=pytest.mark.slow),
    ],
)
def test_the_grid_is_the_same_everywhere_and_computed_once(backend: Any) -> None:
    recorder = Recorder()
    pipeline = evaluation.with_backend(backend).with_cache(MemoryCache()).with_callbacks([recorder])
    rows = pipeline.map_rows({**GIVEN, **GRID}, list(GRID), map_mode="product")
    assert [(row["chunk_size"], row["rare"]) for row in rows] == [(20, False), (20, True), (1000, False), (1000, True)]
    assert [row["recall"] for row in rows] == [1.0] * 4
    assert recorder.computed.count("find_words") <= 5 + 3 + 3, "each text once"
    recorder.clear()
    assert pipeline.map_rows({**GIVEN, **GRID}, list(GRID), map_mode="product") == rows
    assert recorder.computed == []


def test_nothing_but_the_recall_is_shown_and_all_else_can_be_asked_for() -> None:
    assert evaluation.outputs == ("recall",)
    assert set(evaluation.missing_inputs) == {"documents", "questions", "answers", "chunk_size", "rare"}
    found = evaluation.run({**GIVEN, "chunk_size": 20, "rare": True}, ["chunks", "question_encode/words", "ranking"])
    assert len(found["chunks"]) == 5
    assert found["question_encode/words"][2] == ["silent", "stone"]
    assert [titles[0] for titles in found["ranking"]] == GIVEN["answers"]
    assert encode.with_inputs(stemmer=evaluation.preset["stemmer"]).run({"text": "a stone"}) == {"vector": {"stone": 1}}
