"""Every kind of value, in two processes with different hash seeds: the same is found again, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.signatures.value_kinds import KINDS, Kind, missing
from tests.support import run_python

REPOSITORY = Path(__file__).parents[2]
CALL = (
    "import json, sys, warnings; sys.path.insert(0, sys.argv[1]); warnings.simplefilter('ignore');"
    "from tests.signatures.value_kinds import digests; print('\\n' + json.dumps(digests(sys.argv[2:])))"
)
REFUSED = "refused"


def test_the_names_of_kinds_are_unique() -> None:
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names)) >= 90


@pytest.mark.parametrize("needs", sorted({kind.needs for kind in KINDS}), ids=lambda needs: " ".join(needs) or "Python")
def test_the_same_value_is_found_again_and_another_is_not(needs: tuple[str, ...]) -> None:
    """One test for each library, in two processes."""
    if missing(needs):
        pytest.skip(f"{' and '.join(missing(needs))} not installed")
    one, other = (
        json.loads(run_python("-c", CALL, str(REPOSITORY), *needs, hash_seed=seed).splitlines()[-1]) for seed in (1, 2)
    )
    kinds = [kind for kind in KINDS if kind.needs == needs]
    assert one.keys() == other.keys() == {kind.name for kind in kinds}
    wrong = {kind.name: faults(kind, one[kind.name], other[kind.name]) for kind in kinds}
    assert {name: found for name, found in wrong.items() if found} == {}


def faults(kind: Kind, one: list[list[str]], other: list[list[str]]) -> list[str]:
    """Return what is wrong with the digests of the same and of the different values, in two processes."""
    (same, different), (same_there, different_there) = one, other
    found = [text for text in same if text.startswith(REFUSED)]
    is_found = not found and len({*same, *same_there}) == 1
    if is_found and kind.needless:
        found.append("it is found again; say so in the list")
    elif not is_found and not kind.needless and not found:
        found.append("the same value has different digests")
    for rivals in (different, different_there):
        known = [text for text in rivals if not text.startswith(REFUSED)]
        if {*known} & {*same, *same_there}:
            found.append("another value has the same digest")
        if len(known) != len(set(known)):
            found.append("two different values have one digest")
    return [] if kind.needless and is_found is False and len(found) == 0 else found
