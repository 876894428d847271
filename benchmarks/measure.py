"""Workloads, how they are measured, and the table of what was measured."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeAlias

Setup: TypeAlias = Callable[[], AbstractContextManager["Case"]]


@dataclass(frozen=True)
class Case:
    """A workload that is set up and can be run again and again.

    Attributes:
        run: Does the work with HyperNodes.
        ideal: Seconds that nothing could beat, or the work whose time is divided by `ideal_divisor`.
        ideal_divisor: See `ideal`.
        peers: The same work with other tools, by their names.
    """

    run: Callable[[], object]
    ideal: float | Callable[[], object]
    ideal_divisor: int = 1
    peers: Mapping[str, Callable[[], object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """Something to measure.

    Attributes:
        name: What is done, with its numbers.
        budget: The share of the ideal that must be reached; 0.9 when the ideal takes 90% of the time.
        setup: Makes the case, and cleans up after it.
    """

    name: str
    budget: float
    setup: Setup


class Suite:
    """Workloads that are shown in one table."""

    def __init__(self) -> None:
        self.workloads: list[Workload] = []

    def workload(self, name: str, *, budget: float) -> Callable[[Callable[[], Iterator[Case]]], None]:
        """Add a generator function that sets a case up, yields it, and cleans up."""

        def add(setup: Callable[[], Iterator[Case]]) -> None:
            self.workloads.append(Workload(name, budget, contextmanager(setup)))

        return add


@dataclass(frozen=True)
class Times:
    """Durations of the rounds, in seconds."""

    rounds: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        return f"{1000 * self.median:.1f} ({1000 * min(self.rounds):.1f}–{1000 * max(self.rounds):.1f})"


@dataclass(frozen=True)
class Measured:
    """What was measured of a workload; all its candidates took turns, so that they met the same machine.

    Attributes:
        workload: What was done.
        ours: HyperNodes.
        ideal: What nothing could beat.
        peers: Other tools.
    """

    workload: Workload
    ours: Times
    ideal: Times
    peers: Mapping[str, Times]

    @property
    def share_of_ideal(self) -> float:
        return self.ideal.median / self.ours.median

    @property
    def is_within_budget(self) -> bool:
        return self.share_of_ideal >= self.workload.budget


def measure(workload: Workload, rounds: int) -> Measured:
    """Run a workload `rounds` times, after a round that warms everything up."""
    with workload.setup() as case:
        candidates = {"ours": case.run, **case.peers}
        if callable(case.ideal):
            candidates["ideal"] = case.ideal
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        for number in range(rounds + 1):
            for name, run in candidates.items():
                gc.collect()
                started_at = perf_counter()
                run()
                if number:
                    seconds[name].append(perf_counter() - started_at)
        if callable(case.ideal):
            ideal = Times([s / case.ideal_divisor for s in seconds.pop("ideal")])
        else:
            ideal = Times([case.ideal])
        return Measured(workload, Times(seconds.pop("ours")), ideal, {name: Times(s) for name, s in seconds.items()})


def table(measured: Iterable[Measured]) -> str:
    """Return a Markdown table; times are medians (and extremes) in milliseconds."""
    lines = [
        "| workload | ideal, ms | HyperNodes, ms | of the ideal | budget | | peers, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        peers = "; ".join(
            f"{name}: {times}, {times.median / row.ours.median:.2f} ×" for name, times in row.peers.items()
        )
        verdict = "met" if row.is_within_budget else "**missed**"
        lines.append(
            f"| {row.workload.name} | {1000 * row.ideal.median:.1f} | {row.ours} | {row.share_of_ideal:.1%} "
            f"| ≥ {row.workload.budget:.0%} | {verdict} | {peers or '–'} |"
        )
    return "\n".join(lines)
