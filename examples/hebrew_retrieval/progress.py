"""A callback that prints the progress of a run and counts, stage by stage, what was computed."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from hypernodes import CallbackContext, PipelineCallback


@dataclass(slots=True)
class Stage:
    """What became of one node of the outermost pipeline.

    Attributes:
        name: The node's id.
        items: Number of items of a mapped node; 1 for a plain one.
        computed: How many were computed.
        cached: How many came from the cache.
        duration_s: Seconds from the stage's start to its end.
    """

    name: str
    items: int = 1
    computed: int = 0
    cached: int = 0
    duration_s: float = 0.0


class StageProgress(PipelineCallback):
    """Prints one line for each stage as it ends, and where a mapped stage stands while it runs.

    On a terminal the line of a running stage is rewritten in place; in a file it would only pile up, so there it comes
    every few seconds.

    Args:
        stream: Where to print; standard output by default.

    Attributes:
        stages: What became of each stage, by node id.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stages: dict[str, Stage] = {}
        self._stream = stream or sys.stdout
        self._is_terminal = self._stream.isatty()
        self._interval_s = 0.1 if self._is_terminal else 3.0
        self._next_update_s = 0.0

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        if ctx.depth == 0:
            self._end(Stage(node_id, computed=1), duration)

    def on_node_cached(self, node_id: str, signature: str, ctx: CallbackContext) -> None:
        if ctx.depth == 0:
            self._end(Stage(node_id, cached=1), 0.0)

    def on_map_start(self, total_items: int, ctx: CallbackContext) -> None:
        name = ctx.node_path[-1]
        self.stages[name] = Stage(name, items=total_items)
        self._next_update_s = time.perf_counter() + self._interval_s

    def on_map_item_end(self, item_index: int, duration: float, ctx: CallbackContext) -> None:
        stage = self.stages[ctx.node_path[-1]]
        stage.computed += 1
        self._update(stage)

    def on_map_item_cached(self, item_index: int, signature: str, ctx: CallbackContext) -> None:
        stage = self.stages[ctx.node_path[-1]]
        stage.cached += 1
        self._update(stage)

    def on_map_end(self, total_duration: float, ctx: CallbackContext) -> None:
        self._end(self.stages[ctx.node_path[-1]], total_duration)

    def _update(self, stage: Stage) -> None:
        now_s = time.perf_counter()
        if now_s < self._next_update_s:
            return
        self._next_update_s = now_s + self._interval_s
        done = stage.computed + stage.cached
        line = f"  {stage.name:<20}{done:>8,} of {stage.items:,} ({done / stage.items:.0%})"
        self._print(f"\r{line}\x1b[K" if self._is_terminal else f"{line}\n")

    def _end(self, stage: Stage, duration_s: float) -> None:
        stage.duration_s = duration_s
        self.stages[stage.name] = stage
        counts = f"{stage.computed:>8,} computed {stage.cached:>8,} from the cache"
        line = f"  {stage.name:<20}{counts} {stage.duration_s:>8.2f} s"
        self._print(f"\r{line}\x1b[K\n" if self._is_terminal else f"{line}\n")

    def _print(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
