"""Jobs for another process: packing them, and calls of one that is warm."""

from __future__ import annotations

import struct
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

SUITE = Suite("Another process")

ECHO = """
import struct, sys
while head := sys.stdin.buffer.read(8):
    content = sys.stdin.buffer.read(*struct.unpack("Q", head))
    sys.stdout.buffer.write(head)
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
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
    outgoing, incoming = echo.stdin, echo.stdout

    def send_and_receive() -> object:
        head = struct.pack("Q", len(content))
        outgoing.write(head)
        outgoing.write(content)
        outgoing.flush()
        incoming.read(8)
        return incoming.read(len(content))

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
