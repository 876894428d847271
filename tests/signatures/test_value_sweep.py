"""Every kind of value, in two processes with different hash seeds: the same is found again, and nothing else is."""

from __future__ import annotations

import pytest

from tests.signatures.sweep import TABLE, Verdict, judge, library_of, sweep
from tests.signatures.value_kinds import Kind, all_kinds, missing

KINDS = all_kinds()
OTHER_IS_SAME = "another value has the same digest: 2"
LIBRARIES = sorted({kind.needs for kind in KINDS})


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    """What the two processes found, for all kinds together."""
    return sweep()


def test_the_names_of_kinds_are_unique() -> None:
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names)) >= 250


@pytest.mark.parametrize("needs", LIBRARIES, ids=lambda needs: " ".join(needs) or "Python")
def test_the_same_value_is_found_again_and_another_is_not(needs: tuple[str, ...], verdicts: list[Verdict]) -> None:
    if missing(needs):
        pytest.skip(f"{' and '.join(missing(needs))} not installed")
    found = {verdict.kind.name: verdict.faults for verdict in verdicts if verdict.kind.needs == needs}
    assert found
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_the_table_lists_every_kind() -> None:
    table = TABLE.read_text(encoding="utf-8")
    assert [kind.name for kind in KINDS if f"| {library_of(kind)} | {kind.name} |" not in table] == []


@pytest.mark.parametrize(
    ("one", "other", "faults"),
    [
        ([["a"], ["b"]], [["a"], ["b"]], []),
        ([["a"], ["refused: x"]], [["a"], ["refused: x"]], []),
        ([["a"], ["b"]], [["c"], ["b"]], ["the same value has different digests"]),
        ([["a"], ["a"]], [["a"], ["b"]], [OTHER_IS_SAME]),
        (
            [["a"], ["b"]],
            [["b"], ["b"]],
            ["the same value has different digests", "another value has the same digest: 2"],
        ),
        ([["refused: x"], ["b"]], [["refused: x"], ["b"]], ["refused: x"]),
        ([["error: x"], ["b"]], [["error: x"], ["b"]], ["error: x"]),
    ],
)
def test_the_sweep_notices_what_is_wrong(one: list[list[str]], other: list[list[str]], faults: list[str]) -> None:
    assert judge(Kind("number", "", ("1",), ("2",)), one, other).faults == faults
