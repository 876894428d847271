"""Seeded schedules of delayed, lost, doubled and reordered replies, kills and preemptions, through the real client.

Those here bring every two kinds of trouble together; with `HYPERNODES_MODAL_SCHEDULES=300` in the environment, as many
seeds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations

import pytest

from hypernodes import MemoryCache, Pipeline, RemoteError, node
from hypernodes_modal import ModalBackend
from hypernodes_modal.loopback.faults import (
    DelayReplies,
    DropReplies,
    DuplicateReplies,
    Fault,
    KillContainer,
    PreemptContainer,
    RefuseConnections,
    ReorderReplies,
)
from tests.support import Recorder

pytestmark = pytest.mark.slow

SOME = (3, 8, 36, 121, 184, 243)
SEEDS = range(int(os.environ["HYPERNODES_MODAL_SCHEDULES"])) if "HYPERNODES_MODAL_SCHEDULES" in os.environ else SOME
ITEMS = 30


@node(output_name="doubled")
def double(x: int) -> int:
    return 2 * x


@node(output_name="total")
def add_up(all_doubled: list[int], offset: int) -> int:
    return sum(all_doubled) + offset


double_all = Pipeline([double], name="double_all").as_node(
    input_mapping={"xs": "x"}, output_mapping={"doubled": "all_doubled"}, map_over="xs"
)


def schedule(seed: int) -> Sequence[Fault]:
    """Two to four kinds of trouble."""
    chance = random.Random(seed)
    rpc = chance.choice(["Function*", "Queue*", "*"])
    kinds: list[Fault] = [
        DropReplies(rpc, probability=chance.uniform(0.05, 0.25)),
        DelayReplies(rpc, probability=0.3, seconds=(0.0, 0.05)),
        DuplicateReplies(rpc, probability=chance.uniform(0.1, 0.5)),
        ReorderReplies("Queue*", probability=0.2),
        KillContainer(
            chance.choice(["start", "input", "output"]), nth=chance.randint(1, 2), times=chance.randint(1, 2)
        ),
        KillContainer("input", after_s=chance.uniform(0.0, 0.2)),
        PreemptContainer("input", nth=1, after_s=chance.uniform(0.0, 0.1)),
        RefuseConnections(chance.choice(["FunctionGetOutputs", "QueueGet"]), nth=chance.randint(1, 3), seconds=1.0),
    ]
    return chance.sample(kinds, chance.randint(2, 4))


def test_some_schedules_bring_every_two_kinds_of_trouble_together() -> None:
    def kinds(seed: int) -> list[str]:
        made = schedule(seed)  # a container is killed at a moment, or after some time
        return sorted(f"{type(fault).__name__} {getattr(fault, 'after_s', 0) > 0}" for fault in made)

    assert len({pair for seed in SOME for pair in combinations(kinds(seed), 2)}) == 28


@pytest.mark.parametrize("seed", SEEDS)
def test_trouble_changes_no_result_and_loses_nothing_that_arrived(plane, image, seed):
    cache, recorder = MemoryCache(), Recorder()
    inputs = {"xs": list(range(ITEMS)), "offset": seed}
    expected = Pipeline([double_all, add_up]).run(inputs)
    with ModalBackend(image) as backend:
        pipeline = Pipeline([double_all, add_up], backend=backend, cache=cache, callbacks=[recorder])
        plane.inject_faults(*schedule(seed), seed=seed)
        with suppress(RemoteError):  # one of ours, which says what happened; anything else fails the test
            assert pipeline.run(inputs) == expected
        plane.inject_faults()
        # What was reported as done had reached this side, and is not done again.
        done = {payload["outputs"]["doubled"] for event, _, payload in recorder.of("node_end") if event[1] == "double"}
        recorder.clear()
        assert pipeline.run(inputs) == expected
        again = {2 * payload["inputs"]["x"] for event, _, payload in recorder.of("node_start") if event[1] == "double"}
        assert not done & again
