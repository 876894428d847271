"""Known-item search: how well a verse is found again from some of its words.

The measure comes from the known-item tasks of the Text REtrieval Conference (TREC): somebody remembers one document
imperfectly and wants exactly that one. Each query has one right answer, so recall@k is the share of the queries that
have it among their first k hits.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypernodes import node

from .retrieval import Answer, Query
from .text import Words


@dataclass(frozen=True, slots=True)
class KnownItemTask:
    """How queries are drawn from the corpus.

    Attributes:
        queries: How many, or one per eligible verse if the corpus has fewer of them.
        drop: Share of a verse's words that its query leaves out; 0 <= drop < 1.
        seed: Another seed draws other verses and other words.
        min_words: Shorter verses are not eligible.
    """

    queries: int = 500
    drop: float = 0.6
    seed: int = 1
    min_words: int = 5


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a known-item task.

    Attributes:
        queries: How many there were.
        recall: For each k, the share of the queries with the right verse among their first k hits.
        mean_reciprocal_rank: Mean of 1 / rank of the right verse, 0 where it was not found.
    """

    queries: int
    recall: dict[int, float]
    mean_reciprocal_rank: float


@node(output_name="queries")
def make_queries(questions: Sequence[str], verse_words: Sequence[Words], task: KnownItemTask) -> list[Query]:
    """The questions, and after them the queries of the known-item task."""
    return [*map(Query, questions), *draw_known_items(verse_words, task)]


def draw_known_items(verse_words: Sequence[Words], task: KnownItemTask) -> list[Query]:
    """Draw verses, and some words of each, kept in their order.

    A verse that stands word for word in two places has no single right answer and is not drawn.
    """
    occurrences = Counter(verse_words)
    eligible = [
        position
        for position, words in enumerate(verse_words)
        if len(words) >= task.min_words and occurrences[words] == 1
    ]
    draw = random.Random(task.seed)
    return [
        Query(" ".join(_some_of(verse_words[position], 1 - task.drop, draw)), target=position)
        for position in draw.sample(eligible, min(task.queries, len(eligible)))
    ]


@node(output_name="evaluation")
def aggregate(answers: Sequence[Answer], cutoffs: Sequence[int]) -> Evaluation:
    """Recall at every cutoff and the mean reciprocal rank, over the queries whose target is known."""
    ranks = [_rank_of_target(answer) for answer in answers if answer.query.target is not None]
    total = max(len(ranks), 1)
    return Evaluation(
        queries=len(ranks),
        recall={cutoff: sum(0 < rank <= cutoff for rank in ranks) / total for cutoff in cutoffs},
        mean_reciprocal_rank=sum(1 / rank for rank in ranks if rank) / total,
    )


def _some_of(words: Words, share: float, draw: random.Random) -> list[str]:
    count = max(1, round(len(words) * share))
    return [words[place] for place in sorted(draw.sample(range(len(words)), count))]


def _rank_of_target(answer: Answer) -> int:
    """Counted from 1; 0 when the target is not among the hits."""
    return next((rank for rank, hit in enumerate(answer.hits, 1) if hit.position == answer.query.target), 0)
