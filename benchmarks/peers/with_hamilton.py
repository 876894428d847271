"""Workloads with Hamilton."""

from __future__ import annotations

from typing import Any

import functions
from hamilton import ad_hoc_utils, base, driver


def _driver(source: list[functions.Function]) -> Any:
    module = ad_hoc_utils.create_temporary_module(*source)
    return driver.Builder().with_modules(module).with_adapters(base.DictResult()).build()


def run_chain(size: int) -> Any:
    built = _driver(functions.chain(size))
    names = [f"x{i}" for i in range(1, size + 1)]
    return lambda: built.execute(names, inputs={"x0": 1})


def run_fan(size: int) -> Any:
    built = _driver(functions.fan(size))
    return lambda: built.execute(["joined"], inputs={"x0": 1})


def build_chain(size: int) -> Any:
    source = functions.chain(size)
    return lambda: _driver(source)


def map_items(size: int) -> Any:
    built = _driver(functions.THREE)
    names = [f.__name__ for f in functions.THREE]
    return lambda: [built.execute(names, inputs={"x": x}) for x in range(size)]
