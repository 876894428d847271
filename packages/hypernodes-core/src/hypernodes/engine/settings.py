"""The execution modes of nodes and items."""

from __future__ import annotations

from typing import Literal, TypeAlias

ExecutionMode: TypeAlias = Literal["sequential", "async", "threaded", "parallel"]
