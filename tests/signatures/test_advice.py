"""What the warning about an object that cannot be identified advises helps, also where the object is passed instead."""

from __future__ import annotations

import asyncio
import concurrent.futures
import csv
import logging
import queue
import socket
import sqlite3
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypernodes import CacheWarning, MemoryCache, Node, Pipeline
from hypernodes.signature import hashers, register

IS_LEFT_OUT = r"It does not affect results, so leave it out: @node\(cache_ignore='thing'\)\."
IS_PASSED = (
    r"It does not affect results, so pass it as an input, and leave that out with @node\(cache_ignore=\.\.\.\)\."
)
OPENED = (
    r"Open it inside the node, from what says where it is \(a path, an address\); or, if it does not affect results, "
)
OPENED_INPUT = OPENED + r"leave it out: @node\(cache_ignore='thing'\)\."
OPENED_GLOBAL = OPENED + r"pass it as an input, and leave that out with"
REGISTER = r"or say what identifies such objects: hypernodes\.signature\.register\({}, function\)\."


class Client:
    def __init__(self) -> None:
        self.address = "here"
        self._lock = threading.Lock()


class Broken:
    def __cache_key__(self) -> str:
        raise ValueError("not today")


def numbers() -> Iterator[int]:
    yield 1


@pytest.fixture
def things(tmp_path: Path) -> Iterator[dict[str, Any]]:
    (tmp_path / "file").write_text("a")
    with (
        open(tmp_path / "file") as file,
        socket.socket() as opened,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        database = sqlite3.connect(":memory:")
        yield {
            "lock": threading.Lock(),
            "event": threading.Event(),
            "pool": pool,
            "file": file,
            "socket": opened,
            "database": database,
            "cursor": database.cursor(),
            "generator": numbers(),
            "reader": csv.reader(["a"]),
            "queue": queue.Queue(),
            "handler": logging.StreamHandler(),
            "frame": sys._getframe(),
            "inside": [1, {"a": threading.Lock()}],
            "client": Client(),
            "broken": Broken(),
        }
        database.close()


OWN = r"__cache_ignore__ = \('_lock',\) in class Client; or give class Client __cache_key__\(\)"
ADVICE = {
    "lock": (IS_LEFT_OUT, IS_PASSED),
    "event": (IS_LEFT_OUT, IS_PASSED),
    "pool": (IS_LEFT_OUT, IS_PASSED),
    "inside": (IS_LEFT_OUT, IS_PASSED),
    "file": (OPENED_INPUT, OPENED_GLOBAL),
    "socket": (OPENED_INPUT, OPENED_GLOBAL),
    "database": (OPENED_INPUT, OPENED_GLOBAL),
    "cursor": (OPENED_INPUT, OPENED_GLOBAL),
    "generator": (r"Pass a list: list\(thing\)\.", r"Make it a list\."),
    "reader": (r"Pass a list: list\(thing\)\.", r"Make it a list\."),
    "queue": (REGISTER.format("queue.Queue"), REGISTER.format("queue.Queue")),
    "handler": (REGISTER.format("logging.StreamHandler"), "Make it inside the node; or, if it does not affect results"),
    "frame": (
        r"If it does not affect results, leave it out: @node\(cache_ignore='thing'\)\.$",
        "Make it inside the nod",
    ),
    "client": (OWN, OWN),
    "broken": (r"Give class Broken __cache_key__\(\)", r"Give class Broken __cache_key__\(\)"),
}


def warning_of(pipeline: Pipeline, **inputs: Any) -> str:
    with pytest.warns(CacheWarning) as shown:
        pipeline.run(inputs)
    (only,) = {str(warning.message) for warning in shown}
    return only


def of_input(**options: Any) -> Pipeline:
    return Pipeline(nodes=[Node(lambda thing: 1, "y", name="use", **options)], cache=MemoryCache())


def of_global(thing: Any) -> Pipeline:
    names = {"thing": thing, "__name__": "scratch"}
    exec("def use(x):\n    thing\n    return x", names)
    return Pipeline(nodes=[Node(names["use"], "y")], cache=MemoryCache())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ADVICE)
def test_the_advice_depends_on_the_kind_of_the_object_and_on_how_the_node_gets_it(
    things: dict[str, Any], kind: str
) -> None:
    as_input, as_global = ADVICE[kind]
    assert_matches(warning_of(of_input(), thing=things[kind]), as_input)
    assert_matches(warning_of(of_global(things[kind]), x=1), as_global)


def assert_matches(text: str, pattern: str) -> None:
    import re

    assert re.search(pattern, text), text
    if "Client" not in text and "Broken" not in text:
        assert "__cache_key__" not in text  # nobody can give that to a class that is not theirs


def test_following_the_advice_ends_the_warnings(things: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("lock", "event", "pool", "inside", "file", "socket", "database", "handler", "frame"):
            pipeline = of_input(cache_ignore="thing")
            pipeline.run({"thing": things[kind]})
            assert pipeline.explain({"thing": things[kind]}).is_fully_cached
        monkeypatch.setattr(hashers, "_registered", {})
        register(queue.Queue, lambda held: list(held.queue))
        of_input().run({"thing": things["queue"]})
        monkeypatch.setattr(Client, "__cache_ignore__", ("_lock",), raising=False)
        of_input().run({"thing": things["client"]})


def test_an_awaitable_is_to_be_awaited() -> None:
    async def answer() -> int:
        return 1

    waiting = answer()
    assert_matches(warning_of(of_input(), thing=waiting), r"Await it first, and pass what it returns\.$")
    asyncio.run(waiting)


def test_a_lookup_that_cannot_be_followed_keeps_its_own_advice() -> None:
    names: dict[str, Any] = {"__name__": "scratch"}
    exec("import importlib\ndef use(x):\n    return importlib.import_module(x)", names)
    text = warning_of(Pipeline(nodes=[Node(names["use"], "y")], cache=MemoryCache()), x="json")
    assert_matches(text, r"import it by its name, or pass what is needed of it as an input\.$")


def test_a_default_of_an_ignored_parameter_counts_as_code_and_the_advice_says_so(things: dict[str, Any]) -> None:
    names: dict[str, Any] = {"thing": things["lock"]}
    exec("def use(x, thing=thing):\n    return x\ndef keyword(x, *, thing=thing):\n    return x", names)
    for function in (names["use"], names["keyword"]):
        pipeline = Pipeline([Node(function, "y", cache_ignore="thing")], cache=MemoryCache())
        assert "pass it as an input instead of making it a default, which counts as code" in warning_of(pipeline, x=1)
