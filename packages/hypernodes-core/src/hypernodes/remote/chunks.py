"""The items of a map in chunks that grow as long as they are computed quickly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from time import monotonic

from hypernodes.engine.mapping import MapInputs

_FIRST, _LARGEST = 8, 4096
_LONG_S, _TOO_LONG_S = 1.0, 4.0  # between the moment a chunk is taken and the moment the next one is asked for


def chunks_of(given: MapInputs) -> Iterator[MapInputs]:
    """Return the items of a map in chunks; inputs are read no further than a chunk needs.

    Args:
        given: What the map runs over.
    """
    rows = given.rows()
    size, begun = _FIRST, 0
    while chunk := list(islice(rows, size)):
        columns = dict(zip(given.columns, map(list, zip(*chunk, strict=True)), strict=True))
        taken_at = monotonic()
        yield MapInputs(columns, "zip", given.shared, given.signatures, {}, range(begun, begun + len(chunk)))
        begun += len(chunk)
        seconds = monotonic() - taken_at
        if seconds < _LONG_S:
            size = min(2 * size, _LARGEST)
        elif seconds > _TOO_LONG_S:
            size = max(size // 2, 1)
