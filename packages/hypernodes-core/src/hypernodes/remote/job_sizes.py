"""How many items of a map each job gets."""

from __future__ import annotations

from math import ceil

TARGET_S, LONGEST_TARGET_S = 4.0, 20.0  # of work in a job: long against what it costs to send one
_BUSY_SHARE = 0.25  # of the time in which the caller sends jobs, at most, if jobs of twenty seconds are long enough
_BUSIEST_SHARE = 0.5  # of the time, at most, whatever it takes, as long as all workers get some
_FIRST = 8
_GROWTH, _QUICK_GROWTH, _QUICK_S = 4, 16, 0.1  # from job to job; the larger one if a job took less than that time
_OVERHEAD_SHARE = 0.1  # of the duration of a job, at most, where there is enough to do for all workers
_LARGEST_BYTES = 64 * 1024 * 1024
_RECENT = 0.5  # weight of the last job


class JobSizes:
    """Chooses how many items of a map the next job gets.

    The first jobs are small, since it is not known how long an item takes. Then jobs get as many items as take about
    four seconds, or up to twenty where so many are executed at a time that one caller could not send them as fast; but
    each no more than half of its fair share of what is left, so that the last ones are small again and nobody waits for
    a straggler: guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers
    C-36(12), 1987) with half shares, as in factoring (Hummel, Schonberg and Flynn, Communications of the ACM 35(8),
    1992). Where items are so short that sending a job would cost more than a tenth of computing it, or one caller could
    not keep all workers busy, jobs get more.

    Args:
        fixed: The number for all jobs; None to choose.
        grain: The number of items that nodes take at a time.
        largest: The largest number for a job.
    """

    def __init__(self, fixed: int | None = None, grain: int = 1, largest: int = 1 << 20) -> None:
        self._fixed = fixed
        self._grain = grain
        self._largest = largest
        self._last = 0  # the largest job that is done
        self._seconds: float | None = None  # for one item, where it is executed
        self._overhead_s = 0.0  # for one job: from when it was sent until its outcome was there, but for its work
        self._bytes = 0.0  # for one item
        self._sending_s = 0.0  # for one job, at the caller

    @property
    def seconds_per_item(self) -> float | None:
        """How long an item takes, where it is executed; None when that is not known yet."""
        return self._seconds

    def choose(self, waiting: int | None, jobs_at_once: int) -> int:
        """Return how many items the next job gets.

        Args:
            waiting: How many wait; None when that is not known.
            jobs_at_once: How many jobs are executed at a time.
        """
        if self._fixed is not None:
            return self._fixed
        fair = self._largest if waiting is None else ceil(waiting / (2 * jobs_at_once))
        if self._seconds is None:
            return self._whole_batches(min(_FIRST, ceil(fair / 2)))
        item_s = max(self._seconds, 1e-9)
        needed_s = self._sending_s * jobs_at_once / _BUSY_SHARE
        size = min(min(max(TARGET_S, needed_s), LONGEST_TARGET_S) / item_s, fair)
        least_s = max(self._overhead_s / _OVERHEAD_SHARE, needed_s * _BUSY_SHARE / _BUSIEST_SHARE)
        if least_s > 0:
            most = self._largest if waiting is None else ceil(waiting / jobs_at_once)
            if waiting is not None and waiting * item_s < self._overhead_s:
                most = waiting  # dividing the rest would take longer than computing it
            size = max(size, min(least_s / item_s, most))
        growth = _QUICK_GROWTH if item_s * self._last < _QUICK_S else _GROWTH
        size = min(size, growth * self._last, self._largest)
        if self._bytes:
            size = min(size, _LARGEST_BYTES / self._bytes)
        return self._whole_batches(int(size))

    def _whole_batches(self, size: int) -> int:
        return max(ceil(size / self._grain), 1) * self._grain

    def learn_sending(self, items: int, size_bytes: int, seconds: float) -> None:
        """Take note of a job that was sent.

        Args:
            items: How many items it had.
            size_bytes: Its size, but for what it shares with others.
            seconds: How long the caller was busy with it.
        """
        self._bytes = max(size_bytes / max(items, 1), self._bytes / 2)
        self._sending_s = _RECENT * seconds + (1 - _RECENT) * self._sending_s

    def learn(self, items: int, work_s: float, total_s: float) -> None:
        """Take note of a job that is done.

        Args:
            items: How many items it had.
            work_s: How long they took.
            total_s: How long it was between sending the job and its outcome.
        """
        own = work_s / max(items, 1)
        self._seconds = own if self._seconds is None else _RECENT * own + (1 - _RECENT) * self._seconds
        overhead = max(total_s - work_s, 0.0)
        # Waiting for a worker to start is no cost of every job: the least that was seen counts.
        self._overhead_s = min(overhead, self._overhead_s) if self._last else overhead
        self._last = max(self._last, items)
