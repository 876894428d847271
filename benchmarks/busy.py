"""Work that keeps a core busy, and how busy the workers were that did it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

Span: TypeAlias = tuple[int, float, float]
"""The worker that computed an item (a process id, or a thread's), when it began, and when it ended, in seconds."""

PAUSE_S = 20e-6
"""What a worker does between two items of a chunk counts as work; to wait for the next chunk takes longer."""


class Busy(NamedTuple):
    """How busy workers were, from the first item's beginning to the last one's end.

    Attributes:
        all: The share of that time in which all of them worked.
        mean: The share of its time in which a worker worked, on average.
    """

    all: float
    mean: float


def count(steps: int) -> int:
    """Keep a core busy."""
    total = 0
    for number in range(steps):
        total += number & 3
    return total


def steps_taking(seconds: float) -> int:
    """Return the argument with which `count` takes as long as this, on a core of its own."""

    def once() -> float:
        started_at = time.process_time()
        count(100_000)
        return time.process_time() - started_at

    return int(100_000 * seconds / min(once() for _ in range(20)))


def counting_span(x: int, steps: int) -> Span:
    """Keep a core busy, and say who did it when."""
    began_at = time.perf_counter()  # the same clock in all processes of a machine
    count(steps)
    return os.getpid(), began_at, time.perf_counter()


def sleeping_span(x: int, seconds: float) -> Span:
    """Sleep, and say who did it when."""
    began_at = time.perf_counter()
    time.sleep(seconds)
    return os.getpid(), began_at, time.perf_counter()


def busy_shares(spans: Iterable[Span], workers: int) -> Busy:
    """Return how busy `workers` were that computed items in these spans of time; one that computed none was not."""
    by_worker: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for worker, began_at, ended_at in spans:
        by_worker[worker].append((began_at, ended_at))
    stretches = [stretch for own in by_worker.values() for stretch in _joined(sorted(own))]
    begins = [(began_at, 1) for began_at, _ in stretches]
    marks = sorted(begins + [(ended_at, -1) for _, ended_at in stretches])
    busy, all_busy = 0, 0.0
    last = marks[0][0]
    for at, change in marks:
        if busy >= workers:
            all_busy += at - last
        busy += change
        last = at
    whole = marks[-1][0] - marks[0][0]
    worked = sum(ended_at - began_at for began_at, ended_at in stretches)
    return Busy(all_busy / whole, worked / whole / workers)


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join the spans of one worker that have only a pause between them."""
    joined = [spans[0]]
    for began_at, ended_at in spans[1:]:
        first, last = joined[-1]
        if began_at - last <= PAUSE_S:
            joined[-1] = (first, ended_at)
        else:
            joined.append((began_at, ended_at))
    return joined
