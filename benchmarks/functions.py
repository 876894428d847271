"""The trivial functions that are measured, with HyperNodes and with other tools.

Imports the standard library only: the peers load this file in environments of their own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def chain(size: int) -> list[Function]:
    """Functions `x1(x0)`, `x2(x1)`, … each of which returns what it is given."""
    return _define(f"def x{i}(x{i - 1}: int) -> int:\n    return x{i - 1}\n" for i in range(1, size + 1))


def fan(size: int) -> list[Function]:
    """Functions `y0(x0)`, `y1(x0)`, … that all take the same, and `joined`, which takes all of theirs."""
    spread = (f"def y{i}(x0: int) -> int:\n    return x0\n" for i in range(size))
    parameters = ", ".join(f"y{i}: int" for i in range(size))
    return _define([*spread, f"def joined({parameters}) -> int:\n    return y0\n"])


def add(x: int) -> int:
    return x + 1


def double(add: int) -> int:
    return add * 2


def subtract(double: int) -> int:
    return double - 1


THREE: list[Function] = [add, double, subtract]


def clean(text: str) -> str:
    return text.strip()


def words(clean: str) -> list[str]:
    return clean.split("-")


def count(words: list[str]) -> int:
    return len(words)


TEXT: list[Function] = [clean, words, count]

BATCH = 64
OVERLAPPED_ITEMS = 3_200


def prepare_item(x: int) -> int:
    """What is done to each item before it is encoded: 1 ms that leaves the processor to others."""
    time.sleep(0.001)
    return x


def encode_batch(prepared: list[int]) -> list[int]:
    """A call as of a model on a GPU: 10 ms, and 0.1 ms an item."""
    time.sleep(0.010 + 0.0001 * len(prepared))
    return prepared


_numbers = itertools.count()


def fresh_texts(size: int) -> list[str]:
    """Return items that nobody has seen before."""
    return [f"  item-{next(_numbers)}-of-many " for _ in range(size)]


def _define(sources: Any) -> list[Function]:
    import linecache

    source = "\n".join(sources)
    name = f"<{hash(source):x}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for tools that read it
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, name, "exec", dont_inherit=True), namespace)
    return [value for key, value in namespace.items() if not key.startswith("__")]
