"""Caches of functions with `functools.cache` that arrived by value, kept from run to run.

`functools.cache` is the usual way to load a model once. In a process that receives such a function with each run or
job, its cache would begin empty each time. Here it means what it does in the process of the caller: the cache belongs
to the function, as the object that it is there, and lasts until that is gone or its `cache_clear` is called.

What is kept are results, and never code: what is missing is computed by the function that came with the run, with its
globals. Which functions have such a cache is decided by the sender (see `cache_identities`); it is used for arguments
that are numbers, text, or tuples of these.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hypernodes.locks import reset_after_fork

CACHED: Any = type(functools.cache(len))
"""The class of functions with `functools.cache` or `lru_cache`."""

PLAIN = frozenset({bool, bytes, complex, float, int, str, type(None)})
_MOST = 64
_table = reset_after_fork(threading.RLock())


class CacheIdentity(NamedTuple):
    """Which cache a function has that is sent.

    Attributes:
        sender: Stands for the process of the caller.
        name: Module and qualified name of the function.
        token: Stands for the function, as the object that it is there, and for the time since its cache was cleared.
        living: The tokens of all functions of this name that are there.
        digest: Of its code and all it refers to.
        classes: The classes among that, which travel by value too.
    """

    sender: str
    name: tuple[str, str]
    token: str
    living: frozenset[str]
    digest: bytes
    classes: tuple[type, ...]


class _Results:
    """The results of one function, from run to run.

    Args:
        identity: That of the function when they began.
        maxsize: See `functools.lru_cache`.
        typed: See there.
    """

    def __init__(self, identity: CacheIdentity, maxsize: int | None, typed: bool) -> None:
        self._identity = identity._replace(classes=())
        self._classes = list(map(weakref.ref, identity.classes))
        self._calling = threading.local()
        self._cached = functools.lru_cache(maxsize, typed)(self._compute)
        self.clear = self._cached.cache_clear

    def are_those_of(self, identity: CacheIdentity) -> bool:
        """Whether a function has the same code, and what that refers to the same classes."""
        if self._identity.digest != identity.digest or len(self._classes) != len(identity.classes):
            return False
        before = [reference() for reference in self._classes]  # None: it is gone, and all its objects with it
        return all(a is None or a is b for a, b in zip(before, identity.classes, strict=True))

    def is_outdated_by(self, identity: CacheIdentity) -> bool:
        """Whether the function does not exist any more, as one of the same name says that arrives now."""
        mine = self._identity
        is_namesake = (mine.sender, mine.name) == (identity.sender, identity.name)
        return is_namesake and mine.token not in identity.living

    def of_call(self, function: Callable[..., Any], arguments: tuple[Any, ...], by_keyword: dict[str, Any]) -> Any:
        """Return the result of a call; `function` is called where it is not known."""
        before = getattr(self._calling, "function", None)
        self._calling.function = function
        try:
            return self._cached(*arguments, **by_keyword)
        finally:
            self._calling.function = before

    def _compute(self, *arguments: Any, **by_keyword: Any) -> Any:
        return self._calling.function(*arguments, **by_keyword)


_results: dict[str, _Results] = {}  # by token, the least recently sent first


def keep(function: Callable[..., Any], maxsize: int | None, typed: bool, identity: CacheIdentity) -> Any:
    """Return a function with a cache that begins with the results of earlier runs.

    Args:
        function: The function without a cache.
        maxsize: See `functools.lru_cache`.
        typed: See there.
        identity: Which cache it has.
    """
    results = _results_of(identity, maxsize, typed)

    @functools.wraps(function)
    def call(*arguments: Any, **by_keyword: Any) -> Any:
        if _are_plain(arguments) and _are_plain(by_keyword.values()):
            return results.of_call(function, arguments, by_keyword)
        return function(*arguments, **by_keyword)

    made: Any = functools.lru_cache(maxsize, typed)(call)
    made.__wrapped__ = function
    made.cache_clear = ClearArrived(made, results, identity)
    return made


class ClearArrived:
    """Clears the cache of a function that arrived here, with what is kept of earlier runs.

    Args:
        function: The function.
        results: What is kept.
        identity: Which cache it has, for when it is sent on.
    """

    def __init__(self, function: Any, results: _Results, identity: CacheIdentity) -> None:
        self._function = weakref.ref(function)
        self._results = results
        self.identity = identity

    def __call__(self) -> None:
        self._results.clear()
        function = self._function()
        if function is not None:
            CACHED.cache_clear(function)


def _results_of(identity: CacheIdentity, maxsize: int | None, typed: bool) -> _Results:
    with _table:
        for token, other in list(_results.items()):
            if other.is_outdated_by(identity):
                del _results[token]
        found = _results.pop(identity.token, None)
        if found is None or not found.are_those_of(identity):
            found = _Results(identity, maxsize, typed)
        _results[identity.token] = found
        if len(_results) > _MOST:
            del _results[next(iter(_results))]
        return found


def _are_plain(values: Iterable[Any]) -> bool:
    return all(type(value) in PLAIN or (type(value) is tuple and _are_plain(value)) for value in values)
