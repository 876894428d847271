"""Resources: models, clients and connections that are made where they are used, once per process or thread."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CoroutineType, GeneratorType
from typing import Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, overload

from hypernodes import special_values
from hypernodes.checks import check_choice, shown
from hypernodes.errors import ConfigurationError, add_note
from hypernodes.global_names import find_global, import_global
from hypernodes.locks import reset_after_fork

P = ParamSpec("P")
T = TypeVar("T")
Per: TypeAlias = Literal["process", "thread"]

_HOLD_NONE = frozenset({int, float, bool, str, bytes, dict, set, type(None)})


class Resource(Generic[T]):
    """Something that nodes take, made where they run; created by calling what `resource` makes of a function.

    It travels as its factory and arguments, and is known by them in signatures, by the code of the factory too.

    Attributes:
        factory: Makes it.
        arguments: Positional arguments of the factory.
        by_keyword: Its other arguments.
    """

    def __init__(
        self,
        factory: ResourceFactory[..., T],
        arguments: tuple[Any, ...],
        by_keyword: Mapping[str, Any],
        key: bytes | None = None,
    ) -> None:
        special_values.note_use()
        self.factory = factory
        self.arguments = arguments
        self.by_keyword = dict(by_keyword)
        self._key = key

    @property
    def key(self) -> bytes:
        """What it is known by: equal for resources that are made by the same code from the same arguments."""
        if self._key is None:
            self.identify()
        assert self._key is not None
        return self._key

    def identify(self) -> None:
        """Determine again what it is known by: the code of the factory may have changed."""
        from hypernodes import signature

        if self.factory.was_sent and self._key is not None:
            return  # its source is with the sender
        try:
            self._key = signature.digest(self, signature.new_memo())
        except Exception:  # then it is made for itself; where it matters for a cache, a warning says why
            self._key = self._key or os.urandom(16)

    def get(self) -> T:
        """Return the object of this process (or thread), which is made at the first call.

        Raises:
            Exception: The error of the factory, with a note.
        """
        return _made_for(self).get(self)  # type: ignore[no-any-return]

    @property
    def is_made(self) -> bool:
        """Whether the object is there already, in this process or thread."""
        made = _table_of(self).get(self.key)
        return made is not None and made.is_made

    def close(self) -> None:
        """Close the object of this process (or thread) now; the next use makes another one."""
        with _changing:
            made = _table_of(self).pop(self.key, None)
        if made is not None:
            made.close()

    def __cache_key__(self) -> object:
        return self.factory, self.arguments, sorted(self.by_keyword.items())

    def __reduce__(self) -> tuple[Any, ...]:
        return Resource, (self.factory, self.arguments, self.by_keyword, self.key)

    def __repr__(self) -> str:
        given = [*map(shown, self.arguments), *(f"{name}={shown(value)}" for name, value in self.by_keyword.items())]
        return f"<resource {self.factory.name}({', '.join(given)})>"


class ResourceFactory(Generic[P, T]):
    """Makes resources of a function; created by `resource`.

    Calling it returns a resource without calling the function.

    Args:
        function: Returns the object, or yields it and closes it afterwards.
        per: "process" or "thread".
        was_sent: Whether it came from another process.

    Attributes:
        function: The same.
        per: The same.
        was_sent: The same.
        name: Name of the function.
    """

    def __init__(self, function: Callable[P, T | Iterator[T]], per: Per = "process", *, was_sent: bool = False) -> None:
        given: Any = function
        if not callable(given) or isinstance(given, ResourceFactory):
            raise ConfigurationError(f"@resource takes a function that makes something; got {shown(function)}")
        functools.update_wrapper(self, function)
        self.function = function
        self.per: Per = check_choice("per", per, ("process", "thread"))
        self.was_sent = was_sent
        self.name = str(getattr(function, "__name__", type(function).__name__))

    def __call__(self, *arguments: P.args, **by_keyword: P.kwargs) -> Resource[T]:
        import inspect

        try:
            inspect.signature(self.function).bind(*arguments, **by_keyword)
        except TypeError as error:
            raise ConfigurationError(f"resource {self.name!r} cannot be made with these arguments: {error}") from None
        except ValueError:  # a function in C that does not tell its parameters
            pass
        return Resource(self, arguments, by_keyword)

    def __cache_key__(self) -> object:
        return self.function

    @property
    def is_importable(self) -> bool:
        """Whether another process finds this very factory by importing its module."""
        found = find_global(self.__module__, getattr(self, "__qualname__", ""))
        return found is self and self.__module__ != "__main__"

    def reduce_by_value(self) -> tuple[Any, ...]:
        """Reduce the factory, for pickle, to the function that it wraps rather than to its import path."""
        return _factory_again, (self.function, self.per)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.is_importable:
            return import_global, (self.__module__, self.__qualname__)  # type: ignore[attr-defined, unused-ignore]
        return self.reduce_by_value()

    def __repr__(self) -> str:
        return f"<resource factory {self.name}>"


@overload
def resource(function: Callable[P, Iterator[T]]) -> ResourceFactory[P, T]: ...


@overload
def resource(function: Callable[P, T]) -> ResourceFactory[P, T]: ...


@overload
def resource(*, per: Per = "process") -> Callable[[Callable[P, T | Iterator[T]]], ResourceFactory[P, T]]: ...


def resource(function: Any = None, *, per: Per = "process") -> Any:
    """Make a function the factory of a resource: a model, a client or a connection that is made where it is used.

    The factory is called at the first call of a node that takes the resource, once in each process where there are such
    calls (or in each thread), whatever the number of items, maps and runs; nothing is made where all results come from
    a cache. The object stays until the process ends. A factory that yields the object closes it after the `yield` then.

    Nodes get the object; callbacks and signatures see the resource, which is known by the factory's code and arguments.

    Args:
        function: The factory.
        per: "process" or "thread": what there is one object for.

    Raises:
        ConfigurationError: It is no function, or `per` is something else.

    Example:
        >>> from hypernodes import Pipeline, node, resource
        >>> @resource
        ... def vocabulary(size):
        ...     print("loading")
        ...     yield [f"word {number}" for number in range(size)]
        >>> @node(output_name="word")
        ... def choose(words, index):
        ...     return words[index]
        >>> pipeline = Pipeline(nodes=[choose]).with_inputs(words=vocabulary(100))
        >>> pipeline.map(inputs={"index": [7, 9]}, map_over="index")
        loading
        {'word': ['word 7', 'word 9']}
    """
    if function is not None:
        return ResourceFactory(function, per)
    return lambda function: ResourceFactory(function, per)


def names_of_resources(given: Any) -> tuple[str, ...]:
    """Return the names of the values that are resources, or lists with some; an iterator may be one."""
    if type(given) is not dict and not isinstance(given, Mapping):
        return ()
    if _HOLD_NONE.issuperset(map(type, given.values())):
        return ()
    return tuple([name for name, value in given.items() if _may_hold(value)])


def _may_hold(value: Any) -> bool:
    if isinstance(value, Resource):
        value.identify()
        return True
    if type(value) is list or type(value) is tuple:
        if Resource not in set(map(type, value)):
            return False
        for each in value:
            if isinstance(each, Resource):
                each.identify()
        return True
    return isinstance(value, Iterator)


def use(values: Iterable[Any]) -> list[Any]:
    """Return values with the objects of resources in their places."""
    return [value.get() if isinstance(value, Resource) else value for value in values]


# --- the objects of this process ----------------------------------------------------------------------------------

observers_of_making: list[Callable[[Any], None]] = []
"""Called with each object that a factory has made, by the thread that made it."""


class _Made:
    """An object that is there, or about to be made.

    Attributes:
        is_made: Whether it is there.
    """

    def __init__(self) -> None:
        self.is_made = False
        self._making = threading.Lock()
        self._value: Any = None
        self._rest: GeneratorType[Any, Any, Any] | None = None

    def get(self, resource: Resource[Any]) -> Any:
        if not self.is_made:
            with self._making:
                if not self.is_made:
                    self._make(resource)
        return self._value

    def _make(self, resource: Resource[Any]) -> None:
        name = resource.factory.name
        try:
            made: Any = resource.factory.function(*resource.arguments, **resource.by_keyword)
            if isinstance(made, CoroutineType):
                made.close()
                raise ConfigurationError(f"resource {name!r} is made by a coroutine; use an ordinary function")
            if isinstance(made, GeneratorType):
                self._rest = made
                made = next(made, _NOTHING)
                if made is _NOTHING:
                    raise ConfigurationError(f"the factory of resource {name!r} yielded nothing")
        except BaseException as error:
            self._rest = None
            add_note(error, f"when {resource!r} was made in process {os.getpid()}")
            raise
        for observe in observers_of_making:
            observe(made)
        self._value, self.is_made = made, True

    def close(self) -> None:
        """Run what the factory does after its `yield`; who has just got the object keeps it, closed as it is."""
        with self._making:
            rest, self._rest = self._rest, None
        if rest is not None and next(rest, _NOTHING) is not _NOTHING:
            rest.close()
            raise ConfigurationError("a factory of a resource yielded twice")


_NOTHING = object()
_changing = reset_after_fork(threading.Lock())
_of_process: dict[bytes, _Made] = {}


class _OfThread(threading.local):
    """The objects of a thread, which are closed when it has ended."""

    def __init__(self) -> None:
        self.made = _Closing()


class _Closing(dict[bytes, _Made]):
    def __del__(self) -> None:
        _close_all(self)


_of_thread = _OfThread()


def _table_of(resource: Resource[Any]) -> dict[bytes, _Made]:
    return _of_process if resource.factory.per == "process" else _of_thread.made


def _made_for(resource: Resource[Any]) -> _Made:
    table, key = _table_of(resource), resource.key
    made = table.get(key)
    if made is None:
        with _changing:
            made = table.setdefault(key, _Made())
            _close_at_exit()
    return made


_is_to_be_closed = False


def _close_at_exit() -> None:
    global _is_to_be_closed
    if not _is_to_be_closed:
        _is_to_be_closed = True
        import atexit
        from multiprocessing import parent_process, util

        atexit.register(_close_all, _of_process)
        if parent_process() is not None:  # such processes call no exit functions
            util.Finalize(None, _close_all, args=(_of_process,), exitpriority=1)


def _close_all(table: dict[bytes, _Made]) -> None:
    """Close all objects, the last made first; an error in one is shown and keeps no other from being closed."""
    while table:
        _, made = table.popitem()
        try:
            made.close()
        except Exception:
            sys.excepthook(*sys.exc_info())


def _forget() -> None:
    """Forget the objects of the process that this one was forked from: they are still in use there."""
    _of_process.clear()
    _of_thread.made.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _factory_again(function: Callable[..., Any], per: Per) -> ResourceFactory[..., Any]:
    return ResourceFactory(function, per, was_sent=True)
