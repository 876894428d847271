"""Context managers from generators that leave an error which passes through them as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Scope(AbstractContextManager[_T], Generic[_T]):
    def __init__(self, generator: Generator[_T, None, None]) -> None:
        self._generator = generator

    def __enter__(self) -> _T:
        return next(self._generator)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._generator.close()


def scoped(function: Callable[_P, Iterator[_T]]) -> Callable[_P, AbstractContextManager[_T]]:
    """Make a context manager of a generator that yields once, and cleans up in `finally` clauses.

    `contextlib.contextmanager` sets the traceback of errors again, which exceptions that refuse to have attributes set,
    such as frozen dataclasses, turn into another error.
    """

    @functools.wraps(function)
    def make(*arguments: _P.args, **by_keyword: _P.kwargs) -> AbstractContextManager[_T]:
        generator: Any = function(*arguments, **by_keyword)
        return _Scope(generator)

    return make
