"""Jobs for another process: packing them, and calls of one that is warm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy

from benchmarks.measure import Case, Suite
from hypernodes import Pipeline, RemoteBackend, node
from hypernodes.backend import SubprocessBackend
from hypernodes.remote.channel import Channel
from hypernodes.remote.pipes import JOB, PipeConnection

SUITE = Suite("Another process")

ECHO = """
import sys
from hypernodes.remote.pipes import JOB, PipeConnection
frames = PipeConnection(sys.stdin.buffer, sys.stdout.buffer)
while (received := frames.receive()) is not None:
    frames.send(JOB, received[1])
"""


@node(output_name="same")
def give_back(value: Any) -> Any:
    return value


class _Packed(Exception):  # noqa: N818 - it ends a run where the job is packed
    pass


class _Nowhere(RemoteBackend):
    backend_name = "nowhere"

    def submit(self, job: bytes, channel: Channel) -> bytes:
        raise _Packed


def _pack(pipeline: Pipeline, items: list[int]) -> None:
    try:
        pipeline.map({"value": items}, "value")
    except _Packed:
        return


@SUITE.workload("packing a job of 100,000 small items", budget=0.1, ideal="bare cloudpickle", unit="item")
def _job() -> Iterator[Case]:
    items = list(range(100_000))
    pipeline = Pipeline(nodes=[give_back], backend=_Nowhere())
    yield Case(lambda: _pack(pipeline, items), ideal=lambda: cloudpickle.dumps(items), units=len(items))


def _call(size_bytes: int) -> Iterator[Case]:
    value = numpy.ones(size_bytes, "u1")
    content = value.tobytes()
    echo = subprocess.Popen([sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert echo.stdin is not None
    assert echo.stdout is not None
    frames = PipeConnection(echo.stdout, echo.stdin)

    def send_and_receive() -> object:
        frames.send(JOB, content)
        return frames.receive()

    with SubprocessBackend() as backend:
        pipeline = Pipeline(nodes=[give_back], backend=backend)
        yield Case(lambda: pipeline.run({"value": value}), ideal=send_and_receive)
    echo.stdin.close()
    echo.stdout.close()
    echo.wait()


@SUITE.workload("1 kB to a warm process and back", ideal="bare pipes")
def _small() -> Iterator[Case]:
    yield from _call(1_000)


@SUITE.workload("1 MB to a warm process and back", budget=0.1, ideal="bare pipes")
def _middle() -> Iterator[Case]:
    yield from _call(1_000_000)


@SUITE.workload("100 MB to a warm process and back", budget=0.3, ideal="bare pipes")
def _large() -> Iterator[Case]:
    yield from _call(100_000_000)
