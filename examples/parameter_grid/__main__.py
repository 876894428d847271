"""Searches Python's own help, and prints how well that works for a grid of parameters."""

from __future__ import annotations

import sys
import time
from pydoc_data.topics import topics

from hypernodes import MemoryCache

from .pipeline import evaluation

GRID = {"chunk_size": [500, 1000, 2000], "rare": [False, True]}


def main(most: int | None = None) -> None:
    """Evaluate the search over the first `most` topics of Python's help; over all of them for None."""
    documents = dict(sorted(topics.items())[:most])
    titled = {title: text for title, text in documents.items() if len(text) > 300}
    questions = [" ".join(text.split()[30:90:15]) for text in titled.values()]  # a few words of each, far apart
    given = {"documents": documents, "questions": questions, "answers": list(titled)}
    pipeline = evaluation.with_cache(MemoryCache())

    for attempt in ("first", "again"):
        started_at = time.perf_counter()
        rows = pipeline.map_rows({**given, **GRID}, list(GRID), map_mode="product")
        print(f"{attempt}: {len(rows)} evaluations in {time.perf_counter() - started_at:.2f} s")
    for row in rows:
        print("  ".join([f"{name} {value}" for name, value in row.items()]))
    chunks = pipeline.run({**given, "chunk_size": 500, "rare": True}, "chunk_encode/words")["chunk_encode/words"]
    print(f"the first chunk of {len(chunks)} has the words {', '.join(chunks[0][:6])} ...")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
