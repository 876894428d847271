"""The items of a map in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from time import monotonic
from typing import Any

from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.frames.items import unequal_lengths
from hypernodes.plan import Plan

_FIRST, LARGEST_CHUNK = 8, 4096  # items
_LONG_S, _TOO_LONG_S = 1.0, 4.0  # between the moment a chunk is taken and the moment the next one is asked for


class ItemChunks:
    """Reads the items of a map, no further than it is asked to.

    Args:
        plan: The plan of one item.
        given: What the map runs over.

    Attributes:
        count: Number of items that were read.
    """

    def __init__(self, plan: Plan, given: MapInputs) -> None:
        self._plan = plan
        self._given = given
        self._rows = given.rows()
        self._signatures = given.signature_rows()
        self._problem: Exception | None = None
        self.count = 0

    def read(self, size: int) -> MapInputs | None:
        """Return the next items; None after the last.

        Args:
            size: How many at most.

        Raises:
            MapLengthError: The inputs turn out to be of different lengths.
            Exception: What an input raised while it was read; what was read before is returned first.
        """
        chunk: list[tuple[Any, ...]] = []
        if self._problem is None:
            try:
                chunk.extend(islice(self._rows, size))
            except ValueError as error:
                is_unequal = str(error).startswith("zip() argument")
                begun = self.count + len(chunk)
                self._problem = unequal_lengths(self._plan, begun, error) if is_unequal else error
            except Exception as error:
                self._problem = error
        if not chunk:
            if self._problem is not None:
                raise self._problem
            return None
        given = self._given
        columns = dict(zip(given.columns, map(list, zip(*chunk, strict=True)), strict=True))
        elements: dict[str, list[bytes]] = {}
        if self._signatures is not None:
            known = islice(self._signatures, len(chunk))
            elements = dict(zip(given.columns, map(list, zip(*known, strict=True)), strict=True))
        start, stop = self.count, self.count + len(chunk)
        indexes = range(start, stop) if given.indexes is None else given.indexes[start:stop]
        self.count = stop
        return MapInputs(columns, "zip", given.shared, given.signatures, elements, indexes)


def growing_chunks(plan: Plan, given: MapInputs) -> Iterator[MapInputs]:
    """Return the items of a map in chunks that grow as long as they are computed quickly.

    Args:
        plan: The plan of one item.
        given: What the map runs over.

    Raises:
        Exception: See `ItemChunks.read`.
    """
    items, size = ItemChunks(plan, given), _FIRST
    while (chunk := items.read(size)) is not None:
        taken_at = monotonic()
        yield chunk
        seconds = monotonic() - taken_at
        if seconds < _LONG_S:
            size = min(2 * size, LARGEST_CHUNK)
        elif seconds > _TOO_LONG_S:
            size = max(size // 2, 1)
