"""Encodes the sentences of Python's own help, and prints how long that takes: `python -m examples.sentence_encoder`."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

from hypernodes import MemoryCache

SIZES = (1, 8, 64)


def main(most: int | None = None) -> int:
    """Encode the first `most` sentences, or all of them for None; return the exit status."""
    if importlib.util.find_spec("wordllama") is None:
        print(
            "This example encodes with the model in the PyPI package wordllama:\n"
            "    pip install -r examples/sentence_encoder/requirements.txt",
            file=sys.stderr,
        )
        return 1
    from .pipeline import encoding, word_llama

    started_at = time.perf_counter()
    word_llama().get()
    print(f"model loaded in {time.perf_counter() - started_at:.2f} s", flush=True)
    sentences = find_sentences()[:most]
    for size in SIZES:
        seconds = timed(lambda size=size: encoding(size).map({"sentence": sentences}, "sentence"))  # type: ignore[misc]
        print(f"batches of {size:>2}: {len(sentences) / seconds:>8,.0f} sentences a second", flush=True)
    cached = encoding(SIZES[-1]).with_cache(MemoryCache())
    print(f"with a cache, first:  {timed(lambda: cached.map({'sentence': sentences}, 'sentence')):.3f} s")
    print(f"again:                {timed(lambda: cached.map({'sentence': sentences}, 'sentence')):.3f} s")
    sentences[len(sentences) // 2] = "One sentence was edited."
    explained = cached.explain({"sentence": sentences}, map_over="sentence")
    print(f"one edited:           {timed(lambda: cached.map({'sentence': sentences}, 'sentence')):.3f} s", end="")
    print(f" ({explained.runs} of {explained.hits + explained.runs:,} encoded)")
    return 0


def find_sentences() -> list[str]:
    """Return the different sentences of Python's help."""
    text = " ".join(text for _, text in sorted(topics.items()))
    found = re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", text))
    return list(dict.fromkeys(sentence for sentence in found if 20 <= len(sentence) <= 400))


def timed(function: Callable[[], Any]) -> float:
    """Return how long a call takes, in seconds."""
    started_at = time.perf_counter()
    function()
    return time.perf_counter() - started_at


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
