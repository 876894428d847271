"""Caches of functions with `functools.cache` that arrived by value, kept from run to run.

`functools.cache` is the usual way to load a model once. In a process that receives such a function with each run or
job, its cache would begin empty each time. Here it means what it does in the process of the caller: the cache belongs
to the function, as the object that it is there, and lasts until that is gone or its `cache_clear` is called.

What is kept are results, and never code: what is missing is computed by the function that came with the run, with its
globals. The sender decides which functions have such a cache (see `cache_identities`). It is used for arguments that
are numbers, text, or tuples of these, and for results that cannot be told from those of this run:

- not None, True or False, which is what functions return that set something up; nor a constant that the run has itself;
  nor anything that holds code, of which each run has its own;
- of classes that are the same ones in this run;
- of calls that left the classes and functions of the run as they were, and what a run finds as the caller has it.

A function of which one result is not kept, or that is called with many arguments, so that it is a table rather than a
loader, begins with an empty cache in each run. So do other cached functions that it uses: it is called again, and may
change what they have returned.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, ModuleType, TracebackType
from typing import Any, NamedTuple

from hypernodes.decimals import settings_here
from hypernodes.engine.workers.by_name import is_imported_by_name
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.locks import reset_after_fork

CACHED: Any = type(functools.cache(len))
"""The class of functions with `functools.cache` or `lru_cache`."""

PLAIN = frozenset({bool, bytes, complex, float, int, str, type(None)})
_ITERATORS = frozenset({AsyncGeneratorType, CoroutineType, GeneratorType})  # which are used up
_OF_SETTING_UP = frozenset({bool, type(None)})
_CONSTANTS = frozenset({bytes, float, frozenset, str, tuple})  # of which the very object may matter
_MOST_FUNCTIONS = 64
_MOST_RESULTS = 64  # of one function
_MOST_OBJECTS = 200_000
_table = reset_after_fork(threading.RLock())


class CacheIdentity(NamedTuple):
    """Which cache a function has that is sent.

    Attributes:
        token: Stands for the function, as the object that it is there, while it and what it refers to are the same and
            its cache is not cleared; None if its cache begins empty in each run.
        ended: Tokens of functions of its name that count no more.
        code: The functions and classes that it refers to and that travel by value too.
    """

    token: str | None
    ended: tuple[str, ...]
    code: tuple[Any, ...]


class _Results:
    """The results of one function, from run to run.

    Args:
        token: Stands for the function.
        identity: That of the function when they began.
        maxsize: See `functools.lru_cache`.
        typed: See there.

    Attributes:
        token_sent_on: Stands for the function where it is sent from here.
    """

    def __init__(self, token: str, identity: CacheIdentity, maxsize: int | None, typed: bool) -> None:
        self._token = token
        self._classes = list(map(weakref.ref, _classes_in(identity)))
        self._cached = functools.lru_cache(maxsize, typed)(self._compute)
        self.token_sent_on = token

    def are_those_of(self, identity: CacheIdentity) -> bool:
        """Whether a function refers to the same classes."""
        classes = _classes_in(identity)
        before = [reference() for reference in self._classes]  # None: it is gone, and all its objects with it
        return len(before) == len(classes) and all(a is None or a is b for a, b in zip(before, classes, strict=True))

    def of_call(self, function: _Arrived, arguments: tuple[Any, ...], by_keyword: dict[str, Any]) -> Any:
        """Return the result of a call; the function is called where it is not known."""
        before, _here.function = _here.function, function
        try:
            return self._cached(*arguments, **by_keyword)
        except _NotKeptError as found:
            function.note_unkept()
            return found.result
        finally:
            _here.function = before

    def _compute(self, /, *arguments: Any, **by_keyword: Any) -> Any:
        function: _Arrived = _here.function
        if self._cached.cache_info().currsize >= _MOST_RESULTS:
            raise _NotKeptError(function.call(*arguments, **by_keyword))
        before = function.state_of_code(), _state_of_process()
        result = function.call(*arguments, **by_keyword)
        is_changed = before != (function.state_of_code(), _state_of_process())
        if is_changed or function.uses_unkept() or not function.may_keep(result):
            raise _NotKeptError(result)
        return result

    def end(self) -> None:
        """Keep the results no longer than this run."""
        with _table:
            if _results.get(self._token) is self:
                del _results[self._token]
                self.token_sent_on = new_token()

    def clear(self) -> None:
        """Forget the results, here and where the function is sent from here."""
        self.token_sent_on = new_token()
        self._cached.cache_clear()


class _NotKeptError(Exception):
    """Carries a result that is not kept past the cache."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class _Arrived:
    """A function of this run, with the code that came with it.

    Attributes:
        call: The function without a cache.
        has_unkept: Whether it has returned something in this run that is not kept.
    """

    def __init__(self, call: Callable[..., Any], identity: CacheIdentity, results: _Results | None) -> None:
        self.call = call
        self.has_unkept = False
        self._globals: dict[str, Any] = getattr(call, "__globals__", {})
        self._results = results
        self._code = identity.code
        self._classes = _classes_in(identity)

    def state_of_code(self) -> list[dict[str, int]]:
        """Return what the classes and functions hold, as the ids of it."""
        return [{name: id(value) for name, value in list(vars(each).items())} for each in self._code]

    def _others(self) -> list[ClearArrived]:
        """Return the other cached functions that it refers to."""
        clears = [vars(each).get("cache_clear") for each in self._code if type(each) is CACHED]
        return [clear for clear in clears if type(clear) is ClearArrived]

    def uses_unkept(self) -> bool:
        """Whether another cached function that it refers to has returned something that is not kept."""
        return any(other.function_here.has_unkept for other in self._others())

    def note_unkept(self) -> None:
        """Note that it has returned something that is not kept."""
        if not self.has_unkept:
            self.has_unkept = True
            for results in (self._results, *[other.results for other in self._others()]):
                if results is not None:
                    results.end()

    def may_keep(self, result: Any) -> bool:
        """Whether a result cannot be told from that of another run; if so, its classes stay what they are."""
        kind = type(result)
        if kind in _OF_SETTING_UP or kind in _ITERATORS or kind.__module__ == "logging":
            return False
        if kind in _CONSTANTS and any(result is each for each in list(self._globals.values())):
            return False
        found = _Reached()
        if not found.go_through(result) or found.has_code:
            return False
        if any(all(each is not own for own in self._classes) for each in found.classes):
            return False
        owner = code_owner.get()
        if owner is not None:
            owner.keep_classes(found.classes)
        return True


class _Reached:
    """What an object refers to.

    Attributes:
        classes: The classes that came by value, of objects.
        has_code: Whether there are functions or modules that came by value.
    """

    def __init__(self) -> None:
        self.classes: list[type] = []
        self.has_code = False

    def go_through(self, value: Any) -> bool:
        """Look at everything but numbers and text; return whether it came to an end."""
        seen: set[int] = set()
        waiting = [] if type(value) in PLAIN else [value]
        while waiting:
            each = waiting.pop()
            kind = type(each)
            if id(each) in seen:
                continue
            seen.add(id(each))
            if issubclass(kind, type):
                if not is_imported_by_name(each):
                    self.classes.append(each)
            elif kind is FunctionType or kind is CACHED:
                self.has_code = self.has_code or not is_imported_by_name(each)
            elif issubclass(kind, ModuleType):
                self.has_code = self.has_code or kind is not ModuleType
            else:
                waiting += [part for part in gc.get_referents(each) if type(part) not in PLAIN]
                if len(seen) + len(waiting) > _MOST_OBJECTS:
                    return False
        return True


def classes_of(value: Any) -> list[type]:
    """Return the classes of an object, and of what it refers to, that came by value."""
    found = _Reached()
    found.go_through(value)
    return found.classes


def _classes_in(identity: CacheIdentity) -> list[type]:
    return [each for each in identity.code if isinstance(each, type)]


def _state_of_process() -> tuple[Any, ...]:
    """Return what each run finds as its caller has it, whatever an earlier one has changed."""
    manager = logging.root.manager
    levels = {name: getattr(logger, "level", None) for name, logger in list(manager.loggerDict.items())}
    return os.getcwd(), settings_here(), list(warnings.filters), logging.root.level, manager.disable, levels


class _Here(threading.local):
    """What a thread is doing.

    Attributes:
        function: The function whose result is being determined.
    """

    function: Any = None


_here = _Here()
_results: dict[str, _Results] = {}  # by token, the least recently sent first


def keep(function: Callable[..., Any], maxsize: int | None, typed: bool, identity: CacheIdentity) -> Any:
    """Return a function with a cache that begins with the results of earlier runs.

    Args:
        function: The function without a cache.
        maxsize: See `functools.lru_cache`.
        typed: See there.
        identity: Which cache it has.
    """
    if identity.token is None:
        _Arrived(function, identity, None).note_unkept()
        return functools.lru_cache(maxsize, typed)(function)
    results = _results_of(identity.token, identity, maxsize, typed)
    arrived = _Arrived(function, identity, results)

    @functools.wraps(function)
    def call(*arguments: Any, **by_keyword: Any) -> Any:
        if arrived.has_unkept or not (_are_plain(arguments) and _are_plain(by_keyword.values())):
            arrived.note_unkept()
            return function(*arguments, **by_keyword)
        try:
            return results.of_call(arrived, arguments, by_keyword)
        except BaseException as error:
            BaseException.with_traceback(error, _of_user(error.__traceback__))  # whatever its class allows to be set
            raise

    made: Any = functools.lru_cache(maxsize, typed)(call)
    made.__wrapped__ = function
    made.cache_clear = ClearArrived(made, arrived, results, identity)
    return made


class ClearArrived:
    """Clears the cache of a function that arrived here, with what is kept of earlier runs.

    Args:
        function: The function.
        function_here: What it is in this run.
        results: What is kept.
        identity: Which cache it has.

    Attributes:
        function_here: What it is in this run.
        results: What is kept.
    """

    def __init__(self, function: Any, function_here: _Arrived, results: _Results, identity: CacheIdentity) -> None:
        self._function = weakref.ref(function)
        self.function_here = function_here
        self.results = results
        self._identity = identity

    @property
    def identity(self) -> CacheIdentity:
        """Which cache the function has where it is sent from here."""
        return self._identity._replace(token=self.results.token_sent_on)

    def __call__(self) -> None:
        self.results.clear()
        clear_all_with(self, self._function())

    def __reduce__(self) -> Any:
        return clear_of, (self._function(),)


def clear_of(function: Any) -> Any:
    """Return what clears the cache of a function, which may be gone."""
    return _clear_nothing if function is None else function.cache_clear


def clear_all_with(clear: object, function: Any) -> None:
    """Clear the cache of a function, and of all that `functools.update_wrapper` has given the same `cache_clear`."""
    referrers = gc.get_referrers(clear)
    owners = [owner for held in referrers if type(held) is dict for owner in gc.get_referrers(held)]
    for each in (function, *referrers, *owners):
        if type(each) is CACHED and (each is function or vars(each).get("cache_clear") is clear):
            CACHED.cache_clear(each)


def _clear_nothing() -> None:
    """Clear the cache of a function that is gone."""


def new_token() -> str:
    """Return what stands for a function until it changes."""
    return os.urandom(16).hex()


def _of_user(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first line of the user's on."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _results_of(token: str, identity: CacheIdentity, maxsize: int | None, typed: bool) -> _Results:
    with _table:
        for ended in identity.ended:
            _results.pop(ended, None)
        found = _results.pop(token, None)
        if found is None or not found.are_those_of(identity):
            found = _Results(token, identity, maxsize, typed)
        _results[token] = found
        if len(_results) > _MOST_FUNCTIONS:
            del _results[next(iter(_results))]
        return found


def _are_plain(values: Iterable[Any]) -> bool:
    return all(type(value) in PLAIN or (type(value) is tuple and _are_plain(value)) for value in values)
