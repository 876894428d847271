"""Workloads with Ray Data."""

from __future__ import annotations

from pathlib import Path
from time import sleep
from typing import Any

import functions
import ray


def map_in_batches(size: int, threads: int) -> Any:
    folder = str(Path(functions.__file__).parent)
    environment = {"env_vars": {"PYTHONPATH": folder}}
    ray.init(num_cpus=threads, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    ray.data.DataContext.get_current().enable_progress_bars = False

    one = ray.data.TaskPoolStrategy(size=1)

    def prepare(row: dict[str, int]) -> dict[str, int]:
        return {"item": functions.prepare_item(row["item"])}

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        functions.encode_batch(batch["item"])
        return batch

    def run() -> Any:
        items = ray.data.from_items([{"item": x} for x in range(size)], override_num_blocks=threads)
        return items.map(prepare).map_batches(encode, batch_size=functions.BATCH, compute=one).take_all()

    return run


def map_on_cluster(size: int, seconds: float) -> Any:
    folder = str(Path(functions.__file__).parent)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": folder}})

    @ray.remote
    def rest(x: int) -> int:
        sleep(seconds)
        return x

    return lambda: ray.get([rest.remote(x) for x in range(size)])
