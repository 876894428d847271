"""What the tests share: a callback and a cache that write down what happens to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypernodes import CallbackContext, LocalBackend, MemoryCache, PipelineCallback
from hypernodes.cache.record import is_record_key
from hypernodes.failure import REPLAY_NOTE


def end_idle_workers() -> None:
    """End the processes that stay for the next run."""
    LocalBackend().close()
    # Not by its public name, which is looked up in the metadata of all distributions each time.
    if module := sys.modules.get("hypernodes.remote.subprocess_backend"):
        module.SubprocessBackend().close()


class Recorder(PipelineCallback):
    """Writes down every event, in order.

    Attributes:
        events: Hook name without `on_` and what identifies the event, e.g. `("node_start", "strip")`.
        contexts: Context of each event.
        payloads: Inputs, outputs, signature, duration or error of each event, by parameter name.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.contexts: list[CallbackContext] = []
        self.payloads: list[dict[str, Any]] = []

    @property
    def computed(self) -> list[str]:
        """Ids of the nodes that were called, in order."""
        return [event[1] for event in self.events if event[0] == "node_start"]

    @property
    def cached(self) -> list[str]:
        """Ids of the nodes whose results came from a cache, in order."""
        return [event[1] for event in self.events if event[0] == "node_cached"]

    @property
    def cached_items(self) -> list[int]:
        """Indexes of the map items that came from a cache as a whole."""
        return [event[1] for event in self.events if event[0] == "map_item_cached"]

    def of(self, hook: str) -> list[tuple[tuple[Any, ...], CallbackContext, dict[str, Any]]]:
        """Return event, context and payload of the events of one hook."""
        rows = zip(self.events, self.contexts, self.payloads, strict=True)
        return [row for row in rows if row[0][0] == hook]

    def clear(self) -> None:
        self.events.clear()
        self.contexts.clear()
        self.payloads.clear()

    def _note(self, ctx: CallbackContext, *event: Any, **payload: Any) -> None:
        self.events.append(event)
        self.contexts.append(ctx)
        self.payloads.append(payload)

    def on_pipeline_start(self, pipeline_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        self._note(ctx, "pipeline_start", pipeline_id, inputs=dict(inputs))

    def on_pipeline_end(
        self, pipeline_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext
    ) -> None:
        self._note(ctx, "pipeline_end", pipeline_id, outputs=dict(outputs), duration=duration)

    def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        self._note(ctx, "node_start", node_id, inputs=dict(inputs))

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        self._note(ctx, "node_end", node_id, outputs=dict(outputs), duration=duration)

    def on_node_cached(self, node_id: str, signature: str, ctx: CallbackContext) -> None:
        self._note(ctx, "node_cached", node_id, signature=signature)

    def on_error(self, node_id: str, error: BaseException, ctx: CallbackContext) -> None:
        self._note(ctx, "error", node_id, error=error)

    def on_nested_pipeline_start(self, parent_id: str, child_pipeline_id: str, ctx: CallbackContext) -> None:
        self._note(ctx, "nested_start", parent_id, child_pipeline_id)

    def on_nested_pipeline_end(
        self, parent_id: str, child_pipeline_id: str, duration: float, ctx: CallbackContext
    ) -> None:
        self._note(ctx, "nested_end", parent_id, child_pipeline_id, duration=duration)

    def on_map_start(self, total_items: int | None, ctx: CallbackContext) -> None:
        self._note(ctx, "map_start", total_items)

    def on_map_item_start(self, item_index: int, ctx: CallbackContext) -> None:
        self._note(ctx, "map_item_start", item_index)

    def on_map_item_end(self, item_index: int, duration: float, ctx: CallbackContext) -> None:
        self._note(ctx, "map_item_end", item_index, duration=duration)

    def on_map_item_cached(self, item_index: int, signature: str, ctx: CallbackContext) -> None:
        self._note(ctx, "map_item_cached", item_index, signature=signature)

    def on_map_end(self, total_duration: float, ctx: CallbackContext) -> None:
        self._note(ctx, "map_end", duration=total_duration)


class RecordingCache(MemoryCache):
    """Writes down which keys were looked up and which were stored."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.stored: list[str] = []

    def get(self, key: str) -> Any:
        self.asked.append(key)
        return super().get(key)

    def put(self, key: str, value: Any) -> None:
        super().put(key, value)
        if not is_record_key(key):
            self.stored.append(key)


def run_python(*arguments: str, cwd: Path | None = None, hash_seed: int = 0) -> str:
    """Run a fresh interpreter with these arguments; return what it printed."""
    process = start_python(*arguments, cwd=cwd, hash_seed=hash_seed)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def start_python(
    *arguments: str, cwd: Path | None = None, hash_seed: int = 0, stdin: bool = False
) -> subprocess.Popen[str]:
    """Start a fresh interpreter with these arguments."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE if stdin else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an error, but for the one that says how the call is made again."""
    return [note for note in error.__notes__ if note != REPLAY_NOTE]
