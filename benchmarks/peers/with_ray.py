"""Workloads with Ray Data."""

from __future__ import annotations

from typing import Any

import functions
import ray


def map_in_batches(size: int, threads: int) -> Any:
    ray.init(num_cpus=threads, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def prepare(row: dict[str, int]) -> dict[str, int]:
        return {"item": functions.prepare_item(row["item"])}

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        functions.encode_batch(batch["item"])
        return batch

    def run() -> Any:
        items = ray.data.from_items([{"item": x} for x in range(size)], override_num_blocks=threads)
        return items.map(prepare).map_batches(encode, batch_size=functions.BATCH, concurrency=1).take_all()

    return run
