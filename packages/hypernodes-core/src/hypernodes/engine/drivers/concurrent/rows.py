"""Reads the items of a map as rows of values, for maps that need only calls and that no callback observes.

Such items have no frame and no activity; the information that an error needs is computed only when there is one.
Threads (`thread_rows`), coroutines (`coroutine_rows`) and worker processes (`process_rows`) execute the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from hypernodes.engine.drivers.concurrent.activity import Host
from hypernodes.engine.drivers.concurrent.maps import MapActivity
from hypernodes.engine.frames.columns import stand_in_for_item
from hypernodes.engine.frames.items import checked_rows
from hypernodes.engine.step import locate
from hypernodes.plan import Step


class ItemRow(NamedTuple):
    """One item: the values of the inputs that vary.

    Attributes:
        item_index: Index of the item.
        values: The values.
    """

    item_index: int
    values: tuple[Any, ...]


class RowReader:
    """Reads the items of a map as rows.

    Args:
        owner: The map.

    Attributes:
        count: Number of rows read so far.
        is_lazy: Whether reading a row may take time, fail, or depend on the results of earlier ones, as with a
            generator: such rows are read only when a worker is free for them.
    """

    def __init__(self, owner: MapActivity) -> None:
        inputs = owner.request.inputs
        self._owner = owner
        self._rows: Iterator[tuple[Any, ...]] = checked_rows(owner.plan, inputs)
        self._indexes = inputs.indexes
        self.count = 0
        self.is_lazy = not all(isinstance(column, Sequence) for column in inputs.columns.values())

    @property
    def remaining(self) -> int | None:
        """Number of rows that have not been read; None when unknown."""
        total = self._owner.total
        return None if total is None else total - self.count

    def read(self, host: Host) -> ItemRow | None:
        """Return the next row that has to be executed; None when there is none at present."""
        owner = self._owner
        try:
            values = next(self._rows, None)
        except Exception as error:
            owner.exhaust(host, error)
            return None
        if values is None:
            owner.exhaust(host)
            return None
        index = self.count if self._indexes is None else self._indexes[self.count]
        self.count += 1
        owner.make_room()
        stand_in = stand_in_for_item(values) if self.is_lazy else None  # the other columns have been searched
        if stand_in is not None:
            owner.take_stand_in(host, index, stand_in)
            return None
        return ItemRow(index, values)

    def read_many(self, host: Host, count: int) -> list[ItemRow]:
        """Return up to `count` rows that have to be executed, from a source that is not lazy."""
        owner, rows = self._owner, list[tuple[Any, ...]]()
        try:
            rows.extend(islice(self._rows, count))  # which are there also after an error
            if len(rows) < count:
                owner.exhaust(host)
        except Exception as error:
            owner.exhaust(host, error)
        first = self.count
        self.count += len(rows)
        owner.make_room(len(rows))
        indexes = range(first, self.count) if self._indexes is None else self._indexes[first : self.count]
        return list(map(ItemRow, indexes, rows))


def fail_row(
    owner: MapActivity, host: Host, index: int, step: Step, error: BaseException, values: Sequence[Any]
) -> None:
    """Record the failure of an item in one of its steps; `values` are those of the slots that are known here."""
    request = owner.request
    path = locate(error, owner.plan, step, request.base, request.run.backend_name, index, values)
    owner.fail_item(host, index, error, path)
