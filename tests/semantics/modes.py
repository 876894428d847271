"""The ways of running that every test of this folder goes through."""

from __future__ import annotations

from itertools import product
from typing import TypeAlias

from hypernodes import Backend, LocalBackend
from hypernodes.backend import SubprocessBackend
from hypernodes.engine import ExecutionMode

Modes: TypeAlias = tuple[ExecutionMode, ExecutionMode]  # (node_execution, map_execution)

NAMES: tuple[ExecutionMode, ...] = ("sequential", "async", "threaded", "parallel")
MODES: list[Modes] = list(product(NAMES, NAMES))

REMOTE_MODES: list[Modes] = [
    ("sequential", "sequential"),
    ("async", "threaded"),
    ("threaded", "async"),
    ("parallel", "parallel"),
]
"""Each mode once for nodes and once for items, for places where every pair would take too long."""

MODES_ELSEWHERE: list[Modes] = [("sequential", "parallel"), ("threaded", "async")]
"""Each mode once, for other processes: where something runs and how it runs are independent of each other."""


def local_backend(modes: Modes) -> Backend:
    node_execution, map_execution = modes
    return LocalBackend(node_execution=node_execution, map_execution=map_execution, max_workers=3)


def subprocess_backend(modes: Modes) -> Backend:
    node_execution, map_execution = modes
    return SubprocessBackend(node_execution=node_execution, map_execution=map_execution, max_workers=3)
