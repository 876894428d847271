"""Large values on their way to a worker process and back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import loky
import numpy

from benchmarks.measure import Case, Suite
from benchmarks.peers import measured_by_peers
from hypernodes import LocalBackend, Pipeline, node

SUITE = Suite("Large values to a worker process and back")

SIZE_BYTES = 100_000_000


def negate(array: Any) -> Any:
    return numpy.negative(array)


@node(output_name="negative")
def negate_in_worker(array: Any) -> Any:
    return negate(array)


@SUITE.workload("an array of 100 MB to a warm process and back", budget=0.5, ideal="bare loky")
def _array() -> Iterator[Case]:
    array = numpy.ones(SIZE_BYTES // 8)
    bare = loky.ProcessPoolExecutor(2)
    with (
        LocalBackend(node_execution="parallel", max_workers=2) as backend,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as standard,
        measured_by_peers("transfer", size_bytes=SIZE_BYTES) as peers,
    ):
        pipeline = Pipeline(nodes=[negate_in_worker], backend=backend)
        yield Case(
            lambda: pipeline.run({"array": array}),
            ideal=lambda: bare.submit(negate, array).result(),
            peers={"ProcessPoolExecutor": lambda: standard.submit(negate, array).result(), **peers},
        )
    bare.shutdown()
