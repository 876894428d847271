"""Processes that nodes start by `multiprocessing` in a worker process find what they find without worker processes."""

from __future__ import annotations

import pytest

from tests.worker_processes.conftest import Scripts, finish

SCRIPT = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from hypernodes import LocalBackend, Pipeline, SubprocessBackend, node
import beside

OFFSET = 100
print("imported as", __name__)

class Point:
    def __init__(self, x):
        self.x = x

    def moved(self):
        return Point(process(self.x))

def process(x):  # a name that the main module of loky's processes has, too
    return x + OFFSET

def move(point):
    return point.moved()

def put(queue, point):
    queue.put(move(point))

@node(output_name="moved")
def start(point, how):
    kind, method = how.split()
    context = multiprocessing.get_context(method)
    if kind == "pool":
        with context.Pool(1) as pool:
            assert pool.map(process, [1]) == [101]
            assert pool.map(beside.negate, [1]) == [-1]
            return pool.map(move, [point])[0]
    if kind == "executor":
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(move, point).result()
    queue = context.Queue()
    started = context.Process(target=put, args=(queue, point))
    started.start()
    moved = queue.get()
    started.join()
    return moved

@node(output_name="moved_again")
def start_again(moved, how):
    return start.func(moved, how)

def main():
    for backend in eval(sys.argv[1]):
        pipeline = Pipeline(nodes=[start, start_again], backend=backend)
        for how in sys.argv[2:]:
            found = pipeline.map({"point": [Point(1), Point(2)], "how": how}, map_over="point")
            assert all(type(point) is Point for points in found.values() for point in points)
            print([point.x for point in found["moved_again"]])
"""
GUARDED = SCRIPT + '\nif __name__ == "__main__":\n    main()\n'
HOW = ["pool spawn", "executor spawn", "process spawn", "pool forkserver", "executor forkserver"]
LOCAL = 'LocalBackend(max_workers=1, {}="parallel")'
BACKENDS = {
    "items": LOCAL.format("map_execution"),
    "nodes": LOCAL.format("node_execution"),
    "subprocess": "SubprocessBackend()",
    "items in a subprocess": 'SubprocessBackend(max_workers=1, map_execution="parallel")',
}


@pytest.fixture
def scripts_beside(scripts: Scripts) -> Scripts:
    scripts.write("def negate(x):\n    return -x\n", "beside.py")
    return scripts


def _results(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if not line.startswith("imported as")]


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_processes_that_a_node_starts_find_the_functions_of_the_script(scripts_beside: Scripts, backend: str) -> None:
    how = HOW if backend == BACKENDS["nodes"] else HOW[:1]
    printed = scripts_beside.run(scripts_beside.write(GUARDED), f"[{backend}]", *how)
    assert _results(printed) == len(how) * ["[201, 202]"]


@pytest.mark.parametrize("where", ["nodes", "items in a subprocess"])
def test_processes_that_a_node_starts_find_the_functions_of_a_module_that_is_run(
    scripts_beside: Scripts, where: str
) -> None:
    (scripts_beside.folder / "project").mkdir()
    scripts_beside.write(GUARDED, "project/jobs.py")
    assert _results(scripts_beside.run("-m", "project.jobs", f"[{BACKENDS[where]}]", "pool spawn")) == ["[201, 202]"]


def test_processes_that_a_node_starts_find_the_functions_of_the_script_in_a_worker_of_a_worker(
    scripts_beside: Scripts,
) -> None:
    source = f"""
{SCRIPT}
@node(output_name="xs")
def run_inside(x):
    inner = Pipeline([start], backend=LocalBackend(max_workers=1, map_execution="parallel"))
    points = inner.map({{"point": [Point(x)], "how": "pool spawn"}}, map_over="point")["moved"]
    return [point.x for point in points]

if __name__ == "__main__":
    print(Pipeline([run_inside], backend=LocalBackend(max_workers=1, node_execution="parallel")).run({{"x": 1}}))
"""
    assert _results(scripts_beside.run(scripts_beside.write(source))) == ["{'xs': [101]}"]


def test_without_loky_processes_that_a_node_starts_find_the_functions_of_the_script(
    scripts_without_loky: Scripts,
) -> None:
    scripts_without_loky.write("def negate(x):\n    return -x\n", "beside.py")
    backends = f"[{BACKENDS['items']}, {BACKENDS['nodes']}]"
    printed = scripts_without_loky.run(scripts_without_loky.write(GUARDED), backends, "pool spawn")
    assert _results(printed) == 2 * ["[201, 202]"]


UNGUARDED = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from hypernodes import LocalBackend, Pipeline, node

print("imported as", __name__, flush=True)

def negate(x):
    return -x

@node(output_name="y")
def start(x, function):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function or negate, x).result()

pipeline = Pipeline([start], backend=LocalBackend("parallel", max_workers=1))
print(pipeline.run({"x": -1, "function": abs}))
try:
    print(pipeline.run({"x": -1, "function": None}))
except BrokenProcessPool:
    print("not found")
"""


def test_a_script_without_a_guard_is_not_imported_by_processes_that_need_nothing_of_it(scripts: Scripts) -> None:
    source = UNGUARDED.partition("try:")[0]
    assert scripts.run(scripts.write(source)) == "imported as __main__\n{'y': 1}\n"


@pytest.mark.parametrize("is_script", [True, False], ids=["a script without a guard", "a command"])
def test_functions_that_no_process_can_import_are_refused_as_they_are_without_worker_processes(
    scripts: Scripts, is_script: bool
) -> None:
    process = scripts.start(scripts.write(UNGUARDED)) if is_script else scripts.start("-c", UNGUARDED)
    out, err = finish(process)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "not found"
    assert ("An attempt has been made to start a new process" if is_script else "AttributeError") in err


TWO_COPIES = """
import pickle
from hypernodes import LocalBackend, Pipeline, node

class Step:
    def __init__(self, x):
        self.x = x

    def value(self):
        return helper(self.x)

def helper(x):
    return x + 1

@node(output_name="step")
def make(x):
    return Step(pickle.loads(pickle.dumps(helper))(x))

@node(output_name="y")
def use(step):
    return pickle.loads(pickle.dumps(helper))(step.value())

for mode in ("map_execution", "node_execution"):
    with LocalBackend(max_workers=1, **{mode: "parallel"}) as backend:
        for _ in range(2):
            print(Pipeline([make, use], backend=backend).map({"x": [1, 2]}, map_over="x")["y"])
            print(Pipeline([use], backend=backend).map({"step": [Step(1), Step(2)]}, map_over="step")["y"])
"""


def test_functions_of_a_script_can_be_pickled_in_nodes_however_often_they_were_sent(scripts: Scripts) -> None:
    assert scripts.run(scripts.write(TWO_COPIES)) == 4 * "[4, 5]\n[3, 4]\n"
