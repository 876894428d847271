"""What callbacks have observed of a job, so that each beginning has one end, also when the job begins again.

A backend gives a job to another worker when one is lost. The new one does again what the lost one had begun, in another
order perhaps, and finds in the cache what the lost one had stored. What callbacks have observed goes on where it was:
no event is observed twice, and what the lost worker had begun ends when the new one ends it, finds it in the cache,
or ends what it is a part of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import NamedTuple, TypeAlias

from hypernodes.engine.workers.serialized_errors import SerializedError
from hypernodes.remote.job import ContextPath
from hypernodes.remote.messages import Event


class _Kind(NamedTuple):
    """Something that begins and ends.

    Attributes:
        end: The hook that is called at its end.
        names: How many of the arguments say what it is.
        cached: The hook that is called instead of a start and an end when it comes from a cache.
        failed: The hook that is called instead of the end when it fails.
    """

    end: str
    names: int
    cached: str = ""
    failed: str = ""


_KINDS = {
    "on_pipeline_start": _Kind("on_pipeline_end", 1),
    "on_nested_pipeline_start": _Kind("on_nested_pipeline_end", 2),
    "on_map_start": _Kind("on_map_end", 0),
    "on_map_item_start": _Kind("on_map_item_end", 1, cached="on_map_item_cached"),
    "on_node_start": _Kind("on_node_end", 1, cached="on_node_cached", failed="on_error"),
}
END_OF = {start: kind.end for start, kind in _KINDS.items()}
_START_OF = {
    hook: start for start, kind in _KINDS.items() for hook in (start, kind.end, kind.cached, kind.failed) if hook
}
_CACHED = frozenset(kind.cached for kind in _KINDS.values())

_Key: TypeAlias = tuple[object, ...]  # of what begins and ends: the callback, the hook of its start, where, and names


class Begun(NamedTuple):
    """A beginning that was observed.

    Attributes:
        event: The event.
        names: Those of its arguments that say what it is.
        at: When it was observed, on the performance counter.
    """

    event: Event
    names: tuple[bytes | SerializedError, ...]
    at: float

    @property
    def key(self) -> _Key:
        return (self.event.callback, self.event.hook, self.event.position, self.names)


class Due(NamedTuple):
    """What callbacks are to observe because of an event of the worker's.

    Attributes:
        ends: What ends now without an event of its own, innermost first.
        is_event_due: Whether the event itself is to be observed, after these.
    """

    ends: list[Begun]
    is_event_due: bool


_NOTHING = Due([], False)


class _Tally:
    """How often something began and ended, and how often other events came."""

    def __init__(self) -> None:
        self.begun: Counter[_Key] = Counter()
        self.ended: Counter[_Key] = Counter()
        self.others: Counter[_Key] = Counter()


class ObservedEvents:
    """Keeps account of what callbacks have observed, and decides what is due.

    Args:
        observes: Whether the callback of this number overrides a hook.
        load: Returns the value of an argument.
    """

    def __init__(self, observes: Callable[[int, str], bool], load: Callable[[bytes | SerializedError], object]) -> None:
        self._observes = observes
        self._load = load
        self._open: list[Begun] = []  # in the order in which it began
        self._observed = self._now = _Tally()  # of all workers, and of the current one
        self._over: list[Begun] = []  # what the current worker has begun and an earlier one had ended

    def begin_again(self) -> None:
        """Take note that the job was given to another worker."""
        self._now = _Tally()
        self._over.clear()

    def note(self, event: Event) -> Due:
        """Take note of an event of the current worker's; return what callbacks are to observe."""
        start = _START_OF.get(event.hook)
        if start is None:
            return Due([], self._note_other(event))
        names = event.arguments[: _KINDS[start].names]
        subject = Begun(event._replace(hook=start), names, perf_counter())
        if event.hook == start:
            return Due([], self._note_start(subject))
        return self._note_end(subject, event.hook)

    def take_open(self) -> Iterator[Begun]:
        """Return what is open, innermost first, which is what began last; nothing is open any more."""
        begun, self._open = self._open, []
        yield from reversed(begun)

    def _note_other(self, event: Event) -> bool:
        """An event within a node's call."""
        names = event.arguments[:1]
        key = (event.callback, event.hook, event.position, names)
        is_known = self._now.others[key] < self._observed.others[key]
        self._now.others[key] += 1
        if is_known:
            return False
        self._observed.others[key] = self._now.others[key]
        node = (event.callback, "on_node_start", event.position, names)
        return self._observed.ended[node] == self._now.ended[node] and not self._is_over(event)

    def _note_start(self, begun: Begun) -> bool:
        key, now, observed = begun.key, self._now, self._observed
        is_known = now.begun[key] < observed.begun[key]
        now.begun[key] += 1
        if is_known:
            if now.begun[key] <= observed.ended[key]:
                self._over.append(begun)
            return False
        observed.begun[key] = now.begun[key]
        if self._is_over(begun.event):
            observed.ended[key] = max(observed.ended[key], now.begun[key])
            return False
        if self._observes(begun.event.callback, END_OF[begun.event.hook]):
            self._open.append(begun)  # an event whose end a callback does not observe is not open
        return True

    def _note_end(self, subject: Begun, hook: str) -> Due:
        key, now, observed = subject.key, self._now, self._observed
        is_cached = hook in _CACHED
        had_begun = now.begun[key] < observed.begun[key]  # in a worker that was lost
        is_known = now.ended[key] < observed.ended[key]
        now.ended[key] += 1
        if is_cached:
            now.begun[key] += 1
        else:
            self._over = [begun for begun in self._over if begun.key != key]
        if is_known:
            return _NOTHING
        observed.ended[key] = now.ended[key]
        if self._is_over(subject.event):
            observed.begun[key] = max(observed.begun[key], now.begun[key])
            return _NOTHING
        position = next((n for n, begun in enumerate(self._open) if begun.key == key), None)
        ends = self._take_left_inside(subject, position or 0)
        if is_cached and not had_begun:
            observed.begun[key] = now.begun[key]
            return Due(ends, True)
        if position is not None:
            begun = self._open.pop(position)  # what is inside of it comes later in the list
            return Due([*ends, begun], False) if is_cached else Due(ends, True)
        is_end_alone = hook == "on_error" or not self._observes(subject.event.callback, subject.event.hook)
        return Due(ends, is_end_alone and not is_cached)  # otherwise its start was lost on the way

    def _is_over(self, event: Event) -> bool:
        """Whether an event belongs to something whose end callbacks have observed."""
        now, observed = self._now.begun, self._observed.ended
        return any(self._is_inside(event, begun) and now[begun.key] <= observed[begun.key] for begun in self._over)

    def _take_left_inside(self, outer: Begun, position: int) -> list[Begun]:
        """Remove and return what lost workers began inside of something that ends now, innermost first."""
        if self._now is self._observed:
            return []
        begun, ended = self._now.begun, self._now.ended
        left = [
            inner
            for inner in self._open[position:]
            if inner.key != outer.key and begun[inner.key] <= ended[inner.key] and self._is_inside(inner.event, outer)
        ]
        self._open = [inner for inner in self._open if not any(inner is one for one in left)]
        for inner in left:
            self._observed.ended[inner.key] = self._observed.begun[inner.key]
        return left[::-1]

    def _is_inside(self, event: Event, outer: Begun) -> bool:
        """Whether an event can only come between the start and the end of something."""
        callback, hook, _, position = outer.event
        path, items = position.hierarchy_path, position.item_path
        if hook == "on_node_start" or event.callback != callback:
            return False
        if hook == "on_nested_pipeline_start":
            path = (*path, str(self._load(outer.names[1])))
        elif hook == "on_map_start" and event.position.item_path == items:
            return False
        return _starts_with(event.position, path, items)


def _starts_with(position: ContextPath, path: tuple[str, ...], items: tuple[int, ...]) -> bool:
    return position.hierarchy_path[: len(path)] == path and position.item_path[: len(items)] == items
