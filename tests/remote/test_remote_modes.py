"""Whatever the modes, a remote job gives what a sequential run gives here.

Pairs with "parallel" on one side need a process with worker processes of its own, so there are two of them here; the
others are drawn by modal/test_modal_generated_pipelines.py when many examples are asked for.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from hypernodes import Backend, Failure, Pipeline, node
from tests.remote.transports import InProcess
from tests.semantics.build import DictCache, Recorder
from tests.semantics.modes import MODES, Modes, local_backend, subprocess_backend

pytestmark = pytest.mark.slow


@node(output_name="words")
def split(text: str) -> list[str]:
    return text.split()


@node(output_name="length")
async def measure(word: str) -> int:
    return len(word)


@node(output_name="share")
def divide(length: int, by: int) -> float:
    return length / by


@node(output_name="drawn", cache=False)
def draw(words: list[str]) -> int:
    return len(words)


@node(output_name="total")
def add_up(shares: list[float], drawn: int) -> float:
    return sum(shares) + drawn


def observe(backend: Backend) -> dict[str, Any]:
    """Return all that can be seen of some runs and maps, in a form that does not depend on their order."""
    each = Pipeline([measure, divide], name="each").as_node(
        input_mapping={"words": "word"}, output_mapping={"length": "lengths", "share": "shares"}, map_over="words"
    )
    recorder, cache = Recorder(), DictCache()
    pipeline = Pipeline([split, draw, each, add_up], name="outer", backend=backend, cache=cache, callbacks=[recorder])
    seen: dict[str, Any] = {}
    texts = ["in the beginning", "and the earth", "", "in the beginning"]
    seen["run"] = pipeline.run({"text": texts[0], "by": 2})
    seen["map"] = pipeline.map({"text": texts, "by": 2}, "text", output_name=["total", "lengths"])
    failing = pipeline.map({"text": texts[:2], "by": [2, 0]}, ["text", "by"], on_error="collect")
    seen["failing"] = {
        name: [type(v.error) if isinstance(v, Failure) else v for v in column] for name, column in failing.items()
    }
    with pytest.raises(ZeroDivisionError) as caught:
        pipeline.run({"text": texts[1], "by": 0})
    seen["note"] = caught.value.__notes__[0].partition(", map item")[0]
    seen["cache"] = cache.entries
    hooks = Counter(event for event, _ in recorder.events if event.hook not in ("error", "node_start", "node_end"))
    seen["nested"] = {event for event in hooks if event.hook.startswith(("pipeline", "map_start", "map_end"))}
    return seen


def in_process(modes: Modes) -> Backend:
    node_execution, map_execution = modes
    return InProcess(node_execution=node_execution, map_execution=map_execution, max_workers=3)


SOME_MODES = [modes for modes in MODES if "parallel" not in modes]
SOME_MODES += [("parallel", "sequential"), ("sequential", "parallel")]


@pytest.mark.parametrize("modes", SOME_MODES, ids="-".join)
def test_every_pair_of_modes_gives_in_a_remote_job_what_a_sequential_run_gives_here(modes: Modes) -> None:
    expected = observe(local_backend(("sequential", "sequential")))
    with subprocess_backend(modes) if "parallel" in modes else in_process(modes) as backend:
        found = observe(backend)
    for what, value in expected.items():
        assert found[what] == value, what
