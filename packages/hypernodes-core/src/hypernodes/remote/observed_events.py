"""What callbacks have observed of a run or map, so that each beginning has one end, also when work is done again.

When a worker is lost, another one gets the job, or the items of it that are not done. It does again what the lost one
had begun, in another order perhaps, and finds in the cache what the lost one had stored. What callbacks have observed
goes on where it was: no event is observed twice, and what the lost worker had begun ends when the new one ends it,
finds it in the cache, or ends what it is a part of. The same holds for two workers that do the same at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
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
        number: How many beginnings were noted before.
    """

    event: Event
    names: tuple[bytes | SerializedError, ...]
    at: float
    number: int

    @property
    def key(self) -> _Key:
        return (self.event.callback, self.event.hook, self.event.position, self.names)


class Due(NamedTuple):
    """What callbacks are to observe because of an event of a worker's.

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


class Attempt:
    """What one worker has said of the work that it was given.

    Args:
        is_repeated: Whether another worker may have said something of the same work.
    """

    def __init__(self, is_repeated: bool) -> None:
        self.is_repeated = is_repeated
        self.said = _Tally()
        self.over: list[Begun] = []  # what it has begun and another worker had ended


class ObservedEvents:
    """Keeps account of what callbacks have observed, and decides what is due.

    Args:
        observes: Whether the callback of this number overrides a hook.
        load: Returns the value of an argument.
    """

    def __init__(self, observes: Callable[[int, str], bool], load: Callable[[bytes | SerializedError], object]) -> None:
        self._observes = observes
        self._load = load
        self._numbers = count()
        self._open: dict[_Key, list[Begun]] = {}
        self._observed = _Tally()

    def note(self, event: Event, attempt: Attempt) -> Due:
        """Take note of an event; return what callbacks are to observe.

        Args:
            event: The event.
            attempt: What its worker has said before.
        """
        start = _START_OF.get(event.hook)
        if start is None:
            return Due([], self._note_other(event, attempt))
        names = event.arguments[: _KINDS[start].names]
        subject = Begun(event._replace(hook=start), names, perf_counter(), next(self._numbers))
        if event.hook == start:
            return Due([], self._note_start(subject, attempt))
        return self._note_end(subject, event.hook, attempt)

    def take_open(self, is_meant: Callable[[ContextPath], bool] = lambda position: True) -> list[Begun]:
        """Return what is open, innermost first, which is what began last; it is not open any more.

        Args:
            is_meant: Whether that is meant whose event has a position.
        """
        taken = [begun for key in self._open for begun in self._open[key] if is_meant(begun.event.position)]
        for begun in taken:
            self._close(begun)
        return sorted(taken, key=lambda begun: begun.number, reverse=True)

    def _close(self, begun: Begun) -> None:
        of_key = self._open[begun.key]
        of_key.remove(begun)
        if not of_key:
            del self._open[begun.key]

    def _note_other(self, event: Event, attempt: Attempt) -> bool:
        """An event within a node's call."""
        names = event.arguments[:1]
        key = (event.callback, event.hook, event.position, names)
        said, observed = attempt.said, self._observed
        is_known = said.others[key] < observed.others[key]
        said.others[key] += 1
        if is_known:
            return False
        observed.others[key] = said.others[key]
        node = (event.callback, "on_node_start", event.position, names)
        return observed.ended[node] == said.ended[node] and not self._is_over(event, attempt)

    def _note_start(self, begun: Begun, attempt: Attempt) -> bool:
        key, said, observed = begun.key, attempt.said, self._observed
        is_known = said.begun[key] < observed.begun[key]
        said.begun[key] += 1
        if is_known:
            if said.begun[key] <= observed.ended[key]:
                attempt.over.append(begun)
            return False
        observed.begun[key] = said.begun[key]
        if self._is_over(begun.event, attempt):
            observed.ended[key] = max(observed.ended[key], said.begun[key])
            return False
        if self._observes(begun.event.callback, END_OF[begun.event.hook]):
            self._open.setdefault(key, []).append(begun)  # not what has an end that the callback does not observe
        return True

    def _note_end(self, subject: Begun, hook: str, attempt: Attempt) -> Due:
        key, said, observed = subject.key, attempt.said, self._observed
        is_cached = hook in _CACHED
        had_begun = said.begun[key] < observed.begun[key]  # in a worker that was lost
        is_known = said.ended[key] < observed.ended[key]
        said.ended[key] += 1
        if is_cached:
            said.begun[key] += 1
        elif attempt.over:
            attempt.over = [begun for begun in attempt.over if begun.key != key]
        if is_known:
            return _NOTHING
        observed.ended[key] = said.ended[key]
        if self._is_over(subject.event, attempt):
            observed.begun[key] = max(observed.begun[key], said.begun[key])
            return _NOTHING
        begun = self._open[key][0] if key in self._open else None
        ends = self._take_left_inside(subject, begun, attempt)
        if is_cached and not had_begun:
            observed.begun[key] = said.begun[key]
            return Due(ends, True)
        if begun is not None:
            self._close(begun)
            return Due([*ends, begun], False) if is_cached else Due(ends, True)
        is_end_alone = hook == "on_error" or not self._observes(subject.event.callback, subject.event.hook)
        return Due(ends, is_end_alone and not is_cached)  # otherwise its start was lost on the way

    def _is_over(self, event: Event, attempt: Attempt) -> bool:
        """Whether an event belongs to something whose end callbacks have observed."""
        said, observed = attempt.said.begun, self._observed.ended
        return any(self._is_inside(event, begun) and said[begun.key] <= observed[begun.key] for begun in attempt.over)

    def _take_left_inside(self, outer: Begun, begun: Begun | None, attempt: Attempt) -> list[Begun]:
        """Remove and return what other workers began inside of something that ends now, innermost first.

        Args:
            outer: What ends.
            begun: Its beginning, where that was observed.
            attempt: What the worker that ends it has said.
        """
        if not attempt.is_repeated:
            return []
        said, since = attempt.said, -1 if begun is None else begun.number
        left = [
            inner
            for of_key in self._open.values()
            for inner in of_key
            if inner.number > since
            and inner.key != outer.key
            and said.begun[inner.key] <= said.ended[inner.key]
            and self._is_inside(inner.event, outer)
        ]
        for inner in left:
            self._close(inner)
            self._observed.ended[inner.key] = self._observed.begun[inner.key]
        return sorted(left, key=lambda inner: inner.number, reverse=True)

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
