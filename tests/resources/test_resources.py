"""Resources: made where they are used, once per process or thread, and closed at the end."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypernodes import ConfigurationError, LocalBackend, MemoryCache, Node, Pipeline, Resource, node, resource
from hypernodes.backend import SubprocessBackend
from tests.resources.shared_models import Model, look_at_class, model, multiply
from tests.support import Recorder, end_idle_workers

HERE = [
    pytest.param(LocalBackend(*modes, max_workers=None if modes[1] == "sequential" else 2), id=modes[1])
    for modes in (("sequential", "sequential"), ("sequential", "threaded"), ("sequential", "async"))
]
ELSEWHERE = [
    pytest.param(LocalBackend(map_execution="parallel", max_workers=2), id="parallel", marks=pytest.mark.slow),
    pytest.param(SubprocessBackend(), id="subprocess", marks=pytest.mark.slow),
    pytest.param(
        SubprocessBackend(map_execution="threaded", max_workers=2), id="threads there", marks=pytest.mark.slow
    ),
]


@pytest.fixture(autouse=True)
def fresh_processes() -> Iterator[None]:
    end_idle_workers()
    yield
    end_idle_workers()


def loads(folder: Path) -> Counter[int]:
    """Return how often the model was loaded in each process."""
    return Counter(int(path.name.split("-")[1]) for path in folder.iterdir())


# --- how often it is made ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("is_cached", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize("is_observed", [False, True], ids=["unobserved", "observed"])
def test_it_is_made_once_over_items_maps_and_runs(
    backend: Any, is_cached: bool, is_observed: bool, tmp_path: Path
) -> None:
    check_it_is_made_once(backend, is_cached, is_observed, tmp_path)


@pytest.mark.parametrize("backend", ELSEWHERE)
@pytest.mark.parametrize("is_cached_and_observed", [False, True], ids=["bare", "cached and observed"])
def test_it_is_made_once_in_each_process_over_items_maps_and_runs(
    backend: Any, is_cached_and_observed: bool, tmp_path: Path
) -> None:
    check_it_is_made_once(backend, is_cached_and_observed, is_cached_and_observed, tmp_path)


def check_it_is_made_once(backend: Any, is_cached: bool, is_observed: bool, tmp_path: Path) -> None:
    pipeline = Pipeline(
        [multiply],
        backend=backend,
        cache=MemoryCache() if is_cached else None,
        callbacks=[Recorder()] if is_observed else None,
    )
    used: set[int] = set()
    for run in range(3):
        xs = range(10 * run, 10 * run + 10)
        found = pipeline.map({"x": xs, "model": model(str(tmp_path))}, map_over="x")["y"]
        assert [y for y, _ in found] == [2 * x for x in xs]
        used |= {pid for _, pid in found}
    assert loads(tmp_path) == dict.fromkeys(used, 1)
    assert len(used) <= 2
    resource = model(str(tmp_path))
    assert resource.is_made is (os.getpid() in used)
    resource.close()


@pytest.mark.parametrize("backend", ELSEWHERE)
def test_the_object_is_of_the_class_that_nodes_have_in_every_run(backend: Any, tmp_path: Path) -> None:
    pipeline = Pipeline([look_at_class], backend=backend)
    is_sent_by_value = isinstance(backend, SubprocessBackend)
    for _ in range(3):
        found = pipeline.map({"x": [1, 2], "model": model(str(tmp_path))}, map_over="x")["seen"]
        assert [(is_instance, is_same) for is_instance, is_same, _ in found] == [(True, True)] * 2
        if is_sent_by_value and backend.map_execution == "sequential":
            assert [had_mark for *_, had_mark in found] == [False, True], "what a run puts into a class ends with it"


@pytest.mark.parametrize("backend", ELSEWHERE[:2])
def test_the_classes_behind_the_object_are_those_of_each_run(backend: Any) -> None:
    class Constants(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            if name.isupper() and name in vars(cls):
                raise AttributeError(f"{name} is constant")
            super().__setattr__(name, value)

    class Plugin(metaclass=Constants):
        RATE = 3

    class Csv(Plugin):
        pass

    class Json(Plugin):
        pass

    @resource
    def plugin() -> Any:
        return Csv()

    @node(output_name="seen")
    def look(x: int, plugin: Any) -> Any:
        names = sorted(kind.__name__ for kind in Plugin.__subclasses__())
        return isinstance(plugin, Plugin), plugin.RATE, names, Json.__name__

    pipeline = Pipeline([look], backend=backend)
    for _ in range(4):
        assert pipeline.run({"x": 1, "plugin": plugin()}) == {"seen": (True, 3, ["Csv", "Json"], "Json")}


@pytest.mark.parametrize("backend", HERE + ELSEWHERE[:2])
@pytest.mark.parametrize("how", ["given", "preset", "nested", "mapped", "default"])
def test_it_may_come_from_anywhere_that_an_input_comes_from(backend: Any, how: str, tmp_path: Path) -> None:
    handle = model(str(tmp_path), factor=3)

    def multiply_default(x: int, model: Any = handle) -> tuple[int, int]:
        return x * model.factor, os.getpid()

    inner = Pipeline([multiply], name="inner")
    given: dict[str, Any] = {"x": 2}
    if how == "given":
        pipeline, given = inner, {"x": 2, "model": handle}
    elif how == "preset":
        pipeline = inner.with_inputs(model=handle)
    elif how == "nested":
        pipeline = Pipeline([inner.with_inputs(model=handle)])
    elif how == "mapped":
        pipeline, given = Pipeline([inner.as_node(map_over="x")]), {"x": [2, 2], "model": handle}
    else:
        pipeline = Pipeline([Node(multiply_default, "y")])
    for _ in range(2):
        found = pipeline.with_backend(backend).run(given)["y"]
        assert [y for y, _ in (found if how == "mapped" else [found])] == [6] * (2 if how == "mapped" else 1)
    assert set(loads(tmp_path).values()) == {1}
    handle.close()


@pytest.mark.parametrize("backend", HERE + ELSEWHERE)
def test_a_map_may_go_over_several(backend: Any, tmp_path: Path) -> None:
    models = [model(str(tmp_path), factor) for factor in (1, 2, 3)]
    pipeline = Pipeline([multiply], backend=backend)
    for values in (models, iter(models)):
        found = pipeline.map({"x": [1, 10], "model": values}, map_over=["x", "model"], map_mode="product")["y"]
        assert [y for y, _ in found] == [1, 2, 3, 10, 20, 30]
    for each in models:
        each.close()


def test_threads_that_need_it_at_once_wait_for_the_one_that_makes_it() -> None:
    made: list[int] = []
    both_wait = threading.Barrier(4)

    @resource
    def slow() -> object:
        made.append(threading.get_ident())
        return object()

    def take(x: int, one: object) -> object:
        return one

    def wait_and_take(x: int) -> int:
        both_wait.wait()
        return x

    pipeline = Pipeline(
        [Node(wait_and_take, "z"), Node(lambda z, one: one, "y", name="take")],
        backend=LocalBackend(map_execution="threaded", max_workers=4),
    )
    found = pipeline.map({"x": range(4), "one": slow()}, map_over="x")["y"]
    assert len(made) == 1
    assert len(set(map(id, found))) == 1


def test_there_may_be_one_for_each_thread() -> None:
    class Connection:
        def __init__(self) -> None:
            self.thread = threading.get_ident()

    closed: list[int] = []

    @resource(per="thread")
    def connection() -> Iterator[Connection]:
        made = Connection()
        yield made
        closed.append(made.thread)

    together = threading.Barrier(2)

    def compare(x: int, connection: Connection) -> tuple[int, int]:
        together.wait()
        return connection.thread, threading.get_ident()

    backend = LocalBackend(map_execution="threaded", max_workers=2)
    pairs = Pipeline([Node(compare, "y")], backend=backend).map({"x": range(6), "connection": connection()}, "x")["y"]
    assert all(own == current for own, current in pairs)
    threads = {own for own, _ in pairs}
    assert len(threads) == 2
    assert sorted(closed) == sorted(threads), "they are closed with their threads"


# --- what needs none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", HERE + ELSEWHERE)
def test_it_is_not_made_where_results_come_from_a_cache(backend: Any, tmp_path: Path) -> None:
    pipeline = Pipeline([multiply], cache=MemoryCache(), backend=backend)
    inputs = {"x": [1, 2], "model": model(str(tmp_path))}
    first = pipeline.map(inputs, map_over="x")
    model(str(tmp_path)).close()
    for path in tmp_path.iterdir():
        path.unlink()
    end_idle_workers()
    assert pipeline.map({"x": [1, 2], "model": model(str(tmp_path))}, map_over="x") == first
    assert pipeline.explain({"x": [1, 2], "model": model(str(tmp_path))}, map_over="x").is_fully_cached
    assert list(tmp_path.iterdir()) == []


def test_it_is_known_by_the_code_and_the_arguments_of_its_factory(load_module: Any, tmp_path: Path) -> None:
    source = """
        from hypernodes import resource

        FACTOR = {}

        @resource
        def factor(extra=0):
            return FACTOR + extra
    """
    cache = MemoryCache()
    recorder = Recorder()
    pipeline = Pipeline([Node(lambda x, factor: x * factor, "y", name="f")], cache=cache, callbacks=[recorder])

    def computed(handle: Any) -> tuple[int, bool]:
        recorder.clear()
        return pipeline.run({"x": 2, "factor": handle})["y"], recorder.computed == ["f"]

    two, again, three = (load_module(source.replace("{}", number)) for number in ("2", "2 ", "3"))
    assert computed(two.factor()) == (4, True)
    assert computed(again.factor()) == (4, False)
    assert computed(three.factor()) == (6, True)
    assert computed(three.factor(1)) == (8, True)
    assert computed(three.factor(extra=1)) == (8, True), "what is passed by name is another call"
    three.FACTOR = 5
    changed = three.factor()
    assert computed(changed) == (10, True), "what the factory refers to counts"


def test_callbacks_and_explain_see_the_resource_and_not_the_object(tmp_path: Path) -> None:
    recorder = Recorder()
    handle = model(str(tmp_path), 5)
    Pipeline([multiply], callbacks=[recorder]).run({"x": 1, "model": handle})
    assert recorder.of("node_start")[0][2]["inputs"]["model"] is handle
    assert repr(handle) == f"<resource model({str(tmp_path)!r}, 5)>"
    handle.close()


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["LocalBackend()", "LocalBackend(map_execution='parallel')", "SubprocessBackend()"])
def test_it_is_closed_at_the_end_of_the_process(backend: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    folder = tmp_path / "models"
    folder.mkdir()
    script.write_text(
        textwrap.dedent(f"""
            from hypernodes import LocalBackend, Pipeline
            from hypernodes.backend import SubprocessBackend
            from tests.resources.shared_models import model, multiply

            if __name__ == "__main__":
                pipeline = Pipeline([multiply], backend={backend})
                pipeline.map({{"x": [1, 2, 3], "model": model({str(folder)!r})}}, map_over="x")
        """)
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, str(script)], check=True, env=environ, timeout=240)
    assert {path.name.partition("-")[0] for path in folder.iterdir()} == {"closed"}


def test_it_can_be_closed_by_hand_and_is_made_again(tmp_path: Path) -> None:
    handle = model(str(tmp_path))
    first = handle.get()
    assert isinstance(first, Model)
    assert handle.get() is first
    assert model(str(tmp_path)).get() is first, "equal resources are one"
    assert model(str(tmp_path), 7).get() is not first
    handle.close()
    assert not first.is_open
    assert not handle.is_made
    assert handle.get().is_open
    handle.close()
    handle.close()
    model(str(tmp_path), 7).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_makes_its_own_and_leaves_that_of_its_parent_open(tmp_path: Path) -> None:
    handle = model(str(tmp_path))
    handle.get()
    child = os.fork()
    if child == 0:
        is_new = not handle.is_made
        handle.get()
        os._exit(0 if is_new else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert handle.get().is_open
    assert loads(tmp_path) == {os.getpid(): 1, child: 1}
    handle.close()


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", HERE + ELSEWHERE)
def test_the_error_of_a_factory_names_the_resource_the_process_the_node_and_the_item(backend: Any) -> None:
    @resource
    def broken(name: str) -> object:
        raise LookupError(name)

    pipeline = Pipeline([Node(lambda x, broken: x, "y", name="take")], backend=backend)
    for _ in range(2):
        with pytest.raises(LookupError, match="model-7") as caught:
            pipeline.map({"x": [1], "broken": broken("model-7")}, map_over="x")
        notes = "\n".join(caught.value.__notes__)
        assert "when <resource broken('model-7')> was made in process " in notes
        assert "in node 'take'" in notes
        assert "map item 0" in notes


def test_a_factory_that_failed_is_tried_again() -> None:
    attempts: list[int] = []

    @resource
    def flaky() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("not yet")
        return 7

    handle = flaky()
    pipeline = Pipeline([Node(lambda number: number, "y", name="take", retries=2, retry_delay=0)])
    assert pipeline.run({"number": handle}) == {"y": 7}
    assert len(attempts) == 3


def test_wrong_arguments_are_refused_when_the_resource_is_defined() -> None:
    with pytest.raises(ConfigurationError, match=r"resource 'model' cannot be made with these arguments: .*'size'"):
        model("folder", size=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="@resource takes a function that makes something; got 3"):
        resource(3)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=r"per must be 'process' or 'thread'; got 'item'"):
        resource(per="item")(lambda: 1)  # type: ignore[call-overload]


def test_factories_that_make_nothing_are_refused() -> None:
    @resource
    def empty() -> Iterator[int]:
        yield from ()

    @resource
    async def awaited() -> int:
        return 1

    take = Pipeline([Node(lambda number: number, "y", name="take")])
    with pytest.raises(ConfigurationError, match="the factory of resource 'empty' yielded nothing"):
        take.run({"number": empty()})
    with pytest.raises(ConfigurationError, match="resource 'awaited' is made by a coroutine; use an ordinary function"):
        take.run({"number": awaited()})


def test_an_error_when_it_is_closed_is_shown_and_keeps_no_other_from_being_closed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hypernodes.resources import _close_all, _of_process

    closed: list[str] = []

    @resource
    def one(name: str) -> Iterator[str]:
        yield name
        closed.append(name)
        if name == "b":
            raise OSError("cannot be closed")

    mine = {handle.key: handle for handle in (one("a"), one("b"), one("c"))}
    for handle in mine.values():
        handle.get()
    _close_all({key: _of_process.pop(key) for key in mine})
    assert closed == ["c", "b", "a"]
    assert "cannot be closed" in capsys.readouterr().err


def test_resources_travel() -> None:
    handle = model("folder", factor=3)
    again = pickle.loads(pickle.dumps(handle))
    assert (again.factory, again.arguments, again.by_keyword, again.key) == (
        handle.factory,
        handle.arguments,
        handle.by_keyword,
        handle.key,
    )
    assert isinstance(again, Resource)


def test_making_one_does_not_hold_up_an_event_loop() -> None:
    is_turning = threading.Event()

    @resource
    def slow() -> bool:
        return is_turning.wait(30)

    @node(output_name="y")
    async def take(x: int, slow: bool) -> bool:
        return slow

    async def main() -> Any:
        pipeline = Pipeline([take], backend=LocalBackend(map_execution="async"))
        running = asyncio.create_task(pipeline.amap({"x": [1], "slow": slow()}, map_over="x"))
        await asyncio.sleep(0.01)
        is_turning.set()
        return await running

    assert asyncio.run(main()) == {"y": [True]}
