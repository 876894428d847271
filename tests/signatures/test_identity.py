"""What is the very same object before and after, and what an interpreter's options change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from hypernodes import DiskCache, LocalBackend, Pipeline, PipelineExecutionEngine, node
from hypernodes.backend import SubprocessBackend
from hypernodes.signature import code, code_digest, digest
from tests.support import start_python

UNSET = object()


class Marker:
    """A class whose objects mean something by being themselves."""


class Named:
    """A class whose objects hold their names."""

    def __init__(self, name: str) -> None:
        self.name = name


MISSING, OTHER = Marker(), Marker()
NAMED = Named("NAMED")


@node(output_name="found")
def look(x: int) -> Any:
    return {"bare": UNSET, "marker": MISSING, "other": OTHER, "list": [MISSING, UNSET], "named": NAMED}


@node(output_name="seen")
def see(found: Any, default: Any = UNSET) -> list[bool]:
    return [
        found["bare"] is UNSET,
        found["marker"] is MISSING,
        found["other"] is OTHER,
        found["list"][0] is MISSING,
        found["list"][1] is UNSET,
        default is UNSET,
        found["named"] is NAMED,
    ]


def test_a_sentinel_comes_back_from_a_disk_cache_as_itself(tmp_path: Path) -> None:
    with DiskCache(tmp_path) as cache:
        pipeline = Pipeline(nodes=[look], cache=cache)
        pipeline.run({"x": 1})
        found = pipeline.run({"x": 1})["found"]
    assert see(found) == [True] * 7


def test_a_sentinel_is_itself_in_a_worker_process() -> None:
    pytest.importorskip("loky")
    engine = PipelineExecutionEngine(map_execution="parallel", max_workers=2)
    pipeline = Pipeline(nodes=[look, see], backend=LocalBackend(engine=engine))
    assert pipeline.map({"x": [1, 2]}, map_over="x", output_name="seen") == {"seen": [[True] * 7] * 2}


@pytest.mark.slow
def test_a_sentinel_is_itself_in_another_place_and_comes_back_as_itself(tmp_path: Path) -> None:
    with DiskCache(tmp_path) as cache:
        for names in (["seen"], ["found"], ["seen", "found"]):  # computed there, and then sent there from the cache
            backend = SubprocessBackend()
            results = Pipeline(nodes=[look, see], backend=backend, cache=cache).run({"x": 1}, output_name=names)
            assert results.get("seen", [True] * 7) == [True] * 7
            assert see(results.get("found", look(1))) == [True] * 7
    everything = Pipeline(nodes=[look, see], backend=SubprocessBackend()).run({"x": 1})
    assert everything["seen"] == see(everything["found"]) == [True] * 7


def test_sentinels_are_told_apart_though_they_hold_nothing() -> None:
    assert digest(MISSING) == digest(MISSING) != digest(OTHER)
    assert digest([UNSET]) == digest([UNSET])


def test_results_of_an_older_way_to_identify_code_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    now = code_digest(look)
    monkeypatch.setattr(code, "IDENTITY_VERSION", code.IDENTITY_VERSION + 1)
    assert code_digest(node(output_name="found")(look.func)) != now


def test_assertions_and_debug_branches_count() -> None:
    """Python leaves them out with -O: the text of a function is the same, and what it does is not."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tests.signatures import test_identity as t;"
        "from hypernodes.signature import code_digest; print(code_digest(t.look).hex())"
    )
    processes = [
        start_python(*options, "-c", script, str(Path(__file__).parents[2])) for options in ([], ["-O"], ["-OO"])
    ]
    digests = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert all(digests)
    assert len(set(digests)) == 3
    assert sys.flags.optimize or digests[0] == code_digest(look).hex()
