"""Workloads, and how they are measured: all candidates in turn, round by round, so that they meet the same machine."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter, process_time
from typing import NamedTuple, TypeAlias, TypedDict, Unpack

_PASSES = 20  # short ones: a busy machine takes a core away every few milliseconds
_SLOW_S = 2.0  # a peer that takes longer is not asked again: one reading says enough

Setup: TypeAlias = Callable[[], AbstractContextManager["Case"]]


class Reading(NamedTuple):
    """What a candidate measured itself.

    Attributes:
        value: Taken instead of the time that the call took: seconds, or MiB.
        busy: The share of the time in which its workers were busy (see `benchmarks.busy`); None when it has none.
    """

    value: float
    busy: float | None = None


class PeerFailedError(Exception):
    """Another tool cannot do a workload; the message says why."""


@dataclass(frozen=True)
class Case:
    """A workload that is set up and can be run again and again.

    Attributes:
        run: Does the work with HyperNodes.
        ideal: Seconds that nothing could beat, or the work whose time is divided by `ideal_divisor`.
        ideal_divisor: See `ideal`.
        peers: The same work with other tools, by their names.
        repeats: How often `run` and `ideal` are called in one round, for work that is done in a few microseconds.
        units: Number of nodes or items in one call; see `Workload.unit`.
    """

    run: Callable[[], object]
    ideal: float | Callable[[], object]
    ideal_divisor: float = 1
    peers: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    repeats: int = 1
    units: int = 1


@dataclass(frozen=True)
class Workload:
    """Something to measure.

    Attributes:
        name: What is done, with its numbers.
        setup: Makes the case, and cleans up after it.
        budget: The share of the ideal that must be reached, 0.9 when the ideal takes 90% of the time; None for none.
        lead: How many times faster than the fastest peer it must be; None for any.
        lead_over: The peer that is meant, when it is not the fastest.
        ideal: What the ideal is.
        unit: What is counted in a call ("node", "item"); empty for the call itself.
        family: Name of the plot that it is in.
        size: Number of nodes or items, or what `axis` says, when a family has the same work in several sizes.
        is_large: Whether it takes long, so that `--quick` leaves it out.
        is_memory: Whether MiB are measured rather than seconds.
        max_rounds: The largest number of rounds, for what takes seconds; None for any.
        limit_s: The largest number of seconds for one unit; None for any.
        busy: The share of the time in which the workers must be busy; None for any.
        is_cpu: Whether CPU time of this process is measured, in all its threads, rather than time on the clock.
        axis: What `size` counts; units when empty.
        label: Its name in a picture of several workloads; empty for `name`.
        small_setup: Makes a case that takes a moment, to see that it works; None when there is none.
    """

    name: str
    setup: Setup
    budget: float | None = None
    lead: float | None = None
    ideal: str = "ideal"
    unit: str = ""
    family: str = ""
    size: float | None = None
    is_large: bool = False
    is_memory: bool = False
    lead_over: str = ""
    max_rounds: int | None = None
    limit_s: float | None = None
    busy: float | None = None
    is_cpu: bool = False
    axis: str = ""
    label: str = ""
    small_setup: Setup | None = None


class Settings(TypedDict, total=False):
    """What can be said of a workload; see there."""

    budget: float | None
    lead: float | None
    lead_over: str
    ideal: str
    unit: str
    size: float | None
    is_large: bool
    is_memory: bool
    max_rounds: int | None
    limit_s: float | None
    busy: float | None
    is_cpu: bool
    axis: str
    label: str


class Suite:
    """Workloads that are shown in one table."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.workloads: list[Workload] = []

    def workload(
        self, name: str, *, family: str = "", **settings: Unpack[Settings]
    ) -> Callable[[Callable[[], Iterator[Case]]], None]:
        """Add a generator function that sets a case up, yields it, and cleans up; see `Workload` for the arguments."""

        def add(setup: Callable[[], Iterator[Case]]) -> None:
            self.workloads.append(Workload(name, contextmanager(setup), family=family or name, **settings))

        return add

    def sized_workload(
        self, name: str, *, family: str = "", **settings: Unpack[Settings]
    ) -> Callable[[Callable[[bool], Iterator[Case]]], None]:
        """Add a generator function that is told whether to set a small case up, which only shows that it works."""

        def add(setup: Callable[[bool], Iterator[Case]]) -> None:
            made, small = (contextmanager(partial(setup, is_small)) for is_small in (False, True))
            self.workloads.append(Workload(name, made, family=family or name, small_setup=small, **settings))

        return add


@dataclass(frozen=True)
class Times:
    """What was read in the rounds: seconds (or MiB) for one unit."""

    rounds: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Measured:
    """What was measured of a workload.

    Attributes:
        workload: What was done.
        ours: HyperNodes.
        ideal: What nothing could beat.
        peers: Other tools.
        failed: Why other tools could not do it.
        busy: The shares of the time in which the workers were busy, by candidate ("ours", "ideal", peers).
    """

    workload: Workload
    ours: Times
    ideal: Times
    peers: Mapping[str, Times]
    failed: Mapping[str, str] = field(default_factory=dict)
    busy: Mapping[str, Times] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times as long as the ideal it takes: the median over the rounds, each of which met one machine."""
        ours, ideal = self.ours.rounds, self.ideal.rounds
        if len(ours) != len(ideal):
            return self.ours.median / self.ideal.median
        return statistics.median(own / least for own, least in zip(ours, ideal, strict=True))

    @property
    def lead(self) -> float | None:
        """How many times as long the fastest peer takes, or the one that is meant; None without peers."""
        meant = self.workload.lead_over
        fastest = min((times.median for name, times in self.peers.items() if meant in ("", name)), default=None)
        return None if fastest is None else fastest / self.ours.median

    @property
    def is_within_budget(self) -> bool:
        workload = self.workload
        return (
            (workload.budget is None or self.ratio <= 1 / workload.budget)
            and (workload.lead is None or self.lead is None or self.lead >= workload.lead)
            and (workload.limit_s is None or self.ours.median <= workload.limit_s)
            and (workload.busy is None or self.busy["ours"].median >= workload.busy)
        )


def measure(workload: Workload, rounds: int) -> Measured:
    """Run a workload `rounds` times, or as often as it allows, after a round that warms everything up."""
    rounds = min(rounds, workload.max_rounds or rounds)
    with workload.setup() as case:
        return _measure(workload, case, rounds)


def try_out(workload: Workload) -> Measured | None:
    """Do a small case of a workload, to see that it works; None when it has none. The times mean nothing."""
    if workload.small_setup is None:
        return None
    with workload.small_setup() as case:
        return _measure(workload, case, 1)


def _measure(workload: Workload, case: Case, rounds: int) -> Measured:
    clock = process_time if workload.is_cpu else perf_counter
    own = {"ours": case.run} | ({"ideal": case.ideal} if callable(case.ideal) else {})
    readings: dict[str, list[Reading]] = {name: [] for name in (*own, *case.peers)}
    failed: dict[str, str] = {}
    slow: set[str] = set()
    for number in range(rounds + 1):
        found = _read_own(own, case.repeats, clock)
        for name in case.peers.keys() - failed.keys() - slow:
            gc.collect()
            try:
                found[name] = _read(case.peers[name], 1, clock)
            except PeerFailedError as error:
                failed[name] = str(error)
                continue
            if found[name].value > _SLOW_S and not workload.is_memory:
                slow.add(name)
                readings[name].append(found[name])
        if number:
            for name in found.keys() - slow:
                readings[name].append(found[name])
    times = {name: Times([reading.value / case.units for reading in read]) for name, read in readings.items()}
    if callable(case.ideal):
        ideal = Times([seconds / case.ideal_divisor for seconds in times["ideal"].rounds])
    else:
        ideal = Times([case.ideal / case.units])
    peers = {name: times[name] for name in case.peers if name not in failed}
    busy = {name: shares for name, read in readings.items() if (shares := _shares(read)).rounds}
    return Measured(workload, times["ours"], ideal, peers, failed, busy)


def _shares(readings: Sequence[Reading]) -> Times:
    return Times([reading.busy for reading in readings if reading.busy is not None])


def _read_own(
    candidates: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> dict[str, Reading]:
    """One reading of each; short work is done in passes, in turn, of which the least disturbed one counts."""
    gc.collect()
    passes = min(repeats, _PASSES)
    taken = [{name: _read(run, repeats // passes, clock) for name, run in candidates.items()} for _ in range(passes)]
    return {name: min((readings[name] for readings in taken), key=_value) for name in candidates}


def _value(reading: Reading) -> float:
    return reading.value


def _read(run: Callable[[], object], repeats: int, clock: Callable[[], float]) -> Reading:
    started_at = clock()
    for _ in range(repeats):
        found = run()
    elapsed = (clock() - started_at) / repeats
    return found if isinstance(found, Reading) else Reading(elapsed)
