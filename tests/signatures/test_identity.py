"""What is the very same object before and after, and what an interpreter's options change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from hypernodes import DiskCache, LocalBackend, MemoryCache, Pipeline, PipelineExecutionEngine, node
from hypernodes.backend import SubprocessBackend
from hypernodes.signature import code, code_digest, digest
from hypernodes.signature.sentinels import sentinel_name
from tests.support import start_python

UNSET = object()


class Marker:
    """A class whose objects mean something by being themselves."""


class Named:
    """A class whose objects hold their names."""

    def __init__(self, name: str) -> None:
        self.name = name


class Slotted:
    """A class whose objects hold their names in slots."""

    __slots__ = ("__about", "name", "unused")

    def __init__(self, name: str) -> None:
        self.name = name
        self.__about = "nothing"


class Single:
    """A class whose object is pickled as the name of a variable."""

    def __init__(self) -> None:
        self.facts = [1, {"a": 2}]

    def __reduce__(self) -> str:
        return "SINGLE"


MISSING, OTHER = Marker(), Marker()
NAMED, SLOTTED, SINGLE = Named("NAMED"), Slotted("SLOTTED"), Single()


NAMED_ONES = {"named": NAMED, "slotted": SLOTTED, "single": SINGLE}


@node(output_name="found")
def look(x: int) -> Any:
    return {"bare": UNSET, "marker": MISSING, "other": OTHER, "list": [MISSING, UNSET], **NAMED_ONES}


@node(output_name="seen")
def see(found: Any, default: Any = UNSET) -> list[bool]:
    return [
        found["bare"] is UNSET,
        found["marker"] is MISSING,
        found["other"] is OTHER,
        found["list"][0] is MISSING,
        found["list"][1] is UNSET,
        default is UNSET,
        *[found[name] is one for name, one in NAMED_ONES.items()],
    ]


def test_a_sentinel_comes_back_from_a_disk_cache_as_itself(tmp_path: Path) -> None:
    with DiskCache(tmp_path) as cache:
        pipeline = Pipeline(nodes=[look], cache=cache)
        pipeline.run({"x": 1})
        found = pipeline.run({"x": 1})["found"]
    assert see(found) == [True] * 9


def test_a_sentinel_is_itself_in_a_worker_process() -> None:
    pytest.importorskip("loky")
    engine = PipelineExecutionEngine(map_execution="parallel", max_workers=2)
    pipeline = Pipeline(nodes=[look, see], backend=LocalBackend(engine=engine))
    assert pipeline.map({"x": [1, 2]}, map_over="x", output_name="seen") == {"seen": [[True] * 9] * 2}


def test_a_sentinel_is_itself_out_of_a_memory_cache() -> None:
    pipeline = Pipeline(nodes=[look], cache=MemoryCache())
    pipeline.run({"x": 1})
    assert see(pipeline.run({"x": 1})["found"]) == [True] * 9


def test_an_object_with_slots_that_hold_more_than_texts_is_no_sentinel() -> None:
    assert sentinel_name(SLOTTED) == (__name__, "SLOTTED")
    assert sentinel_name(Slotted("SLOTTED")) is None  # another one
    SLOTTED.unused = [1]  # type: ignore[attr-defined]
    try:
        assert sentinel_name(SLOTTED) is None
    finally:
        del SLOTTED.unused  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_sentinel_is_itself_in_another_place_and_comes_back_as_itself(tmp_path: Path) -> None:
    with DiskCache(tmp_path) as cache:
        for names in (["seen"], ["found"], ["seen", "found"]):  # computed there, and then sent there from the cache
            backend = SubprocessBackend()
            results = Pipeline(nodes=[look, see], backend=backend, cache=cache).run({"x": 1}, output_name=names)
            assert results.get("seen", [True] * 9) == [True] * 9
            assert see(results.get("found", look(1))) == [True] * 9
    everything = Pipeline(nodes=[look, see], backend=SubprocessBackend()).run({"x": 1})
    assert everything["seen"] == see(everything["found"]) == [True] * 9


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
    digests = [process.communicate(timeout=240)[0].strip() for process in processes]
    assert all(digests)
    assert len(set(digests)) == 3
    assert sys.flags.optimize or digests[0] == code_digest(look).hex()
