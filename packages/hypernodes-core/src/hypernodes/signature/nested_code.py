"""The code objects inside of a code object: of functions, classes, lambdas and comprehensions."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType


def with_nested_code(code: CodeType) -> Iterator[CodeType]:
    """Return a code object and all that are nested in it, each before those in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from with_nested_code(constant)
