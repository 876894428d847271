"""Workloads with joblib, which keeps results and runs calls side by side, but wires no pipelines."""

from __future__ import annotations

import tempfile
from typing import Any

import functions
from joblib import Memory, Parallel, delayed


def run_warm(size: int) -> Any:
    memory = Memory(tempfile.mkdtemp(), verbose=0)
    source = [memory.cache(function) for function in functions.chain(size)]

    def run() -> int:
        value = 1
        for function in source:
            value = function(value)
        return value

    run()
    return run


def transfer(size_bytes: int) -> Any:
    import numpy

    array = numpy.ones(size_bytes // 8)
    pool = Parallel(n_jobs=2, max_nbytes=None)
    pool.__enter__()
    return lambda: pool([delayed(numpy.negative)(array)])
