"""Limits that calls of several nodes and runs of this process share: of calls at a time, and in a second or minute.

A run asks for one call after the other; who asked first is served first, so that runs take turns. A call that needs
what is used up waits without holding up those that do not need it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hypernodes.checks import check_name, shown
from hypernodes.engine.timing import now
from hypernodes.errors import ConfigurationError
from hypernodes.locks import reset_after_fork
from hypernodes.nearest import suggest
from hypernodes.nodes import Node
from hypernodes.plan import CallStep, NestedStep, Plan

_MINUTE_S = 60.0


class Limit:
    """How many calls of the nodes that name it may be made at a time, and in a second or a minute.

    It counts for all nodes and all runs of a process together that have a limit of this name and these numbers; where
    nodes run in another process or a container, for what runs there. No second and no minute, wherever it begins, has
    more calls than this: one that begins when that many have begun waits until the first of them is long enough ago.
    Calls that wait occupy no worker. Each attempt of a call counts.

    Args:
        name: The name by which nodes refer to it (`@node(limit="api")`).
        concurrency: The largest number of calls at a time.
        per_second: The largest number of calls in a second, or the sum of what they weigh.
        per_minute: The same in a minute.

    Attributes:
        name: The same, as are the others.

    Raises:
        ConfigurationError: A number is not above 0, or none is given.

    Example:
        >>> from hypernodes import Limit, LocalBackend, Pipeline, node
        >>> @node(output_name="answer", limit="api")
        ... def ask(question):
        ...     return question.upper()
        >>> backend = LocalBackend(map_execution="threaded", limits=[Limit("api", concurrency=2, per_minute=500)])
        >>> Pipeline(nodes=[ask], backend=backend).map(inputs={"question": ["a", "b"]}, map_over="question")
        {'answer': ['A', 'B']}
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        per_second: float | None = None,
        per_minute: float | None = None,
    ) -> None:
        if check_name("the name of a limit", name) is None:
            raise ConfigurationError("a limit needs a name, by which nodes refer to it")
        is_count = isinstance(concurrency, int) and not isinstance(concurrency, bool)
        if concurrency is not None and not (is_count and concurrency >= 1):
            raise ConfigurationError(
                f"concurrency of limit {name!r} must be a whole number, 1 or more; got {shown(concurrency)}"
            )
        for option, rate in (("per_second", per_second), ("per_minute", per_minute)):
            is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
            if rate is not None and not (is_number and 0 < rate < float("inf")):
                raise ConfigurationError(f"{option} of limit {name!r} must be a number above 0; got {shown(rate)}")
        if concurrency is None and per_second is None and per_minute is None:
            raise ConfigurationError(f"limit {name!r} needs concurrency=, per_second= or per_minute=")
        self.name = name
        self.concurrency = concurrency
        self.per_second = per_second
        self.per_minute = per_minute
        self._usage = _usage_of(self)

    @property
    def usage(self) -> Usage:
        """What is used of it in this process."""
        return self._usage

    @property
    def _settings(self) -> tuple[Any, ...]:
        return self.name, self.concurrency, self.per_second, self.per_minute

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limit) and self._settings == other._settings

    def __hash__(self) -> int:
        return hash(self._settings)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_limit, self._settings

    def __repr__(self) -> str:
        numbers = {"concurrency": self.concurrency, "per_second": self.per_second, "per_minute": self.per_minute}
        given = "".join(f", {name}={number}" for name, number in numbers.items() if number is not None)
        return f"Limit({self.name!r}{given})"


def _make_limit(name: str, concurrency: int | None, per_second: float | None, per_minute: float | None) -> Limit:
    return Limit(name, concurrency=concurrency, per_second=per_second, per_minute=per_minute)


def check_limits(limits: Any) -> tuple[Limit, ...]:
    """Return the limits that an engine or a backend was given.

    Raises:
        ConfigurationError: They are no limits, or two have the same name.
    """
    if limits is None:
        return ()
    found = (limits,) if isinstance(limits, Limit) else tuple(limits) if isinstance(limits, Iterable) else (limits,)
    for limit in found:
        if not isinstance(limit, Limit):
            raise ConfigurationError(f"limits must be a list of Limit objects; got {shown(limit)}")
    names = [limit.name for limit in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"limits has two limits named {name!r}")
    return found


def check_limits_of(plan: Plan, limits: Sequence[Limit], backend_name: str) -> None:
    """Refuse a plan whose nodes name limits that nobody defined.

    Raises:
        ConfigurationError: There is such a node.
    """
    known = {limit.name for limit in limits}
    for step in plan.steps:
        if isinstance(step, NestedStep):
            if not step.node.pipeline.has_own_backend:
                check_limits_of(step.inner, limits, backend_name)
            continue
        limiting = step.node.limiting
        for name, _ in limiting.weights if limiting is not None else ():
            if name not in known:
                names = f"{', '.join(map(repr, sorted(known)))}{suggest(name, known)}" if known else "none"
                raise ConfigurationError(
                    f"node {step.node.name!r} names limit {name!r}, which the backend {backend_name!r} does not have: "
                    f"it has {names}. Give it to the backend or engine: limits=[Limit({name!r}, concurrency=...)]"
                )


# --- what is used ----------------------------------------------------------------------------------------------------


class _Entry:
    """A call that counts for a rate.

    Attributes:
        at_s: When it began, or was allowed to begin, on the monotonic clock.
        weight: What it counts.
    """

    __slots__ = ("at_s", "weight")

    def __init__(self, at_s: float, weight: float) -> None:
        self.at_s = at_s
        self.weight = weight


class _Rate:
    """The calls of the last second or minute."""

    def __init__(self, most: float, period_s: float) -> None:
        if most < 1:  # less than one call: so many in a longer time
            most, period_s = 1.0, period_s / most
        self.most = most
        self.period_s = period_s
        self._entries: deque[_Entry] = deque()
        self._total = 0.0

    def seconds_left(self, weight: float, time_s: float) -> float:
        """Return how long a call of some weight has to wait, in seconds."""
        entries = self._entries
        while entries and entries[0].at_s + self.period_s <= time_s:
            self._total -= entries.popleft().weight
        if not entries:
            self._total = 0.0  # without what floats have lost
        too_many = self._total + weight - self.most
        if too_many <= 0:
            return 0.0
        for entry in entries:
            too_many -= entry.weight
            if too_many <= 0:
                return entry.at_s + self.period_s - time_s
        return 0.0  # heavier than all that fits, which is refused elsewhere

    def add(self, weight: float, time_s: float) -> _Entry:
        entry = _Entry(time_s, weight)
        self._entries.append(entry)
        self._total += weight
        return entry

    def refund(self, entry: _Entry) -> None:
        """Let a call that was not made count nothing."""
        self._total -= entry.weight
        entry.weight = 0.0


class Usage:
    """What is used of a limit.

    Args:
        name: Name of the limit.
        concurrency: The largest number of calls at a time; None for any number.
        rates: The largest weight of calls in a period, and the period in seconds.
    """

    def __init__(self, name: str, concurrency: int | None, rates: Sequence[tuple[float, float]] = ()) -> None:
        self.name = name
        self.concurrency = concurrency
        self.rates = [_Rate(most, period_s) for most, period_s in rates]
        self.running = 0

    @property
    def heaviest(self) -> float:
        """The largest weight that a call can have."""
        return min((rate.most for rate in self.rates), default=float("inf"))

    def seconds_left(self, weight: float, time_s: float) -> float | None:
        """Return how long a call has to wait, in seconds; None if it waits for the end of another."""
        if self.concurrency is not None and self.running >= self.concurrency:
            return None
        return max([rate.seconds_left(weight, time_s) for rate in self.rates], default=0.0)


Need = tuple[Usage, float]
"""A limit that a call needs, and what the call weighs."""


class Permit:
    """Allows one call to be made; to be released when that is over."""

    __slots__ = ("_entries", "_has_begun", "_is_released", "_needs")

    def __init__(self, needs: Sequence[Need], time_s: float) -> None:
        self._needs = needs
        self._has_begun = self._is_released = False
        self._entries: list[tuple[_Rate, _Entry]] = []
        for usage, weight in needs:
            usage.running += 1
            self._entries += [(rate, rate.add(weight, time_s)) for rate in usage.rates]

    def begin(self) -> None:
        """Record that the call begins now."""
        with _lock:
            if not self._has_begun:
                self._has_begun = True
                time_s = now()
                for _, entry in self._entries:
                    entry.at_s = time_s

    def release(self) -> None:
        """Record that the call is over, or will not be made; from any thread, as often as you like."""
        with _lock:
            if self._is_released:
                return
            self._is_released = True
            for usage, _ in self._needs:
                usage.running -= 1
            if not self._has_begun:
                for rate, entry in self._entries:
                    rate.refund(entry)
            granted = _grant()
        _notify(granted)


class Request:
    """Asks for permission to make a call.

    Args:
        needs: The limits that the call needs.
        notify: Called, in any thread, when there is a permit.

    Attributes:
        permit: The permit; None until there is one.
        limit_names: Names of the limits that were used up when it was last considered.
    """

    __slots__ = ("limit_names", "needs", "notify", "permit", "ready_in_s")

    def __init__(self, needs: Sequence[Need], notify: Callable[[], object]) -> None:
        self.needs = needs
        self.notify = notify
        self.permit: Permit | None = None
        self.limit_names: tuple[str, ...] = ()
        self.ready_in_s: float | None = None

    def submit(self) -> Permit | None:
        """Return a permit if there is one now; else it waits for its turn."""
        with _lock:
            _waiting.append(self)
            granted = [request for request in _grant() if request is not self]
        _notify(granted)
        return self.permit

    def look_again(self) -> float | None:
        """See whether time has brought a permit; return after how long it may, in seconds; None if time does not."""
        with _lock:
            granted = [request for request in _grant() if request is not self]
        _notify(granted)
        return self.ready_in_s

    def withdraw(self) -> None:
        """Ask no longer; gives back a permit that was not used."""
        with _lock:
            is_waiting = self in _waiting
            if is_waiting:
                _waiting.remove(self)
            permit, self.permit = self.permit, None
            granted = _grant() if is_waiting else []
        _notify(granted)
        if permit is not None:
            permit.release()


_lock = reset_after_fork(threading.Lock())
_waiting: list[Request] = []  # in the order in which they came


def _grant() -> list[Request]:
    """Give permits to those requests that can have one, in turn; return them. Under the lock."""
    granted: list[Request] = []
    waited_for: dict[Usage, float | None] = {}  # what earlier requests wait for, and for how long
    time_s = now()
    for request in list(_waiting):
        lacking: dict[Usage, float | None] = {}
        for usage, weight in request.needs:
            left_s = waited_for[usage] if usage in waited_for else usage.seconds_left(weight, time_s)
            if usage in waited_for or left_s != 0.0:
                lacking[usage] = left_s
        if lacking:
            waited_for |= {usage: left_s for usage, left_s in lacking.items() if usage not in waited_for}
            request.limit_names = tuple([usage.name for usage in lacking])
            times = [left_s for left_s in lacking.values() if left_s is not None]
            request.ready_in_s = max(times) if len(times) == len(lacking) else None
        else:
            _waiting.remove(request)
            request.permit = Permit(request.needs, time_s)
            granted.append(request)
    return granted


def _notify(granted: Iterable[Request]) -> None:
    for request in granted:
        request.notify()


# --- the limits of nodes ---------------------------------------------------------------------------------------------

_usages: weakref.WeakValueDictionary[tuple[Any, ...], Usage] = weakref.WeakValueDictionary()
_of_nodes: weakref.WeakKeyDictionary[Node[..., Any], Usage] = weakref.WeakKeyDictionary()


def _usage_of(limit: Limit) -> Usage:
    """Return what is used of a limit by all that share it."""
    key = (limit.name, limit.concurrency, limit.per_second, limit.per_minute)
    with _lock:
        usage = _usages.get(key)
        if usage is None:
            rates = [(limit.per_second, 1.0), (limit.per_minute, _MINUTE_S)]
            given = [(most, period_s) for most, period_s in rates if most is not None]
            usage = _usages[key] = Usage(limit.name, limit.concurrency, given)
    return usage


def needs_of(step: CallStep, limits: Mapping[str, Limit], arguments: Mapping[str, Any]) -> list[Need]:
    """Return what a call needs of the limits of its node.

    Args:
        step: The call.
        limits: The limits of the engine by name.
        arguments: The arguments by name; of a batched node as its function gets them.

    Raises:
        ConfigurationError: It weighs more than a limit ever allows, or its weight is no number.
        Exception: The error of a function that weighs calls.
    """
    node = step.node
    limiting = node.limiting
    assert limiting is not None
    needs: list[Need] = []
    if limiting.max_concurrency is not None:
        with _lock:
            usage = _of_nodes.get(node)
            if usage is None:
                usage = _of_nodes[node] = Usage(f"max_concurrency of {node.name}", limiting.max_concurrency)
        needs.append((usage, 1.0))
    for name, weigh in limiting.weights:
        usage = limits[name].usage
        weight = 1.0 if weigh is None else _as_weight(weigh.of(arguments), node, name)
        if weight > usage.heaviest:
            raise ConfigurationError(
                f"a call of node {node.name!r} counts {weight:g} for limit {name!r}, which allows {usage.heaviest:g} "
                f"at most ({limits[name]!r}): it could never be made"
            )
        needs.append((usage, weight))
    return needs


def _as_weight(value: Any, node: Node[..., Any], name: str) -> float:
    try:
        weight = float(value)
        is_weight = 0 <= weight < float("inf")
    except (TypeError, ValueError):
        is_weight = False
    if not is_weight:
        raise ConfigurationError(
            f"the weight for limit {name!r} of node {node.name!r} must be a number, 0 or more; got {shown(value)}"
        )
    return weight


def _reset() -> None:
    """Forget, in a forked process, the calls that its parent makes."""
    _waiting.clear()
    for usage in [*_usages.values(), *_of_nodes.values()]:
        usage.running = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
