"""The execution modes of nodes and items, and what else engines and backends can be told."""

from __future__ import annotations

from typing import Literal, TypeAlias

ExecutionMode: TypeAlias = Literal["sequential", "async", "threaded", "parallel"]

KEEP_WORKERS_S = 60.0
"""How long worker processes stay after a run, in seconds, unless the user says otherwise."""
