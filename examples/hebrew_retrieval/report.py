"""What the demo prints: answers in Hebrew, the evaluation, and what was computed."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .corpus import Verse
from .evaluation import Evaluation, KnownItemTask
from .progress import Stage
from .retrieval import Answer
from .text import strip_marks

_FIRST_STRONG_ISOLATE, _POP_DIRECTIONAL_ISOLATE = "\u2068", "\u2069"
_ELLIPSIS = "…"
_REFERENCE_WIDTH = 22


def isolated(text: str) -> str:
    """Text of either direction that leaves the order of what stands around it alone (Unicode Annex 9, isolates)."""
    return f"{_FIRST_STRONG_ISOLATE}{text}{_POP_DIRECTIONAL_ISOLATE}"


def shortened(text: str, width: int) -> str:
    """At most `width` characters of a text, cut between words."""
    if len(text) <= width:
        return text
    return text[:width].rpartition(" ")[0] + _ELLIPSIS


def answer_lines(answer: Answer, verses: Sequence[Verse], hits: int = 3, width: int | None = None) -> Iterator[str]:
    """The question, and one line for each of its first hits.

    Verses are shown without vowel points: terminals disagree on the width of marks. The Hebrew stands last in
    its line, so that the columns before it stay where they are whatever the terminal does with direction.

    Args:
        answer: What was found.
        verses: The corpus that the hits point into.
        hits: How many to show.
        width: Characters in a line; the terminal's by default.
    """
    width = width or shutil.get_terminal_size().columns
    yield f"  Question: {isolated(answer.query.text)}"
    if not answer.hits:
        yield "    nothing found"
    for rank, hit in enumerate(answer.hits[:hits], 1):
        verse = verses[hit.position]
        start = f"    {rank}  {hit.score:.2f}  {verse.ref!s:<{_REFERENCE_WIDTH}}"
        yield start + isolated(shortened(strip_marks(verse), width - len(start)))


def evaluation_lines(evaluation: Evaluation, task: KnownItemTask) -> Iterator[str]:
    """The figures of the known-item search."""
    yield f"  {evaluation.queries:,} verses looked up by what is left of them without {task.drop:.0%} of their words"
    yield "  " + "   ".join(
        [f"recall@{cutoff} {recall:.3f}" for cutoff, recall in evaluation.recall.items()]
        + [f"mean reciprocal rank {evaluation.mean_reciprocal_rank:.3f}"]
    )


def summary_lines(names: Iterable[str], stages: Mapping[str, Stage]) -> Iterator[str]:
    """For every stage by name, whether it was computed, came from the cache, or was not looked at."""
    computed = [_count(stage, stage.computed) for stage in stages.values() if stage.computed]
    cached = [_count(stage, stage.cached) for stage in stages.values() if stage.cached]
    unneeded = [name for name in names if name not in stages]
    yield f"  Computed now     {', '.join(computed) or 'nothing'}"
    yield f"  From the cache   {', '.join(cached) or 'nothing'}"
    if unneeded:
        yield f"  Not needed       {', '.join(unneeded)}: the cache holds what follows from them"


def _count(stage: Stage, count: int) -> str:
    if stage.items == 1:
        return stage.name
    return f"{stage.name} ({count:,}{f' of {stage.items:,}' if count < stage.items else ''})"
