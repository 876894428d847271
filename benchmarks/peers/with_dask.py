"""Workloads with dask's local schedulers."""

from __future__ import annotations

import threading
from typing import Any

import dask
import dask.bag
import functions


def run_chain(size: int) -> Any:
    source = [dask.delayed(function) for function in functions.chain(size)]

    def run() -> Any:
        value: Any = 1
        values = []
        for function in source:
            value = function(value)
            values.append(value)
        return dask.compute(*values, scheduler="sync")

    return run


def run_fan(size: int) -> Any:
    *spread, joined = [dask.delayed(function) for function in functions.fan(size)]
    return lambda: joined(*[function(1) for function in spread]).compute(scheduler="sync")


def map_items(size: int) -> Any:
    add, double, subtract = [dask.delayed(function) for function in functions.THREE]

    def run() -> Any:
        rows = []
        for x in range(size):
            first = add(x)
            second = double(first)
            rows += [first, second, subtract(second)]
        return dask.compute(*rows, scheduler="sync")

    return run


def map_in_batches(size: int, threads: int) -> Any:
    parts = -(-size // functions.BATCH)
    one_at_a_time = threading.Lock()

    def encode(part: Any) -> Any:
        items = list(part)  # which is when they are prepared
        with one_at_a_time:
            return functions.encode_batch(items)

    def run() -> Any:
        items = dask.bag.from_sequence(range(size), npartitions=parts)
        encoded = items.map(functions.prepare_item).map_partitions(encode)
        return encoded.compute(scheduler="threads", num_workers=threads)

    return run
