"""Five quick checks that pipelines run on Modal: `python scripts/test_modal_smoke.py [--live]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import modal
from modal_connection import connected, parse_live

from hypernodes import CallbackContext, MemoryCache, Pipeline, PipelineCallback, node
from hypernodes.backend import ModalBackend


@node(output_name="doubled")
def double(x: int) -> int:
    return 2 * x


@node(output_name="inverse")
def invert(doubled: int) -> float:
    return 1 / doubled


class Events(PipelineCallback):
    """Counts what is computed."""

    def __init__(self) -> None:
        self.computed = 0

    def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        self.computed += 1


def check_run(backend: ModalBackend) -> str:
    outputs = Pipeline([double], backend=backend).run({"x": 21})
    assert outputs == {"doubled": 42}, outputs
    return f"run gave {outputs}"


def check_map(backend: ModalBackend) -> str:
    outputs = Pipeline([double], backend=backend).map({"x": range(1000)}, map_over="x")
    assert outputs == {"doubled": [2 * x for x in range(1000)]}
    return "1,000 items in one call"


def check_nesting(backend: ModalBackend) -> str:
    mapped = Pipeline([double]).as_node(input_mapping={"xs": "x"}, map_over="xs")
    outputs = Pipeline([mapped], backend=backend).run({"xs": [1, 2, 3]})
    assert outputs == {"doubled": [2, 4, 6]}, outputs
    return f"a mapped pipeline gave {outputs}"


def check_cache(backend: ModalBackend) -> str:
    events = Events()
    pipeline = Pipeline([double], backend=backend, cache=MemoryCache(), callbacks=[events])
    for _ in range(2):
        pipeline.map({"x": range(10)}, map_over="x")
    assert events.computed == 10, events.computed
    return "10 items computed once, although they were asked for twice"


def check_error(backend: ModalBackend) -> str:
    try:
        Pipeline([double, invert], name="job", backend=backend).run({"x": 0})
    except ZeroDivisionError as error:
        note = error.__notes__[0]
    else:
        raise AssertionError("the error did not arrive")
    assert "'invert'" in note, note
    return f"ZeroDivisionError {note}"


CHECKS: tuple[Callable[[ModalBackend], str], ...] = (check_run, check_map, check_nesting, check_cache, check_error)


def main() -> int:
    """Run the checks, and say of each what it found and how long it took; returns the exit status."""
    is_live = parse_live("Five quick checks that pipelines run on Modal.")
    where = "Modal's cloud" if is_live else "a control plane on this machine"
    print(f"Five checks on {where}; the first one starts the container.")
    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install("cloudpickle")
    with connected(is_live), ModalBackend(image=image) as backend:
        for number, check in enumerate(CHECKS, 1):
            started_at = time.perf_counter()
            print(f"  {number}. {check.__name__.removeprefix('check_')}: ", end="", flush=True)
            print(f"{check(backend)} ({time.perf_counter() - started_at:.2f} s)")
    print("All is well.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
