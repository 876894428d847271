"""Workloads with the older, separate project named `hypernodes`."""

from __future__ import annotations

import tempfile
from typing import Any

import functions

from hypernodes import DiskCache, Pipeline, SeqEngine, node


def _pipeline(source: list[functions.Function], **engine: Any) -> Any:
    return Pipeline(nodes=[node(output_name=f.__name__)(f) for f in source], engine=SeqEngine(**engine))


def run_chain(size: int) -> Any:
    pipeline = _pipeline(functions.chain(size))
    return lambda: pipeline.run(inputs={"x0": 1})


def run_fan(size: int) -> Any:
    pipeline = _pipeline(functions.fan(size))
    return lambda: pipeline.run(inputs={"x0": 1})


def build_chain(size: int) -> Any:
    source = functions.chain(size)
    return lambda: _pipeline(source)


def map_items(size: int) -> Any:
    pipeline = _pipeline(functions.THREE)
    values = list(range(size))
    return lambda: pipeline.map(inputs={"x": values}, map_over="x")


def run_items(size: int) -> Any:
    inner = _pipeline(functions.THREE)
    outer = Pipeline(nodes=[inner.as_node(map_over="x")], engine=SeqEngine())
    values = list(range(size))
    return lambda: outer.run(inputs={"x": values})


def run_warm(size: int) -> Any:
    pipeline = _pipeline(functions.chain(size), cache=DiskCache(path=tempfile.mkdtemp()))
    pipeline.run(inputs={"x0": 1})
    return lambda: pipeline.run(inputs={"x0": 1})


def cold_items(size: int) -> Any:
    pipeline = _pipeline(functions.TEXT, cache=DiskCache(path=tempfile.mkdtemp()))
    return lambda: pipeline.map(inputs={"text": functions.fresh_texts(size)}, map_over="text")


def warm_items(size: int) -> Any:
    pipeline = _pipeline(functions.TEXT, cache=DiskCache(path=tempfile.mkdtemp()))
    texts = functions.fresh_texts(size)
    pipeline.map(inputs={"text": texts}, map_over="text")
    return lambda: pipeline.map(inputs={"text": texts}, map_over="text")
