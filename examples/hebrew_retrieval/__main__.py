"""Run the demo: `python -m examples.hebrew_retrieval --help`."""

import argparse
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hypernodes import DiskCache

from .corpus import Corpus, CorpusNotInstalledError
from .encoding import NGramEncoder
from .evaluation import KnownItemTask
from .pipeline import retrieval
from .places import DISTRIBUTED, PLACES
from .progress import StageProgress
from .report import answer_lines, evaluation_lines, summary_lines

QUESTIONS = (
    "בראשית ברא אלוהים את השמים ואת הארץ",
    "שמע ישראל ה' אלוהינו ה' אחד",
    "ואהבת לרעך כמוך",
    "וכיתתו חרבותיהם לאיתים",
    "על נהרות בבל שם ישבנו",
    "אשת חיל מי ימצא",
    "הבל הבלים אמר קהלת",
)
"""As somebody would type them today: without vowel points, and several in a spelling that the text does not have."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo once and print what it found; returns the exit status."""
    options = _parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    try:
        corpus = Corpus.installed()
    except CorpusNotInstalledError as error:
        print(error, file=sys.stderr)
        return 1

    started_s = time.perf_counter()
    cache = DiskCache(path=options.cache_dir)
    if options.fresh:
        cache.clear()
    task = KnownItemTask(queries=options.known_items, drop=options.drop, seed=options.seed)
    progress = StageProgress()
    places = DISTRIBUTED if options.mode == "distributed" else PLACES
    with places[options.backend]() as place:
        print(f"Stages ({place.description}, cache {options.cache_dir}):", flush=True)
        outputs = (
            retrieval.with_backend(place.backend)
            .with_cache(cache)
            .with_callbacks([progress])
            .run(
                inputs={
                    "corpus": corpus,
                    "limit": options.limit,
                    "encoder": NGramEncoder(),
                    "questions": tuple(options.question or QUESTIONS),
                    "task": task,
                    "top_k": options.top_k,
                    "cutoffs": tuple(options.recall_at),
                },
                output_name=["verses", "answers", "evaluation"],
            )
        )
        calls = place.count_calls()

    caveat = " (not every question has a good one among these)" if options.limit else ""
    print(f"\nAnswers from {len(outputs['verses']):,} verses{caveat}:")
    for answer in outputs["answers"]:
        if answer.query.target is None:
            print("\n".join(answer_lines(answer, outputs["verses"])))
    print("\nKnown-item search:")
    print("\n".join(evaluation_lines(outputs["evaluation"], task)))
    print("\nThis run:")
    print("\n".join(summary_lines([stage.name for stage in retrieval.nodes], progress.stages)))
    if calls is not None:
        print(f"  Remote calls     {calls}")
    print(f"  Time             {time.perf_counter() - started_s:.1f} s")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.hebrew_retrieval",
        description="Find verses of the Hebrew Bible from a few words of them, and measure how well that works.",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="read only the first N verses (all)")
    parser.add_argument(
        "--question", action="append", metavar="TEXT", help="ask this, in Hebrew, instead of the demo's own; repeatable"
    )
    parser.add_argument(
        "--top-k", type=_positive, default=10, metavar="K", help="search: verses found per query (%(default)s)"
    )
    parser.add_argument(
        "--recall-at",
        type=_positive,
        nargs="+",
        default=[1, 10],
        metavar="K",
        help="last stage: cutoffs of recall (1 10)",
    )
    parser.add_argument(
        "--known-items", type=_positive, default=500, metavar="N", help="queries to measure with (%(default)s)"
    )
    parser.add_argument(
        "--drop", type=_share, default=0.6, metavar="SHARE", help="share of a verse's words left out (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="draws other verses and words (%(default)s)")
    parser.add_argument(
        "--backend", choices=sorted(PLACES), default="local", help="where the pipeline runs (%(default)s)"
    )
    parser.add_argument(
        "--mode",
        choices=["single", "distributed"],
        default="single",
        help="whether one worker of the backend does the job, or several share the items of its maps (%(default)s)",
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=Path(".hypernodes-demo"),
        metavar="DIR",
        help="where results are kept (%(default)s)",
    )
    parser.add_argument("--fresh", action="store_true", help="empty the cache directory first")
    options = parser.parse_args(arguments)
    if max(options.recall_at) > options.top_k:
        parser.error(f"--recall-at {max(options.recall_at)} needs a --top-k of at least as much, not {options.top_k}")
    if options.mode == "distributed" and options.backend not in DISTRIBUTED:
        parser.error(f"--mode distributed needs --backend {' or '.join(sorted(DISTRIBUTED))}, not {options.backend}")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, not {value}")
    return value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped. What was computed is in the cache: the next run goes on from there.", file=sys.stderr)
        sys.exit(130)
