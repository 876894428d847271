"""Worker processes work at the same time, however short the items are."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from hypernodes import LocalBackend, MemoryCache, Node, Pipeline
from tests.support import Recorder

PATIENCE_S = 60.0
ITEMS, LATE = 2000, 200  # the first items are trivial, so that chunks are large when the late ones come


def meet(x: int, folder: str) -> int:
    """Wait, at the first late item in each process, until late items are being computed in another process too."""
    own = os.path.join(folder, str(os.getpid()))
    if x >= LATE and not os.path.exists(own):
        Path(own).touch()
        end = time.monotonic() + PATIENCE_S
        while len(os.listdir(folder)) < 2:
            assert time.monotonic() < end, "no other process computes items meanwhile"
            time.sleep(0.001)
    return os.getpid()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(dict, id="alone"),
        pytest.param(lambda: {"callbacks": [Recorder()]}, id="observed"),
        pytest.param(lambda: {"cache": MemoryCache()}, id="cached"),
    ],
)
@pytest.mark.parametrize("is_nested", [False, True], ids=["map", "mapped node"])
def test_late_chunks_of_trivial_items_are_computed_side_by_side(
    items_backend: LocalBackend, tmp_path: Path, settings: Any, is_nested: bool
) -> None:
    each = Pipeline(nodes=[Node(meet, output_name="pid")], name="each", **settings())
    if is_nested:
        outer = Pipeline(nodes=[each.as_node({"xs": "x"}, map_over="xs")], backend=items_backend)
        found = outer.run({"xs": list(range(ITEMS)), "folder": str(tmp_path)})["pid"]
    else:
        found = each.with_backend(items_backend).map({"x": list(range(ITEMS)), "folder": str(tmp_path)}, "x")["pid"]
    assert len(found) == ITEMS
    assert len(set(found[LATE:])) == 2
