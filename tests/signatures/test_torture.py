"""Between two processes anything may change: never a stale value, and hardly ever a needless computation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.signatures.scenarios import SCENARIOS
from tests.support import run_python

REPOSITORY = Path(__file__).parents[2]
CALL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.signatures.run_scenarios import main
main(Path(sys.argv[1]))
"""


def write(root: Path, files_of: dict[str, dict[str, str]]) -> None:
    for name, files in files_of.items():
        for path, text in files.items():
            target = root / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


def run_all(root: Path, hash_seed: int) -> dict[str, Any]:
    out = run_python("-c", CALL, str(root), str(REPOSITORY), hash_seed=hash_seed)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the first process and, after the changes, the second one computed, by the number of the scenario.

    The second one runs in another folder and with another hash seed.
    """
    root = tmp_path_factory.mktemp("torture")
    write(root / "first", {f"{i:03}": scenario.before for i, scenario in enumerate(SCENARIOS)})
    write(root / "then", {f"{i:03}": scenario.after for i, scenario in enumerate(SCENARIOS)})
    first = run_all(root / "first", hash_seed=1)
    shutil.rmtree(root / "first")
    return first, run_all(root / "then", hash_seed=2)


def test_the_matrix_is_large_and_its_names_are_unique() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(names) == len(set(names)) >= 60


def test_every_scenario_computes_something_at_first(outcomes: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first, _ = outcomes
    failed = {SCENARIOS[int(number)].name: found["error"] for number, found in first.items() if "error" in found}
    assert failed == {}
    assert [SCENARIOS[int(n)].name for n, found in first.items() if not found["computed"]] == []


def test_no_scenario_is_left_uncached(outcomes: tuple[dict[str, Any], dict[str, Any]]) -> None:
    scenarios = [(SCENARIOS[int(n)], found["warnings"]) for n, found in outcomes[0].items()]
    assert {scenario.name: said for scenario, said in scenarios if said and scenario.is_hit is not None} == {}


def test_what_cannot_be_followed_is_left_uncached_and_said_so(outcomes: tuple[dict[str, Any], dict[str, Any]]) -> None:
    silent = [
        scenario.name
        for n, scenario in enumerate(SCENARIOS)
        if scenario.is_hit is None
        and not all(any("runs uncached" in said for said in found[f"{n:03}"]["warnings"]) for found in outcomes)
    ]
    assert silent == []


def test_nothing_stale_is_ever_returned(outcomes: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, then = outcomes
    assert {SCENARIOS[int(n)].name: found["error"] for n, found in then.items() if "error" in found} == {}
    assert [SCENARIOS[int(n)].name for n, found in then.items() if not found["is_right"]] == []


def test_whatever_makes_a_difference_is_computed_again(outcomes: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Also where the two results happen to be equal."""
    _, then = outcomes
    missed = [s.name for n, s in enumerate(SCENARIOS) if not s.is_hit and not then[f"{n:03}"]["computed"]]
    assert missed == []


def test_whatever_makes_no_difference_is_found(outcomes: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """The issue allows two in a hundred; there are none."""
    _, then = outcomes
    needless = [s.name for n, s in enumerate(SCENARIOS) if s.is_hit and then[f"{n:03}"]["computed"]]
    assert needless == []
