"""Runs in a Modal container beside bare `.remote()` calls of the same bytes, on a control plane on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from time import sleep
from typing import Any, NamedTuple

import modal

from benchmarks.measure import Case, Suite
from hypernodes import CallbackContext, MemoryCache, Pipeline, PipelineCallback, node
from hypernodes_modal import ModalBackend
from hypernodes_modal.loopback import ModalLoopback

SUITE = Suite("A Modal container, on the loopback control plane")

BARE = "bare .remote()"
ITEMS = list(range(1_000))


@node(output_name="same")
def give_back(value: Any) -> Any:
    return value


@node(output_name="next")
def add_one(x: int) -> int:
    return x + 1


class DoNothing(PipelineCallback):
    """Has the worker tell of every node, and does nothing with it."""

    def on_node_start(self, node_id: str, inputs: dict[str, Any], ctx: CallbackContext) -> None: ...

    def on_node_end(self, node_id: str, outputs: dict[str, Any], duration: float, ctx: CallbackContext) -> None: ...


class Bare(NamedTuple):
    """An app as one would write it by hand.

    Attributes:
        app: The app.
        give_back: A function that returns its argument.
        add_one: A function that maps over a list.
    """

    app: modal.App
    give_back: Any
    add_one: Any


def _image() -> modal.Image:
    """Return an image for which nothing has to be fetched."""
    return modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2]))


def _bare() -> Bare:
    app = modal.App("bare")
    options: dict[str, Any] = {"image": _image(), "serialized": True}
    same = app.function(name="same", **options)(lambda value: value)
    return Bare(app, same, app.function(name="add_one", **options)(lambda xs: [x + 1 for x in xs]))


@contextmanager
def _warm() -> Iterator[tuple[ModalLoopback, Bare, ModalBackend]]:
    bare = _bare()
    with ModalLoopback() as plane, bare.app.run(), ModalBackend(_image()) as backend:
        yield plane, bare, backend


def _there_and_back(size_bytes: int, **settings: Any) -> Iterator[Case]:
    numbers = count()

    def fresh() -> bytes:
        return next(numbers).to_bytes(8, "big").ljust(size_bytes, b"x")  # no cache holds it

    with _warm() as (_, bare, backend):
        pipeline = Pipeline(nodes=[give_back], backend=backend, **settings)
        repeats = 20 if size_bytes < 100_000 else 1
        yield Case(lambda: pipeline.run({"value": fresh()}), lambda: bare.give_back.remote(fresh()), repeats=repeats)


@SUITE.workload("1 kB to a warm container and back", budget=1 / 4, ideal=BARE)
def _small() -> Iterator[Case]:
    yield from _there_and_back(1_000)


@SUITE.workload("1 kB to a warm container and back, with a callback that does nothing", budget=1 / 4, ideal=BARE)
def _observed() -> Iterator[Case]:
    yield from _there_and_back(1_000, callbacks=[DoNothing()])


@SUITE.workload("1 kB to a warm container and back, with a cache that misses", budget=1 / 4, ideal=BARE)
def _cached() -> Iterator[Case]:
    yield from _there_and_back(1_000, cache=MemoryCache())


@SUITE.workload("1 MB to a warm container and back", budget=1 / 4, ideal=BARE)
def _middle() -> Iterator[Case]:
    yield from _there_and_back(1_000_000)


@SUITE.workload("10 MB to a warm container and back", budget=1 / 4, ideal=BARE)
def _large() -> Iterator[Case]:
    yield from _there_and_back(10_000_000)


@SUITE.workload("100 MB to a warm container and back", budget=1 / 4, ideal=BARE, is_large=True, max_rounds=3)
def _largest() -> Iterator[Case]:
    yield from _there_and_back(100_000_000)


@SUITE.workload("map() over 1,000 items: one remote call", ideal="bare .remote() of the list", unit="item")
def _map() -> Iterator[Case]:
    yield from _thousand(is_map=True)


@SUITE.workload("run() with 1,000 items inside: one remote call", ideal="bare .remote() of the list", unit="item")
def _run() -> Iterator[Case]:
    yield from _thousand(is_map=False)


def _thousand(is_map: bool) -> Iterator[Case]:
    with _warm() as (plane, bare, backend):
        inner = Pipeline(nodes=[add_one], name="inner")
        outer = Pipeline(nodes=[inner.as_node(map_over="x")], backend=backend)
        flat = inner.with_backend(backend)

        def ours() -> object:
            return flat.map({"x": ITEMS}, map_over="x") if is_map else outer.run({"x": ITEMS})

        _check_that_it_is_one_call(plane, ours)
        yield Case(
            ours,
            lambda: bare.add_one.remote(ITEMS),
            peers={"bare .map()": lambda: list(bare.give_back.map(ITEMS))},
            units=len(ITEMS),
        )


def _check_that_it_is_one_call(plane: ModalLoopback, act: Any) -> None:
    before = plane.rpc_counts["FunctionMap"]
    act()
    calls, inputs = plane.rpc_counts["FunctionMap"] - before, len(plane.calls[-1].inputs)
    if (calls, inputs) != (1, 1):
        raise AssertionError(f"{calls} remote calls with {inputs} inputs, and not one with one")


@SUITE.workload("the first call, with an app and a container made for it", ideal=BARE, max_rounds=3)
def _cold() -> Iterator[Case]:
    def ours() -> None:
        with ModalBackend(_image()) as backend:
            Pipeline(nodes=[give_back], backend=backend).run({"value": b"x" * 1_000})

    def by_hand() -> None:
        bare = _bare()
        with bare.app.run():
            bare.give_back.remote(b"x" * 1_000)

    with ModalLoopback():
        yield Case(ours, by_hand)


@SUITE.sized_workload(
    "map() over 1,000 items × 10 ms asleep, divided among 2 containers",
    budget=0.9,
    ideal="bare .map() on 2 containers",
    unit="item",
    max_rounds=3,
    is_large=True,
)
def _divided(is_small: bool) -> Iterator[Case]:
    yield from _on_two_containers(6 if is_small else 1_000, seconds=0.01)


@SUITE.sized_workload(
    "map() over 20,000 trivial items, divided among 2 containers",
    budget=10,
    ideal="20 × bare .map() of 1,000 on 2 containers",
    unit="item",
    max_rounds=3,
    is_large=True,
)
def _divided_trivial(is_small: bool) -> Iterator[Case]:
    yield from _on_two_containers(20 if is_small else 20_000, seconds=0.0, share_of_ideal=0.05)


def _on_two_containers(items: int, seconds: float, share_of_ideal: float = 1.0) -> Iterator[Case]:
    @node(output_name="same")
    def rest(x: int, seconds: float) -> int:
        sleep(seconds)
        return x

    app = modal.App("bare map")
    image = _image()
    bare = app.function(name="rest", image=image, serialized=True, max_containers=2)(rest.func)
    divided = ModalBackend(image, mode="distributed", max_containers=2)
    with ModalLoopback(), app.run(), divided:
        pipeline = Pipeline(nodes=[rest], backend=divided)
        yield Case(
            lambda: pipeline.map({"x": range(items), "seconds": seconds}, "x"),
            ideal=lambda: list(bare.map(range(int(items * share_of_ideal)), kwargs={"seconds": seconds})),
            ideal_divisor=share_of_ideal,
            units=items,
        )
