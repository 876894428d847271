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
    "from tests.signatures.value_kinds import digests; print('\\n' + json.dumps(digests()))"
)
Digests = dict[str, list[list[str]]]


@pytest.fixture(scope="module")
def processes() -> tuple[Digests, Digests]:
    one, other = (
        json.loads(run_python("-c", CALL, str(REPOSITORY), hash_seed=seed).splitlines()[-1]) for seed in (1, 2)
    )
    return one, other


def test_the_names_of_kinds_are_unique() -> None:
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names)) >= 90


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_same_value_is_found_again_and_another_is_not(kind: Kind, processes: tuple[Digests, Digests]) -> None:
    if missing(kind):
        pytest.skip(f"{' and '.join(missing(kind))} not installed")
    one, other = processes
    (same, different), (same_there, different_there) = one[kind.name], other[kind.name]
    refused = [text for text in same if text.startswith("refused")]
    is_found = not refused and len({*same, *same_there}) == 1
    assert is_found is not bool(kind.needless), refused or "the digests differ"
    rivals = [text for text in different if not text.startswith("refused")]
    assert not {*same, *same_there} & {*different, *different_there} - {t for t in different if t.startswith("refused")}
    assert len(rivals) == len(set(rivals)), "two different values have one digest"
