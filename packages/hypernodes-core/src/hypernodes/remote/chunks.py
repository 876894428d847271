"""The items of a map in chunks that grow as long as they are computed quickly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from time import monotonic
from typing import Any

from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.items import unequal_lengths
from hypernodes.plan import Plan

_FIRST, _LARGEST = 8, 4096
_LONG_S, _TOO_LONG_S = 1.0, 4.0  # between the moment a chunk is taken and the moment the next one is asked for


def chunks_of(plan: Plan, given: MapInputs) -> Iterator[MapInputs]:
    """Return the items of a map in chunks; inputs are read no further than a chunk needs.

    Args:
        plan: The plan of one item.
        given: What the map runs over.

    Raises:
        MapLengthError: The inputs turn out to be of different lengths.
        Exception: What an input raised while it was read; what was read before is returned first.
    """
    rows = given.rows()
    size, begun = _FIRST, 0
    problem: Exception | None = None
    while problem is None:
        chunk: list[tuple[Any, ...]] = []
        try:
            chunk.extend(islice(rows, size))
        except ValueError as error:
            is_unequal = str(error).startswith("zip() argument")
            problem = unequal_lengths(plan, begun + len(chunk), error) if is_unequal else error
        except Exception as error:
            problem = error
        if not chunk:
            break
        columns = dict(zip(given.columns, map(list, zip(*chunk, strict=True)), strict=True))
        taken_at = monotonic()
        yield MapInputs(columns, "zip", given.shared, given.signatures, {}, range(begun, begun + len(chunk)))
        begun += len(chunk)
        seconds = monotonic() - taken_at
        if seconds < _LONG_S:
            size = min(2 * size, _LARGEST)
        elif seconds > _TOO_LONG_S:
            size = max(size // 2, 1)
    if problem is not None:
        raise problem
