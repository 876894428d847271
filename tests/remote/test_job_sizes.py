"""How many items of a map each job gets."""

from __future__ import annotations

import pytest

from benchmarks import simulated_clusters
from hypernodes.remote.job_sizes import LONGEST_TARGET_S, TARGET_S, JobSizes


def simulate(items: int, workers: int, item_s: float, job_s: float, sizes: JobSizes) -> tuple[float, list[int]]:
    """Return how long a map takes on ideal workers, and the sizes of its jobs.

    Args:
        items: How many there are.
        workers: How many jobs are executed at a time.
        item_s: How long an item takes.
        job_s: What a job costs besides.
        sizes: Chooses the sizes.
    """
    found = simulated_clusters.simulate(items, workers, sizes, item_s=item_s, caller_s=0.0, way_s=job_s, spread=1.0)
    return found.seconds, found.sizes


@pytest.mark.parametrize("workers", [1, 2, 16, 200])
@pytest.mark.parametrize("item_s", [0.00001, 0.01, 1.0, 30.0])
def test_all_workers_are_busy_until_shortly_before_the_end(workers: int, item_s: float) -> None:
    items, job_s = 100_000, 0.01
    total_s, sizes = simulate(items, workers, item_s, job_s, JobSizes())
    assert sum(sizes) == items
    ideal_s = items * item_s / workers
    assert total_s <= 1.1 * ideal_s + 2 * item_s + 30 * job_s


def test_jobs_begin_small_last_a_few_seconds_and_end_small() -> None:
    _, sizes = simulate(100_000, 4, 0.01, 0.01, JobSizes())
    assert sizes[0] <= 8
    assert max(sizes) == pytest.approx(TARGET_S / 0.01, rel=0.01)
    assert sizes[-1] < max(sizes) / 10


def test_long_items_are_sent_one_by_one() -> None:
    _, sizes = simulate(100, 4, 60.0, 0.01, JobSizes())
    assert max(sizes[8:]) == 1


def test_short_items_are_sent_in_few_jobs() -> None:
    _, sizes = simulate(100_000, 2, 0.000002, 0.01, JobSizes())
    assert len(sizes) < 20


def test_batches_set_the_grain() -> None:
    _, sizes = simulate(10_000, 3, 0.01, 0.01, JobSizes(grain=32))
    assert all(size % 32 == 0 for size in sizes[:-1])


def test_a_fixed_size_is_kept() -> None:
    _, sizes = simulate(100, 3, 0.01, 0.01, JobSizes(fixed=7))
    assert sizes == [7] * 14 + [2]


def test_large_items_are_sent_in_small_jobs() -> None:
    sizes = JobSizes()
    for _ in range(20):
        sizes.learn_sending(8, 8 * 10_000_000, 0.0001)
        sizes.learn(8, 0.001, 0.01)
    assert sizes.choose(10_000, 2) <= 8


def test_a_first_job_that_waited_for_its_worker_does_not_make_the_others_large() -> None:
    sizes = JobSizes()
    sizes.learn(4, 4.0, 60.0)  # a minute to start
    sizes.learn(4, 4.0, 4.01)
    assert sizes.choose(1000, 2) <= 16


def test_jobs_get_longer_where_one_caller_could_not_send_enough_of_them() -> None:
    sizes = JobSizes()
    for _ in range(20):
        sizes.learn_sending(100, 1000, 0.001)
        sizes.learn(2000, 20.0, 20.01)
    assert sizes.choose(10**8, 10) == pytest.approx(TARGET_S / 0.01, rel=0.01)
    assert sizes.choose(10**8, 10_000) == pytest.approx(LONGEST_TARGET_S / 0.01, rel=0.01)
