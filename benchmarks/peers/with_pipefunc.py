"""Workloads with pipefunc."""

from __future__ import annotations

from typing import Any

import functions
from pipefunc import PipeFunc, Pipeline


def _pipeline(source: list[functions.Function]) -> Any:
    return Pipeline([PipeFunc(f, output_name=f.__name__) for f in source], validate_type_annotations=False)


def run_chain(size: int) -> Any:
    pipeline = _pipeline(functions.chain(size))
    return lambda: pipeline.run(f"x{size}", kwargs={"x0": 1})


def run_fan(size: int) -> Any:
    pipeline = _pipeline(functions.fan(size))
    return lambda: pipeline.run("joined", kwargs={"x0": 1})


def build_chain(size: int) -> Any:
    source = functions.chain(size)
    return lambda: _pipeline(source)


def map_items(size: int) -> Any:
    specs = [("add", "x[i] -> add[i]"), ("double", "add[i] -> double[i]"), ("subtract", "double[i] -> subtract[i]")]
    by_name = {f.__name__: f for f in functions.THREE}
    pipeline = Pipeline([PipeFunc(by_name[name], output_name=name, mapspec=spec) for name, spec in specs])
    values = list(range(size))
    return lambda: pipeline.map({"x": values}, parallel=False, storage="dict", show_progress=False)
