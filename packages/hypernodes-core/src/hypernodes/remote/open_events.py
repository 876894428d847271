"""Events whose beginning callbacks have observed, and whose end they have not."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import NamedTuple

from hypernodes.remote.messages import Event


class _Kind(NamedTuple):
    """Something that begins and ends.

    Attributes:
        end: The hook that is called at its end.
        names: How many of the arguments say what it is.
        others: Further hooks that are called instead when it ends in another way.
    """

    end: str
    names: int
    others: tuple[str, ...] = ()


_KINDS = {
    "on_pipeline_start": _Kind("on_pipeline_end", 1),
    "on_nested_pipeline_start": _Kind("on_nested_pipeline_end", 2),
    "on_map_start": _Kind("on_map_end", 0),
    "on_map_item_start": _Kind("on_map_item_end", 1, ("on_map_item_cached",)),
    "on_node_start": _Kind("on_node_end", 1, ("on_error", "on_node_cached")),
}
END_OF = {start: kind.end for start, kind in _KINDS.items()}
_STARTS = {hook: start for start, kind in _KINDS.items() for hook in (kind.end, *kind.others)}


class Begun(NamedTuple):
    """A beginning that was observed.

    Attributes:
        event: The event.
        names: Those of its arguments that say what it is.
        at: When it was observed, on the performance counter.
    """

    event: Event
    names: tuple[object, ...]
    at: float


class OpenEvents:
    """Keeps account of events by their beginnings and ends."""

    def __init__(self) -> None:
        self._begun: list[Begun] = []

    def note(self, event: Event) -> None:
        """Take note of an event that a callback observed."""
        kind = _KINDS.get(event.hook)
        if kind is not None:
            self._begun.append(Begun(event, event.arguments[: kind.names], perf_counter()))
        elif (start := _STARTS.get(event.hook)) is not None:
            names = event.arguments[: _KINDS[start].names]
            for position, (begun, own, _) in enumerate(self._begun):
                if (begun.callback, begun.hook, begun.position, own) == (event.callback, start, event.position, names):
                    del self._begun[position]
                    return

    def take_all(self) -> Iterator[Begun]:
        """Return what is open, innermost first, which is what began last; nothing is open any more."""
        begun, self._begun = self._begun, []
        yield from reversed(begun)
