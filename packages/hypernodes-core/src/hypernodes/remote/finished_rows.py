"""Gathers the results of the items of a job, and sends them as they come where the caller wants that."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from hypernodes.remote.job import MapResult
from hypernodes.remote.messages import Rows
from hypernodes.remote.outbox import Outbox
from hypernodes.remote.packing import compact

_EVERY_S = 0.1


class FinishedRows:
    """Takes the outputs of items.

    Args:
        outputs: Names of the outputs.
        outbox: Sends them as they come; None to keep them all.
    """

    def __init__(self, outputs: Sequence[str], outbox: Outbox | None) -> None:
        self.is_full = False  # it takes whatever comes
        self._names = tuple(outputs)
        self._outbox = outbox
        self._indexes: list[int] = []
        self._rows: list[tuple[Any, ...]] = []
        self._sent_at = perf_counter()

    def __call__(self, index: int, outputs: tuple[Any, ...]) -> None:
        self.extend((index,), (outputs,))

    def extend(self, indexes: Sequence[int], rows: Sequence[tuple[Any, ...]]) -> None:
        """Take the outputs of several items."""
        self._indexes.extend(indexes)
        self._rows.extend(rows)
        if self._outbox is not None and perf_counter() - self._sent_at > _EVERY_S:
            self.send()

    def send(self) -> None:
        """Send what has come, if it is to be sent before the outcome."""
        if self._outbox is None or not self._rows:
            return
        try:
            packed = self._outbox.packing.pack(self._columns())
        except Exception:  # the outcome, in which they are again, says what it is that cannot be sent
            self._outbox = None
            return
        self._outbox.add(Rows(self._indexes, packed))
        self._indexes, self._rows = [], []
        self._sent_at = perf_counter()

    def rest(self) -> MapResult:
        """Return what was not sent."""
        return MapResult(self._indexes, self._columns())

    def _columns(self) -> dict[str, Any]:
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * len(self._names)
        return {name: compact(list(column)) for name, column in zip(self._names, columns, strict=True)}
