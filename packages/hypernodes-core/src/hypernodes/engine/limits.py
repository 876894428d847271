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
from contextvars import ContextVar, Token
from typing import Any

from hypernodes.checks import as_number, check_name, shown
from hypernodes.engine.timing import now
from hypernodes.errors import ConfigurationError, ExecutionError
from hypernodes.locks import reset_after_fork
from hypernodes.nearest import suggest
from hypernodes.nodes import Node
from hypernodes.plan import CallStep, NestedStep, Plan
from hypernodes.results import name_of

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
        count = as_number(concurrency)
        if concurrency is not None and (count is None or count < 1 or count != int(count)):
            raise ConfigurationError(
                f"concurrency of limit {name!r} must be a whole number, 1 or more; got {shown(concurrency)}"
            )
        for option, rate in (("per_second", per_second), ("per_minute", per_minute)):
            number = as_number(rate)
            if rate is not None and (number is None or number <= 0):
                raise ConfigurationError(f"{option} of limit {name!r} must be a number above 0; got {shown(rate)}")
        if concurrency is None and per_second is None and per_minute is None:
            raise ConfigurationError(f"limit {name!r} needs concurrency=, per_second= or per_minute=")
        self.name = name
        self.concurrency = None if concurrency is None else int(concurrency)
        self.per_second = _as_given(per_second)
        self.per_minute = _as_given(per_minute)
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


def _as_given(rate: Any) -> float | None:
    """Return a rate as a number of Python's, as it is shown."""
    return rate if type(rate) is int else as_number(rate)


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
    for step in plan.steps:
        place = plan.places.get(step.index)  # which has the limits around it besides its own
        where = backend_name if place is None else name_of(place)
        here = [*limits, *getattr(place, "limits", ())]
        if isinstance(step, NestedStep):
            check_limits_of(step.inner, [*here, *getattr(step.backend, "limits", ())], where)
            continue
        limiting, known = step.node.limiting, {limit.name for limit in here}
        for name, _ in limiting.weights if limiting is not None else ():
            if name not in known:
                hint = suggest(name, known) if len(known) > 1 else ""
                names = f"{', '.join(map(repr, sorted(known)))}{hint}" if known else "none"
                raise ConfigurationError(
                    f"node {step.node.name!r} names limit {name!r}, which the backend {where!r} does not have: "
                    f"it has {names}. Give it to the backend or engine: limits=[Limit({name!r}, concurrency=...)]"
                )


# --- what is used ----------------------------------------------------------------------------------------------------


class _Entry:
    """A call that counts for a rate.

    Attributes:
        at_s: When it began, on the monotonic clock, as soon as that is known.
        weight: What it counts.
    """

    __slots__ = ("at_s", "weight")

    at_s: float

    def __init__(self, weight: float) -> None:
        self.weight = weight


class _Rate:
    """The calls of the last second or minute.

    Args:
        most: The largest sum of their weights.
        period_s: The second or minute.
    """

    def __init__(self, most: float, period_s: float) -> None:
        self.most = most
        self._period_s = period_s
        self._begun: deque[_Entry] = deque()  # in the order in which they began
        self._others: set[_Entry] = set()  # that may begin at any moment, or have begun
        self._total = 0.0

    def used(self, time_s: float) -> float:
        """Return the sum of the weights that count now."""
        begun = self._begun
        while begun and begun[0].at_s + self._period_s <= time_s:
            self._total -= begun.popleft().weight
        if not begun and not self._others:
            self._total = 0.0  # without what floats have lost
        return self._total

    def seconds_left(self, weight: float, time_s: float) -> float | None:
        """Return how long a call of some weight has to wait, in seconds; None if it waits for others to begin."""
        too_many = self.used(time_s) + min(weight, self.most) - self.most
        if too_many <= _ROUNDED:
            return 0.0
        for entry in self._begun:
            too_many -= entry.weight
            if too_many <= _ROUNDED:
                return entry.at_s + self._period_s - time_s
        return None

    def add(self, weight: float) -> _Entry:
        """Let a call count that is about to be made."""
        entry = _Entry(min(weight, self.most))
        self._others.add(entry)
        self._total += entry.weight
        return entry

    def begin(self, entry: _Entry, time_s: float) -> None:
        """Record when a call began, unless that is known."""
        if entry in self._others:
            self._others.remove(entry)
            entry.at_s = time_s
            self._begun.append(entry)

    def remove(self, entry: _Entry) -> None:
        """Let a call count nothing that was not made."""
        if entry in self._others:
            self._others.remove(entry)
            self._total -= entry.weight


_ROUNDED = 1e-9  # what sums of floats may be too large by


def _rates_of(most: float, period_s: float) -> list[_Rate]:
    """Return what keeps calls to a rate: if that is less than one call, it is one in a longer time as well."""
    rates = [_Rate(most, period_s)]
    if most < 1:
        rates.append(_Rate(1.0, period_s / most))
    return rates


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
        self.rates = [rate for most, period_s in rates for rate in _rates_of(most, period_s)]
        self.heaviest = max(min((most for most, _ in rates), default=float("inf")), 1.0)
        self.running = 0

    def seconds_left(self, weight: float, time_s: float) -> float | None:
        """Return how long a call has to wait, in seconds; None if it waits for others to begin or to end."""
        if self.concurrency is not None and self.running >= self.concurrency:
            return None
        times = [rate.seconds_left(weight, time_s) for rate in self.rates]
        known = [left_s for left_s in times if left_s is not None]
        return max(known, default=0.0) if len(known) == len(times) else None

    def is_idle(self, time_s: float) -> bool:
        """Whether nothing is used of it."""
        return not self.running and not any(rate.used(time_s) for rate in self.rates)


Need = tuple[Usage, float]
"""A limit that a call needs, and what the call weighs."""

_held: ContextVar[tuple[Usage, ...]] = ContextVar("held_limits", default=())


class Permit:
    """Allows one call to be made; to be released when that is over.

    As a context manager it is held by what runs inside: the call begins.
    """

    __slots__ = ("_entries", "_is_released", "_needs", "_token")

    def __init__(self, needs: Sequence[Need]) -> None:
        self._needs = needs
        self._is_released = False
        self._entries: list[tuple[_Rate, _Entry]] = []
        self._token: Token[tuple[Usage, ...]] | None = None
        for usage, weight in needs:
            usage.running += 1
            self._entries += [(rate, rate.add(weight)) for rate in usage.rates]

    def begin(self) -> None:
        """Record that the call begins now."""
        with _lock:
            self._begin()

    def release(self, has_begun: bool = False) -> None:
        """Record that the call is over, or will not be made; from any thread, as often as you like.

        Args:
            has_begun: Whether it may have been made, although its beginning was not recorded.
        """
        with _lock:
            if self._is_released:
                return
            self._is_released = True
            for usage, _ in self._needs:
                usage.running -= 1
            if has_begun:
                self._begin()
            for rate, entry in self._entries:
                rate.remove(entry)
            granted = _grant()
        _notify(granted)

    def _begin(self) -> None:
        time_s = now()
        for rate, entry in self._entries:
            rate.begin(entry, time_s)

    def __enter__(self) -> None:
        self.begin()
        self._token = _held.set((*_held.get(), *[usage for usage, _ in self._needs]))

    def __exit__(self, *exc_info: object) -> None:
        if self._token is not None:
            _held.reset(self._token)


class Request:
    """Asks for permission to make a call.

    Args:
        needs: The limits that the call needs.
        notify: Called, in any thread, when there is a permit.

    Attributes:
        permit: The permit; None until there is one.
        limit_names: Names of the limits that were used up when it was last considered.
        ready_in_s: After how long time may bring a permit, in seconds; None if time does not.
        passed: How many later requests got a permit before it, for one of the limits that it needs.
    """

    __slots__ = ("limit_names", "needs", "notify", "passed", "permit", "ready_in_s")

    def __init__(self, needs: Sequence[Need], notify: Callable[[], object]) -> None:
        self.needs = needs
        self.notify = notify
        self.permit: Permit | None = None
        self.limit_names: tuple[str, ...] = ()
        self.ready_in_s: float | None = None
        self.passed = 0

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


_MOST_PASSED = 10  # later requests that get a permit before one that waits for another limit
_lock = reset_after_fork(threading.Lock())
_waiting: list[Request] = []  # in the order in which they came


def _grant() -> list[Request]:
    """Give permits to those requests that can have one, in turn; return them. Under the lock."""
    granted: list[Request] = []
    passed: list[Request] = []
    waited_for: dict[Usage, float | None] = {}  # what earlier requests wait for, and for how long
    time_s = now()
    for request in list(_waiting):
        lacking: dict[Usage, float | None] = {}
        for usage, weight in request.needs:
            left_s = waited_for[usage] if usage in waited_for else usage.seconds_left(weight, time_s)
            if usage in waited_for or left_s != 0.0:
                lacking[usage] = left_s
        if lacking:
            times = [left_s for left_s in lacking.values() if left_s is not None]
            request.limit_names = tuple([usage.name for usage in lacking])
            request.ready_in_s = max(times) if len(times) == len(lacking) else None
            is_held_up = request.passed >= _MOST_PASSED
            kept = dict.fromkeys([usage for usage, _ in request.needs], request.ready_in_s) if is_held_up else lacking
            waited_for |= {usage: left_s for usage, left_s in kept.items() if usage not in waited_for}
            passed.append(request)
        else:
            _waiting.remove(request)
            request.permit = Permit(request.needs)
            granted.append(request)
            needed = {usage for usage, _ in request.needs}
            for earlier in passed:
                earlier.passed += not needed.isdisjoint([usage for usage, _ in earlier.needs])
    return granted


def _notify(granted: Iterable[Request]) -> None:
    for request in granted:
        request.notify()


# --- the limits of nodes ---------------------------------------------------------------------------------------------

_usages: dict[tuple[Any, ...], Usage] = {}  # which stay when nobody has the limit any more: what was used still counts
_of_functions: weakref.WeakKeyDictionary[Any, dict[int, Usage]] = weakref.WeakKeyDictionary()
_MOST_IDLE = 256


def _usage_of(limit: Limit) -> Usage:
    """Return what is used of a limit by all that share it."""
    key = (limit.name, limit.concurrency, limit.per_second, limit.per_minute)
    with _lock:
        usage = _usages.get(key)
        if usage is None:
            if len(_usages) > _MOST_IDLE:
                _forget_idle()
            rates = [(limit.per_second, 1.0), (limit.per_minute, _MINUTE_S)]
            given = [(most, period_s) for most, period_s in rates if most is not None]
            usage = _usages[key] = Usage(limit.name, limit.concurrency, given)
    return usage


def _forget_idle() -> None:
    """Forget limits of which nothing is used; the objects that stand for them find no others in their place."""
    time_s = now()
    for key in [key for key, usage in _usages.items() if usage.is_idle(time_s)]:
        del _usages[key]


def _usage_of_function(node: Node[..., Any], most: int) -> Usage:
    """Return what is used of the `max_concurrency` of a node; copies of it on other conditions share that."""
    with _lock:
        try:
            usages = _of_functions.setdefault(node.func, {})
        except TypeError:  # an object that cannot be referred to weakly
            usages = _of_functions.setdefault(node, {})
        return usages.setdefault(most, Usage(f"max_concurrency of {node.name}", most))


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
        needs.append((_usage_of_function(node, limiting.max_concurrency), 1.0))
    for name, weigh in limiting.weights:
        usage = limits[name].usage
        weight = 1.0 if weigh is None else _as_weight(weigh.of(arguments), node, name)
        if weight > usage.heaviest:
            raise ConfigurationError(
                f"a call of node {node.name!r} counts {weight:g} for limit {name!r}, which allows {usage.heaviest:g} "
                f"at most ({limits[name]!r}): it could never be made"
            )
        needs.append((usage, weight))
    held = _held.get()
    for usage, _ in needs:
        if usage.concurrency is not None and held.count(usage) >= usage.concurrency:
            raise ExecutionError(
                f"node {node.name!r} needs limit {usage.name!r}, of which the call that started this run holds all "
                f"{usage.concurrency}: both would wait for ever. Run the pipeline outside of the limited node"
            )
    return needs


def _as_weight(value: Any, node: Node[..., Any], name: str) -> float:
    weight = as_number(value)
    if weight is None or weight < 0:
        raise ConfigurationError(
            f"the weight for limit {name!r} of node {node.name!r} must be a number, 0 or more; got {shown(value)}"
        )
    return weight


def _reset() -> None:
    """Forget, in a forked process, the calls that its parent makes."""
    _waiting.clear()
    for usage in [*_usages.values(), *(usage for usages in _of_functions.values() for usage in usages.values())]:
        usage.running = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


# --- the limits around a run -----------------------------------------------------------------------------------------

_around: ContextVar[tuple[Limit, ...]] = ContextVar("limits_around", default=())


def with_limits_around(own: Sequence[Limit]) -> tuple[Limit, ...]:
    """Return the limits of a run: its own, and those of the run that delegated it, if their names are others."""
    names = {limit.name for limit in own}
    return (*own, *[limit for limit in _around.get() if limit.name not in names])


def delegated_with(limits: Iterable[Limit], run: Callable[[], Any]) -> Any:
    """Run a nested pipeline on a backend of its own, which has these limits besides its own."""
    token = _around.set(tuple(limits))
    try:
        return run()
    finally:
        _around.reset(token)
