"""Whatever people decorate with @node runs in worker processes."""

from __future__ import annotations

import functools
import operator
import os
from dataclasses import dataclass
from typing import Any

import pytest

from hypernodes import LocalBackend, Node, Pipeline, node
from tests.worker_processes import nodes
from tests.worker_processes.conftest import Scripts

SCRIPT = """
import asyncio, enum, functools, os
from dataclasses import dataclass
from hypernodes import LocalBackend, Node, Pipeline, node

class Colour(enum.Enum):
    RED = "red"

@dataclass
class Point:
    x: int
    colour: Colour = Colour.RED

    def moved(self, by):
        return Point(self.x + by)

OFFSET = 100

def add_offset(x):
    return x + OFFSET

@node(output_name="point")
def make_point(x):
    return Point(add_offset(x))

@node(output_name="moved")
def move(point, step):
    assert isinstance(point, Point) and point.colour is Colour.RED
    return point.moved(step)

@node
def helper(x):
    return -x

@node(output_name="negative")
def call_another_node(x):
    return helper(x)

@node(output_name="awaited")
async def wait(x):
    await asyncio.sleep(0)
    return x

@node(output_name="process_id")
def tell_process(x):
    return os.getpid()

def with_base(base):
    @node(output_name="based")
    def add_base(x):
        return base + x
    return add_base

def scale(x, factor):
    return x * factor

pipeline = Pipeline(nodes=[
    make_point, move, call_another_node, wait, tell_process, with_base(1000),
    Node(lambda x: x * x, output_name="square"), Node(functools.partial(scale, factor=3), output_name="scaled"),
])

def main():
    for modes in ({"map_execution": "parallel"}, {"node_execution": "parallel"}):
        backend = LocalBackend(max_workers=2, **modes)
        found = pipeline.with_backend(backend).map(inputs={"x": [1, 2, 3], "step": 5}, map_over="x")
        assert os.getpid() not in found.pop("process_id")
        assert found == {
            "point": [Point(101), Point(102), Point(103)],
            "moved": [Point(106), Point(107), Point(108)],
            "negative": [-1, -2, -3],
            "awaited": [1, 2, 3],
            "based": [1001, 1002, 1003],
            "square": [1, 4, 9],
            "scaled": [3, 6, 9],
        }, found
        assert all(type(point) is Point for point in found["point"])
    print("all there")
"""


def test_everything_defined_in_a_script_runs_in_workers(scripts: Scripts) -> None:
    script = scripts.write(SCRIPT + '\nif __name__ == "__main__":\n    main()\n')
    assert scripts.run(script) == "all there\n"


def test_a_script_needs_no_main_guard(scripts: Scripts) -> None:
    assert scripts.run(scripts.write(SCRIPT + "\nmain()\n")) == "all there\n"


def test_everything_defined_in_notebook_cells_runs_in_workers(scripts: Scripts) -> None:
    scripts.write(SCRIPT + "\nmain()\n", "cell.py")
    notebook = scripts.write(
        """
        import linecache, sys
        source = open("cell.py").read()
        del sys.modules["__main__"].__file__  # a notebook has none
        linecache.cache["<cell 1>"] = (len(source), None, source.splitlines(True), "<cell 1>")
        exec(compile(source, "<cell 1>", "exec"), sys.modules["__main__"].__dict__)
        """
    )
    assert scripts.run(notebook) == "all there\n"


def test_everything_defined_on_the_command_line_runs_in_workers(scripts: Scripts) -> None:
    assert scripts.run("-c", SCRIPT + "\nmain()\n") == "all there\n"


SENTINELS = """
from hypernodes import LocalBackend, MemoryCache, Pipeline, node

class Missing:
    pass

UNSET = object()
MISSING = Missing()

@node(output_name=("seen", "same"))
def look(x, given, default=UNSET):
    first, second = given
    return (first is UNSET, second is MISSING, isinstance(second, Missing), default is UNSET), given

@node(output_name="again")
def look_again(same):
    return same == [UNSET, MISSING] and same[0] is UNSET

for modes in ({"map_execution": "parallel"}, {"node_execution": "parallel"}):
    with LocalBackend(max_workers=1, **modes) as backend:
        for cache in (None, MemoryCache()):
            pipeline = Pipeline(nodes=[look, look_again], backend=backend, cache=cache)
            for _ in range(2):
                found = pipeline.map({"x": [1, 2], "given": [UNSET, MISSING]}, map_over="x")
                assert found["seen"] == 2 * [(True, True, True, True)], found
                assert found["again"] == [True, True]
                assert all(first is UNSET and second is MISSING for first, second in found["same"])
print("themselves")
"""


def test_sentinels_of_a_script_are_themselves_in_workers_and_on_the_way_back(scripts: Scripts) -> None:
    assert scripts.run(scripts.write(SENTINELS)) == "themselves\n"


SPAWNED = """
import multiprocessing, pickle
from hypernodes import LocalBackend, Pipeline, node

OFFSET = 100

class Point:
    def __init__(self, x):
        self.x = x

class AwkwardError(Exception):
    def __init__(self, code, *, reason):
        super().__init__(code)

@node(output_name="point")
def make_point(x):
    return pickle.loads(pickle.dumps(Point(x + OFFSET)))

@node(output_name="moved")
def move(point):
    if point.x > 102:
        raise AwkwardError(1, reason="too far")
    return Point(-point.x)

def run(answers, mode):
    with LocalBackend(max_workers=1, **{mode: "parallel"}) as backend:
        pipeline = Pipeline(nodes=[make_point, move], backend=backend)
        found = pipeline.map({"x": [1, 2]}, map_over="x")
        assert [type(point) for points in found.values() for point in points] == 4 * [Point]
        assert [point.x for point in found["moved"]] == [-101, -102]
        try:
            pipeline.map({"x": [3]}, map_over="x")
        except AwkwardError as error:
            answers.put("ran")

class Process(multiprocessing.get_context("spawn").Process):
    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def run(self):
        run(self.answers, "map_execution")

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.SimpleQueue()
    for process in (spawn.Process(target=run, args=(answers, "node_execution")), Process(answers)):
        process.start()
        process.join()
        print(answers.get())
"""


def test_functions_of_a_script_run_in_workers_of_a_process_that_multiprocessing_started(scripts: Scripts) -> None:
    assert scripts.run(scripts.write(SPAWNED)) == 2 * "ran\n"


def test_nodes_of_a_module_beside_the_script_run_in_workers(scripts: Scripts) -> None:
    scripts.write(SCRIPT, "users_module.py")
    assert scripts.run(scripts.write("import users_module; users_module.main()")) == "all there\n"


@dataclass(frozen=True)
class Word:
    text: str


def closure_over(suffix: str) -> Node[..., Any]:
    @node(output_name="y")
    def append(x: str) -> str:
        return x + suffix

    return append


class Repeat:
    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, x: str) -> str:
        return x * self.times

    def method(self, x: str) -> str:
        return f"{self.times}{x}"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (closure_over("!"), ["a!", "b!"]),
        (Node(lambda x: x.upper(), output_name="y"), ["A", "B"]),
        (Node(functools.partial(operator.add, "<"), output_name="y"), ["<a", "<b"]),
        (Node(functools.partial(lambda x, suffix: x + suffix, suffix="?"), output_name="y"), ["a?", "b?"]),
        (Node(Repeat(2), output_name="y"), ["aa", "bb"]),
        (Node(Repeat(3).method, output_name="y"), ["3a", "3b"]),
        (Node(Word, output_name="y"), [Word("a"), Word("b")]),
    ],
    ids=["closure", "lambda", "partial of a built-in", "partial of a lambda", "callable object", "method", "class"],
)
@pytest.mark.parametrize("kind", ["items_backend", "nodes_backend"])
def test_a_callable_of_any_kind_runs_in_workers(
    made: Node[..., Any], expected: Any, kind: str, request: pytest.FixtureRequest
) -> None:
    backend: LocalBackend = request.getfixturevalue(kind)
    name = made.inputs[0]
    pipeline = Pipeline(nodes=[made], backend=backend)
    assert pipeline.map(inputs={name: ["a", "b"]}, map_over=name) == {"y": expected}


def test_async_nodes_are_awaited_in_the_worker(items_backend: LocalBackend, nodes_backend: LocalBackend) -> None:
    for backend in (items_backend, nodes_backend):
        pipeline = Pipeline(nodes=[nodes.wait_a_moment], backend=backend)
        found = pipeline.map(inputs={"x": [1, 2]}, map_over="x")["awaited"]
        assert [x for x, _ in found] == [1, 2]
        assert os.getpid() not in {process_id for _, process_id in found}


def test_nodes_of_a_run_and_items_of_a_mapped_node_run_in_workers(nodes_backend: LocalBackend) -> None:
    inner = Pipeline(nodes=[nodes.tell_process])
    outer = Pipeline(nodes=[nodes.double, inner.as_node(input_mapping={"xs": "x"}, map_over="xs")])
    found = outer.with_backend(nodes_backend).run(inputs={"x": 2, "xs": [1, 2, 3]})
    assert found["doubled"] == 4
    assert os.getpid() not in found["process_id"]


def test_a_node_may_run_a_pipeline_in_its_worker(nodes_backend: LocalBackend) -> None:
    inner = Pipeline(nodes=[nodes.double])

    @node(output_name="y")
    def run_inner(x: int) -> int:
        return int(inner.run(inputs={"x": x})["doubled"])

    assert Pipeline(nodes=[run_inner], backend=nodes_backend).run(inputs={"x": 4}) == {"y": 8}
