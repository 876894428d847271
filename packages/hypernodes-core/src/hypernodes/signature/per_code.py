"""What was found out about code objects, remembered for as long as they live."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def remembered_per_code(
    function: Callable[Concatenate[CodeType, P], R],
) -> Callable[Concatenate[CodeType, P], R]:
    """Call a function once for each code object; its other arguments must not change what it returns.

    Code objects are told apart by identity: code that is equal may still differ in what it is nested in. They are not
    kept alive, since a program that makes functions by `exec` would grow for ever.
    """
    known: dict[int, tuple[weakref.ref[CodeType], R]] = {}

    @functools.wraps(function)
    def find(code: CodeType, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = id(code)
        entry = known.get(key)
        if entry is not None and entry[0]() is code:
            return entry[1]
        result = function(code, *args, **kwargs)
        known[key] = (weakref.ref(code, lambda _: known.pop(key, None)), result)
        return result

    return find
