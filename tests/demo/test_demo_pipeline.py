"""The whole job on the small corpus: what is found, what is computed again, and what is shown of it."""

import io
from typing import Any

import pytest

from examples.hebrew_retrieval.corpus import Verse
from examples.hebrew_retrieval.encoding import NGramEncoder
from examples.hebrew_retrieval.evaluation import KnownItemTask
from examples.hebrew_retrieval.pipeline import encode_passage, retrieval, search_passage
from examples.hebrew_retrieval.progress import StageProgress
from examples.hebrew_retrieval.retrieval import Query
from hypernodes import Cache, MemoryCache


def run(verses: list[Verse], cache: Cache, **changed: Any) -> tuple[dict[str, Any], StageProgress, str]:
    """Run the job on given verses; return its outputs, what became of each stage, and what was printed."""
    stream = io.StringIO()
    progress = StageProgress(stream)
    inputs: dict[str, Any] = {
        "verses": verses,
        "encoder": NGramEncoder(),
        "questions": ("על נהרות בבל",),
        "task": KnownItemTask(queries=5, drop=0.2),
        "top_k": 3,
        "cutoffs": (1, 3),
    }
    outputs = (
        retrieval.with_cache(cache)
        .with_callbacks([progress])
        .run(inputs=inputs | changed, output_name=["answers", "evaluation"])
    )
    return outputs, progress, stream.getvalue()


def computed(progress: StageProgress) -> dict[str, int]:
    return {stage.name: stage.computed for stage in progress.stages.values() if stage.computed}


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache()


def test_one_passage_can_be_tried_alone(verses: list[Verse]) -> None:
    outputs = encode_passage.run(inputs={"passage": verses[0], "encoder": NGramEncoder()})
    assert outputs["words"] == ("בראשית", "ברא", "אלהימ", "את", "השמימ", "ואת", "הארצ")
    assert outputs["vector"].counts.sum() > 0


def test_one_query_can_be_tried_alone(verses: list[Verse], cache: MemoryCache) -> None:
    index = retrieval.run(inputs={"verses": verses, "encoder": NGramEncoder()}, output_name="index")["index"]
    inputs = {"passage": Query("ואהבת לרעך"), "encoder": NGramEncoder(), "index": index, "top_k": 1}
    answer = search_passage.run(inputs=inputs, output_name="answer")["answer"]
    assert [hit.position for hit in answer.hits] == [4]


def test_the_job_answers_questions_and_finds_known_verses(verses: list[Verse], cache: MemoryCache) -> None:
    outputs, _, _ = run(verses, cache)
    question, *known_items = outputs["answers"]
    assert question.query.target is None
    assert question.hits[0].position == 7
    assert len(known_items) == 5
    assert outputs["evaluation"].queries == 5
    assert outputs["evaluation"].recall == {1: 1.0, 3: 1.0}


def test_the_demo_computes_everything_once(verses: list[Verse], cache: MemoryCache) -> None:
    first, progress, _ = run(verses, cache)
    assert computed(progress) == {
        "encode_all": len(verses),
        "build_index": 1,
        "make_queries": 1,
        "search_all": 6,
        "aggregate": 1,
    }
    second, progress, _ = run(verses, cache)
    assert computed(progress) == {}
    assert second == first


def test_another_cutoff_computes_the_last_stage_only(verses: list[Verse], cache: MemoryCache) -> None:
    run(verses, cache)
    outputs, progress, _ = run(verses, cache, cutoffs=(1, 2))
    assert computed(progress) == {"aggregate": 1}
    assert list(outputs["evaluation"].recall) == [1, 2]


def test_another_depth_of_search_does_not_encode_again(verses: list[Verse], cache: MemoryCache) -> None:
    run(verses, cache)
    _, progress, _ = run(verses, cache, top_k=4)
    assert computed(progress) == {"search_all": 6, "aggregate": 1}


def test_another_question_is_the_only_one_searched(verses: list[Verse], cache: MemoryCache) -> None:
    run(verses, cache)
    outputs, progress, _ = run(verses, cache, questions=("על נהרות בבל", "יהי אור"))
    assert computed(progress) == {"make_queries": 1, "search_all": 1, "aggregate": 1}
    assert outputs["answers"][1].hits[0].position == 1


def test_only_new_verses_are_encoded(verses: list[Verse], cache: MemoryCache) -> None:
    run(verses[:5], cache)
    _, progress, _ = run(verses, cache)
    assert progress.stages["encode_all"].computed == 3
    assert progress.stages["encode_all"].cached == 5


def test_another_encoder_encodes_everything_again(verses: list[Verse], cache: MemoryCache) -> None:
    run(verses, cache)
    _, progress, _ = run(verses, cache, encoder=NGramEncoder(sizes=(3,)))
    assert progress.stages["encode_all"].computed == len(verses)


def test_each_stage_gets_one_line_when_nobody_watches(verses: list[Verse], cache: MemoryCache) -> None:
    _, progress, printed = run(verses, cache)
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines] == list(progress.stages)
    assert len({len(line) for line in lines}) == 1
    assert "\r" not in printed
    assert "\x1b" not in printed


def test_a_terminal_sees_a_running_stage_in_one_line(verses: list[Verse]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    progress = StageProgress(terminal)
    progress._interval_s = 0
    encode_all = retrieval.with_callbacks([progress])
    encode_all.run(inputs={"verses": verses, "encoder": NGramEncoder()}, output_name="verse_vectors")
    assert "\r  encode_all" in terminal.getvalue()
    assert "3 of 8" in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1
