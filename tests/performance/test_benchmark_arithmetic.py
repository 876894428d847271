"""The arithmetic of the benchmarks: what is compared with what, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from benchmarks.measure import Case, Measured, PeerFailedError, Reading, Suite, Times, Workload, measure
from benchmarks.report import as_json, table

SUITE = Suite("Arithmetic")


def workload(**settings: object) -> Workload:
    return Workload("work", None, **settings)  # type: ignore[arg-type]


def test_a_ratio_compares_what_met_the_same_round() -> None:
    """A machine that slows down to half for a round changes both times, and not their ratio."""
    row = Measured(workload(), Times([2.0, 4.0, 2.0, 8.0]), Times([1.0, 2.0, 1.0, 4.0]), {})
    assert row.ratio == 2


@pytest.mark.parametrize(
    ("settings", "is_met"),
    [
        ({}, True),
        ({"budget": 1 / 2}, True),
        ({"budget": 1 / 1.9}, False),
        ({"lead": 5.0}, True),
        ({"lead": 5.1}, False),
        ({"budget": 0.5, "lead": 6.0}, False),
    ],
)
def test_a_budget_is_met_within_the_ratio_and_with_the_lead(settings: dict[str, float], is_met: bool) -> None:
    peers = {"slow": Times([100.0]), "fast": Times([10.0])}
    assert Measured(workload(**settings), Times([2.0]), Times([1.0]), peers).is_within_budget is is_met


def test_what_a_candidate_read_itself_counts_for_each_unit() -> None:
    suite = Suite()

    def fail() -> object:
        raise PeerFailedError("RecursionError")

    @suite.workload("work", unit="item")
    def _work() -> Iterator[Case]:
        peers = {"other": lambda: Reading(40.0), "broken": fail}
        yield Case(lambda: Reading(20.0), lambda: Reading(30.0), ideal_divisor=3, peers=peers, units=10)

    row = measure(suite.workloads[0], rounds=3)
    assert (row.ours.median, row.ideal.median, row.ratio) == (2.0, 1.0, 2.0)
    assert {name: times.median for name, times in row.peers.items()} == {"other": 4.0}
    assert row.lead == 2.0
    assert row.failed == {"broken": "RecursionError"}


def test_short_work_is_called_as_often_as_it_says() -> None:
    suite, calls = Suite(), []

    @suite.workload("work")
    def _work() -> Iterator[Case]:
        yield Case(lambda: calls.append("ours"), lambda: calls.append("ideal"), repeats=40)

    measure(suite.workloads[0], rounds=2)
    assert calls.count("ours") == calls.count("ideal") == 3 * 40  # with the round that warms up
    assert calls[:4] == ["ours", "ours", "ideal", "ideal"]


def test_the_table_names_units_budgets_and_what_others_could_not_do() -> None:
    settings = {"budget": 0.5, "lead": 3.0, "ideal": "by hand", "unit": "node"}
    row = Measured(workload(**settings), Times([3e-6]), Times([1e-6]), {"it": Times([6e-6])}, {"third": "deep"})
    assert table([row]).splitlines()[2] == (
        "| work | by hand: 1 µs per node | 3 µs per node | 3.00 | ≤ 2.00, lead ≥ 3 | **missed** | it 2; third: deep |"
    )
    (data,) = json.loads(as_json([(SUITE, [row])], 1))["suites"]["Arithmetic"]
    assert (data["ratio"], data["lead"], data["is_within_budget"]) == (pytest.approx(3), pytest.approx(2), False)
