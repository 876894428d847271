"""How a map would be divided among up to 10,000 workers: `python -m benchmarks.simulated_clusters` prints a table.

The policy is that of the library (`hypernodes.remote.job_sizes`); the workers are not there. What a job costs was
measured: at the caller, which sends one job after the other, and on its way. Durations vary from job to job.
"""

from __future__ import annotations

import heapq
from random import Random
from typing import NamedTuple

from hypernodes.remote.job_sizes import JobSizes

ITEM_S = 0.01
ITEM_BYTES = 100
RESULT_BYTES = 64
CALLER_S = 0.0007  # of CPU for a job, with `SubprocessBackend`
WAY_S = 0.005  # from the caller to the worker and back
SPREAD = 2.0  # the slowest job takes that many times as long as the fastest


class Simulated(NamedTuple):
    """A map that was simulated.

    Attributes:
        seconds: How long it takes.
        sizes: How many items each job has.
        efficiency: The share of the time in which the workers work.
        caller: The share of the time in which the caller sends jobs.
    """

    seconds: float
    sizes: list[int]
    efficiency: float
    caller: float


def simulate(
    items: int,
    workers: int,
    sizes: JobSizes,
    *,
    item_s: float = ITEM_S,
    caller_s: float = CALLER_S,
    way_s: float = WAY_S,
    spread: float = SPREAD,
) -> Simulated:
    """Simulate a map on workers that do nothing else.

    Args:
        items: How many items there are.
        workers: How many jobs are executed at a time.
        sizes: Chooses the sizes of jobs.
        item_s: How long an item takes at least, in seconds.
        caller_s: How long the caller needs for a job.
        way_s: How long a job is on its way.
        spread: How many times as long as in the fastest job an item takes in the slowest one.
    """
    random, found = Random(items + workers), list[int]()
    waiting, work_s, caller_free_at, now = items, 0.0, 0.0, 0.0
    under_way: list[tuple[float, int, float, float]] = []  # when it is done, items, work, and when it was sent
    while waiting or under_way:
        while waiting and len(under_way) < workers:
            size = min(sizes.choose(waiting, workers), waiting)
            waiting -= size
            found.append(size)
            sizes.learn_sending(size, size * ITEM_BYTES, caller_s)
            caller_free_at = max(caller_free_at, now) + caller_s
            own_s = size * item_s * random.uniform(1, spread)
            work_s += own_s
            heapq.heappush(under_way, (caller_free_at + way_s + own_s, size, own_s, caller_free_at))
        now, size, own_s, sent_at = heapq.heappop(under_way)
        sizes.learn(size, own_s, now - sent_at)
    return Simulated(now, found, work_s / (now * workers), len(found) * caller_s / now)


def main() -> None:
    print("| workers | items | seconds | jobs | jobs a second | workers busy | caller busy | results at the caller |")
    print("|---|---|---|---|---|---|---|---|")
    for workers, items in [(10, 10**5), (100, 10**6), (1_000, 10**7), (10_000, 10**7), (10_000, 10**8)]:
        found = simulate(items, workers, JobSizes())
        jobs = len(found.sizes)
        memory = items * RESULT_BYTES / 2**30
        print(
            f"| {workers:,} | {items:,} | {found.seconds:,.0f} | {jobs:,} | {jobs / found.seconds:,.0f} | "
            f"{found.efficiency:.0%} | {found.caller:.0%} | {memory:.2f} GiB |"
        )


if __name__ == "__main__":
    main()
