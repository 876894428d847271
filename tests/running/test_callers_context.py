"""Nodes compute in the context of the caller: its context variables in this process, and its decimals everywhere."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

import pytest

from hypernodes import Backend, LocalBackend, MemoryCache, Node, Pipeline, node
from hypernodes.backend import SubprocessBackend
from hypernodes.decimals import settings_here
from tests.semantics.modes import MODES, Modes, local_backend

IN_THIS_PROCESS = [modes for modes in MODES if "parallel" not in modes]

language: ContextVar[str] = ContextVar("language", default="en")


@node(output_name="third")
def divide(x: int) -> str:
    return str(Decimal(x) / 3)


@node(output_name="third", name="divide")
async def divide_awaited(x: int) -> str:
    return str(Decimal(x) / 3)


@node(output_name="language")
def read_language(x: int) -> str:
    return language.get()


def name(modes: Modes) -> str:
    return "-".join(modes)


@pytest.fixture
def caller_in_french() -> Iterator[None]:
    token = language.set("fr")
    yield
    language.reset(token)


def check_decimals(backend: Backend, function: Node[..., Any], cache: MemoryCache | None) -> None:
    """Run with several contexts, to and fro: what is stored under one of them must not be found under another."""
    pipeline = Pipeline(nodes=[function], backend=backend, cache=cache)
    for digits in (4, 28, 6, 4):
        with decimal.localcontext(decimal.Context(prec=digits, rounding=decimal.ROUND_UP)):
            expected = [str(Decimal(x) / 3) for x in (1, 2)]
            assert pipeline.run({"x": 1}) == {"third": expected[0]}
            assert pipeline.map({"x": [1, 2]}, map_over="x") == {"third": expected}


WITH_WORKERS = [
    pytest.param(modes, marks=pytest.mark.slow) for modes in [("sequential", "parallel"), ("parallel", "parallel")]
]


@pytest.fixture(scope="module", params=[*IN_THIS_PROCESS, *WITH_WORKERS], ids=name)
def backend(request: pytest.FixtureRequest) -> Iterator[LocalBackend]:
    """A backend for each pair of modes, which keeps its worker processes."""
    with LocalBackend(*request.param, max_workers=2) as made:
        yield made


@pytest.mark.parametrize("is_cached", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize("function", [divide, divide_awaited], ids=["plain", "async"])
def test_decimals_are_those_of_the_caller_in_every_mode(
    backend: LocalBackend, function: Node[..., Any], is_cached: bool
) -> None:
    check_decimals(backend, function, MemoryCache() if is_cached else None)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "threaded", "parallel"])
def test_decimals_are_those_of_the_caller_in_another_process(mode: Any) -> None:
    with SubprocessBackend(map_execution=mode, max_workers=2) as backend:
        for cache in (None, MemoryCache()):
            check_decimals(backend, divide, cache)


def test_decimals_are_those_of_the_caller_in_its_own_executor() -> None:
    with ThreadPoolExecutor(2) as executor:
        check_decimals(LocalBackend(map_execution="parallel", executor=executor), divide, None)


def test_what_python_begins_with_is_recognised_again_and_again() -> None:
    """A view of a context that is gone would show whatever is in its memory now."""
    for digits in range(1, 2_000):
        assert settings_here() is None
        decimal.Context(prec=digits, traps=[decimal.Inexact])


def test_decimals_of_the_caller_stay_what_they_are() -> None:
    with decimal.localcontext(decimal.Context(prec=4)):
        Pipeline(nodes=[divide], backend=LocalBackend(map_execution="parallel")).map({"x": [1]}, map_over="x")
        assert decimal.getcontext().prec == 4
    assert decimal.getcontext().prec == 28


@pytest.mark.usefixtures("caller_in_french")
@pytest.mark.parametrize("modes", IN_THIS_PROCESS, ids=name)
def test_context_variables_are_those_of_the_caller(modes: Modes) -> None:
    pipeline = Pipeline(nodes=[read_language], backend=local_backend(modes))
    assert pipeline.run({"x": 1}) == {"language": "fr"}
    assert pipeline.map({"x": [1, 2]}, map_over="x") == {"language": ["fr", "fr"]}
    assert [row["language"] for row in pipeline.map_iter({"x": [1, 2]}, map_over="x")] == ["fr", "fr"]
