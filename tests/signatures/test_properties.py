"""Equal values, equal signatures; different values, different ones: over generated values, in every process."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import json
import pickle
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hypernodes.signature import digest, new_memo
from tests.support import run_python

REPOSITORY = Path(__file__).parents[2]


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any


class Slotted:
    __slots__ = ("item",)

    def __init__(self, item: Any) -> None:
        self.item = item

    def __deepcopy__(self, memo: Any) -> Slotted:
        return Slotted(copy.deepcopy(self.item, memo))


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.just(...)
)
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=6)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=5)
        | st.dictionaries(st.text(), inner, max_size=5)
        | st.sets(hashable, max_size=5)
        | st.builds(Pair, inner, inner)
        | st.builds(Slotted, inner)
        | st.builds(bytearray, st.binary())
    ),
    max_leaves=24,
)


def written(value: Any) -> str:
    """Write a value so that two are the same exactly if they are the same text; not a line of the code under test."""
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return f"{kind}({','.join(map(written, value))})"
    if isinstance(value, dict):
        return f"{kind}({','.join(f'{written(k)}:{written(v)}' for k, v in value.items())})"
    if isinstance(value, (set, frozenset)):
        return f"{kind}({','.join(sorted(map(written, value)))})"
    if isinstance(value, Pair):
        return f"Pair({written(value.left)},{written(value.right)})"
    if isinstance(value, Slotted):
        return f"Slotted({written(value.item)})"
    if isinstance(value, (datetime.datetime, decimal.Decimal)):
        return f"{kind}({value!s},{getattr(value, 'fold', '')})"
    return f"{kind}({value!r})"


def reordered(value: Any) -> Any:
    """Return an equal value whose sets were filled in another order, and nothing of which is shared."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(reordered, value))
    if isinstance(value, dict):
        return {reordered(k): reordered(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return type(value)(reversed([*map(reordered, value)]))
    if isinstance(value, Pair):
        return Pair(reordered(value.left), reordered(value.right))
    if isinstance(value, Slotted):
        return Slotted(reordered(value.item))
    return copy.deepcopy(value)


@given(values, values)
@settings(max_examples=200)
def test_two_values_have_one_digest_exactly_if_they_are_the_same(left: Any, right: Any) -> None:
    assert (digest(left) == digest(right)) == (written(left) == written(right))


@given(values)
@settings(max_examples=150)
def test_how_a_value_came_to_be_does_not_matter(value: Any) -> None:
    assert digest(reordered(value)) == digest(value)


@given(values, values)
@settings(max_examples=100)
def test_what_else_was_identified_in_the_same_run_does_not_matter(first: Any, value: Any) -> None:
    """Shortcuts that open up once a class is known must not lead to another digest."""
    memo = new_memo()
    digest([Pair(0, first), Slotted(first), first], memo)
    assert digest(value, memo) == digest(value) == digest(value, memo)
    assert digest([value, Pair(value, value)], memo) == digest([value, Pair(value, value)])


@given(values, st.integers(0, 12))
@settings(max_examples=100)
def test_a_difference_is_seen_at_any_depth(value: Any, depth: int) -> None:
    def buried(thing: Any) -> Any:
        for level in range(depth):
            thing = ([thing], (1, thing), {"k": thing}, Pair(thing, None))[level % 4]
        return thing

    assert digest(buried(value)) == digest(buried(reordered(value)))
    assert digest(buried(value)) != digest(buried([value, 0]))


def generated() -> list[Any]:
    """Return some hundred values, the same ones every time they are read from the file that `main` is given."""
    found: list[Any] = []

    @given(values)
    @settings(max_examples=150, database=None)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def test_digests_are_the_same_in_every_process_under_any_hash_seed(tmp_path: Path) -> None:
    sample = generated()
    path = tmp_path / "values.pickle"
    path.write_bytes(pickle.dumps(sample))
    script = (
        "import json, pickle, sys; sys.path.insert(0, sys.argv[2]); from hypernodes.signature import digest;"
        "print(json.dumps([digest(v).hex() for v in pickle.load(open(sys.argv[1], 'rb'))]))"
    )
    expected = [digest(value).hex() for value in sample]
    for seed in (1, 2):
        out = run_python("-c", script, str(path), str(REPOSITORY), cwd=tmp_path, hash_seed=seed)
        assert json.loads(out) == expected
