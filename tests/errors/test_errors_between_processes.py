"""Exceptions taken apart for another process and made again there, without the process in between."""

from __future__ import annotations

import json
import subprocess
import urllib.error
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from hypernodes import errors
from hypernodes.engine.workers.serialized_errors import describe, restore

LIBRARY_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)]


class OwnBaseError(Exception):
    pass


class TwoBasesError(OwnBaseError, KeyError):
    pass


class LaterLayoutError(OwnBaseError, LookupError, TimeoutError):
    """Its first class of the interpreter's is not the one that decides on its layout."""

    def __init__(self, step: str, *, code: int) -> None:
        super().__init__(code, f"no answer in {step}")
        self.step = step


class MadeFromTwoError(Exception):
    def __new__(cls, first: int, second: int) -> MadeFromTwoError:
        return super().__new__(cls, first)

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.second = second


class SlottedError(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


class OwnGroup(ExceptionGroup[Any]):
    def __new__(cls, message: str, members: list[Exception], code: int = 0) -> OwnGroup:
        made = super().__new__(cls, message, members)
        made.code = code
        return made

    code: int

    def __init__(self, message: str, members: list[Exception], code: int = 0) -> None:
        pass


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


AWKWARD: dict[str, tuple[Callable[[], BaseException], tuple[str, ...]]] = {
    "two bases": (lambda: TwoBasesError("key"), ()),
    "layout of a later base": (lambda: LaterLayoutError("load", code=5), ("errno", "strerror", "step")),
    "two arguments to __new__": (lambda: MadeFromTwoError(1, 2), ("second",)),
    "slots": (lambda: SlottedError(7), ("code",)),
    "group with an attribute": (lambda: OwnGroup("several", [ValueError(1)], code=3), ("code", "message")),
    "undecodable bytes": (lambda: caught(lambda: b"a\xff".decode()), ("start", "reason", "object")),
    "missing file": (lambda: caught(lambda: Path("/nonexistent").read_text()), ("errno", "filename")),
    "failed command": (lambda: subprocess.CalledProcessError(2, ["cmd"], b"out"), ("returncode", "cmd", "output")),
    "JSON": (lambda: caught(lambda: json.loads("{")), ("pos", "lineno", "doc")),
    "HTTP": (lambda: urllib.error.HTTPError("http://a", 404, "gone", {}, None), ("code", "msg")),  # type: ignore[arg-type]
    "attribute of nothing": (lambda: caught(lambda: [].x), ("name", "obj")),  # type: ignore[attr-defined]
    "broken pool": (lambda: BrokenExecutor("broken"), ()),
    "exit": (lambda: SystemExit(3), ("code",)),
    "exhausted iterator": (lambda: StopIteration(4), ("value",)),
}


@pytest.mark.parametrize("kind", LIBRARY_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_library_arrives_with_its_type_and_attributes(kind: type[BaseException]) -> None:
    error = kind("what happened")
    names = [name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})]
    for name in names:
        setattr(error, name, ("a value",))
    copy = restore(describe(error))
    assert type(copy) is kind
    assert str(copy) == "what happened"
    assert [getattr(copy, name) for name in names] == [("a value",)] * len(names)


@pytest.mark.parametrize(("make", "attributes"), AWKWARD.values(), ids=AWKWARD.keys())
def test_an_awkward_exception_arrives_with_its_type_and_attributes(
    make: Callable[[], BaseException], attributes: tuple[str, ...]
) -> None:
    error = make()
    copy = restore(describe(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert [getattr(copy, name) for name in attributes] == [getattr(error, name) for name in attributes]
